"""All SQL of videos and uploads. Use cases open the transactions and pass in the connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import TypeAdapter

from kinora_kit.postgres import Connection, Pool
from kinora_video.domain import (
    NEVER_WHOLE,
    Part,
    PlannedPart,
    Source,
    State,
    StoredSegment,
    Upload,
    Video,
    Visibility,
)
from kinora_video.ladder import Rendition

_SOURCE = TypeAdapter(Source)

_VIDEO = (
    "id, owner_id, title, filename, size, visibility, visibility_changes, state, bytes_received, version, source,"
    " poster, failure_code, poster_time, failure_detail, created_at, transcoding_at, draft_id"
)


@dataclass(frozen=True)
class RenditionRow:
    name: str
    kind: Literal["video", "audio"]
    width: int
    height: int
    frame_rate: str
    codecs: str | None


def _video(row: Any) -> Video:
    fields = dict(row)
    fields["source"] = None if fields["source"] is None else _SOURCE.validate_python(fields["source"])
    return Video(**fields)


async def insert(connection: Connection, video: Video) -> None:
    await connection.execute(
        "INSERT INTO videos (id, owner_id, title, filename, size, visibility, state, draft_id)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        video.id,
        video.owner_id,
        video.title,
        video.filename,
        video.size,
        video.visibility,
        video.state,
        video.draft_id,
    )


async def get(connection: Connection | Pool, video_id: UUID) -> Video | None:
    row = await connection.fetchrow(f"SELECT {_VIDEO} FROM videos WHERE id = $1", video_id)
    return None if row is None else _video(row)


async def lock(connection: Connection, video_id: UUID) -> Video | None:
    """As get, locked against changes until the transaction ends."""
    row = await connection.fetchrow(f"SELECT {_VIDEO} FROM videos WHERE id = $1 FOR NO KEY UPDATE", video_id)
    return None if row is None else _video(row)


async def list_videos(pool: Pool, ids: Sequence[UUID]) -> list[Video]:
    rows = await pool.fetch(f"SELECT {_VIDEO} FROM videos WHERE id = ANY($1::uuid[])", ids)
    return [_video(row) for row in rows]


async def unfinished(connection: Connection, owner_id: UUID, ids: Sequence[UUID], *, limit: int) -> list[Video]:
    """The owner's videos whose upload or transcoding has not ended, latest first, and those of ``ids``."""
    rows = await connection.fetch(
        f"(SELECT {_VIDEO} FROM videos WHERE owner_id = $1 AND state IN ('uploading', 'processing', 'playable')"
        f" ORDER BY id DESC LIMIT $3) UNION SELECT {_VIDEO} FROM videos WHERE owner_id = $1 AND id = ANY($2::uuid[])",
        owner_id,
        ids,
        limit,
    )
    return [_video(row) for row in rows]


