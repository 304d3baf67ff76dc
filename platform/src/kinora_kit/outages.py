"""What the drivers raise when a dependency is away, so that callers hear 503 and not 500."""

import asyncpg
import grpc
import httpx
import urllib3
from aio_pika.exceptions import AMQPError
from pymongo.errors import ConnectionFailure, ExecutionTimeout
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kinora_kit.errors import DomainError, Unavailable

OUTAGES: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, starting up, statement cancelled
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.LockNotAvailableError,
    ConnectionFailure,
    ExecutionTimeout,
    RedisConnectionError,
    RedisTimeoutError,
    AMQPError,
    grpc.RpcError,
    httpx.TransportError,
    urllib3.exceptions.HTTPError,
)

# OSErrors that no network raises: mistakes of ours.
_DEFECTS: tuple[type[Exception], ...] = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def as_domain_error(error: Exception) -> DomainError | None:
    """The error as callers should hear it, ``None`` when it is a defect of ours."""
    if isinstance(error, DomainError):
        return error
    outage = isinstance(error, OUTAGES) and not isinstance(error, _DEFECTS)
    return Unavailable() if outage else None


def is_outage(error: Exception) -> bool:
    """Whether something is away, here or behind the service that was asked, and the same call may succeed later."""
    domain = as_domain_error(error)
    return domain is not None and domain.status == Unavailable.status
