"""What the drivers raise when a dependency is away, so that callers hear 503 and not 500."""

import asyncpg
import grpc
import urllib3
from aio_pika.exceptions import AMQPError
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from kinora_kit.errors import DomainError, Unavailable

OUTAGES: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, starting up, statement cancelled
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.LockNotAvailableError,
    PyMongoError,
    RedisError,
    AMQPError,
    grpc.RpcError,
    urllib3.exceptions.HTTPError,
)


def as_domain_error(error: Exception) -> DomainError | None:
    """The error as callers should hear it, ``None`` when it is a defect of ours."""
    if isinstance(error, DomainError):
        return error
    return Unavailable() if isinstance(error, OUTAGES) else None