async def count_uploading(connection: Connection, owner_id: UUID, *, excluding: Sequence[UUID] = ()) -> int:
    """The number of the owner's uploads in progress. Concurrent counts for the same owner wait for this transaction.

    A partial upload counts until its final upload is complete, except those ``excluding``: the parts of a new final
    upload. An upload that tusd could not create, for instance during an outage of the object store, counts for 10 s.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", str(owner_id))
    return int(
        await connection.fetchval(
            "SELECT (SELECT count(*) FROM videos WHERE owner_id = $1 AND state = 'uploading'"
            "   AND (begun OR created_at > now() - interval '10 seconds'))"
            " + (SELECT count(*) FROM partials WHERE owner_id = $1 AND purge_at IS NULL AND id <> ALL($2::uuid[])"
            "   AND (multipart_id IS NOT NULL OR created_at > now() - interval '10 seconds'))",
            owner_id,
            excluding,
        )
    )


_PARTIAL = "id, owner_id, true AS partial, size, multipart_id, purge_at IS NOT NULL AS ended, final_id"


async def list_uploads(connection: Connection | Pool, ids: Sequence[UUID]) -> list[Upload]:
    rows = await connection.fetch(
        "SELECT id, owner_id, false AS partial, size, multipart_id,"
        "   state = 'deleted' OR failure_code = ANY($2::text[]) AS ended, NULL::uuid AS final_id"
        " FROM videos WHERE id = ANY($1::uuid[])"
        f" UNION ALL SELECT {_PARTIAL} FROM partials WHERE id = ANY($1::uuid[])",
        ids,
        sorted(NEVER_WHOLE),
    )
    return [Upload(**row) for row in rows]


async def set_multipart_id(connection: Connection | Pool, upload: Upload, multipart_id: str) -> None:
    """Does nothing if it is set: it never changes."""
    await connection.execute(
        f"UPDATE {'partials' if upload.partial else 'videos'} SET multipart_id = $2"
        " WHERE id = $1 AND multipart_id IS NULL",
        upload.id,
        multipart_id,
    )


async def insert_partial(connection: Connection, upload: Upload) -> None:
    await connection.execute(
        "INSERT INTO partials (id, owner_id, size) VALUES ($1, $2, $3)", upload.id, upload.owner_id, upload.size
    )


async def lock_finals(connection: Connection, partial_ids: Sequence[UUID]) -> list[Video]:
    """The videos whose final uploads use these partial ones, locked until the transaction ends."""
    rows = await connection.fetch(
        f"SELECT {_VIDEO} FROM videos WHERE id IN (SELECT final_id FROM partials WHERE id = ANY($1::uuid[]))"
        " ORDER BY id FOR NO KEY UPDATE",
        partial_ids,
    )
    return [_video(row) for row in rows]


async def lock_partials(connection: Connection, owner_id: UUID, ids: Sequence[UUID]) -> int:
    """Lock those of ``ids`` that are the owner's and have not ended; returns their number."""
    rows = await connection.fetch(
        "SELECT id FROM partials WHERE id = ANY($1::uuid[]) AND owner_id = $2 AND purge_at IS NULL"
        " ORDER BY id FOR NO KEY UPDATE",
        ids,
        owner_id,
    )
    return len(rows)


async def touch_partial(connection: Connection | Pool, upload_id: UUID, size: int | None) -> bool:
    """Record activity, and the size once it is known. Returns False if the upload has ended."""
    status = await connection.execute(
        "UPDATE partials SET updated_at = now(), size = COALESCE(size, $2) WHERE id = $1 AND purge_at IS NULL",
        upload_id,
        size,
    )
    return bool(status == "UPDATE 1")


async def use_partials(connection: Connection, ids: Sequence[UUID], final_id: UUID) -> None:
    await connection.execute(
        "UPDATE partials SET final_id = $2, updated_at = now() WHERE id = ANY($1::uuid[])", ids, final_id
    )


_ENDED = "purge_at = now(), updated_at = now()"


async def end_partial(connection: Connection | Pool, upload_id: UUID) -> None:
    await connection.execute(f"UPDATE partials SET {_ENDED} WHERE id = $1 AND purge_at IS NULL", upload_id)


async def end_partials_of_final(connection: Connection, final_id: UUID) -> None:
    await connection.execute(f"UPDATE partials SET {_ENDED} WHERE final_id = $1 AND purge_at IS NULL", final_id)


async def end_partials_of_owner(connection: Connection | Pool, owner_id: UUID) -> None:
    await connection.execute(f"UPDATE partials SET {_ENDED} WHERE owner_id = $1 AND purge_at IS NULL", owner_id)


async def end_expired_partials(pool: Pool, *, ttl_seconds: float, begin_seconds: float) -> int:
    """End those without activity for so long, and those that tusd never created. Returns their number."""
    status = await pool.execute(
        f"UPDATE partials SET {_ENDED} WHERE purge_at IS NULL AND updated_at < now()"
        " - make_interval(secs => CASE WHEN multipart_id IS NULL THEN $2::float8 ELSE $1::float8 END)",
        ttl_seconds,
        begin_seconds,
    )
    return int(status.removeprefix("UPDATE "))


