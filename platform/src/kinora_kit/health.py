"""Alive is not ready: /healthz says the loop turns, /readyz asks each dependency by name."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

Check = Callable[[], Awaitable[object]]
"""Returns when the dependency answers, raises when it does not."""

CHECK_SECONDS = 2.0


@dataclass
class Health:
    """The checks of one process. ``draining`` makes it unready for good, while requests in flight finish."""

    checks: Mapping[str, Check] = field(default_factory=dict)
    draining: bool = False

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether all is well, and per dependency ``"ok"`` or what is wrong with it."""
        answers = await asyncio.gather(*(self._ask(check) for check in self.checks.values()))
        report = dict(zip(self.checks, answers, strict=True))
        if self.draining:
            report["process"] = "draining"
        return all(answer == "ok" for answer in report.values()), report

    @staticmethod
    async def _ask(check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check()
        except TimeoutError:
            return f"no answer within {CHECK_SECONDS:g} s"
        except Exception as error:
            # The class is enough to act on; a driver's message may carry an address with a password.
            return f"not reachable ({type(error).__name__})"
        return "ok"
