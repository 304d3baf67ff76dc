"""The kit every Kinora service is built on. It contains no domain logic."""
