"""The export of one's own data, through the gateway: by REST and by GraphQL."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from client import GATEWAY, Person

from kinora_kit.testing import eventually

pytestmark = pytest.mark.e2e


async def test_export_has_what_each_service_knows(person: Person) -> None:
    created = await person.create("clip.mp4", 1000)
    assert created.status_code == 201
    await person.http.post(
        "/media/playlists", json={"title": "Mine"}, headers={**person.headers, "Idempotency-Key": "1"}
    )
    requested = await person.http.post("/user/export", headers=person.headers)
    assert requested.status_code == 202

    async def export() -> Any:
        fields = "state progress recordCount size downloadUrl"
        return (await person.graphql(f"{{ export {{ {fields} }} }}"))["export"]

    async def is_ready() -> bool:
        return bool((await export())["state"] == "READY")

    await eventually(is_ready)
    found = await export()
    same = (await person.get("/user/export")).json()
    assert (same["id"], same["state"], same["progress"]) == (requested.json()["id"], "ready", 1)
    # Without a token, as browsers download it.
    async with httpx.AsyncClient(base_url=GATEWAY) as browser:
        file = await browser.get(found["downloadUrl"])
        assert (file.status_code, file.headers["content-type"]) == (200, "application/gzip")
        assert int(file.headers["content-length"]) == found["size"]
        records = [json.loads(line) for line in gzip.decompress(file.content).splitlines()]
        assert {"account", "session", "media", "playlist", "video"} <= {each["kind"] for each in records}
        assert len(records) == found["recordCount"]
        assert person.password not in str(records)

        refused = await browser.get(found["downloadUrl"][:-1])
        assert (refused.status_code, refused.json()["code"]) == (403, "link_expired")
        await person.http.post("/auth/logout", headers=person.headers)
        assert (await browser.get(found["downloadUrl"])).status_code == 404, "it ends with its session"
    login = {"login": person.username, "password": person.password}
    person.tokens = (await person.http.post("/auth/login", json=login)).json()
