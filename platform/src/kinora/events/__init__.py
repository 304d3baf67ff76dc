"""The events between services, one module per owner, which is also the name of the exchange.

Fields are only ever added, with a default. Their JSON Schemas are committed in platform/schemas/events, and a test
compares them.
"""
