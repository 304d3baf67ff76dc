import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from redis.asyncio import Redis
from structlog.contextvars import bound_contextvars, get_contextvars

from kinora.auth.v1 import auth_pb2
from kinora.media.v1 import media_pb2
from kinora_kit import deadline, http, logs, revocations, rpc, s3
from kinora_kit.errors import (
    Conflict,
    DomainError,
    Internal,
    InvalidInput,
    NotFound,
    NotSignedIn,
    TooManyRequests,
    Unavailable,
    problem,
)
from kinora_kit.identity import TokenVerifier
from kinora_kit.outages import as_domain_error, is_outage
from kinora_kit.structs import to_struct
from kinora_kit.testing import eventually, free_port

ISSUER = "https://kit.test"
KEY = Ed25519PrivateKey.generate()
Answer = Callable[[], Awaitable[str]]


class Keys:
    async def public_key(self, kid: str) -> Any | None:
        return KEY.public_key() if kid == "one" else None


class Service:
    """A gRPC service with one method, ``Ask``, that returns the result of ``answer`` and counts its calls."""

    def __init__(self, answer: Answer, *, name: str = "kit.v1.Reading", takes: type[Message] | None = None) -> None:
        self.answer = answer
        self.takes = takes
        self.name = name
        self.calls = 0

    async def _ask(self, request: object, context: object) -> bytes:
        self.calls += 1
        return (await self.answer()).encode()

    def register(self, server: grpc.aio.Server) -> None:
        read = self.takes.FromString if self.takes else None
        ask: Any = grpc.unary_unary_rpc_method_handler(self._ask, request_deserializer=read)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.name, {"Ask": ask}),))


@contextlib.asynccontextmanager
async def serving(*services: Service, verifier: TokenVerifier | None = None, **options: Any) -> AsyncIterator[str]:
    address = f"127.0.0.1:{free_port()}"

    def register(server: grpc.aio.Server) -> None:
        for service in services:
            service.register(server)

    async with rpc.serve(address, register, verifier=verifier, **options):
        yield address


async def ask(channel: grpc.aio.Channel, *, service: str = "kit.v1.Reading", timeout: float | None = None) -> str:
    call: Any = channel.unary_unary(f"/{service}/Ask")
    return bytes(await call(b"", timeout=timeout)).decode()


async def once(service: Service, **options: Any) -> str:
    async with serving(service, **options) as address, rpc.connect(address) as channel:
        return await ask(channel)


def token(session_id: UUID | None = None, *, kid: str = "one", lifetime: float = 60) -> tuple[str, UUID]:
    user_id, now = uuid4(), time.time()
    claims = {"sub": str(user_id), "sid": str(session_id or uuid4()), "iss": ISSUER, "aud": "kinora"}
    claims |= {"iat": int(now - 100), "exp": int(now + lifetime)}  # type: ignore[dict-item]
    return jwt.encode(claims, KEY, algorithm="EdDSA", headers={"kid": kid, "typ": "at+jwt"}), user_id


async def who() -> str:
    caller = rpc.optional_caller()
    return str(caller.user_id) if caller else "nobody"


async def failing(error: Exception) -> DomainError:
    """What a caller gets when a service raises ``error``."""

    async def fail() -> str:
        raise error

    with pytest.raises(DomainError) as caught:
        await once(Service(fail))
    return caught.value


async def test_longest_error_fits_into_the_trailers() -> None:
    fields = [("é" * 100, "é" * 200) for _ in range(10)]
    error = await failing(
        DomainError(
            "é" * 100_000,
            status=422,
            code="invalid_input",
            title="é" * 1000,
            errors=InvalidInput.of(fields).errors,
            retry_after_seconds=10**9,
        )
    )
    assert (error.status, error.code, error.retry_after_seconds) == (422, "invalid_input", 10**9)
    assert (error.detail, error.title) == ("é" * 500, "é" * 50)
    assert error.errors == [{"field": "é" * 100, "message": "é" * 200}] * 2


class TitleTaken(Conflict):
    code = "title_taken"
    title = "The title is taken"


