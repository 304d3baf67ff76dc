"""Demo of the whole platform: register, upload by tus, follow the progress, and print a URL that plays.

Uses only the public API, through the gateway, with publicly available client libraries.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from environment import MADE
from gql import Client, GraphQLRequest
from gql.transport.exceptions import TransportClosed, TransportConnectionFailed, TransportError
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

# The native platform by default; `make cluster-demo` and docker-compose.yml set another one. In a container, the
# gateway is not reachable at the public address that the services put into their responses.
GATEWAY = os.environ.get("KINORA_GATEWAY", "http://localhost:8080")
PUBLIC_URL = os.environ.get("KINORA_PUBLIC_URL", GATEWAY)
RECONNECTS, RECONNECT_SECONDS = 10, 1
CHUNK_BYTES = 8 << 20
CLIP = MADE / "demo" / "clip.mp4"


@dataclass(frozen=True)
class Commands:
    """The commands that the output suggests; they depend on how the platform runs."""

    another: str
    status: str
    down: str
    delete: str


DELETE = f"KINORA_GATEWAY={GATEWAY} .kinora/venv/bin/python local/demo.py --delete"
if "KINORA_PUBLIC_URL" in os.environ:
    COMMANDS = Commands(
        another='docker compose run --rm --volume "$PWD/my.mp4:/my.mp4" demo /my.mp4',
        status="docker compose ps --all",
        down="docker compose down",
        delete="docker compose run --rm demo --delete",
    )
elif "KINORA_GATEWAY" in os.environ:
    COMMANDS = Commands("make cluster-demo FILE=my.mp4", "make cluster-status", "make cluster-down", DELETE)
else:
    COMMANDS = Commands("make demo FILE=my.mp4", "make status", "make down", DELETE)

console = Console(highlight=False)

REGISTER = """
    mutation ($username: String!, $email: String!, $password: String!) {
      register(input: {username: $username, email: $email, password: $password}) { __typename }
      login(input: {login: $username, password: $password}) {
        __typename
        ... on LoginPayload { tokens { accessToken } }
      }
    }
"""
CREATE = """
    mutation ($title: String!, $filename: String!, $size: BigInt!) {
      createUpload(input: {title: $title, filename: $filename, size: $size, visibility: PUBLIC}) {
        __typename
        ... on CreateUploadPayload { mediaId videoId uploadUrl }
        ... on Problem { code message }
      }
    }
"""
FOLLOW = """
    subscription ($id: ID!) {
      videoProgress(id: $id) {
        state progress timeLeft renditions { name progress } failure { code detail }
      }
    }
"""
WATCH = "query ($id: ID!) { media(id: $id) { video { streamUrl renditions { name width height } } } }"


class Failure(Exception):
    """An error message for the terminal."""


def clip_path(given: str | None) -> Path:
    """The file to upload: the given one, or a generated test clip with sound."""
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise Failure(f"File not found: {given}.")
        return path
    if not CLIP.exists():
        console.print("Generating a clip of 20 s (1080p, with sound).")
        CLIP.parent.mkdir(parents=True, exist_ok=True)
        part = CLIP.with_suffix(".part.mp4")
        picture, tone = "testsrc2=size=1920x1080:rate=30", "sine=frequency=440:beep_factor=4"
        inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone, "-t", "20"]
        codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]
        subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, *codecs, part], check=True)
        part.replace(CLIP)
    return CLIP


def reachable(url: str) -> str:
    """A public address of the platform, at the gateway's address from here."""
    return GATEWAY + url.removeprefix(PUBLIC_URL)


async def send(path: Path, url: str, token: str, show: Callable[[int], None]) -> None:
    """Upload by tus, resuming after connection errors; ``show`` receives the uploaded bytes."""
    client = TusClient(GATEWAY, headers={"Authorization": f"Bearer {token}"})
    uploader = client.async_uploader(str(path), url=url, chunk_size=CHUNK_BYTES, retries=5, retry_delay=1)
    size = uploader.get_file_size()  # type: ignore[no-untyped-call]
    while uploader.offset < size:
        await uploader.upload_chunk()  # type: ignore[no-untyped-call]
        show(uploader.offset)


async def states(token: str, video: str) -> AsyncIterator[dict[str, Any]]:
    """The states of a video until the final one; reconnects when the connection breaks, as in a rollout."""
    broken = 0
    while True:
        socket = WebsocketsTransport(
            f"{GATEWAY.replace('http', 'ws')}/graphql",
            subprotocols=["graphql-transport-ws"],
            init_payload={"authorization": f"Bearer {token}"},
        )
        try:
            async with Client(transport=socket) as live:
                async for answer in live.subscribe(GraphQLRequest(FOLLOW, variable_values={"id": video})):
                    yield answer["videoProgress"]
            return
        except (TransportClosed, TransportConnectionFailed):
            broken += 1
            if broken > RECONNECTS:
                raise
            await asyncio.sleep(RECONNECT_SECONDS)


