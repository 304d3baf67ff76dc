"""MongoDB. The only module that depends on the driver (motor today), so that it can be replaced.

A document has its pending events in an ``outbox`` array, written by the same single-document update as the change that
caused them. The relay publishes them with a confirm and then removes them from the array.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeAlias

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import DeleteOne as DeleteOne
from pymongo import IndexModel as IndexModel
from pymongo import UpdateOne as UpdateOne
from pymongo.errors import DuplicateKeyError as DuplicateKeyError
from pymongo.errors import OperationFailure, PyMongoError

from kinora_kit import logs, tasks
from kinora_kit.broker import Broker, Unroutable
from kinora_kit.events import Event

Document = dict[str, Any]
Collection: TypeAlias = AsyncIOMotorCollection[Document]
Database: TypeAlias = AsyncIOMotorDatabase[Document]
MongoError = PyMongoError

log = logs.get(__name__)

OUTBOX = "outbox"
BATCH = 100
POLL_SECONDS = 2.0


@contextlib.asynccontextmanager
async def connect(url: str, *, database: str, name: str, size: int = 32) -> AsyncIterator[Database]:
    """A database handle that connects on first use. UUIDs are kept in their standard binary form, times are UTC.

    Writes are acknowledged once they are in the journal of a majority of the members (or of the only server). By
    default, MongoDB acknowledges writes that are lost if its process is killed within the next 100 ms.
    """
    client: Any = AsyncIOMotorClient(
        url,
        appname=name,
        w="majority",
        journal=True,
        maxPoolSize=size,
        waitQueueTimeoutMS=2000,
        serverSelectionTimeoutMS=2000,
        connectTimeoutMS=2000,
        socketTimeoutMS=10000,
        uuidRepresentation="standard",
        tz_aware=True,
    )
    try:
        yield client.get_database(database, codec_options=CodecOptions(tz_aware=True, uuid_representation=4))
    finally:
        client.close()


async def check(database: Database) -> None:
    await database.command("ping")


OUTBOX_INDEX = IndexModel(f"{OUTBOX}.id", sparse=True, name="outbox")
"""Of each collection with an outbox."""

_CONFLICTS = {85, 86}  # IndexOptionsConflict, IndexKeySpecsConflict: another definition has this name


async def ensure_indexes(database: Database, declared: Mapping[str, Sequence[IndexModel]]) -> None:
    """Make the indexes of each collection as declared: create what is missing, replace what changed, drop the others.

    While releases with different declarations run, each replaces the other's; queries then take longer.
    """
    for name, indexes in declared.items():
        collection = database[name]
        for index in indexes:
            try:
                await collection.create_indexes([index])
            except OperationFailure as error:
                if error.code not in _CONFLICTS:
                    raise
                await collection.drop_index(index.document["name"])
                await collection.create_indexes([index])
        known = {"_id_", *(index.document["name"] for index in indexes)}
        for unknown in (await collection.index_information()).keys() - known:
            await collection.drop_index(unknown)


def pending(event: Event, *, exchange: str) -> Document:
    """The entry of ``event`` for a document's outbox array: ``{"$push": {OUTBOX: pending(...)}}``."""
    return {
        "id": str(event.id),
        "type": event.type,
        "exchange": exchange,
        "event": event.model_dump_json(exclude_none=True),
    }


def superseding(entries: Sequence[Document]) -> Document:
    """The outbox array with ``entries`` instead of earlier ones of their types, for the ``$set`` of a pipeline update.

    For events that contain the whole state: while the broker is away, any number of changes to a document leaves one
    entry of each type. With ``$push``, the document would reach MongoDB's limit of 16 MB.
    """
    types = [entry["type"] for entry in entries]
    others = {"input": {"$ifNull": [f"${OUTBOX}", []]}, "cond": {"$not": [{"$in": ["$$this.type", types]}]}}
    return {"$concatArrays": [{"$filter": others}, {"$literal": list(entries)}]}


class Relay:
    """Publishes the pending events of ``collections``. Call ``wake`` after a write to publish at once.

    ``feeds``: by event type, an exchange to which such events are published, too, and the field of their data that is
    the routing key there.
    """

    def __init__(
        self, collections: Sequence[Collection], broker: Broker, feeds: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        self._feeds = feeds or {}
        self._collections = collections
        self._broker = broker
        self._work = asyncio.Event()
        self._work.set()

    def wake(self) -> None:
        self._work.set()

    async def publish_pending(self, kept: set[Any] | None = None) -> int:
        """Publish all pending events; returns their number.

        Ids of documents with an event whose queues do not all exist yet are added to ``kept``. Documents in ``kept``
        are skipped, so that they do not block others.
        """
        kept = set() if kept is None else kept
        count = 0
        for collection in self._collections:
            waiting = {f"{OUTBOX}.id": {"$exists": True}, "_id": {"$nin": list(kept)}}
            found = collection.find(waiting, {OUTBOX: True}).limit(BATCH)
            async for document in found:
                for entry in document[OUTBOX]:
                    event = Event.model_validate_json(entry["event"])
                    targets = [(entry["exchange"], event.type)]
                    if event.type in self._feeds:
                        exchange, field = self._feeds[event.type]
                        targets.append((exchange, str(event.data[field])))
                    try:
                        for exchange, routing_key in targets:
                            await self._broker.publish(
                                entry["event"].encode(),
                                exchange=exchange,
                                routing_key=routing_key,
                                message_id=entry["id"],
                            )
                    except Unroutable as error:
                        log.warning(
                            "no queue accepts the event yet, keeping it", event_type=event.type, error=str(error)
                        )
                        kept.add(document["_id"])
                        continue
                    await collection.update_one({"_id": document["_id"]}, {"$pull": {OUTBOX: {"id": entry["id"]}}})
                    count += 1
        return count

    async def _run(self) -> None:
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that coincides with the result.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._work.wait()
            self._work.clear()
            await self._publish_all()

    async def _publish_all(self) -> None:
        kept: set[Any] = set()
        while True:
            count = len(kept)
            if not await self.publish_pending(kept) and len(kept) == count:
                return

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with tasks.background(mongo_outbox=self._run):
            yield
