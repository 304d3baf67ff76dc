"""The events that cross the borders between services, one module per owner, which is also the exchange.

Fields are only ever added, with a default. Their JSON Schemas are committed in platform/schemas/events and compared.
"""
