"""Alive, ready, and what a process depends on: three answers that must not be mixed (docs/adr/0012-readiness.md).

Alive: the event loop turns. Ready: this process started, its schema is in place, and it is not draining. A dependency
that is away is reported, by /readyz and by a metric, and makes nothing unready: every replica would leave the balancer
at once, with all that it can still do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from kinora_kit.metrics import DEPENDENCY_UP

Check = Callable[[], Awaitable[object]]
"""Returns when the dependency answers, raises when it does not."""

CHECK_SECONDS = 2.0
"""How long a dependency may take to answer."""
REPORT_SECONDS = 5.0
RETRY_SECONDS = 1.0
"""How soon everything is asked again while something is away."""
OK = "ok"
NOT_ASKED = "not asked yet"


@dataclass(frozen=True)
class Checks:
    """The checks of one process, by name."""

    dependencies: Mapping[str, Check] = field(default_factory=dict)
    """What it calls: reported."""
    schema: Check | None = None
    """Whether its own database has what this version needs. Must have held once before the process is ready; it is not
    asked again, as migrations only ever add."""


@dataclass
class Health:
    """``draining`` makes the process unready for good, while requests in flight finish. ``watch`` it in the
    background."""

    draining: bool = False
    checks: Checks = field(default_factory=Checks)
    dependencies: dict[str, str] = field(default_factory=dict)
    """By name, "ok" or what is wrong, as of the last look."""
    process: str = "starting"
    """"ok", or why the process is not ready."""

    def begin(self, checks: Checks) -> None:
        """The process has started, and these are its checks."""
        self.checks = checks
        self.dependencies = dict.fromkeys(checks.dependencies, NOT_ASKED)
        self.process = OK if checks.schema is None else f"schema: {NOT_ASKED}"

    def report(self) -> tuple[bool, dict[str, object]]:
        """Whether the process is ready, and the body of /readyz. Nothing is asked for it, so it costs nothing."""
        process = "draining" if self.draining else self.process
        ready = process == OK
        status = "ready" if ready else "not ready"
        return ready, {"status": status, "process": process, "dependencies": dict(self.dependencies)}

    async def watch(self) -> None:
        """``look`` again and again."""
        while True:
            await self.look()
            well = self.process == OK and all(said == OK for said in self.dependencies.values())
            await asyncio.sleep(REPORT_SECONDS if well else RETRY_SECONDS)

    async def look(self) -> None:
        """Ask every dependency, all at once, and keep what each said."""
        await asyncio.gather(self._look_at_schema(), *(self._look_at(name) for name in self.dependencies))

    async def _look_at(self, name: str) -> None:
        self.dependencies[name] = said = await _ask(self.checks.dependencies[name])
        DEPENDENCY_UP.labels(name).set(said == OK)

    async def _look_at_schema(self) -> None:
        if self.checks.schema is not None and self.process != OK:
            said = await _ask(self.checks.schema)
            self.process = OK if said == OK else f"schema: {said}"


async def _ask(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:
        # The class is enough to act on; a driver's message may carry an address with a password.
        return f"failed ({type(error).__name__})"
    return OK
