"""The export of one's own data: collected from all services page by page, then downloaded (docs/adr/0023-export.md)."""

import asyncio
import contextlib
import dataclasses
import gzip
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from kinora.export.v1 import export_pb2 as pb
from kinora_auth import store, tokens
from kinora_auth.domain import EXPORT_KEPT, Export, ExportState
from kinora_auth.errors import ExportNotFound, LinkExpired
from kinora_auth.keys import KeyRing
from kinora_auth.settings import AuthSettings
from kinora_kit import logs, postgres, rpc, tasks
from kinora_kit.errors import NotSignedIn, Unavailable
from kinora_kit.export import Exporter, Page, Record
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.postgres import Pool
from kinora_kit.settings import reveal

if TYPE_CHECKING:  # defined only in the type stubs
    from kinora.export.v1.export_pb2_grpc import ExportAsyncStub

log = logs.get(__name__)

POLL_SECONDS = 5.0
"""How soon a process continues the exports of one that died, after their lease."""
LEASE = timedelta(seconds=30)
"""Longer than reading and saving a page takes, at most."""
PAGE_SECONDS = 20.0
"""Deadline of the call: nobody waits for it."""
TOKEN_LIFETIME = timedelta(minutes=1)
LINK_SECONDS = 3600

TABLES = {"users", "sessions"}
"""Those of which the export has the rows."""
NOT_EXPORTED = {
    "refresh_tokens": "only hashes of secrets; their sessions are exported",
    "revocations": "ids of ended sessions, which name no user",
    "signing_keys": "of the platform",
    "exports": "the export itself",
    "export_pages": "the export itself",
    "outbox": "events that have not been published yet",
    "inbox": "ids of events",
    "schema_migrations": "of the schema",
}
"""The other tables, and why."""


class Source(Protocol):
    async def page(self, user_id: UUID, cursor: str) -> Page: ...


class RemoteSource:
    """Another service. It is called with an access token of the user, who is therefore not named."""

    def __init__(self, stub: "ExportAsyncStub") -> None:
        self._stub = stub

    async def page(self, user_id: UUID, cursor: str) -> Page:
        answer = await self._stub.ExportPage(pb.ExportPageRequest(cursor=cursor), timeout=PAGE_SECONDS)
        return Page(answer.lines, answer.records, answer.next_cursor, answer.progress)


