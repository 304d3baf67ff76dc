"""The export of one's own data, compared with all collections."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx

from kinora_kit.export import Exporter
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Database
from kinora_media import store
from kinora_media.clock import now
from kinora_media.domain import Notification, NotificationKind, NotificationState
from kinora_media.store import notifications
from kinora_media.store.export import KINDS, NOT_EXPORTED
from kinora_media.use_cases import UseCases

Begin = Callable[..., Awaitable[UUID]]
Call = Callable[..., Awaitable[httpx.Response]]


async def exported(exporter: Exporter, user_id: UUID) -> list[dict[str, Any]]:
    cursor: str | None = None
    records: list[dict[str, Any]] = []
    progress = [0.0]
    while cursor != "":
        page = await exporter.page(user_id, cursor or "")
        for record in map(json.loads, page.lines.splitlines()):
            record["data"].pop("tally", None)  # it may be counted later
            records.append(record)
        progress.append(page.progress)
        cursor = page.next_cursor
    assert progress == sorted(progress)
    assert progress[-1] == 1
    return records


def mentions(value: object, user_id: UUID) -> bool:
    match value:
        case dict():
            return any(mentions(key, user_id) or mentions(inner, user_id) for key, inner in value.items())
        case list():
            return any(mentions(inner, user_id) for inner in value)
        case bytes():
            return user_id.bytes in value
        case _:
            return value == user_id or str(user_id) in str(value) or user_id.hex in str(value)


def test_each_collection_is_exported_or_has_a_reason() -> None:
    assert {kind.collection for kind in KINDS.values()} | set(NOT_EXPORTED) == set(store.indexes(tombstone_days=1))


async def test_export_has_every_document_of_the_user(
    use_cases: UseCases, database: Database, begin: Begin, call: Call
) -> None:
    user, other = new_id(), new_id()
    (theirs, second), own = [await begin(other, visibility="public", ready=True) for _ in "ab"], await begin(user)

    async def do(method: str, path: str, json: Any = None, *, by: UUID = user) -> Any:
        answer = await call(method, path, by, json=json, headers={"Idempotency-Key": new_id().hex})
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    await do("POST", "/media", {"title": "T", "filename": "t.mp4", "size": 10})
    for number in range(3):
        comment = await do("POST", f"/media/{theirs}/comments", {"body": f"Number {number}"})
    await do("POST", f"/media/{theirs}/comments", {"body": "of a stranger"}, by=other)
    await do("PUT", f"/media/{theirs}/comments/{comment['id']}/like")
    for path in (f"/media/{theirs}/like", f"/media/{second}/like", f"/media/users/{other}/subscription"):
        await do("PUT", path)
    await do("DELETE", f"/media/{second}/like")
    for path in (f"/media/{theirs}/hidden", f"/media/users/{other}/hidden"):
        await do("PUT", path)
    for media_id in (theirs, second):
        await do("POST", f"/media/{media_id}/views", {"position": 1.5})
    await do("POST", "/media/playlists", {"title": "Mine"})
    await do("GET", "/media/playlists/watch-later")
    await do("PUT", "/media/personalisation", {"enabled": True})
    news = [Notification(user, NotificationKind.PIN, own, new_id(), now(), state) for state in NotificationState]
    await notifications.insert(database, news)

    records = await exported(use_cases.exporter, user)
    assert {each["kind"] for each in records} == set(KINDS) - {
        f"{name}_withdrawn" for name in ("comment_likes", "subscriptions", "not_interested", "hidden_channels")
    }
    assert str(own) in {each["data"]["id"] for each in records if each["kind"] == "media"}
    assert "of a stranger" not in json.dumps(records)
    for name in await database.list_collection_names():
        if name not in NOT_EXPORTED:
            count = len([each async for each in database[name].find({}, {OUTBOX: False}) if mentions(each, user)])
            assert count == len([each for each in records if KINDS[each["kind"]].collection == name]), name
    # One by one: each position leads to the next record.
    assert await exported(replace(use_cases.exporter, page_records=1), user) == records
    assert await exported(use_cases.exporter, new_id()) == []