async def set_begun(connection: Connection, video_id: UUID) -> bool:
    """Record that tusd has created the upload. Returns False if that was already recorded."""
    status = await connection.execute(
        "UPDATE videos SET begun = true, version = version + 1, updated_at = now() WHERE id = $1 AND NOT begun",
        video_id,
    )
    return bool(status == "UPDATE 1")


async def set_state(connection: Connection, video_id: UUID, state: State) -> None:
    await connection.execute(
        "UPDATE videos SET state = $2, version = version + 1, updated_at = now(),"
        " transcoding_at = CASE WHEN $2 = 'processing' THEN now() ELSE transcoding_at END WHERE id = $1",
        video_id,
        state,
    )


async def set_received(connection: Connection, video_id: UUID, count: int, size: int | None) -> None:
    """Record the bytes received so far, which never decrease, and the size of the file once it is known."""
    await connection.execute(
        "UPDATE videos SET bytes_received = GREATEST(bytes_received, $2), size = COALESCE(size, $3),"
        " version = version + 1, updated_at = now() WHERE id = $1",
        video_id,
        count,
        size,
    )


async def set_failed(connection: Connection, video_id: UUID, code: str, detail: str) -> None:
    await connection.execute(
        "UPDATE videos SET state = 'failed', failure_code = $2, failure_detail = $3, version = version + 1,"
        " updated_at = now(), purge_at = now() WHERE id = $1",
        video_id,
        code,
        detail,
    )


_DELETED = (
    "state = 'deleted', title = '', filename = '', source = NULL, version = version + 1, updated_at = now(),"
    " purge_at = now()"
)


async def set_deleted(connection: Connection, video_id: UUID) -> Video:
    """Only the id remains, until the last purge, so that late events and workers find the video deleted."""
    row = await connection.fetchrow(f"UPDATE videos SET {_DELETED} WHERE id = $1 RETURNING {_VIDEO}", video_id)
    return _video(row)


async def delete_some_of(connection: Connection, owner_id: UUID, *, limit: int) -> list[Video]:
    """As set_deleted, for at most ``limit`` of the owner's videos."""
    rows = await connection.fetch(
        f"UPDATE videos SET {_DELETED} WHERE id IN ("
        f"  SELECT id FROM videos WHERE owner_id = $1 AND state <> 'deleted' ORDER BY id LIMIT $2 FOR NO KEY UPDATE"
        f") RETURNING {_VIDEO}",
        owner_id,
        limit,
    )
    return [_video(row) for row in rows]


async def set_visibility(connection: Connection, video_id: UUID, visibility: Visibility, version: int) -> bool:
    """Set it if ``version`` is newer. Returns False otherwise."""
    status = await connection.execute(
        "UPDATE videos SET visibility = $2, visibility_version = $3, updated_at = now()"
        " WHERE id = $1 AND visibility_version < $3",
        video_id,
        visibility,
        version,
    )
    return bool(status == "UPDATE 1")


async def set_poster(connection: Connection, video_id: UUID, key: str) -> None:
    await connection.execute(
        "UPDATE videos SET poster = $2, version = version + 1, updated_at = now() WHERE id = $1", video_id, key
    )


async def set_poster_time(connection: Connection, video_id: UUID, seconds: float) -> None:
    await connection.execute("UPDATE videos SET poster_time = $2, updated_at = now() WHERE id = $1", video_id, seconds)


