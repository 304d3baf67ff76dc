"""Every query uses an index that returns its documents in order, by its shape: MongoDB then neither scans a collection
nor sorts in memory. The stand-in for MongoDB explains only some queries (local/mongo/README.md)."""

import inspect
import itertools
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from bson import json_util
from pymongo import monitoring

from kinora.events.media import MediaDeleted
from kinora_kit import mongo
from kinora_kit.broker import Broker
from kinora_kit.events import event
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Relay
from kinora_media import store
from kinora_media.domain import (
    Comment,
    Mark,
    Media,
    Notification,
    NotificationKind,
    NotificationState,
    Playlist,
    Position,
    TopPosition,
    View,
    Visibility,
    Visit,
)
from kinora_media.store import (
    channels,
    comments,
    drafts,
    export,
    history,
    impressions,
    marks,
    media,
    notifications,
    playlists,
    popularity,
    tallies,
    views,
)
from kinora_media.store.marks import LIKE
from kinora_media.store.popularity import Epoch, Lease
from kinora_media.store.tallies import Contribution, State, Thing

ID, AT = new_id(), datetime(2026, 1, 1, tzinfo=UTC)
DOCUMENT = Media(id=ID, owner_id=ID, created_at=AT, updated_at=AT)
DELETED = event("media", MediaDeleted(media_id=ID, owner_id=ID))
LIKED, MARK = Thing(media.MEDIA, ID), Mark(ID, ID, on=True, at=AT, version=2)
TALLY, SOURCE = store.TALLIES[0], store.TALLIES[0].sources[0]
COMMENT = Comment(id=ID, media_id=ID, owner_id=ID, author_id=ID, body="", created_at=AT)
BATCH = [Contribution(source=SOURCE.collection, id=ID, version=1, amounts={})]
VIEW, VISIT = View(b"x", ID, 0, AT, version=2), Visit(ID, ID, 0, 0, AT, version=2)
PLAYLIST = Playlist(ID, ID, "", Visibility.PUBLIC, AT, AT)
NEWS = Notification(ID, NotificationKind.VIDEO, ID, ID, AT)
LEASE = Lease(ID, Epoch(1), until=0)

Query = Callable[[Database], Awaitable[object]]

