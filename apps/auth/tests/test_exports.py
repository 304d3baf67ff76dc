"""The export of one's own data, with a fake of the other services, on a database of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import itertools
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kinora.auth.v1 import auth_pb2 as pb
from kinora.auth.v1.auth_pb2_grpc import ExportsStub
from kinora_auth import keys, store
from kinora_auth.domain import EXPORT_AGAIN, EXPORT_KEPT, EXPORT_LIMIT, Export, ExportState, Session, User
from kinora_auth.errors import ExportNotFound, LinkExpired
from kinora_auth.exports import LEASE, NOT_EXPORTED, TABLES, Exports, own_source
from kinora_kit import postgres, rpc
from kinora_kit.errors import NotSignedIn, Unavailable
from kinora_kit.export import PAGE_RECORDS, Exporter
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.settings import reveal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from uuid import UUID

    from pydantic import SecretStr

    from conftest import Api
    from kinora_auth.settings import AuthSettings
    from kinora_kit.export import Page, Record
    from kinora_kit.postgres import Pool

RECORDS = 3 * PAGE_RECORDS + 1
SECRET = "hash of the password"


class Others:
    """A fake of another service. ``before``: called before each page."""

    def __init__(self) -> None:
        self.before: Callable[[], Awaitable[None]] | None = None
        self.tokens: list[str | None] = []
        self._exporter = Exporter({"thing": self._read, "nothing": self._nothing})

    async def page(self, user_id: UUID, cursor: str) -> Page:
        self.tokens.append(rpc.access_token.get())
        if self.before:
            await self.before()
        return await self._exporter.page(user_id, cursor)

    async def _read(self, user_id: UUID, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        first = int(after or -1) + 1
        numbers = range(first, min(first + limit, RECORDS))
        return [(str(number), {"number": number, "user_id": user_id}) for number in numbers]

    async def _nothing(self, user_id: UUID, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        return []


@dataclasses.dataclass
class Stage:
    exports: Exports
    pool: Pool
    others: Others
    time: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))

    async def caller(self) -> Caller:
        name = f"user_{secrets.token_hex(8)}"
        user = User(new_id(), name, f"{name}@example.com", "Ada", "Counts.", (), self.time)
        later = self.time + timedelta(days=9)
        session = Session(new_id(), user.id, "a phone", "192.0.2.1", self.time, self.time, later)
        async with postgres.transaction(self.pool) as connection:
            await store.add_user(connection, user, password_hash=SECRET)
            await store.add_session(connection, session)
        return Caller(user.id, session.id)

    async def collected(self, caller: Caller) -> Export:
        await self.exports.request(caller)
        await self.exports.collect()
        return await self.exports.find(caller)

    def query(self, export: Export) -> tuple[int, str]:
        """The expiry and signature of its address."""
        url = urlsplit(self.exports.url(export) or "")
        assert url.path == f"/user/export/{export.id}/archive"
        query = parse_qs(url.query)
        return int(query["exp"][0]), query["sig"][0]

    async def archive(self, export: Export) -> tuple[Export, AsyncIterator[bytes]]:
        return await self.exports.archive(export.id, *self.query(export))

    async def records(self, export: Export) -> list[dict[str, Any]]:
        found, pages = await self.archive(export)
        data = b"".join([page async for page in pages])
        assert len(data) == found.size
        return [json.loads(line) for line in gzip.decompress(data).splitlines()]


@pytest.fixture
async def stage(empty_database: SecretStr, settings: AuthSettings) -> AsyncIterator[Stage]:
    async with postgres.connect(reveal(empty_database), name="export-tests") as pool:
        others = Others()
        sources = {"auth": own_source(pool), "other": others}
        exports = Exports(settings, pool, keys.ring(settings, pool), sources)
        stage = Stage(exports, pool, others)
        stage.exports = dataclasses.replace(exports, now=lambda: stage.time)
        yield stage


async def test_export_has_all_that_is_stored(stage: Stage) -> None:
    stranger, caller = await stage.caller(), await stage.caller()
    export = await stage.collected(caller)
    assert (stage.exports.state(export), export.progress) == (ExportState.READY, 1)
    records = await stage.records(export)
    assert [each["kind"] for each in records] == ["account", "session", *["thing"] * RECORDS]
    assert export.records == len(records)
    account, session = records[0]["data"], records[1]["data"]
    assert (account["id"], session["id"]) == (str(caller.user_id), str(caller.session_id))
    assert SECRET not in json.dumps(records)
    assert str(stranger.user_id) not in json.dumps(records)
    # A new table or column is exported, or its exception has a reason.
    columns = await stage.pool.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
    )
    assert {row["table_name"] for row in columns} == TABLES | set(NOT_EXPORTED)
    of = {name: {row["column_name"] for row in columns if row["table_name"] == name} for name in TABLES}
    assert of == {"users": {*account, "password_hash"}, "sessions": set(session)}


@pytest.mark.parametrize("failure", [asyncio.CancelledError, Unavailable])
async def test_export_continues_after_its_process_died_or_a_service_failed(
    stage: Stage, failure: type[BaseException]
) -> None:
    calls = itertools.count()

    async def fail() -> None:
        if next(calls) % 2 == 0:
            raise failure

    stage.others.before = fail
    caller = await stage.caller()
    await stage.exports.request(caller)
    progress = [0.0]
    while progress[-1] < 1:
        with contextlib.suppress(asyncio.CancelledError):
            await stage.exports.collect()
        taken = len(stage.others.tokens)
        await stage.exports.collect()
        assert len(stage.others.tokens) == taken, "the lease has not ended"
        stage.time += LEASE
        progress.append((await stage.exports.find(caller)).progress)
    assert progress == sorted(progress)
    records = await stage.records(await stage.exports.find(caller))
    assert [each["data"]["number"] for each in records if each["kind"] == "thing"] == list(range(RECORDS))


@pytest.mark.parametrize("end", ["cancelled", "session ended", "account deleted"])
@pytest.mark.parametrize("when", ["running", "ready"])
async def test_export_is_deleted(stage: Stage, end: str, when: str) -> None:
    caller = await stage.caller()

    async def delete() -> None:
        if end == "cancelled":
            await stage.exports.cancel(caller)
            return
        async with postgres.transaction(stage.pool) as connection:
            if end == "session ended":
                await store.end_sessions(connection, caller.user_id, revoked_until=stage.time)
            else:
                await store.remove_user(connection, caller.user_id)

    if when == "running":
        stage.others.before = delete
        await stage.exports.request(caller)
        await stage.exports.collect()
    else:
        export = await stage.collected(caller)
        _, pages = await stage.archive(export)
        await delete()
        with pytest.raises(Unavailable):
            await anext(pages)
        with pytest.raises(ExportNotFound):
            await stage.archive(export)
    with pytest.raises(ExportNotFound):
        await stage.exports.find(caller)
    assert await stage.pool.fetchval("SELECT count(*) FROM export_pages") == 0
    if end != "cancelled":
        with pytest.raises(NotSignedIn):
            await stage.exports.request(caller)


async def test_request_export_returns_the_current_one(stage: Stage) -> None:
    caller = await stage.caller()
    requested = await asyncio.gather(*(stage.exports.request(caller) for _ in range(5)))
    (export_id,) = {each.id for each in requested}
    stage.time += EXPORT_LIMIT
    assert stage.exports.state(await stage.exports.find(caller)) is ExportState.FAILED
    await stage.exports.collect()
    assert not stage.others.tokens, "a failed export is not continued"
    export = await stage.collected(caller)
    assert export.id != export_id
    stage.time += EXPORT_AGAIN - timedelta(seconds=1)
    assert (await stage.exports.request(caller)).id == export.id
    stage.time += timedelta(seconds=1)
    assert (await stage.collected(caller)).id != export.id
    assert await stage.pool.fetchval("SELECT count(DISTINCT export_id) FROM export_pages") == 1
    stage.time += EXPORT_KEPT
    with pytest.raises(ExportNotFound):
        await stage.exports.find(caller)
    await store.sweep(stage.pool, now=stage.time, used_before=stage.time)
    assert await stage.pool.fetchval("SELECT count(*) FROM export_pages") == 0


async def test_export_archive_rejects_other_addresses(stage: Stage) -> None:
    export = await stage.collected(await stage.caller())
    another = await stage.collected(await stage.caller())
    expires, signature = stage.query(export)
    for export_id, exp, sig in (
        (another.id, expires, signature),
        (export.id, expires + 1, signature),
        (export.id, expires, signature[:-1]),
        (export.id, expires, "\u00e4"),
        (export.id, 0, stage.exports.signature(export.id, 0)),
    ):
        with pytest.raises(LinkExpired):
            await stage.exports.archive(export_id, exp, sig)


async def test_export_over_http_and_grpc(api: Api) -> None:
    """With the process's own worker; the other services do not answer, so it is not finished."""
    device = await (await api.person()).sign_in()
    assert (await device.call("GET", "/user/export")).json()["code"] == "export_not_found"
    requested = await device.call("POST", "/user/export")
    assert requested.status_code == 202
    async with rpc.connect(f"127.0.0.1:{api.settings.grpc_port}") as channel:
        rpc.access_token.set(device.access_token)
        found = await ExportsStub(channel).GetExport(pb.GetExportRequest())
    assert (found.id, found.state) == (requested.json()["id"], pb.EXPORT_STATE_RUNNING)
    assert not found.HasField("download_url")
    assert (await device.call("GET", "/user/export")).json()["download_url"] is None
    refused = await api.http.get(f"/user/export/{found.id}/archive", params={"exp": 1 << 40, "sig": "0" * 64})
    assert (refused.status_code, refused.json()["code"]) == (403, "link_expired")
    assert [(await device.call("DELETE", "/user/export")).status_code for _ in range(2)] == [204, 204]
    assert (await device.call("GET", "/user/export")).status_code == 404