async def set_plan(
    connection: Connection,
    video_id: UUID,
    *,
    source: Source,
    renditions: Sequence[Rendition],
    audio: str | None,
    parts: Sequence[tuple[Part, float]],
) -> None:
    """``parts``: each with its cost."""
    await connection.execute(
        "UPDATE videos SET source = $2, version = version + 1, updated_at = now() WHERE id = $1",
        video_id,
        _SOURCE.dump_python(source, mode="json"),
    )
    rows: list[tuple[Any, ...]] = [
        (video_id, item.name, "video", item.width, item.height, str(item.frame_rate)) for item in renditions
    ]
    if audio is not None:
        rows.append((video_id, audio, "audio", 0, 0, "0"))
    await connection.executemany(
        "INSERT INTO renditions (video_id, name, kind, width, height, frame_rate) VALUES ($1, $2, $3, $4, $5, $6)", rows
    )
    await connection.executemany(
        "INSERT INTO parts (video_id, index, kind, lane, start_seconds, end_seconds, segment_seconds, renditions, cost)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (
                video_id,
                part.index,
                part.kind,
                part.lane,
                part.start,
                part.end,
                part.segment_seconds,
                list(part.renditions),
                cost,
            )
            for part, cost in parts
        ],
    )


_PART = "index, kind, start_seconds, end_seconds, renditions, lane, segment_seconds, cost, progress, attempts, state"


def _part(row: Any) -> PlannedPart:
    return PlannedPart(
        part=Part(
            index=row["index"],
            kind=row["kind"],
            start=row["start_seconds"],
            end=row["end_seconds"],
            renditions=tuple(row["renditions"]),
            lane=row["lane"],
            segment_seconds=row["segment_seconds"],
        ),
        cost=row["cost"],
        progress=row["progress"],
        attempts=row["attempts"],
        done=row["state"] == "done",
    )


async def parts_of(connection: Connection | Pool, video_id: UUID) -> list[PlannedPart]:
    rows = await connection.fetch(f"SELECT {_PART} FROM parts WHERE video_id = $1 ORDER BY index", video_id)
    return [_part(row) for row in rows]


async def begin_part(connection: Connection, video_id: UUID, index: int) -> PlannedPart | None:
    """Count an attempt. None if the part is done or does not exist."""
    row = await connection.fetchrow(
        f"UPDATE parts SET attempts = attempts + 1 WHERE video_id = $1 AND index = $2 AND state <> 'done'"
        f" RETURNING {_PART}",
        video_id,
        index,
    )
    return None if row is None else _part(row)


async def spare_attempt(pool: Pool, video_id: UUID, index: int) -> None:
    """Undo the count of an attempt that the part did not end."""
    await pool.execute("UPDATE parts SET attempts = attempts - 1 WHERE video_id = $1 AND index = $2", video_id, index)


async def fail_attempt(pool: Pool, video_id: UUID, index: int) -> int:
    """Count the attempt as failed; returns the number of failed ones."""
    failures = await pool.fetchval(
        "UPDATE parts SET attempts = attempts - 1, failures = failures + 1 WHERE video_id = $1 AND index = $2"
        " RETURNING failures",
        video_id,
        index,
    )
    return int(failures or 0)


async def queue_parts(connection: Connection, video_id: UUID, window: int) -> list[Part]:
    """Mark the next parts as queued, up to ``window`` in total; returns those to send to the workers."""
    rows = await connection.fetch(
        f"UPDATE parts SET state = 'queued' WHERE video_id = $1 AND index IN ("
        f"  SELECT index FROM parts WHERE video_id = $1 AND state = 'waiting' ORDER BY lane = 'bulk', index"
        f"  LIMIT GREATEST(0, $2 - (SELECT count(*) FROM parts WHERE video_id = $1 AND state = 'queued'))"
        f") RETURNING {_PART}",
        video_id,
        window,
    )
    return sorted((_part(row).part for row in rows), key=lambda part: part.index)


async def set_part_progress(connection: Connection, video_id: UUID, index: int, progress: float) -> None:
    await connection.execute(
        "UPDATE parts SET progress = GREATEST(progress, $3) WHERE video_id = $1 AND index = $2",
        video_id,
        index,
        progress,
    )
    await connection.execute("UPDATE videos SET version = version + 1, updated_at = now() WHERE id = $1", video_id)


