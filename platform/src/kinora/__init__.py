"""The contracts between services: generated gRPC code (from platform/protos) and the payloads of events."""
