"""Liveness, readiness and dependencies: three results that must not be mixed (docs/adr/0012-readiness.md).

Live: the event loop runs. Ready: the process has started, its schema is in place, and it is not draining. Unavailable
dependencies are reported, by /readyz and by a metric, but do not affect readiness: otherwise every replica would leave
the load balancer at once, although it can still serve other requests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from kinora_kit.metrics import DEPENDENCY_UP

Check = Callable[[], Awaitable[object]]
"""Returns if the dependency answers, raises if it does not."""

CHECK_SECONDS = 2.0
"""How long a dependency may take to answer."""
REPORT_SECONDS = 5.0
RETRY_SECONDS = 1.0
"""How soon everything is checked again while a dependency is unavailable."""
OK = "ok"
NOT_CHECKED = "not checked yet"


@dataclass(frozen=True)
class Checks:
    """The checks of one process, by name."""

    dependencies: Mapping[str, Check] = field(default_factory=dict)
    """Dependencies: only reported."""
    schema: Check | None = None
    """Whether the service's own database has the schema of this version. Must succeed once before the process is ready;
    it is not checked again, because migrations only ever add."""


@dataclass
class Health:
    """``draining`` makes the process permanently unready, while requests in flight finish. ``watch`` must run in the
    background."""

    draining: bool = False
    checks: Checks = field(default_factory=Checks)
    dependencies: dict[str, str] = field(default_factory=dict)
    """By name: "ok" or the problem, as of the last check."""
    process: str = "starting"
    """"ok", or why the process is not ready."""

    def begin(self, checks: Checks) -> None:
        """Mark the process as started; ``checks`` are its checks."""
        self.checks = checks
        self.dependencies = dict.fromkeys(checks.dependencies, NOT_CHECKED)
        self.process = OK if checks.schema is None else f"schema: {NOT_CHECKED}"

    def report(self) -> tuple[bool, dict[str, object]]:
        """Whether the process is ready, and the body of /readyz, from the results of the last check."""
        process = "draining" if self.draining else self.process
        ready = process == OK
        status = "ready" if ready else "not ready"
        return ready, {"status": status, "process": process, "dependencies": dict(self.dependencies)}

    async def watch(self) -> None:
        """Run ``check_all`` periodically."""
        while True:
            await self.check_all()
            well = self.process == OK and all(said == OK for said in self.dependencies.values())
            await asyncio.sleep(REPORT_SECONDS if well else RETRY_SECONDS)

    async def check_all(self) -> None:
        """Check all dependencies concurrently, and store the results."""
        await asyncio.gather(self._check_schema(), *(self._check_dependency(name) for name in self.dependencies))

    async def _check_dependency(self, name: str) -> None:
        self.dependencies[name] = said = await _outcome(self.checks.dependencies[name])
        DEPENDENCY_UP.labels(name).set(said == OK)

    async def _check_schema(self) -> None:
        if self.checks.schema is not None and self.process != OK:
            said = await _outcome(self.checks.schema)
            self.process = OK if said == OK else f"schema: {said}"


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:
        # Only the class: a driver's message may contain a URL with a password.
        return f"failed ({type(error).__name__})"
    return OK