async def follow(token: str, video: str, progress: Progress) -> dict[str, Any]:
    """Show each rendition's progress until the video is ready; returns the final state."""
    tasks: dict[str, TaskID] = {}
    last: dict[str, Any] = {}
    playable = False
    async for last in states(token, video):
        for rendition in last["renditions"]:
            name = rendition["name"]
            if name not in tasks:
                tasks[name] = progress.add_task(f"  {name}", total=1)
            progress.update(tasks[name], completed=rendition["progress"])
        if last["state"] == "PLAYABLE":
            left = f", about {last['timeLeft']:.0f} s left" if last["timeLeft"] is not None else ""
            if not playable:
                progress.console.print(f"The first seconds are already playable{left}.")
                playable = True
    return last


async def demo(given: str | None) -> None:
    path = clip_path(given)
    username = f"demo-{secrets.token_hex(4)}"
    account = {
        "username": username,
        "email": f"{username}@example.org",
        "password": secrets.token_hex(16),
    }
    async with Client(transport=HTTPXAsyncTransport(f"{GATEWAY}/graphql", timeout=30)) as anonymous:
        answer = await anonymous.execute(GraphQLRequest(REGISTER, variable_values=account))
    if answer["login"]["__typename"] != "LoginPayload":
        raise Failure(f"The account could not be created: {answer}")
    token = answer["login"]["tokens"]["accessToken"]
    console.print(f"Registered [bold]{username}[/] with the password [bold]{account['password']}[/], and signed in.")
    console.print(
        f"Delete the account and its videos: {COMMANDS.delete} {username} {account['password']}", soft_wrap=True
    )

    bearer = {"Authorization": f"Bearer {token}"}
    async with Client(transport=HTTPXAsyncTransport(f"{GATEWAY}/graphql", headers=bearer, timeout=30)) as api:
        wanted = {"title": path.stem, "filename": path.name, "size": path.stat().st_size}
        created = (await api.execute(GraphQLRequest(CREATE, variable_values=wanted)))["createUpload"]
        if created["__typename"] != "CreateUploadPayload":
            raise Failure(f"The upload was rejected ({created['code']}): {created['message']}")
        columns = (TextColumn("{task.description:20}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            task = progress.add_task(f"Uploading {path.name}"[:20], total=path.stat().st_size)

            def show(offset: int) -> None:
                progress.update(task, completed=offset)

            try:
                async with asyncio.TaskGroup() as together:
                    following = together.create_task(follow(token, created["videoId"], progress))
                    together.create_task(send(path, reachable(created["uploadUrl"]), token, show))
            except ExceptionGroup as broken:
                raise broken.exceptions[0] from None
            last = following.result()
        if last["state"] != "READY":
            failure = last.get("failure") or {"code": last["state"], "detail": ""}
            raise Failure(f"The video cannot be played ({failure['code']}): {failure['detail']}")
        video = (await api.execute(GraphQLRequest(WATCH, variable_values={"id": created["mediaId"]})))["media"]["video"]
    check_playback(reachable(video["streamUrl"]))
    sizes = ", ".join(item["name"] for item in video["renditions"] if item["height"])
    player = next((f"{name} " for name in ("mpv", "vlc", "ffplay") if shutil.which(name)), "")
    console.print(f"\nReady in {sizes}. It plays here, in any HLS player:\n")
    console.print(f"  {player}[bold]{video['streamUrl']}[/]\n", soft_wrap=True)
    console.print(f"Upload your own file: {COMMANDS.another}", soft_wrap=True)
    console.print(f"Show what runs: {COMMANDS.status}\nStop it: {COMMANDS.down}")


def check_playback(url: str) -> None:
    """Decode the first seconds, as a player would."""
    outcome = subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", "-t", "4", "-i", url, "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode != 0 or outcome.stderr:
        raise Failure(f"The stream does not play: {outcome.stderr.strip()[:500]}")


def delete(username: str, password: str) -> None:
    """Delete an account and its videos."""
    with httpx.Client(base_url=GATEWAY, timeout=30) as http:
        signed_in = http.post("/auth/login", json={"login": username, "password": password})
        if signed_in.is_error:
            raise Failure(f"{username} cannot sign in: {signed_in.json()['detail']}")
        bearer = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
        http.request("DELETE", "/user/profile", headers=bearer, json={"current_password": password}).raise_for_status()
    console.print(f"{username} and its videos are deleted.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", help="the video to upload; generated if omitted")
    parser.add_argument(
        "--delete", nargs=2, metavar=("USERNAME", "PASSWORD"), help="only delete this account and its videos"
    )
    arguments = parser.parse_args()
    try:
        if arguments.delete:
            delete(*arguments.delete)
        else:
            asyncio.run(demo(arguments.file))
    except Failure as failure:
        console.print(f"[red]✗[/] {failure}", soft_wrap=True)
        return 1
    except (TransportError, TusCommunicationError, httpx.HTTPError, OSError, subprocess.CalledProcessError) as error:
        console.print(f"[red]✗[/] {type(error).__name__}: {error}", soft_wrap=True)
        console.print(f"`{COMMANDS.status}` shows which process is unhealthy.")
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. The partial upload stays until the account is deleted.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