# One line for each function of the store that has a query: a call with all arguments, and the indexes that it uses.
QUERIES: dict[str, tuple[Query, set[str]]] = {
    "channels.delete": (lambda db: channels.delete(db, ID, at=AT), {"_id_"}),
    "channels.dashboard": (lambda db: channels.dashboard(db, ID), {"_id_"}),
    "channels.keep_history": (lambda db: channels.keep_history(db, ID, on=True), {"_id_"}),
    "channels.keeps_history": (lambda db: channels.keeps_history(db, ID), {"_id_"}),
    "channels.many": (lambda db: channels.many(db, [ID]), {"_id_"}),
    "channels.deleted": (lambda db: channels.deleted(db, [ID]), {"_id_"}),
    "channels.note": (lambda db: channels.note(db, ID, []), {"_id_"}),
    "comments.delete": (lambda db: comments.delete(db, [ID]), {"_id_"}),
    "comments.edit": (lambda db: comments.edit(db, COMMENT), {"_id_"}),
    "comments.find": (lambda db: comments.find(db, ID), {"_id_"}),
    "comments.ids_of": (lambda db: comments.ids_of(db, ID, limit=1), {"newest"}),
    "comments.insert": (lambda db: twice(comments.insert, db, COMMENT, key="", events=[]), {"author"}),
    "comments.many": (lambda db: comments.many(db, [ID]), {"_id_"}),
    "comments.newest": (lambda db: comments.newest(db, ID, before=ID, limit=1), {"newest"}),
    "comments.remove": (lambda db: comments.remove(db, COMMENT, at=AT, events=[]), {"_id_"}),
    "comments.remove_of_user": (lambda db: comments.remove_of_user(db, ID, at=AT), {"author"}),
    "comments.replies": (lambda db: comments.replies(db, COMMENT, after=ID, limit=1), {"newest"}),
    "comments.top": (lambda db: comments.top(db, ID, after=TopPosition(1, ID), limit=1), {"top"}),
    "drafts.delete_of": (lambda db: drafts.delete_of(db, ID), {"owner"}),
    "drafts.delete_of_video": (lambda db: drafts.delete_of_video(db, ID), {"videos"}),
    "drafts.insert": (lambda db: drafts.insert(db, DOCUMENT), set()),
    "drafts.use": (lambda db: drafts.use(db, ID, ID, ID), {"owner"}),
    "export.page": (lambda db: each_export(db, limit=1), {"_id_", "owner", "author", "user"}),
    "history.delete": (lambda db: history.delete(db, ID, ID), {"_id_"}),
    "history.delete_of": (lambda db: history.delete_of(db, ID), {"media"}),
    "history.delete_of_user": (lambda db: history.delete_of_user(db, ID), {"user"}),
    "history.delete_until": (lambda db: history.delete_until(db, ID, AT), {"user"}),
    "history.find": (lambda db: history.find(db, ID, ID), {"_id_"}),
    "history.many": (lambda db: history.many(db, ID, [ID]), {"_id_"}),
    "history.page": (lambda db: history.page(db, ID, after=Position(AT, ID), limit=1), {"user"}),
    "history.save": (lambda db: history.save(db, VISIT, []), {"_id_"}),
    "impressions.insert": (lambda db: impressions.insert(db, ID, DELETED, at=AT), set()),
    "marks.among": (lambda db: marks.among(db, LIKE, ID, [ID]), {"_id_"}),
    "marks.delete_of": (lambda db: marks.delete_of(db, media.MEDIA, [ID]), {"thing"}),
    "marks.find": (lambda db: marks.find(db, LIKE, ID, ID), {"_id_"}),
    "marks.page": (lambda db: marks.page(db, LIKE, ID, after=Position(AT, ID), limit=1), {"user"}),
    "marks.remove_of_user": (lambda db: marks.remove_of_user(db, ID), {"user"}),
    "marks.save": (lambda db: marks.save(db, LIKE, MARK, []), {"_id_"}),
    "marks.things": (lambda db: marks.things(db, LIKE, ID, limit=1), {"user"}),
    "marks.users": (lambda db: marks.users(db, LIKE, ID, until=AT, after=ID, limit=1), {"thing"}),
    "media.delete": (lambda db: media.delete(db, ID, ID, at=AT, event=DELETED), {"_id_"}),
    "media.due": (lambda db: media.due(db, until=AT, limit=1), {"schedule"}),
    "media.find": (lambda db: media.find(db, ID), {"_id_"}),
    "media.ids_of": (lambda db: media.ids_of(db, ID), {"owner"}),
    "media.insert": (lambda db: media.insert(db, DOCUMENT, []), set()),
    "media.listed": (lambda db: each_list(db, limit=1), {media.FEED_AT, *media.SCORES}),
    "media.many": (lambda db: media.many(db, [ID]), {"_id_"}),
    "media.of_owners": (lambda db: media.of_owners(db, [ID, ID], after=(AT, ID), limit=1), {media.FEED_AT}),
    "media.page": (lambda db: media.page(db, ID, before=ID, limit=1), {"owner"}),
    "media.pin": (lambda db: media.pin(db, ID, ID, []), {"_id_"}),
    "media.ranked": (lambda db: media.ranked(db, "score_0", after=(AT, ID), limit=1), {media.FEED_AT}),
    "media.update": (lambda db: media.update(db, DOCUMENT, expected_version=1, events=[]), {"_id_"}),
    "media.without_facets": (lambda db: media.without_facets(db, after=ID, limit=1), {"_id_"}),
    "notifications.delete": (lambda db: notifications.delete(db, [ID]), {"_id_"}),
    "notifications.delete_of_media": (lambda db: notifications.delete_of_media(db, ID), {"media"}),
    "notifications.delete_of_subject": (lambda db: notifications.delete_of_subject(db, ID), {"subject"}),
    "notifications.delete_of_user": (lambda db: notifications.delete_of_user(db, ID), {"user", "actor"}),
    "notifications.dismiss": (lambda db: notifications.dismiss(db, ID, ID), {"_id_"}),
    "notifications.insert": (lambda db: notifications.insert(db, [NEWS]), {"_id_"}),
    "notifications.many": (lambda db: notifications.many(db, ID, [ID]), {"_id_"}),
    "notifications.page": (
        lambda db: notifications.page(db, ID, list(NotificationState), after=Position(AT, ID), limit=1),
        {"user"},
    ),
    "notifications.read": (lambda db: notifications.read(db, ID, [ID]), {"user"}),
    "notifications.read_until": (lambda db: notifications.read_until(db, ID, AT), {"user"}),
    "notifications.recipients": (lambda db: notifications.recipients(db, ID, after=ID, limit=1), {"subject"}),
    "playlists.delete": (lambda db: playlists.delete(db, ID), {"_id_"}),
    "playlists.delete_of_user": (lambda db: playlists.delete_of_user(db, ID), {"owner"}),
    "playlists.find": (lambda db: playlists.find(db, ID), {"_id_"}),
    "playlists.ids_of": (lambda db: playlists.ids_of(db, ID, limit=1), {"owner"}),
    "playlists.insert": (lambda db: playlists.insert(db, PLAYLIST, key=""), set()),
    "playlists.many": (lambda db: playlists.many(db, [ID]), {"_id_"}),
    "playlists.page": (lambda db: playlists.page(db, ID, public=True, before=ID, limit=1), {"owner"}),
    "playlists.remove_media": (lambda db: playlists.remove_media(db, ID), {"media"}),
    "playlists.update": (lambda db: playlists.update(db, PLAYLIST, [DELETED]), {"_id_"}),
    "playlists.with_key": (lambda db: playlists.with_key(db, ID, ""), {"key"}),
    "popularity.claim": (lambda db: popularity.claim(db, ID, age_ms=0, lease_ms=0), {"_id_"}),
    "popularity.current": (popularity.current, {"_id_"}),
    "popularity.extend": (lambda db: popularity.extend(db, LEASE, lease_ms=0), {"_id_"}),
    "popularity.flip": (lambda db: popularity.flip(db, LEASE), {"_id_"}),
    "popularity.write": (lambda db: popularity.write(db, LEASE, {ID: 0}), {"_id_"}),
    "tallies.add": (lambda db: tallies.add(db, TALLY, LIKED, State(), batch=BATCH, today=AT.date()), {"_id_"}),
    "tallies.close": (lambda db: tallies.close(db, LIKED, State()), {"_id_"}),
    "tallies.due": (lambda db: tallies.due(db, SOURCE, LIKED), {"due"}),
    "tallies.forget": (lambda db: tallies.forget(db, SOURCE, LIKED), {"due"}),
    "tallies.read": (lambda db: tallies.read(db, TALLY, LIKED), {"_id_"}),
    "tallies.record": (lambda db: tallies.record(db, BATCH), {"_id_"}),
    "tallies.remove": (lambda db: tallies.remove(db, BATCH[0], LIKED), {"_id_"}),
    "views.delete_of": (lambda db: views.delete_of(db, ID), {"media"}),
    "views.find": (lambda db: views.find(db, b"x"), {"_id_"}),
    "views.retention": (lambda db: views.retention(db, ID, 1), {"_id_"}),
    "views.salt": (lambda db: twice(views.salt, db, "2026-01-01", b"x", until=AT), {"_id_"}),
    "views.save": (lambda db: views.save(db, VIEW, []), {"_id_"}),
    "tallies.unfinished": (lambda db: tallies.unfinished(db, TALLY), {"open", "due"}),
}