def own_source(pool: Pool) -> Source:
    async def account(user_id: UUID, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        row = await store.export_account(pool, user_id)
        return [] if row is None else [("", row)]

    async def sessions(user_id: UUID, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        rows = await store.export_sessions(pool, user_id, after=UUID(after) if after else None, limit=limit)
        return [(row["id"], row) for row in rows]

    return Exporter({"account": account, "session": sessions})


@dataclass(frozen=True)
class Exports:
    """An account has one export at a time. Must be ``run``."""

    settings: AuthSettings
    pool: Pool
    keys: KeyRing
    sources: Mapping[str, Source]
    """By name, in the order of the export."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    async def request(self, caller: Caller) -> Export:
        """A new export; the current one if it is running or was finished just now.

        Raises NotSignedIn if the session has ended meanwhile.
        """
        if caller.session_id is None:
            raise NotSignedIn
        now = self.now()
        export = Export(
            id=new_id(),
            user_id=caller.user_id,
            session_id=caller.session_id,
            created_at=now,
            expires_at=now + EXPORT_KEPT,
            source=next(iter(self.sources)),
        )
        async with postgres.transaction(self.pool) as connection:
            await store.lock_user(connection, caller.user_id)
            current = await store.export_of(connection, caller.user_id, now=now)
            if current is not None and current.is_current(now):
                return current
            if not await store.add_export(connection, export):
                raise NotSignedIn
        self._work.set()
        return export

    async def find(self, caller: Caller) -> Export:
        """Raises ExportNotFound."""
        export = await store.export_of(self.pool, caller.user_id, now=self.now())
        if export is None:
            raise ExportNotFound
        return export

    async def cancel(self, caller: Caller) -> None:
        """Delete the caller's export, if any, with what was collected."""
        await store.remove_export(self.pool, caller.user_id)

    def state(self, export: Export) -> ExportState:
        return export.state(self.now())

    def url(self, export: Export) -> str | None:
        """Where it can be downloaded for LINK_SECONDS, without a token. None unless it is ready."""
        if export.finished_at is None:
            return None
        expires = int(time.time()) + LINK_SECONDS
        query = f"exp={expires}&sig={self.signature(export.id, expires)}"
        return f"{self.settings.public_url}/user/export/{export.id}/archive?{query}"

    async def archive(self, export_id: UUID, expires: int, signature: str) -> tuple[Export, AsyncIterator[bytes]]:
        """The finished export, and its file: gzip of JSON objects {kind, data}, each on a line.

        Raises LinkExpired, ExportNotFound.
        """
        expected = self.signature(export_id, expires)
        if expires < time.time() or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise LinkExpired
        export = await store.export(self.pool, export_id, now=self.now())
        if export is None or export.finished_at is None:
            raise ExportNotFound
        return export, self._pages(export)

    async def _pages(self, export: Export) -> AsyncIterator[bytes]:
        for number in range(export.pages):
            data = await store.export_page(self.pool, export.id, number)
            if data is None:  # the client sees that the file is shorter than its Content-Length
                raise Unavailable("The export was deleted")
            yield data

    def signature(self, export_id: UUID, expires: int) -> str:
        """Of an address that expires at a Unix time."""
        text = f"export:{export_id}:{expires}"  # with colons, which no refresh token has
        return hmac.new(reveal(self.settings.refresh_secret).encode(), text.encode(), "sha256").hexdigest()

    # --- the work ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Collect what is requested, and continue what other processes did not finish."""
        while True:
            await self.collect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._work.wait()
            tasks.raise_if_cancelled()
            self._work.clear()

    async def collect(self) -> None:
        while export := await store.claim_export(self.pool, now=self.now(), leased_until=self.now() + LEASE):
            following: Export | None = export
            try:
                while following is not None:
                    following = await self._collect_page(following)
                    tasks.raise_if_cancelled()
            except Exception as error:
                log.warning("an export was interrupted, continuing it later", export=str(export.id), error=repr(error))

    async def _collect_page(self, export: Export) -> Export | None:
        """The export with its next page. None if there is none, or it was deleted, or another process continues it."""
        names = list(self.sources)
        index = names.index(export.source)
        rpc.access_token.set(await self._token(export))
        page = await self.sources[export.source].page(export.user_id, export.cursor)
        # Members of a gzip file can be concatenated (RFC 1952, section 2.2).
        data = await asyncio.to_thread(gzip.compress, page.lines, mtime=0) if page.lines else b""
        is_last = not page.next_cursor and index == len(names) - 1
        following = dataclasses.replace(
            export,
            source=export.source if page.next_cursor or is_last else names[index + 1],
            cursor=page.next_cursor,
            progress=(index + page.progress) / len(names),
            pages=export.pages + bool(data),
            records=export.records + page.records,
            size=export.size + len(data),
            finished_at=self.now() if is_last else None,
        )
        async with postgres.transaction(self.pool) as connection:
            saved = await store.add_export_page(connection, export, following, data, leased_until=self.now() + LEASE)
        return following if saved and not is_last else None

    async def _token(self, export: Export) -> str:
        """An access token of the session that requested the export: it is rejected once that has ended."""
        found = await store.users(self.pool, [export.user_id])
        if not found:
            raise NotSignedIn
        return tokens.access_token(
            await self.keys.signing_key(),
            issuer=self.settings.public_url,
            user=dataclasses.replace(found[0], roles=()),
            session_id=export.session_id,
            token_id=export.id,
            issued_at=self.now(),
            lifetime=TOKEN_LIFETIME,
        )