@pytest.mark.parametrize(
    "error",
    [
        TitleTaken("»Über uns« is taken"),
        NotFound(),
        TooManyRequests(7),
        Unavailable(),
        InvalidInput("Nothing to change"),
        InvalidInput.of([("display_name", "Too long"), ("", "Send an object")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_error_of_a_service_is_the_same_for_its_caller(error: DomainError) -> None:
    caught = await failing(error)
    assert problem(caught) == problem(error)
    assert caught.headers == error.headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound(), grpc.StatusCode.NOT_FOUND),
        (DomainError(status=410), grpc.StatusCode.FAILED_PRECONDITION),
        (DomainError(status=415), grpc.StatusCode.INVALID_ARGUMENT),
        (DomainError(status=418), grpc.StatusCode.FAILED_PRECONDITION),
        (DomainError(status=507), grpc.StatusCode.UNKNOWN),
        (Unavailable(), grpc.StatusCode.UNAVAILABLE),
        (TimeoutError(), grpc.StatusCode.UNAVAILABLE),
        (ZeroDivisionError("secret detail"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_errors_map_to_grpc_statuses(error: Exception, status: grpc.StatusCode) -> None:
    async def fail() -> str:
        raise error

    async with serving(Service(fail)) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
    assert caught.value.code() == status


async def test_bug_of_a_service_is_internal_for_its_caller_without_details() -> None:
    error = await failing(ZeroDivisionError("secret detail"))
    assert problem(error) == problem(Internal())
    assert not is_outage(error)


async def test_bug_of_an_indirectly_called_service_is_internal() -> None:
    async def fail() -> str:
        raise ZeroDivisionError

    async with serving(Service(fail)) as address, rpc.connect(address) as channel:

        async def onward() -> str:
            return await ask(channel)

        with pytest.raises(DomainError) as caught:
            await once(Service(onward))
    assert problem(caught.value) == problem(Internal())


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_only_lost_calls_and_rollouts_are_outages(code: grpc.StatusCode) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert is_outage(error) == (code.name in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNIMPLEMENTED"})


async def test_too_large_message_is_no_outage() -> None:
    async def much() -> str:
        return "x" * (rpc.MAX_MESSAGE_BYTES + 1)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await once(Service(much))
    assert as_domain_error(caught.value) is None


async def test_concurrent_calls_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_CALLS", 1)
    started, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        started.set()
        await may_end.wait()
        return "done"

    async with serving(Service(slow)) as address, rpc.connect(address) as channel:
        first = asyncio.create_task(ask(channel))
        await started.wait()
        with pytest.raises(DomainError) as caught:
            await ask(channel)
        assert (caught.value.status, caught.value.code, caught.value.retry_after_seconds) == (503, "unavailable", 1)
        may_end.set()
        assert (await first, await ask(channel)) == ("done", "done")


async def test_call_that_a_stopping_service_cuts_off_is_an_outage() -> None:
    started = asyncio.Event()

    async def hang() -> str:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with rpc.connect(address := f"127.0.0.1:{free_port()}") as channel:
        async with rpc.serve(address, Service(hang).register, verifier=None, drain_seconds=0):
            call = asyncio.create_task(ask(channel))
            await started.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert is_outage(caught.value)


async def test_call_has_a_default_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "DEADLINE_SECONDS", 0.2)
    cancelled = 0

    async def hang() -> str:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled += 1
        raise AssertionError

    async with serving(Service(hang)) as address, rpc.connect(address) as channel:
        for timeout in (None, 0.1):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel, timeout=timeout)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert isinstance(as_domain_error(caught.value), Unavailable)
        await eventually(lambda: cancelled == 2)


async def test_token_identifies_the_caller(client: Redis) -> None:
    verifier = TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=client)
    revoked = uuid4()
    await revocations.announce(client, {revoked: 60})
    good, user_id = token()
    async with serving(Service(who), verifier=verifier) as address, rpc.connect(address) as channel:

        async def asked_with(value: str | None) -> str:
            reset = rpc.access_token.set(value)
            try:
                return await ask(channel)
            except DomainError as error:
                return f"{error.status} {error.code}: {error.detail}"
            finally:
                rpc.access_token.reset(reset)

        assert await asked_with(None) == "nobody"
        assert await asked_with(good) == str(user_id)
        assert await asked_with(token(lifetime=-60)[0]) == "401 invalid_token: The access token has expired"
        assert await asked_with(token(revoked)[0]) == "401 invalid_token: The session has ended"
        assert (await asked_with(token(kid="other")[0])).startswith("401 invalid_token")
        assert (await asked_with("nonsense")).startswith("401 invalid_token")
        assert await asked_with(None) == "nobody"


async def test_signed_in_rejects_anonymous_caller() -> None:
    async def needs_caller() -> str:
        rpc.signed_in()
        raise AssertionError

    with pytest.raises(DomainError) as caught:
        await once(Service(needs_caller))
    assert (caught.value.status, caught.value.code) == (401, "not_signed_in")


async def test_concurrent_calls_have_separate_callers(client: Redis) -> None:
    verifier = TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=client)
    all_here, waiting = asyncio.Event(), 0

    async def slow_who() -> str:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            all_here.set()
        await all_here.wait()
        return await who()

    async def asked_with(channel: grpc.aio.Channel, value: str | None) -> str:
        rpc.access_token.set(value)
        return await ask(channel)

    tokens = [token() for _ in range(10)]
    async with serving(Service(slow_who), verifier=verifier) as address, rpc.connect(address) as channel:
        asking = [asked_with(channel, value) for pair in tokens for value in (pair[0], None)]
        answers = await asyncio.gather(*asking)
    assert answers == [name for _, user_id in tokens for name in (str(user_id), "nobody")]


async def test_context_of_the_server_start_is_not_inherited(client: Redis) -> None:
    verifier = TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=client)

    async def onward() -> str:
        return str(rpc.access_token.get())

    async def start_and_ask() -> str:
        rpc.access_token.set("of the starting task")
        async with serving(Service(onward), verifier=verifier) as address:
            rpc.access_token.set(None)
            async with rpc.connect(address) as channel:
                return await ask(channel)

    assert await asyncio.create_task(start_and_ask(), context=copy_context()) == "None"


async def test_trace_request_id_and_token_are_propagated(client: Redis) -> None:
    verifier = TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=client)
    seen: dict[str, Any] = {}

    async def look() -> str:
        seen.update(get_contextvars(), trace=logs.traceparent.get(), token=rpc.access_token.get())
        return ""

    good, _ = token()
    trace = logs.new_traceparent()

    async def call() -> None:
        logs.traceparent.set(trace)
        rpc.access_token.set(good)
        with bound_contextvars(request_id="abc"):
            await once(Service(look), verifier=verifier)

    await asyncio.create_task(call())
    assert (seen["trace"], seen["request_id"], seen["token"]) == (trace, "abc", good)
    assert seen["rpc"] == "/kit.v1.Reading/Ask"


