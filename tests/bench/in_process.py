"""What executing an operation costs without HTTP, gateway and checks of tokens: the same schema, loaders and services.

``local/with-env graphql -- python in_process.py``, with the operation on the standard input: query, variables, token
(null for an anonymous viewer), tasks (how many execute it at a time) and seconds. Prints the CPU milliseconds of one
execution.
"""

import asyncio
import gc
import json
import sys
import time
from typing import Any

import uvloop
from starlette.requests import HTTPConnection

from kinora_graphql.context import get_context
from kinora_graphql.schema import build
from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.wiring import wire
from kinora_kit import rpc
from kinora_kit.server import GARBAGE_OBJECTS
from kinora_kit.settings import load

ANONYMOUS = HTTPConnection({"type": "http", "headers": [], "client": ("127.0.0.1", 0)})


async def measure(operation: dict[str, Any]) -> float:
    settings = load(GraphqlSettings)
    schema = build(settings)
    rpc.access_token.set(operation["token"])
    async with wire(settings) as state:

        async def execute() -> None:
            context = await get_context(ANONYMOUS, state)  # the token is passed on nevertheless
            result = await schema.execute(
                operation["query"], variable_values=operation["variables"], context_value=context
            )
            if result.errors:
                raise SystemExit(f"unexpected errors: {result.errors}")

        await asyncio.gather(*(execute() for _ in range(operation["tasks"])))  # warm-up
        gc.freeze()  # as the service
        gc.set_threshold(GARBAGE_OBJECTS)
        count = 0
        begun, end = time.process_time(), time.perf_counter() + operation["seconds"]

        async def repeat() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await execute()
                count += 1

        await asyncio.gather(*(repeat() for _ in range(operation["tasks"])))
        return 1000 * (time.process_time() - begun) / count


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measure(json.load(sys.stdin))))
