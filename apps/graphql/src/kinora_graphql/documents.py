"""Documents that a request names by their SHA-256 hash instead of sending them.

Either by the automatic protocol of Apollo (``extensions.persistedQuery``), in which a client sends an unknown document
once, or by ``documentId``, as in the appendix of GraphQL over HTTP. Trusted documents are known beforehand: those of
``operations/``, in the manifests that ``python -m kinora_graphql.documents`` writes in the forms of Relay and Apollo.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from graphql import OperationDefinitionNode, parse
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kinora_kit import logs
from kinora_kit.errors import DomainError

log = logs.get(__name__)

OPERATIONS = Path(__file__).parents[2] / "operations"
MANIFESTS = Path(__file__).parent / "trusted"

MAX_BYTES = 16 << 10
"""Larger documents are executed, but not stored."""
DAY_SECONDS = 24 * 3600
REDIS_SECONDS = 0.5

_SHA256 = re.compile("[0-9a-f]{64}")
_INDEX = "graphql:documents"


class PersistedQueryNotFound(DomainError):
    # Client libraries recognise this code and message, and then send the document.
    code = "PERSISTED_QUERY_NOT_FOUND"
    title = "PersistedQueryNotFound"


class WrongDocumentHash(DomainError):
    code = "wrong_document_hash"
    title = "The hash is not that of the document"


class UntrustedDocument(DomainError):
    code = "untrusted_document"
    title = "Only documents of this server's manifest may be executed"


def sha256(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


class Documents:
    """Stores at most ``limit`` documents in Redis, each until a day after its last use.

    Without Redis, unknown hashes are not found, so clients send whole documents.
    """

    def __init__(self, cache: Redis, *, limit: int, trusted: dict[str, str], trusted_only: bool) -> None:
        self._cache = cache
        self._limit = limit
        self._trusted = trusted
        self._trusted_only = trusted_only

    async def find(self, query: str | None, name: str | None, *, is_valid: Callable[[str], bool]) -> str:
        """The document that a request sends, names, or both; in the last case it is stored, if it is valid.

        ``name`` is a hash. Raises PersistedQueryNotFound, WrongDocumentHash, UntrustedDocument.
        """
        if query is not None and name is not None and sha256(query) != name:
            raise WrongDocumentHash
        if self._trusted_only:
            trusted = self._trusted.get(name or sha256(query or ""))
            if trusted is None:
                raise UntrustedDocument
            return trusted
        if query is None:
            known = self._trusted.get(name or "") or await self._load(name or "")
            if known is None:
                raise PersistedQueryNotFound
            return known
        if name is not None and len(query.encode()) <= MAX_BYTES and is_valid(query):
            await self._store(name, query)
        return query

    async def _load(self, name: str) -> str | None:
        if not _SHA256.fullmatch(name):
            return None
        found = None
        async with _tolerating_outage():
            found = await self._cache.getex(_key(name), ex=DAY_SECONDS)
        return None if found is None else str(found)

    async def _store(self, name: str, document: str) -> None:
        async with _tolerating_outage():
            async with self._cache.pipeline() as pipe:
                pipe.set(_key(name), document, ex=DAY_SECONDS)
                pipe.zadd(_INDEX, {name: time.time()})
                pipe.expire(_INDEX, DAY_SECONDS)
                pipe.zrange(_INDEX, 0, -1 - self._limit)
                *_, oldest = await pipe.execute()
            if oldest:
                async with self._cache.pipeline() as pipe:
                    pipe.unlink(*map(_key, oldest))
                    pipe.zrem(_INDEX, *oldest)
                    await pipe.execute()


def _key(name: str) -> str:
    return f"{_INDEX}:{name}"


@contextlib.asynccontextmanager
async def _tolerating_outage() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            yield
    except (RedisError, TimeoutError, OSError) as error:
        log.warning("persisted documents are unavailable", error=repr(error))


def read_manifest(file: Path) -> dict[str, str]:
    """Documents by hash, of a manifest in Relay's or Apollo's form. Raises ValueError."""
    manifest = json.loads(file.read_text())
    if manifest.get("format") == "apollo-persisted-query-manifest":
        texts = [operation["body"] for operation in manifest["operations"]]
    else:
        texts = list(manifest.values())
    return {sha256(text): text for text in texts}


def manifests(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The manifests of documents with one operation each, by file name."""
    relay, apollo = {}, []
    for file in sorted(files):
        text = file.read_text().strip()
        (operation,) = [each for each in parse(text).definitions if isinstance(each, OperationDefinitionNode)]
        assert operation.name is not None, f"{file.name} has no name"  # noqa: S101
        relay[sha256(text)] = text
        kind = operation.operation.value
        apollo.append({"id": sha256(text), "name": operation.name.value, "type": kind, "body": text})
    form = {"format": "apollo-persisted-query-manifest", "version": 1, "operations": apollo}
    return {"relay.json": relay, "apollo.json": form}


if __name__ == "__main__":
    for name, content in manifests(OPERATIONS.glob("*.graphql")).items():
        (MANIFESTS / name).write_text(json.dumps(content, indent=2) + "\n")
