"""GraphQL over server-sent events, in the distinct connections mode: one request, one operation, one stream.

https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from kinora_graphql.context import Context
from kinora_graphql.http import rate, response
from kinora_graphql.operations import Operation
from kinora_graphql.schema import Schema
from kinora_graphql.settings import GraphqlSettings
from kinora_kit import rpc
from kinora_kit.streams import EventStream, Seats


class Stream:
    """An implementation of http.Stream."""

    def __init__(self, schema: Schema, settings: GraphqlSettings) -> None:
        self._schema = schema
        self._settings = settings
        self._seats = Seats("events", settings)

    def __call__(self, request: Request, operation: Operation, context: Context) -> Response:
        """Raises TooManyAtOnce, Unavailable."""
        user_id = context.caller.user_id if context.caller else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._seats.take(request.scope, user_id))
            answer = EventStream(self._events(operation, context), stack.pop_all())
        answer.headers.update({"Vary": "Accept", **rate(context)})
        return answer

    async def _events(self, operation: Operation, context: Context) -> AsyncGenerator[str, None]:
        """Without a final ``complete`` if the session ends: clients then connect again, with a new token."""
        upcoming: asyncio.Future[Any] | None = None
        results = await self._schema.stream(
            operation.query,
            variable_values=operation.variables,
            context_value=context,
            operation_name=operation.name,
        )
        session = asyncio.create_task(self._until_session_ends(context))
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(results, None))
                await asyncio.wait(
                    {upcoming, session}, timeout=self._settings.keepalive_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if session.done():
                    return
                if not upcoming.done():
                    yield ":\n\n"
                    continue
                result, upcoming = upcoming.result(), None
                if result is None:
                    yield "event: complete\ndata: \n\n"
                    return
                yield f"event: next\ndata: {json.dumps(response(result), separators=(',', ':'))}\n\n"
        finally:
            session.cancel()
            if upcoming is not None:  # a generator that is running cannot be closed
                upcoming.cancel()
                await asyncio.wait([upcoming])
            await results.aclose()

    async def _until_session_ends(self, context: Context) -> None:
        token = rpc.access_token.get()
        if token is None:
            await asyncio.Event().wait()
        else:
            await context.verifier.until_ended(token, check_seconds=self._settings.session_check_seconds)
