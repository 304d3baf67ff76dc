import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest

from kinora_kit.testing import eventually

Running = Any
Run = Callable[..., contextlib.AbstractAsyncContextManager[Running]]

TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.fixture(scope="module")
async def service(running: Run, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("example"), max_body_bytes="1000") as service:
        yield service


async def test_healthz_and_readyz_answer_200(service: Running) -> None:
    assert (await service.client.get("/healthz")).json() == {"status": "alive"}

    async def well() -> bool:
        answer = await service.client.get("/readyz")
        assert answer.json() == {"status": "ready", "process": "ok", "dependencies": {"good": "ok"}}
        return bool(answer.status_code == 200)

    await eventually(well)


async def test_readyz_stays_200_with_unavailable_dependency(running: Run, tmp_path: Path) -> None:
    async with running(tmp_path, broken="true") as service:

        async def reported() -> bool:
            answer = await service.client.get("/readyz")
            assert answer.json() == {
                "status": "ready",
                "process": "ok",
                "dependencies": {
                    "good": "ok",
                    "broken": "failed (ConnectionError)",
                    "slow": "no answer within 2 s",
                },
            }
            return bool(answer.status_code == 200)

        await eventually(reported)
        metrics = (await service.client.get("/metrics")).text
        assert {line for line in metrics.splitlines() if line.startswith("kinora_dependency_up{")} == {
            'kinora_dependency_up{dependency="good"} 1.0',
            'kinora_dependency_up{dependency="broken"} 0.0',
            'kinora_dependency_up{dependency="slow"} 0.0',
        }
        assert "do-not-print-me" not in service.output.read_text()


async def counted(service: Running, labels: str) -> float:
    text = (await service.client.get("/metrics")).text
    found = re.search(rf"^kinora_http_request_seconds_count{{{re.escape(labels)}}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/things/71", 'method="GET",route="/things/{n}",status="200"'),
        ("GET", "/things/x", 'method="GET",route="/things/{n}",status="422"'),
        ("DELETE", "/things/71", 'method="DELETE",route="/things/{n}",status="405"'),
        ("GET", "/outer/inner/71", 'method="GET",route="/outer/inner/{n}",status="200"'),
        ("GET", "/sub/71", 'method="GET",route="/sub/{n}",status="200"'),
        ("GET", "/fail/defect", 'method="GET",route="/fail/{kind}",status="500"'),
        ("GET", "/nothing/71", 'method="GET",route="unmatched",status="404"'),
        ("PROPFIND", "/things/71", 'method="OTHER",route="/things/{n}",status="405"'),
    ],
)
async def test_request_metrics_are_labelled_by_route_template(
    service: Running, method: str, path: str, labels: str
) -> None:
    before = await counted(service, labels)
    await service.client.request(method, path)

    async def once_more() -> bool:
        return await counted(service, labels) == before + 1

    await eventually(once_more)
    assert "71" not in re.findall(r'route="[^"]*"', (await service.client.get("/metrics")).text)


async def test_request_id_of_the_client_is_kept_and_logged(service: Running) -> None:
    given = f"gateway-{uuid4()}"
    answer = await service.client.get("/things/1", headers={"X-Request-Id": given})
    assert answer.headers.get_list("x-request-id") == [given]
    (line,) = await service.logged(given)
    assert (line["event"], line["method"], line["path"], line["status"]) == ("request", "GET", "/things/1", 200)
    assert (line["service"], line["level"]) == ("example", "info")


async def test_only_refused_checks_of_the_gateway_are_logged(service: Running) -> None:
    ids = [f"check-{uuid4()}" for _ in range(2)]
    for given, headers, status in zip(ids, ({"X-User-Id": str(uuid4())}, {}), (200, 401), strict=True):
        answer = await service.client.get("/thing_verify", headers={**headers, "X-Request-Id": given})
        assert answer.status_code == status
    await service.logged(ids[1])
    assert ids[0] not in service.output.read_text()


@pytest.mark.parametrize("hostile", [b"", b"x" * 65, b'"},{"level":"error', b"a b", b"\xff", b"${jndi:ldap}"])
async def test_malformed_request_id_is_replaced(service: Running, hostile: bytes) -> None:
    answer = await service.client.get("/things/1", headers=[(b"X-Request-Id", hostile)])
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


