import asyncio
import contextlib

import pytest

from kinora_kit import tasks
from kinora_kit.metrics import BACKGROUND_FAILURES
from kinora_kit.testing import eventually


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(tasks, "CANCEL_SECONDS", 0.1)


@pytest.mark.parametrize("failure", [LookupError, asyncio.CancelledError, TimeoutError])
async def test_failed_work_is_restarted(failure: type[BaseException], unique: str) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise failure
        await asyncio.Event().wait()

    async with tasks.background(**{unique: work}):
        await eventually(lambda: runs == 3)
    assert BACKGROUND_FAILURES.labels(unique)._value.get() == 2


async def test_finished_work_is_restarted() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    async with tasks.background(work=work):
        await eventually(lambda: runs > 2)


async def test_work_is_cancelled_and_awaited_at_exit() -> None:
    started = asyncio.Event()
    ended: list[str] = []

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    async with tasks.background(one=work, other=work):
        await started.wait()
    assert ended == ["ended", "ended"]


async def test_work_whose_driver_loses_a_cancellation_ends() -> None:
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async with tasks.background(work=work):
        await started.wait()


async def test_every_repeats_until_cancelled_or_failed() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 5:
            raise LookupError

    with pytest.raises(LookupError):
        await tasks.every(0, work)
    forever = asyncio.create_task(tasks.every(60, work))
    await eventually(lambda: runs == 6)
    forever.cancel()
    await asyncio.wait([forever])
    assert forever.cancelled()
