"""The time of a page must not grow from 1,000 to 100,000 videos, nor from 10 to 100,000 comments of one video.

The use cases of media run here, on databases of their own, which are seeded directly. A video of every list matches, as
in the worst case: all are public, and all titles have the word that is searched.

The native stand-in for MongoDB sorts in memory what a query matched (local/mongo/README.md), so its times grow. MongoDB
reads one page from the index, whose order is the list's; the last column says how.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias
from uuid import UUID

from measure import Row
from motor.motor_asyncio import AsyncIOMotorClient

from kinora_kit import mongo
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Document
from kinora_kit.testing import free_port
from kinora_media import cursors, store
from kinora_media.domain import (
    CommentOrder,
    Counters,
    Listed,
    Media,
    Page,
    Sort,
    State,
    Thread,
    TopPosition,
    Visibility,
)
from kinora_media.facets import Filters
from kinora_media.pages import Query
from kinora_media.store import tallies
from kinora_media.store.channels import CHANNELS
from kinora_media.store.comments import COMMENTS
from kinora_media.store.media import MEDIA, SCORES, document_of
from kinora_media.use_cases import UseCases

VIDEOS = (1_000, 100_000)
ON_ONE_VIDEO = (10, 100_000)
OWNERS = [new_id() for _ in range(10)]
BATCH = 1_000
SEED_SECONDS = 45.0
"""How long a collection is seeded at most. The stand-in takes 20 to 80 us for an entry of an index."""
INDEXES = {MEDIA: ("owner", "feed_at", "score_0"), COMMENTS: ("newest", "top"), CHANNELS: ()}
"""Those that these lists use."""
REPEATS = 15
SECONDS = 3.0
"""How long each list is measured at most."""
LIMIT = 20
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Client: TypeAlias = AsyncIOMotorClient[Document]
UNUSED: Any = None
"""Instead of what reading does not use."""


class Uncached:
    """Every page from MongoDB."""

    async def feed(self, limit: int, query: Query[Page[Listed]]) -> Page[Listed]:
        return await query()

    async def comments(self, media_id: UUID, order: CommentOrder, limit: int, query: Query[Thread]) -> Thread:
        return await query()

    async def media_changed(self, *media_ids: UUID) -> None: ...

    async def comments_changed(self, media_id: UUID) -> None: ...


@dataclass(frozen=True)
class Seeded:
    use_cases: UseCases
    videos: int
    comments: int
    media_id: UUID
    """Of the video with the comments."""


def videos(count: int) -> Iterator[Document]:
    for number in range(count):
        at = BEGIN + timedelta(seconds=number)
        media = Media(
            id=new_id(),
            owner_id=OWNERS[number % len(OWNERS)],
            created_at=at,
            updated_at=at,
            begun=True,
            version=1,
            title=f"Video {number % 10}",
            description="What it shows. " * 10,
            tags=("common",),
            visibility=Visibility.PUBLIC,
            state=State.READY,
            duration=60.0,
            published_at=at,
        )
        counters = Counters(views=random.randrange(10_000), likes=random.randrange(1_000), comments=0)
        scores = {SCORES[0]: random.randrange(1 << 40)}
        yield {"_id": media.id, **document_of(media), **scores, "tally": {"version": 1, "counters": vars(counters)}}


def comments(count: int, media_id: UUID, owner_id: UUID) -> Iterator[Document]:
    for number in range(count):
        yield {
            "_id": new_id(),
            "media_id": media_id,
            "owner_id": owner_id,
            "author_id": new_id(),
            "parent_id": None,
            "key": "",
            "body": f"Comment {number}",
            "created_at": BEGIN,
            "edited_at": None,
            "version": 1,
            "tally": {"version": 1, "counters": {"likes": random.randrange(1_000), "replies": 0}},
            "count": {"version": 1, "counted": {"comments": 1}, "counted_version": 1},
        }


async def insert(database: Database, collection: str, documents: Iterable[Document]) -> int:
    """All documents, or those that it inserts in SEED_SECONDS; returns their number."""
    remaining, end, count = iter(documents), time.perf_counter() + SEED_SECONDS, 0
    while time.perf_counter() < end and (batch := list(islice(remaining, BATCH))):
        await database[collection].insert_many(batch, ordered=False)
        count += len(batch)
    return count


@contextlib.asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Client]:
    """A stand-in for MongoDB of the bench's own, which does not sync each write to disk."""
    port = free_port()
    options = ("--standalone", "--cache-size=512M", "--log-level=WARNING", f"--storage-path={folder}")
    process = await asyncio.create_subprocess_exec("secantusd-py", "--host=127.0.0.1", f"--port={port}", *options)
    try:
        # Not mongo.connect, whose timeouts are shorter than what the server needs to sort 100,000 documents.
        yield AsyncIOMotorClient(f"mongodb://127.0.0.1:{port}", uuidRepresentation="standard", tz_aware=True)
    finally:
        process.terminate()
        await process.wait()


