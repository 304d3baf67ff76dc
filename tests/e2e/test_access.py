"""Every REST operation and root field of GraphQL, for an anonymous visitor, a stranger and the owner: access.py."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

import httpx
import m3u8
import pytest
from access import DELETIONS, OK, READS, SILENT, SUBSCRIPTIONS, WRITES, Outcome, Row
from client import GATEWAY, TUS, Person, global_id, register
from clips import Clip
from graphql import GraphQLObjectType, build_schema, get_named_type, is_leaf_type

from conftest import PATIENCE_SECONDS, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

OPENAPI = json.loads(resources.files("kinora").joinpath("openapi.json").read_text())
SCHEMA = build_schema((Path(__file__).resolve().parents[2] / "apps" / "graphql" / "schema.graphql").read_text())
PROBLEM = SCHEMA.type_map["Problem"]
ROOTS = {kind.name: kind for kind in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type) if kind}
PROBLEMS = {name for name, kind in SCHEMA.type_map.items() if PROBLEM in getattr(kind, "interfaces", ())}
ENDS_SESSIONS = {"POST /auth/logout", "POST /auth/logout-all", "Mutation.logout", "Mutation.logoutAll"}
CONCURRENCY = 8
"""Below the limits of one address."""


def target(row: Row) -> str:
    """What a row is about: ``METHOD /path`` with empty placeholders, or ``Type.field``."""
    if row.is_rest:
        return re.sub(r"\$\w+", "{}", row.request.partition("?")[0])
    return re.split(r"[ (]", row.request)[0]


def test_each_operation_and_root_field_has_a_row() -> None:
    operations = {
        f"{method.upper()} {re.sub(r'{.*?}', '{}', path)}"
        for path, methods in OPENAPI["paths"].items()
        for method in methods
    }
    fields = {f"{name}.{field}" for name, kind in ROOTS.items() for field in kind.fields}
    rows = [*READS, *SUBSCRIPTIONS, *itertools.chain(*WRITES), *DELETIONS]
    assert {target(row) for row in rows} == operations | fields


async def test_operations_have_the_outcomes_of_the_table(clip: Callable[[str], Clip]) -> None:
    await assert_access(GATEWAY, clip("tiny").path)


async def assert_access(gateway: str, clip: Path) -> None:
    """Send all requests of the table to a gateway; the error names all outcomes that differ from it."""
    async with contextlib.AsyncExitStack() as stack:
        owner, stranger = await asyncio.gather(*(stack.enter_async_context(register(gateway)) for _ in range(2)))
        anonymous = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway, timeout=60))
        scene = await prepare(owner, stranger, anonymous, clip)
        wrong = await at_once(scene.visit(row) for row in READS)
        wrong += await scene.follow(SUBSCRIPTIONS)
        wrong += await at_once(map(scene.visit_in_order, WRITES))
        wrong += await scene.visit_in_order(DELETIONS)
    assert not wrong, "\n".join(wrong)


async def at_once(visits: Iterable[Awaitable[list[str]]]) -> list[str]:
    places = asyncio.Semaphore(CONCURRENCY)

    async def visit(each: Awaitable[list[str]]) -> list[str]:
        async with places:
            return await each

    return [wrong for found in await asyncio.gather(*map(visit, visits)) for wrong in found]


@dataclass(frozen=True)
class Seen:
    outcomes: Sequence[Outcome]
    """All by which a row may describe it."""
    text: str = ""


@dataclass(frozen=True)
class Scene:
    owner: Person
    stranger: Person
    anonymous: httpx.AsyncClient
    objects: dict[str, tuple[str, str]]
    """Name -> type and UUID."""
    texts: dict[str, str]

    async def visit_in_order(self, rows: Sequence[Row]) -> list[str]:
        found = []
        for row in rows:
            found += await self.visit(row)
            if row.request in ENDS_SESSIONS:
                people = self.owner, self.stranger
                self.owner.tokens, self.stranger.tokens = await asyncio.gather(*map(sign_in, people))
        return found

    async def visit(self, row: Row) -> list[str]:
        """How the outcomes differ from the row."""
        seen = await asyncio.gather(self.ask(row, "anonymous"), self.ask(row, "stranger"))
        return differences(row, [*seen, await self.ask(row, "owner")])

    async def ask(self, row: Row, who: str) -> Seen:
        http, headers = self.caller(who)
        if not row.is_rest:
            return of_result(await http.post("/graphql", json=self.operation(row), headers=headers))
        words = {name: uuid for name, (_, uuid) in self.objects.items()} | self.texts
        method, path = Template(row.request).substitute(words).split(" ")
        body = row.body if isinstance(row.body, bytes) else Template(json.dumps(row.body)).substitute(words).encode()
        sent = headers | {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(8)} | row.headers
        if path.startswith("/video/upload"):
            sent |= TUS
        answer = await http.request(method, path, content=None if row.body is None else body, headers=sent)
        items = answer.json().get("items") if answer.text.startswith("{") else None
        listed = [] if items is None else [f"{len(items)} listed"]
        return Seen([answer.status_code, *listed], answer.text)

    def caller(self, who: str) -> tuple[httpx.AsyncClient, dict[str, str]]:
        if who == "anonymous":
            return self.anonymous, {}
        person = self.owner if who == "owner" else self.stranger
        return person.http, person.headers

    def operation(self, row: Row) -> dict[str, str]:
        ids = {name: global_id(kind, uuid) for name, (kind, uuid) in self.objects.items()}
        words = {name: json.dumps(text) for name, text in (ids | self.texts).items()}
        root, field = Template(row.request).substitute(words).split(".", 1)
        selection = "" if field.endswith("}") else shortest_selection(*target(row).split("."))
        return {"query": f"{root.lower()} {{ {field}{selection} }}"}

    async def follow(self, rows: Sequence[Row]) -> list[str]:
        """As visit: subscribe to all, and wait for the first events."""
        streams = {
            (row.request, who): asyncio.create_task(self.first_event(row, who)) for row in rows for who in row.outcomes
        }
        told = {streams[row.request, who] for row in rows for who, each in row.outcomes.items() if each != SILENT}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not all(each.done() for each in told):
                        # Again and again, because the beginning of a subscription is not confirmed.
                        await self.post_and_publish()
                        await asyncio.wait(told, timeout=0.2)
        finally:
            for each in streams.values():
                each.cancel()
            await asyncio.wait(streams.values())
        seen = {name: Seen([SILENT]) if each.cancelled() else each.result() for name, each in streams.items()}
        return [each for row in rows for each in differences(row, [seen[row.request, who] for who in row.outcomes])]

    async def first_event(self, row: Row, who: str) -> Seen:
        http, headers = self.caller(who)
        accept = {"Accept": "text/event-stream"}
        async with http.stream("POST", "/graphql", json=self.operation(row), headers=headers | accept) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    return of_result(httpx.Response(200, text=line.removeprefix("data: ")))
        return Seen(["no event"])

    async def post_and_publish(self) -> None:
        for visibility in ("unlisted", "public"):
            await call(self.owner, "PATCH", f"/media/{self.objects['public'][1]}", {"visibility": visibility})
        for name in ("public", "private"):
            await call(self.owner, "POST", f"/media/{self.objects[name][1]}/comments", {"body": "New"})


def differences(row: Row, seen: Sequence[Seen]) -> list[str]:
    return [
        f"{row.request}: {outcome!r} for {who}, but was {answer.outcomes}: {answer.text[:300]}"
        for (who, outcome), answer in zip(row.outcomes.items(), seen, strict=True)
        if outcome not in answer.outcomes
    ]


def shortest_selection(root: str, field: str) -> str:
    kind = get_named_type(ROOTS[root].fields[field].type)
    if is_leaf_type(kind):
        return ""
    is_list = isinstance(kind, GraphQLObjectType) and "nodes" in kind.fields
    return "{ nodes { __typename } }" if is_list else "{ __typename }"


def of_result(answer: httpx.Response) -> Seen:
    """What came of an operation with one field, each of whose selections has one field."""
    body = answer.json()
    if body.get("errors"):
        return Seen([body["errors"][0]["extensions"]["code"]], answer.text)
    value = body["data"]
    while isinstance(value, dict):
        (value,) = value.values()
    if isinstance(value, list):
        return Seen([OK, f"{sum(each is not None for each in value)} listed"], answer.text)
    return Seen([value] if value is None or value in PROBLEMS else [OK, value], answer.text)


async def sign_in(person: Person) -> dict[str, Any]:
    """The tokens of a new session."""
    tokens: dict[str, Any] = await call(
        person, "POST", "/auth/login", {"login": person.username, "password": person.password}
    )
    return tokens


async def call(person: Person, method: str, path: str, body: Any = None) -> Any:
    headers = person.headers | {"Idempotency-Key": secrets.token_hex(8)}
    answer = await person.http.request(method, path, json=body, headers=headers)
    assert answer.is_success, (method, path, answer.text)
    return answer.json() if answer.content else None


async def prepare(owner: Person, stranger: Person, anonymous: httpx.AsyncClient, clip: Path) -> Scene:
    """What the owner has, and what the stranger did with it."""
    await call(stranger, "PUT", f"/media/users/{owner.id}/subscription")
    public, private, first, second = await asyncio.gather(
        owner.upload(clip), owner.upload(clip, visibility="private"), sign_in(owner), sign_in(owner)
    )
    draft, private_draft = [
        await call(owner, "POST", "/media", {"title": "A", "filename": "a.mp4", "size": 9, "visibility": visibility})
        for visibility in ("public", "private")
    ]
    upload = (await owner.create("a.mp4", 10)).headers["location"]
    export = await call(owner, "POST", "/user/export")
    best, own = [
        await call(owner, "POST", "/media/playlists", {"title": "Best", "visibility": visibility})
        for visibility in ("public", "private")
    ]
    watch_later = await call(owner, "GET", "/media/playlists/watch-later")
    sessions = await call(owner, "GET", "/auth/sessions")
    others = [session["id"] for session in sessions["items"] if not session["current"]]

    outcomes = await asyncio.gather(owner.outcome(public), owner.outcome(private))
    assert [each["state"] for each in outcomes] == ["ready", "ready"]

    async def listed() -> bool:
        items = (await call(owner, "GET", f"/media/users/{owner.id}"))["items"]
        return len(items) == 5 and sum(each["state"] == "ready" for each in items) == 2

    await until(listed, what="the catalogue to be updated")
    for video in (public, private):
        await call(owner, "PUT", f"/media/{video}/like")
        await call(owner, "PUT", f"/media/playlists/{best['id']}/items/{video}", {})
    await call(owner, "POST", f"/media/{public}/views", {"position": 1})
    comment, other, hidden = [
        await call(owner, "POST", f"/media/{video}/comments", {"body": "A"}) for video in (public, public, private)
    ]
    await call(owner, "PUT", f"/media/{public}/comments/{comment['id']}/like")
    reply, _ = [
        await call(stranger, "POST", f"/media/{public}/comments", {"body": "B", "parent_id": comment["id"]})
        for _ in range(2)
    ]

    async def told() -> bool:
        exported = await call(owner, "GET", "/user/export")
        notified = [(await call(each, "GET", "/media/notifications"))["items"] for each in (owner, stranger)]
        return exported["state"] == "ready" and [len(each) for each in notified] == [2, 1]

    await until(told, what="the export and the notifications")
    notifications = (await call(owner, "GET", "/media/notifications"))["items"]
    exported = await call(owner, "GET", "/user/export")
    master = (await call(owner, "GET", f"/video/{private}"))["stream_url"]
    listing = m3u8.loads((await owner.http.get(master.replace("master", "240p"))).text)
    rendition, segment = urlsplit(listing.segments[0].uri).path.split("/")
    return Scene(
        owner,
        stranger,
        anonymous,
        objects={
            "owner": ("User", owner.id),
            "profile": ("Profile", owner.id),
            "session": ("Session", others[0]),
            "other_session": ("Session", others[1]),
            "public": ("Media", public),
            "public_video": ("Video", public),
            "private": ("Media", private),
            "private_video": ("Video", private),
            "draft": ("Media", draft["id"]),
            "private_draft": ("Media", private_draft["id"]),
            "comment": ("Comment", comment["id"]),
            "other_comment": ("Comment", other["id"]),
            "reply": ("Comment", reply["id"]),
            "private_comment": ("Comment", hidden["id"]),
            "playlist": ("Playlist", best["id"]),
            "private_playlist": ("Playlist", own["id"]),
            "watch_later": ("Playlist", watch_later["id"]),
            "notification": ("Notification", notifications[0]["id"]),
            "other_notification": ("Notification", notifications[1]["id"]),
        },
        texts={
            "username": owner.username,
            "email": owner.email,
            "password": owner.password,
            "new_password": "another correct horse",
            "stranger_password": stranger.password,
            "refresh_token": first["refresh_token"],
            "other_refresh_token": second["refresh_token"],
            "upload": upload.rpartition("/")[2],
            "rendition": rendition,
            "init": "init",
            "segment": segment.removesuffix(".m4s"),
            "poster": "poster",
            "storyboard": "storyboard",
            "signature": urlsplit(master).query,
            "export": export["id"],
            "export_signature": urlsplit(exported["download_url"]).query,
        },
    )