async def test_traceparent_is_kept_unless_malformed(service: Running) -> None:
    async def trace(given: str) -> str:
        return str((await service.client.get("/things/1", headers={"traceparent": given})).json()["trace"])

    assert await trace(TRACE) == TRACE
    for malformed in ("", "00-1-2-3", TRACE.upper(), TRACE + "-x"):
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", made := await trace(malformed))
        assert made != malformed


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/things/1/", 404, "not_found"),
        ("DELETE", "/things/1", 405, "method_not_allowed"),
        ("GET", "/fail/domain", 409, "name_taken"),
        ("GET", "/fail/forbidden", 403, "forbidden"),
        ("GET", "/fail/throttled", 429, "too_many_requests"),
        ("GET", "/fail/remote", 422, "name_taken"),
        ("GET", "/fail/remote-outage", 503, "unavailable"),
        ("GET", "/fail/remote-defect", 500, "internal"),
        ("GET", "/fail/http", 418, "http_error"),
        ("GET", "/fail/database", 503, "unavailable"),
        ("GET", "/fail/redis", 503, "unavailable"),
        ("GET", "/fail/defect", 500, "internal"),
        ("GET", "/fail/missing-file", 500, "internal"),
        ("GET", "/me", 401, "not_signed_in"),
        ("GET", "/things/x", 422, "invalid_input"),
    ],
)
async def test_errors_are_problem_documents(
    *, service: Running, method: str, path: str, status: int, code: str
) -> None:
    answer = await service.client.request(method, path)
    document = answer.json()
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "detail", "instance", "request_id"} <= document.keys()
    assert (document["type"], document["status"], document["code"]) == (f"urn:kinora:problem:{code}", status, code)
    assert document["instance"] == path
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "do-not-print-me" not in answer.text


async def test_problem_document_has_fields_and_headers(service: Running) -> None:
    assert (await service.client.get("/fail/remote")).json()["errors"] == [{"field": "name", "message": "Taken"}]
    assert (await service.client.get("/fail/http")).json()["title"] == "teapot"
    assert (await service.client.get("/fail/database")).headers["retry-after"] == "5"
    assert (await service.client.get("/fail/throttled")).headers["retry-after"] == "7"
    assert (await service.client.get("/me")).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("DELETE", "/things/1", 405, "GET, HEAD, OPTIONS, PUT"),
        ("PROPFIND", "/things/1", 405, "GET, HEAD, OPTIONS, PUT"),
        ("HEAD", "/raw", 405, "OPTIONS, POST"),
        # Requests that no route of the gateway matched reach no handler, whatever the method.
        ("DELETE", "/unrouted/things/1", 405, "GET, HEAD, OPTIONS, PUT"),
        ("OPTIONS", "/unrouted/things/1", 204, "GET, HEAD, OPTIONS, PUT"),
        ("GET", "/unrouted/things/1", 404, None),
        ("PUT", "/unrouted/things/1", 404, None),
        ("HEAD", "/unrouted/things/1", 404, None),
        ("HEAD", "/unrouted/elsewhere", 404, None),
        ("GET", "/unrouted/elsewhere", 405, "HEAD, OPTIONS"),
        ("GET", "/unrouted/nothing", 404, None),
        ("OPTIONS", "/unrouted/nothing", 404, None),
        ("GET", "/unrouted/unrouted/things/1", 404, None),
        ("GET", "/unrouted/%2e%2e/things/1", 404, None),
        ("GET", "/unrouted", 404, None),
    ],
)
async def test_wrong_method_is_405_with_every_allowed_method(
    *, service: Running, method: str, path: str, status: int, allow: str | None
) -> None:
    url = service.client.base_url.copy_with(raw_path=path.encode())
    answer = await service.client.request(method, url)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    if status != 204 and method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["instance"] == unquote(path.removeprefix("/unrouted"))


@pytest.mark.parametrize("path", ["/things/1", "/things/x", "/nothing", "/who", "/fail/domain", "/healthz", "/metrics"])
async def test_head_returns_headers_of_get(service: Running, path: str) -> None:
    got, head = await service.client.get(path), await service.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    own = {"date", "x-request-id"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in got.headers.items() if k not in own
    }


async def test_head_of_a_stream_stops_the_stream(service: Running) -> None:
    answer = await service.client.head("/endless")
    assert (answer.status_code, answer.content) == (200, b"")
    await eventually(lambda: "the stream has ended" in service.output.read_text())