async def test_call_is_retried_until_answered() -> None:
    service = Service(who)
    async with rpc.connect(address := f"127.0.0.1:{free_port()}") as channel:
        call = asyncio.create_task(ask(channel))
        state = channel.get_state()
        while state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            await channel.wait_for_state_change(state)
            state = channel.get_state()
        async with rpc.serve(address, service.register, verifier=None):
            assert await call == "nobody"
    assert service.calls == 1


@pytest.mark.parametrize("error", [Unavailable, NotSignedIn])
async def test_answered_call_is_not_retried(error: type[DomainError]) -> None:
    async def refuses() -> str:
        raise error

    service = Service(refuses)
    async with serving(service) as address, rpc.connect(address) as channel:
        with pytest.raises(DomainError):
            await ask(channel)
    assert service.calls == 1


async def test_stopping_server_finishes_calls_and_rejects_new_ones() -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        started.set()
        await may_end.wait()
        return "finished"

    address_known: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def server() -> None:
        async with serving(Service(slow), drain_seconds=30) as address:
            address_known.set_result(address)
            await stop.wait()

    running = asyncio.create_task(server())
    address = await address_known
    async with rpc.connect(address) as channel, rpc.connect(address) as other:
        call = asyncio.create_task(ask(channel))
        await started.wait()
        stop.set()

        async def refused() -> bool:
            try:
                await ask(other, timeout=4)  # includes all retries
            except grpc.aio.AioRpcError as error:
                return error.code() == grpc.StatusCode.UNAVAILABLE
            return False

        await eventually(refused)
        assert not call.done()
        may_end.set()
        assert await call == "finished"
    await running


