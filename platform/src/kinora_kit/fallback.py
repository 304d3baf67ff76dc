"""The gateway's fallback service: ``python -m kinora_kit.fallback``. It has no dependencies, so it is always available.

The gateway cannot write response bodies. For an unavailable service, it fetches the response from /unavailable here
(docs/adr/0017-fallback.md).
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter

from kinora_kit.app import create_app, run
from kinora_kit.errors import Unavailable
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


if __name__ == "__main__":
    settings = load(FallbackSettings)
    run(create_app(settings, wire, [router]), settings)