async def seed(database: Database, videos_count: int, comments_count: int) -> Seeded:
    declared = store.indexes(tombstone_days=1)
    for name, used in INDEXES.items():
        await mongo.ensure_indexes(
            database, {name: [index for index in declared[name] if index.document["name"] in used]}
        )
    inserted = await insert(database, MEDIA, videos(videos_count))
    commented = await database[MEDIA].find_one({"feed_at": BEGIN})
    assert commented is not None
    media_id, owner_id = commented["_id"], commented["owner_id"]
    threads = await insert(database, COMMENTS, comments(comments_count, media_id, owner_id))
    days = {(BEGIN + timedelta(days=day)).date().isoformat(): {"views": day} for day in range(tallies.DAYS)}
    channel = {"_id": OWNERS[0], "tally": {"version": 1, "counters": {"views": 1}, "days": days}}
    await insert(database, CHANNELS, [channel])
    use_cases = UseCases.of(database, UNUSED, UNUSED, videos=UNUSED, users=UNUSED, pages=Uncached(), categories={})
    return Seeded(use_cases, inserted, threads, media_id)


Read = Callable[[UseCases], Awaitable[object]]


def lists(seeded: Seeded) -> dict[str, Read]:
    everybody, searched = Filters(), Filters(query="video 7", tag="common")
    middle = BEGIN + timedelta(seconds=seeded.videos // 2)
    mine = Caller(OWNERS[0])

    def search(filters: Filters, sort: Sort = Sort.NEWEST, *, after: datetime | None = None) -> Read:
        cursor = cursors.of_newest(after, UUID(int=0), filters.facets() or []) if after else None
        return lambda use: use.lists.search(filters, sort, cursor=cursor, limit=LIMIT)

    return {
        "feed": search(everybody),
        "feed, a page in the middle": search(everybody, after=middle),
        "feed by popularity": search(everybody, Sort.POPULAR),
        "channel page": search(Filters(owner=OWNERS[0])),
        "channel page of its owner": lambda use: use.lists.of_user(mine, OWNERS[0], cursor=None, limit=LIMIT),
        "search by a word": search(Filters(query="video")),
        "search by words and a tag": search(searched),
        "dashboard": lambda use: use.subscriptions.dashboard(mine, days=30),
    }


def threads(seeded: Seeded) -> dict[str, Read]:
    media_id = seeded.media_id
    return {
        "comments, newest": lambda use: use.comments.newest(None, media_id, before=None, limit=LIMIT),
        "comments, top": lambda use: use.comments.top(None, media_id, after=None, limit=LIMIT),
        "comments, top, a page in the middle": lambda use: use.comments.top(
            None, media_id, after=TopPosition(500, UUID(int=0)), limit=LIMIT
        ),
    }


async def bench(folder: Path) -> list[Row]:
    async with server(folder) as client:
        ends = [
            await seed(client[name], videos_count, comments_count)
            for name, videos_count, comments_count in zip(("small", "large"), VIDEOS, ON_ONE_VIDEO, strict=True)
        ]
        of_videos = [
            await compare(f"{name}, {{}} videos", [(each, each.videos, lists(each)[name]) for each in ends])
            for name in lists(ends[0])
        ]
        of_comments = [
            await compare(f"{name}, {{}} of one video", [(each, each.comments, threads(each)[name]) for each in ends])
            for name in threads(ends[0])
        ]
        return [*of_videos, *of_comments]


async def compare(what: str, ends: Sequence[tuple[Seeded, int, Read]]) -> Row:
    """Both ends in turn, so that they meet the same conditions."""
    found: list[list[float]] = [[] for _ in ends]
    end = time.perf_counter() + SECONDS
    for _ in range(REPEATS):
        for (seeded, _, read), milliseconds in zip(ends, found, strict=True):
            begun = time.perf_counter()
            await read(seeded.use_cases)
            milliseconds.append(1000 * (time.perf_counter() - begun))
        if time.perf_counter() > end:
            break
    (few, few_ms), (many, many_ms) = ((count, median(each)) for (_, count, _), each in zip(ends, found, strict=True))
    return Row(what.format(f"{many:,}"), f"{many_ms:.2f} ms", f"{few_ms:.2f} ms with {few:,}", many_ms / few_ms)
