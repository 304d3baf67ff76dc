"""Refresh by OAuth clients (RFC 6749, section 6), and authorization server metadata (RFC 8414)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    import httpx

    from conftest import Api

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}


async def post(api: Api, body: str | bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return await api.http.post("/auth/refresh", content=body, headers={**FORM, **(headers or {})})


async def test_refresh_by_form_returns_the_same_as_by_json(api: Api) -> None:
    device = await (await api.person()).sign_in()
    answer = await post(api, f"grant_type=refresh_token&refresh_token={device.refresh_token}&client_id=app&scope=")
    assert answer.status_code == 200
    assert (answer.headers["cache-control"], answer.json()["token_type"]) == ("no-store", "Bearer")
    by_json = (await device.refresh()).json()
    for name in ("access_token", "refresh_token"):
        assert answer.json()[name] == by_json[name]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "invalid_request"),
        ("refresh_token={token}", "invalid_request"),
        ("grant_type=refresh_token", "invalid_request"),
        ("grant_type=refresh_token&refresh_token=", "invalid_request"),
        ("grant_type=refresh_token&refresh_token={token}&refresh_token={token}", "invalid_request"),
        (b"grant_type=refresh_token&refresh_token=%ff", "invalid_request"),
        (b"grant_type=refresh_token&refresh_token=\xff", "invalid_request"),
        ("&".join(f"x{number}=1" for number in range(30)), "invalid_request"),
        ("grant_type=password&username=a&password=b", "unsupported_grant_type"),
        ("grant_type=refresh_token&refresh_token={token}&scope=admin", "invalid_scope"),
        ("grant_type=refresh_token&refresh_token=made-up", "invalid_grant"),
        ('{"refresh_token": "{token}"}', "invalid_request"),
    ],
)
async def test_refresh_by_form_returns_oauth_errors(api: Api, body: Any, error: str) -> None:
    device = await (await api.person()).sign_in()
    answer = await post(api, body.replace("{token}", device.refresh_token) if isinstance(body, str) else body)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert set(answer.json()) == {"error", "error_description"}
    assert answer.headers["cache-control"] == "no-store"
    assert (await device.refresh()).status_code == 200


async def test_refresh_by_form_ends_session_for_reused_token(api: Api) -> None:
    device = await (await api.person()).sign_in()
    await device.refresh((await device.refresh()).json()["refresh_token"])
    answer = await post(api, f"grant_type=refresh_token&refresh_token={device.refresh_token}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert (await device.verify()).status_code == 401


async def test_metadata_lists_the_endpoints(api: Api) -> None:
    metadata = (await api.http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == api.settings.public_url
    assert metadata["response_types_supported"] == []
    keys = await api.http.get(urlsplit(metadata["jwks_uri"]).path)
    assert keys.json()["keys"]
    device = await (await api.person()).sign_in()
    body = f"grant_type={metadata['grant_types_supported'][0]}&refresh_token={device.refresh_token}"
    answer = await api.http.post(urlsplit(metadata["token_endpoint"]).path, content=body, headers=FORM)
    assert answer.status_code == 200
