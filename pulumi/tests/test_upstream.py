"""Upstream files: only complete files with the right checksum are accepted."""

import dataclasses
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kinora_environment import upstream
from kinora_environment.upstream import Unavailable, Upstream, obtain

CONTENT = b"kind: CustomResourceDefinition\n" * 10_000
FILE = "crd.yaml"


class Publisher(ThreadingHTTPServer):
    """Serves ``content`` with ``length`` as Content-Length; counts requests."""

    content = CONTENT
    length = len(CONTENT)
    asked = 0


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path != f"/v1/{FILE}":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.content)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def published(publisher: Publisher) -> Upstream:
    return Upstream(
        name="project",
        version="1",
        url=f"http://127.0.0.1:{publisher.server_port}/v1",
        copies=["project-1"],
        files={FILE: hashlib.sha256(CONTENT).hexdigest()},
    )


def here(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def test_file_is_fetched_once(published: Upstream, publisher: Publisher, tmp_path: Path) -> None:
    file, how = obtain(published, FILE, tmp_path, [])
    assert file.read_bytes() == CONTENT
    assert how == f"fetched from {published.url}/{FILE}"
    assert obtain(published, FILE, tmp_path, []) == (file, "was there")
    assert publisher.asked == 1
    assert here(tmp_path) == [file]


def test_wrong_checksum_is_rejected_and_discarded(published: Upstream, publisher: Publisher, tmp_path: Path) -> None:
    publisher.content = CONTENT.replace(b"Custom", b"Costum", 1)
    with pytest.raises(Unavailable, match=re.escape(f"{published.url}/{FILE} has changed")):
        obtain(published, FILE, tmp_path, [])
    assert here(tmp_path) == []


def test_partial_download_is_discarded(published: Upstream, publisher: Publisher, tmp_path: Path) -> None:
    publisher.content = CONTENT[: len(CONTENT) // 2]
    with pytest.raises(Unavailable, match="cannot be fetched"):
        obtain(published, FILE, tmp_path, [])
    assert here(tmp_path) == []


def test_fetch_error_names_url_and_target(published: Upstream, tmp_path: Path) -> None:
    nobody = dataclasses.replace(published, url="http://127.0.0.1:9/v1")
    with pytest.raises(Unavailable) as refused:
        obtain(nobody, FILE, tmp_path, [])
    assert f"http://127.0.0.1:9/v1/{FILE}" in str(refused.value)
    assert str(tmp_path / "project" / FILE) in str(refused.value)


def test_local_copy_is_preferred(published: Upstream, publisher: Publisher, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "project-1" / FILE
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    file, how = obtain(published, FILE, tmp_path / "into", [tmp_path / "nothing", tmp_path / "copies"])
    assert file == tmp_path / "into" / "project" / FILE
    assert file.read_bytes() == CONTENT
    assert how == f"copied from {copy.parent}"
    assert publisher.asked == 0


def test_copy_with_wrong_checksum_is_ignored(published: Upstream, publisher: Publisher, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "project-1" / FILE
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT + b"more\n")
    file, _ = obtain(published, FILE, tmp_path / "into", [tmp_path / "copies"])
    assert file.read_bytes() == CONTENT
    assert publisher.asked == 1


def test_changed_file_is_replaced(published: Upstream, tmp_path: Path) -> None:
    file, _ = obtain(published, FILE, tmp_path, [])
    file.write_bytes(b"another version")
    assert obtain(published, FILE, tmp_path, [])[0].read_bytes() == CONTENT


def test_file_is_written_atomically(published: Upstream, tmp_path: Path) -> None:
    target, seen, over = tmp_path / "project" / FILE, set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                seen.add(len(target.read_bytes()))
            except FileNotFoundError:
                seen.add(0)

    def fetch() -> None:
        for _ in range(10):
            target.unlink(missing_ok=True)
            obtain(published, FILE, tmp_path, [])

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert seen <= {0, len(CONTENT)}
    assert len(CONTENT) in seen


@pytest.mark.parametrize("name", upstream.names())
def test_urls_contain_the_version(name: str) -> None:
    listed = upstream.listed()[name]
    assert listed.url.startswith("https://")
    assert f"/v{listed.version}/" in listed.url or f"/{listed.version}/" in listed.url
    assert all(re.fullmatch(r"[0-9a-f]{64}", checksum) for checksum in listed.files.values())
    assert all(re.fullmatch(r"[\w.-]+\.yaml", file) for file in listed.files)


def test_list_matches_the_needs_of_environments() -> None:
    for name in ("traefik-crds", "argocd-crds", "argocd"):
        for file in upstream.files(name):
            assert hashlib.sha256(file.read_bytes()).hexdigest() == upstream.listed()[name].files[file.name]
    kinds = {manifest["kind"] for name in ("traefik-crds", "argocd-crds") for manifest in upstream.manifests(name)}
    assert kinds == {"CustomResourceDefinition"}