async def test_unhandled_error_is_logged_and_hidden_from_the_client(service: Running) -> None:
    given = f"defect-{uuid4()}"
    answer = await service.client.get("/fail/defect", headers={"X-Request-Id": given})
    assert answer.json()["detail"] == "Something went wrong on our side"
    failed, _ = await service.logged(given)
    assert "ZeroDivisionError" in failed["exception"]
    assert failed["level"] == "error"


async def test_error_after_response_start_closes_the_connection(service: Running) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.get("/breaks-off")


async def test_invalid_input_lists_fields_without_values(service: Running) -> None:
    sent = {"name": "longer-than-five", "password": ["do-not-print-me"], "size": -1}
    answer = await service.client.post("/things", json=sent)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["name", "password", "size"]
    for text in (answer.text, service.output.read_text()):
        assert "longer-than-five" not in text
        assert '["do-not-print-me"]' not in text


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"name=ada"])
async def test_body_that_is_no_object_gets_what_to_send(service: Running, content_type: str, body: bytes) -> None:
    answer = await service.client.post("/things", content=body, headers={"Content-Type": content_type})
    if (body, content_type) == (b"name=ada", "application/json"):
        assert answer.json()["code"] == "malformed_request"
        return
    assert answer.status_code == 422
    assert answer.json()["detail"] == "Send a JSON object, with Content-Type: application/json"


async def test_messages_name_no_type_of_python(service: Running) -> None:
    answer = await service.client.post("/things", json={"name": "ada", "labels": "a", "notes": 1})
    assert answer.json()["detail"] == "labels: Input should be a list; notes: Input should be an object"


async def test_oversized_body_is_rejected_by_length_and_when_chunked(service: Running) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    for path in ("/raw", "/things"):
        for content in (b"x" * 1001, chunks()):
            answer = await service.client.post(path, content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), path
    assert (await service.client.post("/raw", content=b"x" * 1000)).json() == {"size": 1000}


async def test_oversized_content_length_is_rejected_before_the_body(service: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"POST /raw HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_caller_comes_from_gateway_headers(service: Running) -> None:
    user_id = str(uuid4())
    assert (await service.client.get("/who")).json() == {"user_id": None}
    assert (await service.client.get("/who", headers={"X-User-Id": user_id})).json() == {"user_id": user_id}
    assert (await service.client.get("/me", headers={"X-User-Id": user_id})).json() == {"user_id": user_id}
    assert (await service.client.get("/who", headers={"X-User-Id": "1"})).status_code == 401


async def test_sigterm_fails_readyz_and_finishes_requests_in_flight(running: Run, tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with running(tmp_path, drain_delay_seconds="1") as service:
        slow = asyncio.create_task(service.client.get("/slow", params={"until": str(until)}))
        await eventually(until.with_suffix(".begun").exists)
        service.process.send_signal(signal.SIGTERM)

        async def draining() -> bool:
            answer = await service.client.get("/readyz")
            return bool(answer.status_code == 503 and answer.json()["process"] == "draining")

        await eventually(draining)
        assert (await service.client.get("/things/1")).status_code == 200, "requests are served until the port closes"

        async def closed() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            except OSError:
                return True
            writer.close()
            return False

        await eventually(closed)
        assert not slow.done()
        until.touch()
        assert (await slow).json() == {"status": "finished"}
        await eventually(service.ended)
        assert "unwired" in service.output.read_text()


async def test_requests_are_aborted_after_the_drain_timeout(running: Run, tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with running(tmp_path, drain_timeout_seconds="1") as service:
        slow = asyncio.create_task(service.client.get("/slow", params={"until": str(until)}))
        await eventually(until.with_suffix(".begun").exists)
        service.process.send_signal(signal.SIGTERM)
        await eventually(service.ended, seconds=10)
        with contextlib.suppress(httpx.TransportError):  # an aborted response is as good as a failure
            assert (await slow).status_code >= 500


async def test_second_signal_skips_the_drain_delay(running: Run, tmp_path: Path) -> None:
    async with running(tmp_path, drain_delay_seconds="60") as service:
        service.process.send_signal(signal.SIGTERM)

        async def draining() -> bool:
            return bool((await service.client.get("/readyz")).status_code == 503)

        await eventually(draining)
        service.process.send_signal(signal.SIGTERM)
        await eventually(service.ended, seconds=10)
