"""gRPC between services: a deadline on every call, identity and trace in the metadata, errors with details.

Identity is propagated as the caller's own access token, which the called service verifies again: a compromised service
can impersonate the users who call it, and nobody else.

Errors follow the richer error model (https://grpc.io/docs/guides/error/): a ``google.rpc.Status`` in the trailing
metadata with an ErrorInfo, a BadRequest for the fields of invalid input, and a RetryInfo. An error without it is one of
gRPC itself, see outages.py.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from structlog.contextvars import bound_contextvars, get_contextvars

from kinora_kit import deadline, logs
from kinora_kit.errors import DomainError, FieldError, Internal, InvalidInput, NotSignedIn, Unavailable
from kinora_kit.identity import Caller, TokenVerifier, bearer
from kinora_kit.metrics import RPC_CALLED, RPC_SERVED
from kinora_kit.outages import as_domain_error

log = logs.get(__name__)

DOMAIN = "kinora"
"""Of the reasons in ErrorInfo, which are our codes in upper case."""
DEADLINE_SECONDS = 5.0
ENFORCEMENT_SECONDS = 3.0
"""Deadline of a call to an Enforcement service; shorter than that of the enclosing request."""
MAX_MESSAGE_BYTES = 8 << 20
MAX_CALLS = 1000
"""Concurrent calls that a process serves."""
# Of an error. Clients drop responses with more than 8 KB of trailers. The detail is there twice: as the status message,
# where a byte can take three, and in the details, where proxies encode three bytes as four.
MAX_DETAIL_BYTES = 1000
MAX_TITLE_BYTES = 100
MAX_FIELDS_BYTES = 1500
_RETRY_POLICY = {
    "methodConfig": [
        {
            "name": [{}],  # every method of every service
            "retryPolicy": {
                # 0.1, 0.2, 0.4 and 0.8 s: longer than it takes until no call is routed to a terminated pod.
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

# Calls that got a response are never retried (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")

_OF_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    410: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


def _code(error: DomainError) -> grpc.StatusCode:
    # Below 500, an unmapped status is still a client error.
    unknown = grpc.StatusCode.FAILED_PRECONDITION if error.status < 500 else grpc.StatusCode.UNKNOWN
    return _OF_STATUS.get(error.status, unknown)


access_token: ContextVar[str | None] = ContextVar("access_token", default=None)
"""The token of the current request, propagated to the calls that it makes."""

RpcMethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

_caller: ContextVar[Caller | None] = ContextVar("rpc_caller", default=None)


def optional_caller() -> Caller | None:
    """The caller of the RPC being served."""
    return _caller.get()


def signed_in() -> Caller:
    caller = _caller.get()
    if caller is None:
        raise NotSignedIn
    return caller


def fields(request: Message, *names: str) -> dict[str, Any]:
    """The named fields, without unset optional ones."""
    optional = {field.name for field in request.DESCRIPTOR.fields if field.has_presence}
    return {name: getattr(request, name) for name in names if name not in optional or request.HasField(name)}


def _holds_nul(value: object) -> bool:
    """Whether any text of a message contains NUL, which PostgreSQL cannot store. edge.py rejects it in JSON, but
    GraphQL literals may contain it."""
    match value:
        case str():
            return "\0" in value
        case Message():
            return any(_holds_nul(inner) for _, inner in value.ListFields())
        case Mapping():
            return any(_holds_nul(key) or _holds_nul(inner) for key, inner in value.items())
        case Sequence() if not isinstance(value, bytes):
            return any(_holds_nul(inner) for inner in value)
        case _:
            return False


def _shortened(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _bad_request(errors: Sequence[FieldError]) -> BadRequest:
    """The first fields that fit."""
    message = BadRequest()
    for each in errors:
        message.field_violations.add(field=each["field"], description=each["message"])
        if message.ByteSize() > MAX_FIELDS_BYTES:
            message.field_violations.pop()
            break
    return message


def _with_details(error: DomainError) -> grpc.Status:
    about = {"status": str(error.status), "title": _shortened(error.title, MAX_TITLE_BYTES)}
    details: list[Message] = [ErrorInfo(reason=error.code.upper(), domain=DOMAIN, metadata=about)]
    if error.errors:
        details.append(_bad_request(error.errors))
    if error.retry_after_seconds is not None:
        details.append(RetryInfo(retry_delay=Duration(seconds=error.retry_after_seconds)))
    status = Status(code=_code(error).value[0], message=_shortened(error.detail, MAX_DETAIL_BYTES))
    for detail in details:
        status.details.add().Pack(detail)
    rich: grpc.Status = rpc_status.to_status(status)
    return rich


def _domain_error(error: grpc.aio.AioRpcError) -> DomainError | None:
    """The error of the service, None for one of gRPC itself."""
    status = rpc_status.from_call(error)
    info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for packed in status.details if status else ():
        for message in (info, request, retry):
            packed.Unpack(message)  # does nothing if it is of another type
    if info.domain != DOMAIN:
        return None
    return DomainError(
        status.message,
        status=int(info.metadata["status"]),
        code=info.reason.lower(),
        title=info.metadata["title"],
        retry_after_seconds=retry.retry_delay.seconds if retry.HasField("retry_delay") else None,
        errors=[FieldError(field=each.field, message=each.description) for each in request.field_violations],
    )


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Verifies the token, propagates the trace, limits concurrency, records metrics, and maps errors to statuses."""

    def __init__(self, verifier: TokenVerifier | None) -> None:
        self._verifier = verifier
        self._in_flight = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> RpcMethodHandler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        metadata = {key: str(value) for key, value in handler_call_details.invocation_metadata or ()}
        inner = handler.unary_unary

        async def serve(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            status = grpc.StatusCode.OK
            # Always set, even if absent: the context may still have the values of the code that started the server.
            logs.traceparent.set(metadata.get("traceparent") or logs.new_traceparent())
            _caller.set(None)
            access_token.set(None)
            deadline.start(context.time_remaining())
            self._in_flight += 1
            with bound_contextvars(request_id=metadata.get("x-request-id"), rpc=method):
                try:
                    # Not gRPC's maximum_concurrent_rpcs: its error has the same code as that of a too large message.
                    if self._in_flight > MAX_CALLS:
                        raise Unavailable("Too many calls at the moment; try again", retry_after_seconds=1)
                    token = bearer(metadata)
                    if token is not None and self._verifier is not None:
                        _caller.set(await self._verifier.verify(token))
                        access_token.set(token)
                    if _holds_nul(request):
                        raise InvalidInput("Text must not contain NUL characters")
                    return await inner(request, context)
                except asyncio.CancelledError:
                    status = grpc.StatusCode.CANCELLED
                    raise
                except Exception as error:
                    domain = as_domain_error(error)
                    if domain is None:
                        log.exception("rpc failed")
                        domain = Internal()
                    rich = _with_details(domain)
                    status = rich.code
                    await context.abort(status, rich.details, trailing_metadata=(*rich.trailing_metadata, _NO_RETRY))
                finally:
                    self._in_flight -= 1
                    RPC_SERVED.labels(method, status.name).observe(time.perf_counter() - started)

        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@contextlib.asynccontextmanager
async def serve(
    address: str,
    register: Callable[[grpc.aio.Server], None],
    *,
    verifier: TokenVerifier | None,
    drain_seconds: float = 10,
) -> AsyncIterator[None]:
    """Serve while the context is open; then let calls in flight finish."""
    server = grpc.aio.server(
        interceptors=[ServerInterceptor(verifier)],
        options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
    )
    register(server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(drain_seconds)


class ClientInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds deadline, identity and trace, records metrics, and raises the server's domain errors."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
        token, trace = access_token.get(), logs.traceparent.get()
        request_id = get_contextvars().get("request_id")
        if token:
            metadata.add("authorization", f"Bearer {token}")
        if trace:
            metadata.add("traceparent", trace)
        if request_id:
            metadata.add("x-request-id", str(request_id))
        details = grpc.aio.ClientCallDetails(
            method=client_call_details.method,
            timeout=deadline.within(client_call_details.timeout or DEADLINE_SECONDS),
            metadata=metadata,
            credentials=client_call_details.credentials,
            wait_for_ready=client_call_details.wait_for_ready,
        )
        method = client_call_details.method
        started = time.perf_counter()
        status = grpc.StatusCode.OK
        try:
            call = await continuation(details, request)
            return await call
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AioRpcError as error:
            status = error.code()
            domain = _domain_error(error)
            if domain is None:
                raise
            raise domain from None
        finally:
            RPC_CALLED.labels(method, status.name).observe(time.perf_counter() - started)


@contextlib.asynccontextmanager
async def connect(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to another service, connected on first use.

    Calls are retried while the service is briefly unavailable; every call is idempotent (docs/adr/0011-repeats.md).
    """
    channel = grpc.aio.insecure_channel(
        address,
        interceptors=[ClientInterceptor()],
        options=[
            ("grpc.service_config", json.dumps(_RETRY_POLICY)),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 30000),
            # Otherwise it would not reconnect between two attempts of a call.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # How long one attempt to connect may take.
            ("grpc.min_reconnect_backoff_ms", 1000),
        ],
    )
    try:
        yield channel
    finally:
        await channel.close()


async def check(channel: grpc.aio.Channel) -> None:
    await channel.channel_ready()