async def twice(call: Callable[..., Awaitable[object]], *arguments: Any, **more: Any) -> None:
    for _ in range(2):
        await call(*arguments, **more)


async def each_list(database: Database, *, limit: int) -> None:
    """In each order, from the beginning and further on, with one facet and with several."""
    for by, value in ((media.FEED_AT, AT), (media.SCORES[0], 1), (media.SCORES[1], 1)):
        for after, wanted in itertools.product((None, (value, ID)), (["*"], ["c:music", "t:a"])):
            await media.listed(database, wanted, by=by, after=after, limit=limit)


async def each_export(database: Database, *, limit: int) -> None:
    """Of each kind, from the beginning and further on."""
    for kind in export.KINDS.values():
        await export.page(database, kind, ID, "", limit)
        if kind.order:
            values = {"_id": ID, "key": "", "at": AT}
            position = json_util.dumps([values[name] for name in kind.order], json_options=export.POSITION)
            await export.page(database, kind, ID, position, limit)


class Commands(monitoring.CommandListener):
    """Records the queries of a client: collection, filter and sort."""

    def __init__(self) -> None:
        self.queries: list[tuple[str, Mapping[str, Any], Mapping[str, int]]] = []

    def started(self, started: monitoring.CommandStartedEvent) -> None:
        command: Any = started.command
        collection = command[started.command_name]
        match started.command_name:
            case "find":
                self.queries.append((collection, command.get("filter", {}), command.get("sort", {})))
            case "findAndModify":
                self.queries.append((collection, command.get("query", {}), command.get("sort", {})))
            case "update" | "delete":
                self.queries += [(collection, each["q"], {}) for each in command[f"{started.command_name}s"]]
            case "aggregate" | "count" | "distinct":
                raise AssertionError(f"this test does not know the shape of {started.command_name}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def index_of(indexes: Mapping[str, Any], query: Mapping[str, Any], order: Mapping[str, int]) -> str | None:
    """The index that finds the documents of a query in its order: that with the most equal fields."""
    served = {name: rank for name, index in indexes.items() if (rank := equal_fields(index["key"], query, order)) >= 0}
    return max(served, key=served.__getitem__, default=None)


def equal_fields(keys: list[tuple[str, int]], query: Mapping[str, Any], order: Mapping[str, int]) -> int:
    """How many fields of an index the query compares with a value; -1 if the index does not serve the query.

    Such fields come first in the index, then those of the order, then a range:
    https://www.mongodb.com/docs/manual/tutorial/equality-sort-range-guideline/
    """
    equal = {name for name, value in query.items() if is_equality(value)}
    bounded = {name for name, value in query.items() if is_range(value)}
    rest = list(itertools.dropwhile(lambda key: key[0] in equal, keys))
    if len(rest) == len(keys) and keys[0][0] not in bounded:
        return -1
    wanted = [(name, direction) for name, direction in order.items() if name not in equal]
    reverse = [(name, -direction) for name, direction in wanted]
    return len(keys) - len(rest) if rest[: len(wanted)] in (wanted, reverse) else -1


def is_equality(value: object) -> bool:
    return not isinstance(value, Mapping) or bool({"$eq", "$in", "$all"} & set(value))


def is_range(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return value.get("$exists") is True or not {"$lt", "$lte", "$gt", "$gte"}.isdisjoint(value)


@pytest.fixture(scope="module")
def commands() -> Commands:
    return Commands()


@pytest.fixture(scope="module")
async def observed(kit: dict[str, str], commands: Commands) -> Any:
    name = f"media_test_{new_id().hex}"
    monitoring.register(commands)  # for clients from now on
    async with mongo.connect(kit["KINORA_MONGO_URL"], database=name, name="media-tests") as database:
        await mongo.ensure_indexes(database, store.indexes(tombstone_days=1))
        yield database
        await database.client.drop_database(name)


@pytest.mark.parametrize("function", QUERIES)
async def test_query_uses_its_index(observed: Database, commands: Commands, function: str) -> None:
    call, expected = QUERIES[function]
    commands.queries.clear()
    await call(observed)
    used = set()
    for collection, query, order in commands.queries:
        used.add(index_of(await observed[collection].index_information(), query, order))
    assert used == expected


async def test_outbox_is_read_by_its_index(observed: Database, commands: Commands, bus: Broker) -> None:
    commands.queries.clear()
    await Relay([observed[each] for each in store.OUTBOXES], bus).publish_pending()
    used = {index_of(await observed[name].index_information(), query, {}) for name, query, _ in commands.queries}
    assert used - {"_id_"} == {"outbox"}


def test_every_query_of_the_store_is_listed() -> None:
    modules = [import_module(f"{store.__name__}.{each.name}") for each in pkgutil.iter_modules(store.__path__)]
    assert set(QUERIES) == {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in modules
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ({"title": "x"}, {}),
        ({"title": "x", "feed_at": {"$lte": 1}}, {"feed_at": -1}),
        ({"facets": "*"}, {"updated_at": -1}),
        ({"facets": "*"}, {"feed_at": -1, "_id": 1}),
        ({"facets": {"$gt": "a"}}, {"feed_at": -1}),
        ({"facets": {"$exists": False}}, {}),
    ],
)
def test_query_without_an_index_is_recognised(query: dict[str, Any], order: dict[str, int]) -> None:
    assert equal_fields([("facets", 1), ("feed_at", -1), ("_id", -1)], query, order) < 0
