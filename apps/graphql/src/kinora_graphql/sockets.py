"""GraphQL over WebSocket (graphql-transport-ws): authentication, connection limits, and closing of sockets.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

import asyncio
import contextlib
from datetime import timedelta

from fastapi.routing import APIWebSocketRoute
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.exceptions import ConnectionRejectionError
from strawberry.fastapi import GraphQLRouter
from strawberry.http.ides import get_graphql_ide_html
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_transport_ws.types import ConnectionInitMessage, ErrorMessage, Message
from strawberry.types.unset import UnsetType

from kinora_graphql import http
from kinora_graphql.context import Context, get_context
from kinora_graphql.operations import admit
from kinora_graphql.problems import extensions
from kinora_graphql.schema import build
from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.streams import Stream
from kinora_kit import rpc, strict_json
from kinora_kit.errors import DomainError, InvalidToken, TooManyAtOnce, Unavailable
from kinora_kit.identity import bearer
from kinora_kit.outages import as_domain_error
from kinora_kit.streams import Seats

FORBIDDEN = 4403
BAD_REQUEST = 4400
TRY_AGAIN_LATER = 1013


class Socket(BaseGraphQLTransportWSHandler[Context, None]):
    view: "Router"
    _session: asyncio.Task[None] | None = None

    async def handle(self) -> None:
        connection = self.context.request
        assert connection is not None  # noqa: S101 - Strawberry sets it
        with contextlib.ExitStack() as held:
            try:
                self.context.seat = held.enter_context(self.view.seats.take(connection.scope))
            except (TooManyAtOnce, Unavailable):
                await self.websocket.close(TRY_AGAIN_LATER, "Too many connections")
                return
            await super().handle()

    async def handle_message(self, message: Message) -> None:
        if not _well_formed(message):
            await self.websocket.close(BAD_REQUEST, "Invalid message")
            return
        if message["type"] == "subscribe" and self.connection_acknowledged and message["id"] not in self.operations:
            try:
                operation = await admit(dict(message["payload"]), self.view.built, self.context)
            except DomainError as error:
                refusal = GraphQLError(error.detail, extensions=extensions(error)).formatted
                await self.send_message(ErrorMessage(id=message["id"], type="error", payload=[refusal]))
                return
            message["payload"] = {
                "query": operation.query,
                "operationName": operation.name,
                "variables": operation.variables,
            }
        await super().handle_message(message)

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        if message.get("payload") is None:  # some clients send null for an absent payload
            message.pop("payload", None)
        try:
            await super().handle_connection_init(message)
        except Exception as error:
            if not isinstance(as_domain_error(error), Unavailable | TooManyAtOnce):
                raise
            await self.websocket.close(TRY_AGAIN_LATER, "Try again later")
            return
        # In the socket's task, so that the operations it starts inherit the token.
        token = rpc.access_token.get()
        if self.connection_acknowledged and token and self._session is None:
            self._session = asyncio.create_task(self._until_session_ends(token))

    async def _until_session_ends(self, token: str) -> None:
        """Close the socket when its token expires, or soon after its session ends."""
        await self.context.verifier.until_ended(token, check_seconds=self.view.settings.session_check_seconds)
        for operation_id in list(self.operations):
            await self.cleanup_operation(operation_id)
        await self.websocket.close(FORBIDDEN, "Forbidden")

    async def shutdown(self) -> None:
        if self._session is not None:
            self._session.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._session
        await super().shutdown()


def _well_formed(message: object) -> bool:
    """Checks the types, because Strawberry does not."""
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    if message.get("type") == "complete":
        return isinstance(message.get("id"), str)
    if message.get("type") != "subscribe":
        return True
    payload = message.get("payload")
    return (
        isinstance(message.get("id"), str)
        and isinstance(payload, dict)
        and isinstance(payload.get("query"), str | None)
        and (payload.get("variables") == "" or isinstance(payload.get("variables"), dict | None))
        and isinstance(payload.get("operationName"), str | None)
    )


class _Adapter(ASGIWebSocketAdapter):
    async def close(self, code: int, reason: str) -> None:
        # Strawberry quotes the client, but a close frame has room for 123 bytes only.
        await super().close(code, reason.encode()[:123].decode(errors="ignore"))


class Router(GraphQLRouter[Context, None]):
    """POST, GET, server-sent events, and WebSocket; for browsers, GraphiQL where introspection is allowed."""

    websocket_adapter_class = _Adapter
    graphql_transport_ws_handler_class = Socket

    def __init__(self, settings: GraphqlSettings) -> None:
        self.built = build(settings)
        self.stream = Stream(self.built, settings)
        super().__init__(
            self.built,
            path="/graphql",
            graphql_ide=None,
            context_getter=get_context,
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,),
            connection_init_wait_timeout=timedelta(seconds=settings.socket_init_seconds),
            max_subscriptions_per_connection=settings.socket_operations,
            allowed_origins=settings.socket_origins,
        )
        self.settings = settings
        self.seats = Seats("websocket", settings)
        # Strawberry's routes for HTTP resolve FastAPI's dependencies, which takes a tenth of a request's time.
        self.routes = [route for route in self.routes if isinstance(route, APIWebSocketRoute)]
        self.add_route("/graphql", self._http, methods=["GET", "POST"], include_in_schema=False)

    def decode_json(self, data: str | bytes) -> object:
        return strict_json.loads(data)

    async def _http(self, request: Request) -> Response:
        if self.settings.introspection and request.method == "GET" and http.accepts_html(request):
            return HTMLResponse(get_graphql_ide_html(), headers={"Vary": "Accept"})
        context = await get_context(request, request.state.wired)
        return await http.answer(request, self.built, context, self.stream)

    async def on_ws_connect(self, context: Context) -> UnsetType | dict[str, object] | None:
        """Authenticate the socket by ``{"authorization": "Bearer ..."}``; without it, it stays anonymous."""
        given = context.connection_params or {}
        value = given.get("authorization", given.get("Authorization"))
        try:
            if token := bearer({} if value is None else {"authorization": str(value)}):
                caller = await context.verifier.verify(token)
                context.seat.sign_in(caller.user_id)
                context.caller = caller
                rpc.access_token.set(token)
        except InvalidToken:
            raise ConnectionRejectionError from None
        return await super().on_ws_connect(context)
