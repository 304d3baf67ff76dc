from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def moment(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
