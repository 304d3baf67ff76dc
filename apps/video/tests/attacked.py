"""A worker that runs a sleeping tool, and an attacking tool beside it: `attacked.py ATTACK '{"source": ...}'`.

Prints the outcome of the attack, and whether the other tool survived, as JSON. It only needs the modules of the
containment, so that it can run as any user, and in a pod.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from kinora_video import sandbox, syscalls
from kinora_video.sandbox import Limits


def folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(dir=os.environ.get("KINORA_WORK_DIR"))


async def main(attack: str, given: dict[str, Any]) -> None:
    await sandbox.check()
    allowed = [syscalls.number(name) for name in (*syscalls.ALLOWED, "connect", "fcntl", "prlimit64")]
    given["numbers"] = {"allowed": allowed, "add_key": syscalls.number("add_key")}
    with folder() as own, folder() as other:
        async with sandbox.start(["sleep", "100"], Limits(), folder=Path(other)) as sibling:
            given["sibling"] = sibling.pid
            command = ["python3", "-I", "-S", "-c", attack, json.dumps(given)]
            limits = Limits(wall_seconds=90, threads=32)
            end = await sandbox.run(command, limits, folder=Path(own), source=given["source"])
            survived = await sibling.poll(0) is None
    print(json.dumps({"code": end.code, "stdout": end.stdout.decode(), "stderr": end.stderr, "survived": survived}))


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
