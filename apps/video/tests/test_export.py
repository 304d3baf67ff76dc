"""The export of one's own data, compared with all tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_video.export import NOT_EXPORTED, TABLES, exporter

if TYPE_CHECKING:
    from conftest import Stage


async def test_export_has_every_row_of_the_user(stage: Stage) -> None:
    tables = await stage.pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    assert {row[0] for row in tables} == TABLES | set(NOT_EXPORTED)
    owner, stranger = Caller(new_id()), Caller(new_id())
    videos = [await stage.uploads.begin(owner, size=9, metadata={"filename": f"{name}.mp4"}) for name in "ab"]
    await stage.pool.execute("UPDATE videos SET state = 'ready' WHERE owner_id = $1", owner.user_id)
    await stage.pool.execute("INSERT INTO renditions VALUES ($1, '240p', 'video', 426, 240, '30', NULL)", videos[0])
    partial = await stage.uploads.begin_partial(owner, 9)
    await stage.uploads.begin(stranger, size=9, metadata={"filename": "c.mp4"})
    one_by_one = exporter(stage.pool, page_records=1)
    records, cursor = [], "video:"
    while cursor:
        page = await one_by_one.page(owner.user_id, cursor)
        records += [json.loads(line) for line in page.lines.splitlines()]
        cursor = page.next_cursor
    assert [(each["kind"], each["data"]["id"]) for each in records] == [
        *(("video", str(video_id)) for video_id in videos),
        ("partial_upload", str(partial)),
    ]
    assert [[each["name"] for each in record["data"].get("renditions", [])] for record in records] == [["240p"], [], []]