async def finish_part(connection: Connection, video_id: UUID, index: int) -> bool:
    """Mark a part as done. Returns False if it already was."""
    status = await connection.execute(
        "UPDATE parts SET state = 'done', progress = 1 WHERE video_id = $1 AND index = $2 AND state <> 'done'",
        video_id,
        index,
    )
    await connection.execute("UPDATE videos SET version = version + 1, updated_at = now() WHERE id = $1", video_id)
    return bool(status == "UPDATE 1")


async def set_codecs(connection: Connection, video_id: UUID, rendition: str, codecs: str) -> None:
    await connection.execute(
        "UPDATE renditions SET codecs = $3 WHERE video_id = $1 AND name = $2", video_id, rendition, codecs
    )


async def add_segment(connection: Connection, video_id: UUID, segment: StoredSegment) -> None:
    await connection.execute(
        "INSERT INTO segments (video_id, rendition, part_index, sequence, duration, size)"
        " VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (video_id, rendition, part_index, sequence)"
        " DO UPDATE SET duration = EXCLUDED.duration, size = EXCLUDED.size",
        video_id,
        segment.rendition,
        segment.part_index,
        segment.sequence,
        segment.duration,
        segment.size,
    )


async def renditions_of(connection: Connection | Pool, video_ids: Sequence[UUID]) -> dict[UUID, list[RenditionRow]]:
    """Smallest first, audio last."""
    rows = await connection.fetch(
        "SELECT video_id, name, kind, width, height, frame_rate, codecs FROM renditions"
        " WHERE video_id = ANY($1::uuid[]) ORDER BY kind DESC, width * height",
        video_ids,
    )
    found: dict[UUID, list[RenditionRow]] = {video_id: [] for video_id in video_ids}
    for row in rows:
        fields = dict(row)
        found[fields.pop("video_id")].append(RenditionRow(**fields))
    return found


async def segments_of(connection: Connection | Pool, video_id: UUID) -> list[StoredSegment]:
    rows = await connection.fetch(
        "SELECT rendition, part_index, sequence, duration, size FROM segments WHERE video_id = $1", video_id
    )
    return [StoredSegment(**row) for row in rows]


async def bandwidths(pool: Pool, video_ids: Sequence[UUID]) -> dict[tuple[UUID, str], int]:
    """Average bits per second of the stored segments of each rendition."""
    rows = await pool.fetch(
        "SELECT video_id, rendition, sum(size) * 8 / sum(duration) AS bandwidth FROM segments"
        " WHERE video_id = ANY($1::uuid[]) GROUP BY video_id, rendition HAVING sum(duration) > 0",
        video_ids,
    )
    return {(row["video_id"], row["rendition"]): round(row["bandwidth"]) for row in rows}


async def quiet_uploads(
    pool: Pool, *, after: UUID, quiet_seconds: float, active_seconds: float, limit: int
) -> list[Video]:
    """Uploads without a report for ``quiet_seconds``, but with one within ``active_seconds``, ordered by id."""
    rows = await pool.fetch(
        f"SELECT {_VIDEO} FROM videos WHERE state = 'uploading' AND id > $1"
        " AND updated_at < now() - make_interval(secs => $2) AND updated_at > now() - make_interval(secs => $3)"
        " ORDER BY id LIMIT $4",
        after,
        quiet_seconds,
        active_seconds,
        limit,
    )
    return [_video(row) for row in rows]


async def lock_expired_upload(
    connection: Connection, video_id: UUID, *, ttl_seconds: float, begin_seconds: float
) -> Video | None:
    """The upload, locked, if it has expired: no activity for so long, or tusd never created it."""
    row = await connection.fetchrow(
        f"SELECT {_VIDEO} FROM videos WHERE id = $1 AND state = 'uploading'"
        " AND updated_at < now() - make_interval(secs => CASE WHEN begun THEN $2::float8 ELSE $3::float8 END)"
        " FOR NO KEY UPDATE",
        video_id,
        ttl_seconds,
        begin_seconds,
    )
    return None if row is None else _video(row)