async def test_unavailable_service_is_an_outage_until_it_is_back() -> None:
    async with rpc.connect(address := f"127.0.0.1:{free_port()}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
        assert isinstance(as_domain_error(caught.value), Unavailable)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await rpc.check(channel)

        async with rpc.serve(address, Service(who).register, verifier=None), asyncio.timeout(10):
            await rpc.check(channel)
            assert await ask(channel) == "nobody"


async def test_method_of_a_newer_release_is_an_outage() -> None:
    async with serving(Service(who)) as address, rpc.connect(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, service="kit.v1.Absent")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert is_outage(caught.value)


NUL = "a\0b"


@pytest.mark.parametrize(
    "message",
    [
        media_pb2.DropMediaRequest(id=NUL),
        auth_pb2.RegisterRequest(username="a", client=auth_pb2.Client(user_agent=NUL)),
        auth_pb2.ListUsersRequest(ids=["a", NUL]),
        media_pb2.UpdateMediaRequest(id="a", tags=media_pb2.TagList(tags=[NUL])),
        media_pb2.UpdateMediaRequest(id="a", attributes=to_struct({"a": [{"b": NUL}]})),
        media_pb2.UpdateMediaRequest(id="a", attributes=to_struct({NUL: 1})),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_message_with_nul_is_rejected_before_the_service(message: Message) -> None:
    service = Service(who, takes=type(message))
    async with serving(service) as address, rpc.connect(address) as channel:
        call: Any = channel.unary_unary("/kit.v1.Reading/Ask", request_serializer=type(message).SerializeToString)
        with pytest.raises(DomainError) as caught:
            await call(message)
        assert (caught.value.status, caught.value.code) == (422, "invalid_input")
        await call(type(message)())
    assert service.calls == 1


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """The URL of a server that accepts connections and never answers."""
    done = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        done.set()
        server.close()


async def test_deadline_of_the_caller_is_propagated() -> None:
    async def left() -> str:
        return str(deadline.remaining())

    async with serving(Service(left)) as address, rpc.connect(address) as channel:
        assert 0 < float(await ask(channel, timeout=60)) < 60  # gRPC rounds timeouts up, by more than the margin


async def assert_answered_in_time(answer: Answer) -> None:
    """The service reports the unavailable dependency before its caller's deadline."""

    async def late() -> str:
        deadline.start(0.5 + deadline.MARGIN_SECONDS)
        return await answer()

    async with serving(Service(late)) as address, rpc.connect(address) as channel:
        with pytest.raises(DomainError) as caught:
            await ask(channel, timeout=100)
    assert caught.value.code == "unavailable"


async def test_http_request_ends_before_the_deadline() -> None:
    async with silent() as url, http.connect(url, timeout_seconds=30) as client:

        async def answer() -> str:
            return (await client.get("/")).text

        await assert_answered_in_time(answer)


async def test_nested_call_ends_before_the_deadline() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    async with serving(Service(never), drain_seconds=0) as address, rpc.connect(address) as channel:
        await assert_answered_in_time(lambda: ask(channel, timeout=100))


async def test_object_store_call_ends_before_the_deadline() -> None:
    async with silent() as url, s3.connect(url, access_key="a", secret_key="b") as store:

        async def answer() -> str:
            return str(await store.size("bucket", "key"))

        await assert_answered_in_time(answer)


async def test_no_call_is_started_after_the_deadline() -> None:
    async def answer() -> str:
        deadline.start(deadline.MARGIN_SECONDS)
        return str(deadline.within(10))

    await assert_answered_in_time(answer)


async def test_http_timeout_covers_the_whole_response() -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with http.connect(f"http://127.0.0.1:{port}", timeout_seconds=0.5) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/")
