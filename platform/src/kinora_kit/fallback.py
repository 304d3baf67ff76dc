"""The gateway's fallback service: ``python -m kinora_kit.fallback``. It has no dependencies, so it is always available.

The gateway cannot write response bodies. It fetches them here: /unavailable for a service that is unavailable
(docs/adr/0017-fallback.md), /too_many_at_once for a client that has too many requests in flight.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter

from kinora_kit.app import create_app, run
from kinora_kit.errors import TooManyAtOnce, Unavailable
from kinora_kit.health import Checks
from kinora_kit.settings import Settings, load

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

router = APIRouter(include_in_schema=False)


class FallbackSettings(Settings):
    service: ClassVar[str] = "fallback"


@dataclass(frozen=True)
class State:
    checks: Checks


@contextlib.asynccontextmanager
async def wire(_: FallbackSettings) -> AsyncIterator[State]:
    yield State(Checks())


@router.api_route("/unavailable", methods=METHODS)
async def unavailable() -> None:
    raise Unavailable


@router.api_route("/too_many_at_once", methods=METHODS)
async def too_many_at_once() -> None:
    raise TooManyAtOnce


if __name__ == "__main__":
    settings = load(FallbackSettings)
    run(create_app(settings, wire, [router]), settings)
