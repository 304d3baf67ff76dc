"""uvicorn for every service: drains before it stops, and bounds how long a request may take to arrive."""

import asyncio
import gc
import ipaddress
import resource
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any, TypeAlias

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from kinora_kit.health import Health
from kinora_kit.settings import Settings

MAX_HEAD_BYTES = 64 << 10
MAX_FRAMES = 1000
"""In one message of a WebSocket."""
GARBAGE_OBJECTS = 20_000
"""New objects after which the collector looks for cycles among them. The default, 700, is less than one request."""
LINGER_SECONDS = 5.0
"""How long the rest of a body may still arrive after the response. Closing at once would reset the connection, and the
response could be lost."""


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose request line and headers arrive too slowly. edge.py bounds the body."""

    head_seconds: float
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_body or self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()
        elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect(self.head_seconds)

    def send_400_response(self, msg: str) -> None:
        """Like uvicorn's response to malformed HTTP, but without closing before the rest of the request has arrived."""
        self._refused = True
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(msg)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{msg}".encode("ascii"))
        self._expect(LINGER_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn adds the trailers of a chunked body to the headers, where they could impersonate the gateway's
        # headers.
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body, self._head_bytes = True, 0
        self._expect(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if self._deadline is not None:  # it was answered early
            self._expect(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:
            self._expect(LINGER_SECONDS)

    def _expect(self, seconds: float | None) -> None:
        """Close the connection after that time, unless this is called again first."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.close)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Answers refused handshakes, and bounds the memory that a client can fill."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated:
            # The request, which is complete, is too large for websockets, or has a body. uvicorn does not notice that:
            # the client would wait for ever.
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(
                answer or b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # The handshake was answered with an HTTP response. uvicorn does not notice that, and logs an error.
            self.handshake_complete = True

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # the client does not read: drop the pong

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAMES:  # the limit on a message's size does not count empty ones
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG)
            self.handle_parser_exception()


class _Server(uvicorn.Server):
    """Reports "not ready" for a while before it stops accepting, so that no load balancer uses a closed port."""

    def __init__(self, config: uvicorn.Config, health: Health, delay_seconds: float) -> None:
        super().__init__(config)
        self._health = health
        self._delay = delay_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        # Modules, the schema and the like live as long as the process: the collector need not visit them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        second_time = self._health.draining
        self._health.draining = True
        if self._loop is None or self._delay == 0 or second_time or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        stop = super().handle_exit
        self._loop.call_soon_threadsafe(self._loop.call_later, self._delay, stop, sig, frame)


class ForwardedFor:
    """Gives the client's address to the application, from an X-Forwarded-For that a trusted proxy has sent.

    Each proxy appends the address that connected to it. uvicorn's middleware skips all trusted addresses: the gateway's
    pods, which can be any private address. It would also skip a client with a private address, behind a load balancer,
    and believe what that client has sent.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = ProxyHeadersMiddleware(app, trusted_hosts=settings.trusted_proxies)  # type: ignore[arg-type]
        self._balancers = [ipaddress.ip_network(each) for each in settings.load_balancers.split(",") if each]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = [value for name, value in scope.get("headers", []) if name == b"x-forwarded-for"]
        if given and scope["client"]:
            hops = [hop.strip() for hop in b",".join(given).decode("latin-1").split(",")]
            # In the mesh the pod's own proxy connects, and has appended the gateway's address.
            if len(hops) > 1 and _is_in(scope["client"][0], _LOOPBACK):
                hops.pop()
            while len(hops) > 1 and _is_in(hops[-1], self._balancers):
                hops.pop()
            headers = [header for header in scope["headers"] if header[0] != b"x-forwarded-for"]
            scope = {**scope, "headers": [*headers, (b"x-forwarded-for", hops[-1].encode("latin-1"))]}
        await self._app(scope, receive, send)  # type: ignore[arg-type]


_Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
_LOOPBACK: _Networks = [ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128")]


def _is_in(address: str, networks: _Networks) -> bool:
    try:
        return any(ipaddress.ip_address(address) in network for network in networks)
    except ValueError:  # what a client sent, or a unix socket
        return False


def serve(app: ASGIApp, settings: Settings, health: Health) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    # The time of each connection is bounded, so allow many of them; the default limit is often 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config = uvicorn.Config(
        ForwardedFor(app, settings),
        host=settings.http_host,
        port=settings.http_port,
        http=type("Protocol", (BoundedProtocol,), {"head_seconds": settings.head_timeout_seconds}),
        proxy_headers=False,
        server_header=False,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_seconds,
        timeout_keep_alive=75,  # longer than the gateway's, so that a connection is never closed under a request
        ws=BoundedWebSocket,
        ws_max_size=settings.max_body_bytes,
    )
    _Server(config, health, settings.drain_delay_seconds).run()
