"""The exceptions of drivers and of gRPC for an unavailable dependency, which become 503 instead of 500."""

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
    asyncpg.exceptions.TransactionRollbackError,  # a deadlock: nothing was written, and a retry succeeds
    ConnectionFailure,
    ExecutionTimeout,
    RedisConnectionError,
    RedisTimeoutError,
    AMQPError,
    httpx.TransportError,
    urllib3.exceptions.HTTPError,
)

# OSErrors that are not caused by the network: bugs of ours.
_DEFECTS: tuple[type[Exception], ...] = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


# gRPC's own errors (https://grpc.io/docs/guides/status-codes/): errors of a service have details, see rpc.py. All other
# codes are bugs of ours: a malformed or too large message (INTERNAL, RESOURCE_EXHAUSTED), or an error that the service
# did not handle (UNKNOWN).
_OUTAGE_CODES = {
    grpc.StatusCode.UNAVAILABLE,  # no connection, or it was lost
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by the service when it stops; if this side cancels, the call raises CancelledError
    grpc.StatusCode.UNIMPLEMENTED,  # during a rollout: the service still has an older release
}


def as_domain_error(error: Exception) -> DomainError | None:
    """The error to return to callers, ``None`` if it is a bug of ours."""
    if isinstance(error, DomainError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        outage = error.code() in _OUTAGE_CODES
    else:
        outage = isinstance(error, OUTAGES) and not isinstance(error, _DEFECTS)
    return Unavailable() if outage else None


def is_outage(error: Exception) -> bool:
    """Whether a dependency is unavailable, directly or behind a called service, so that a retry may succeed."""
    domain = as_domain_error(error)
    return domain is not None and domain.status == Unavailable.status
