"""GraphQL operations under load: CPU by process, compared with their execution alone and with Apollo Server."""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from pathlib import Path

import psutil
from client import Person, global_id, register
from clips import make
from environment import load as variables_of
from measure import GATEWAY_PORT, LOAD_SECONDS, ROOT, Load, Request, Row, saturate

NESTED = """
    query ($id: ID!) {
      me { user { username } }
      media(id: $id) { title state owner { username } video { streamUrl posterUrl duration } }
    }
"""
NESTED_CLIENTS = 10

FEED = (ROOT / "apps" / "graphql" / "operations" / "Feed.graphql").read_text().strip()
INTERPRETED = FEED.removesuffix("}") + " __typename @skip(if: true) }"
"""The same result, without a plan."""
VARIABLES = {"first": 20}
CLIENTS = 50
OWNERS, VIDEOS_EACH = 4, 5
VIEWERS = 5
"""The rate limit of each user allows for 1,000 feeds in a minute."""

BENCH = Path(__file__).parent
MODULES = ROOT / ".kinora" / "npm-bench" / "node_modules"


async def bench(folder: Path) -> list[Row]:
    clip = make("short", folder).path
    async with people(OWNERS) as owners, people(VIEWERS) as viewers:
        videos = list(chain.from_iterable(await asyncio.gather(*(upload(owner, clip) for owner in owners))))
        await asyncio.gather(*(watch(viewer, videos) for viewer in viewers))
        return [*await bench_nested(viewers[0], videos[0]), *await bench_feed(viewers)]


@contextlib.asynccontextmanager
async def people(count: int) -> AsyncIterator[list[Person]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(register()) for _ in range(count)]


async def upload(owner: Person, clip: Path) -> list[str]:
    videos = [await owner.upload(clip) for _ in range(VIDEOS_EACH)]
    for video in videos:
        if (last := await owner.outcome(video))["state"] != "ready":
            raise SystemExit(f"the clip was not transcoded: {last}")
    return videos


async def watch(viewer: Person, videos: Sequence[str]) -> None:
    """Like half of the videos, and watch a second of each."""
    for number, video in enumerate(videos):
        media = {"id": global_id("Media", video)}
        if number % 2:
            await viewer.graphql("mutation ($id: ID!) { like(mediaId: $id) { __typename } }", media)
        await viewer.graphql(
            "mutation ($id: ID!) { recordView(input: {mediaId: $id, position: 1}) { __typename } }", media
        )


async def bench_nested(person: Person, video: str) -> list[Row]:
    body = {"query": NESTED, "variables": {"id": global_id("Media", video)}}
    nested = Request.of(GATEWAY_PORT, "/graphql", person.headers, body)
    await saturate(nested, clients=NESTED_CLIENTS)  # warm-up
    public = await saturate(Request.of(GATEWAY_PORT, "/nowhere", {}), clients=NESTED_CLIENTS)
    return rows(f"nested query, {NESTED_CLIENTS} clients", await saturate(nested, clients=NESTED_CLIENTS), public)


async def bench_feed(viewers: Sequence[Person]) -> list[Row]:
    headers = [viewer.headers for viewer in viewers]
    digest = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(FEED.encode()).hexdigest()}}
    whole = {"query": FEED, "variables": VARIABLES}
    trusted = {"extensions": digest, "variables": VARIABLES}

    def requests(body: object, senders: Sequence[dict[str, str]], port: int = GATEWAY_PORT) -> list[Request]:
        return [Request.of(port, "/graphql", sender, body) for sender in senders]

    await saturate(*requests(trusted, headers), clients=CLIENTS)  # warm-up
    public = await saturate(Request.of(GATEWAY_PORT, "/nowhere", {}), clients=CLIENTS)
    found: list[Row] = []
    by_hash = {}
    for who, senders in (("anonymous", [{}]), ("signed in", headers)):
        load = await saturate(*requests(whole, senders), clients=CLIENTS)
        found += rows(f"feed(20), {who}, {CLIENTS} clients", load, public)
        by_hash[who] = await saturate(*requests(trusted, senders), clients=CLIENTS)
        token = senders[0].get("Authorization", "").removeprefix("Bearer ") or None
        alone, interpreted = await in_process(FEED, token), await in_process(INTERPRETED, token)
        spent = by_hash[who].cpu["graphql"]
        found += [
            Row(f"  graphql, trusted document, {who}", f"{spent:.2f} ms", f"{alone:.2f} ms in process", spent / alone),
            Row("  its plan, in process", f"{alone:.2f} ms", f"{interpreted:.2f} ms graphql-core", alone / interpreted),
        ]
    async with apollo() as (port, process):
        register_document = requests(whole | trusted, [{}], port)
        for who, senders in (("anonymous", [{}]), ("signed in", headers)):
            await saturate(*register_document, clients=1, processes={})
            await saturate(*requests(trusted, senders, port), clients=CLIENTS, processes={})  # warm-up
            load = await saturate(*requests(trusted, senders, port), clients=CLIENTS, processes={"apollo": process})
            spent, theirs = by_hash[who].cpu["graphql"], load.cpu["apollo"]
            latency = f"p50 {load.at(50):.0f} ms, p99 {load.at(99):.0f} ms without gateway"
            found += [
                Row(f"  graphql, trusted, {who}", f"{spent:.2f} ms", f"{theirs:.2f} ms Apollo Server", spent / theirs),
                Row(f"  Apollo Server, trusted, {who}", latency, f"{public.rate:.0f}/s open", load.rate / public.rate),
            ]
    return found


def rows(what: str, load: Load, public: Load) -> list[Row]:
    cpu = sum(load.cpu.values())
    measured = f"{load.rate:.0f}/s, p50 {load.at(50):.0f} ms, p99 {load.at(99):.0f} ms"
    return [
        Row(what, measured, f"{public.rate:.0f}/s open route", load.rate / public.rate),
        *(
            Row(f"  CPU of {name}", f"{spent:.2f} ms", f"{cpu:.1f} ms of all", spent / cpu)
            for name, spent in load.cpu.items()
        ),
    ]


async def in_process(document: str, token: str | None) -> float:
    """CPU milliseconds of one feed, executed without HTTP."""
    operation = {"query": document, "variables": VARIABLES, "token": token, "tasks": CLIENTS, "seconds": LOAD_SECONDS}
    process = await asyncio.create_subprocess_exec(
        *(ROOT / "local" / "with-env", "graphql", "--", "python", BENCH / "in_process.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(operation).encode())
    return float(output.split()[-1])  # after messages of the log


@contextlib.asynccontextmanager
async def apollo() -> AsyncIterator[tuple[int, psutil.Process]]:
    """The port of Apollo Server, and its process."""
    services = variables_of("graphql")
    process = await asyncio.create_subprocess_exec(
        *("node", BENCH / "apollo.cjs", ROOT / "apps" / "graphql" / "schema.graphql", ROOT / "platform" / "protos"),
        *(services[f"KINORA_{name}_GRPC"] for name in ("AUTH", "MEDIA", "VIDEO")),
        env={**os.environ, "NODE_PATH": str(MODULES), "NODE_ENV": "production"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        yield int(address.rstrip("/").rpartition(":")[2]), psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()
