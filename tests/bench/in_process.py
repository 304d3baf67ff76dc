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

from kinora.auth.v1.auth_pb2 import Client
from kinora_graphql.context import Context
from kinora_graphql.schema import build
from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.wiring import wire
from kinora_kit import rpc
from kinora_kit.server import GARBAGE_OBJECTS
from kinora_kit.settings import load


async def measure(operation: dict[str, Any]) -> float:
    settings = load(GraphqlSettings)
    schema = build(settings)
    rpc.access_token.set(operation["token"])
    async with wire(settings) as state:

        async def execute() -> None:
            context = Context(
                clients=state.clients,
                progress=state.progress,
                documents=state.documents,
                rates=state.rates,
                network="",
                verifier=state.verifier,
                client=Client(),
                caller=None,
                refusal=None,
                remember=True,
            )
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