async def claim_purge(pool: Pool, *, lease_seconds: float) -> tuple[UUID, State, str, bool] | None:
    """The next video whose objects are due for removal: its id, state, failure code, and whether it is the last purge.

    The row is leased to this process for ``lease_seconds``; after that it is due again, behind all others.
    """
    row = await pool.fetchrow(
        "UPDATE videos SET purge_at = now() + make_interval(secs => $1) WHERE id = ("
        "  SELECT id FROM videos WHERE purge_at <= now() ORDER BY purge_at LIMIT 1 FOR UPDATE SKIP LOCKED"
        ") RETURNING id, state, failure_code, updated_at < now() - interval '10 minutes' AS last",
        lease_seconds,
    )
    return None if row is None else (row["id"], row["state"], row["failure_code"], row["last"])


async def claim_partial_purge(pool: Pool, *, lease_seconds: float) -> tuple[UUID, bool] | None:
    """As claim_purge, for a partial upload: its id, and whether it is the last purge."""
    row = await pool.fetchrow(
        "UPDATE partials SET purge_at = now() + make_interval(secs => $1) WHERE id = ("
        "  SELECT id FROM partials WHERE purge_at <= now() ORDER BY purge_at LIMIT 1 FOR UPDATE SKIP LOCKED"
        ") RETURNING id, updated_at < now() - interval '10 minutes' AS last",
        lease_seconds,
    )
    return None if row is None else (row["id"], row["last"])


async def partial_purged(pool: Pool, upload_id: UUID, *, again_in_seconds: int | None) -> None:
    """Schedule another purge, or delete the row."""
    if again_in_seconds is None:
        await pool.execute("DELETE FROM partials WHERE id = $1", upload_id)
    else:
        await pool.execute(
            "UPDATE partials SET purge_at = now() + make_interval(secs => $2) WHERE id = $1",
            upload_id,
            again_in_seconds,
        )


async def purged(connection: Connection, video_id: UUID, *, again_in_seconds: int | None) -> None:
    """Delete the rows of what was stored. Schedule another purge, for objects that were being written during it."""
    await connection.execute("DELETE FROM segments WHERE video_id = $1", video_id)
    await connection.execute("DELETE FROM parts WHERE video_id = $1", video_id)
    await connection.execute("DELETE FROM renditions WHERE video_id = $1", video_id)
    await connection.execute(
        "UPDATE videos SET poster = NULL, purge_at = now() + make_interval(secs => $2) WHERE id = $1",
        video_id,
        again_in_seconds,
    )


async def forget(connection: Connection, video_id: UUID) -> None:
    await connection.execute("DELETE FROM videos WHERE id = $1", video_id)


# --- the export of a user's own data -------------------------------------------------------------------------------


async def export_videos(pool: Pool, owner_id: UUID, *, after: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Rows as JSON, with their renditions, by id."""
    rows = await pool.fetch(
        "SELECT to_jsonb(videos) || jsonb_build_object('renditions', (SELECT coalesce(jsonb_agg("
        "   to_jsonb(renditions) - 'video_id' ORDER BY name), '[]') FROM renditions WHERE video_id = id))"
        " FROM videos WHERE owner_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        owner_id,
        after,
        limit,
    )
    return [row[0] for row in rows]


async def export_partials(pool: Pool, owner_id: UUID, *, after: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Rows as JSON, by id."""
    rows = await pool.fetch(
        "SELECT to_jsonb(partials) FROM partials WHERE owner_id = $1 AND ($2::uuid IS NULL OR id > $2)"
        " ORDER BY id LIMIT $3",
        owner_id,
        after,
        limit,
    )
    return [row[0] for row in rows]
