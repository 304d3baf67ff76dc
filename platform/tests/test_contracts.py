"""Generated code is current, and older consumers can read events of newer producers."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import grpc
import jsonschema
import pytest

from kinora import queues
from kinora.events import video
from kinora_kit.events import Event, event

PLATFORM = Path(__file__).parent.parent
GENERATED = ("*_pb2.py", "*_pb2_grpc.py", "*.pyi")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PLATFORM / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(folder: Path, *patterns: str) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for pattern in patterns for file in folder.rglob(pattern)}


async def test_committed_grpc_code_is_current(
    generate: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # A gRPC server in this process, because the services' tests leave gRPC threads behind.
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    generate.python_from_protos(tmp_path)
    await server.stop(grace=None)
    made, committed = texts(tmp_path, *GENERATED), texts(PLATFORM / "src" / "kinora", *GENERATED)
    assert made == {f"kinora/{name}": text for name, text in committed.items()}, "run make generate"
    assert capfd.readouterr() == ("", "")


def test_committed_event_schemas_are_current(generate: ModuleType, tmp_path: Path) -> None:
    generate.schemas_from_events(tmp_path)
    assert texts(tmp_path, "*.json") == texts(PLATFORM / "schemas" / "events", "*.json"), "run make generate"


def test_event_type_is_named_after_owner_or_aggregate_and_has_one_model(generate: ModuleType) -> None:
    types = [payload.type for owner in generate.OWNERS for payload in generate.payloads(owner)]
    assert len(types) == len(set(types))
    assert all(kind.count(".") == 1 for kind in types)


def test_queue_is_named_after_its_consumer_and_the_owner_of_its_events(generate: ModuleType) -> None:
    """The broker's permissions follow from the name, and a misspelt type would receive nothing."""
    published = {
        (importlib.import_module(f"kinora.events.{owner}").EXCHANGE, payload.type)
        for owner in generate.OWNERS
        for payload in generate.payloads(owner)
    }
    assert len({queue.name for queue in queues.ALL}) == len(queues.ALL)
    for queue in queues.ALL:
        _, _, exchange = queue.name.partition(".")
        assert queue.bindings
        assert {owner for owner, _ in queue.bindings} == {exchange}
        assert published.issuperset(queue.bindings)
        assert queue in queues.of(exchange)


def ready() -> dict[str, Any]:
    payload = video.Ready(video_id=uuid4(), owner_id=uuid4(), duration=1.5, width=2, height=3)
    made: dict[str, Any] = json.loads(event("video", payload).model_dump_json())
    return made


def test_event_is_a_cloud_event_and_matches_its_schema() -> None:
    document = ready()
    assert document["specversion"] == "1.0"
    assert document["source"] == "kinora/video"
    assert document["type"] == "video.ready"
    assert document["subject"] == document["data"]["video_id"]
    schema = json.loads((PLATFORM / "schemas" / "events" / "video.ready.json").read_text())
    jsonschema.validate(document["data"], schema)


def test_unknown_event_fields_are_ignored() -> None:
    document = ready()
    document["data"]["colour_space"] = "bt709"
    document["priority"] = "high"
    got = Event.model_validate_json(json.dumps(document))
    assert got.read(video.Ready).duration == 1.5


def test_events_of_the_first_version_are_still_valid() -> None:
    # As written by the first version: fields added since have a default.
    progress = {
        "video_id": str(uuid4()),
        "owner_id": str(uuid4()),
        "state": "processing",
        "version": 3,
        "bytes_received": 1,
        "bytes_total": 2,
        "progress": 0.5,
    }
    assert video.TranscodeProgressed.model_validate(progress).renditions == ()
    required = {
        file.stem: json.loads(file.read_text()).get("required") for file in (PLATFORM / "schemas/events").glob("*.json")
    }
    assert required == {
        "channel.subscribed": ["channel_id", "user_id", "version"],
        "channel.unsubscribed": ["channel_id", "user_id", "version"],
        "comment.deleted": ["media_id", "owner_id", "comment_id"],
        "comment.pinned": ["media_id", "owner_id", "comment_id"],
        "comment.posted": ["media_id", "owner_id", "comment_id", "author_id"],
        "history.cleared": ["user_id", "at"],
        "impressions.recorded": ["batch_id", "impressions"],
        "media.deleted": ["media_id", "owner_id"],
        "media.liked": ["media_id", "owner_id", "user_id", "version"],
        "media.published": ["media_id", "owner_id", "title"],
        "media.unliked": ["media_id", "owner_id", "user_id", "version"],
        "media.updated": ["media_id", "owner_id", "title", "visibility", "version"],
        "media.viewed": ["media_id", "owner_id"],
        "media.watched": ["media_id", "owner_id", "user_id", "share", "position", "version"],
        "playlist.item_added": ["playlist_id", "media_id", "user_id", "version"],
        "playlist.item_removed": ["playlist_id", "media_id", "user_id", "version"],
        "recommendation.dismissed": ["user_id", "dismissed", "version"],
        "user.deleted": ["user_id"],
        "user.registered": ["user_id", "username", "display_name"],
        "user.updated": ["user_id", "username", "display_name"],
        "video.deleted": ["video_id", "owner_id"],
        "video.failed": ["video_id", "owner_id", "code", "detail"],
        "video.playable": ["video_id", "owner_id", "duration", "width", "height"],
        "video.ready": ["video_id", "owner_id", "duration", "width", "height"],
        "video.transcode_progressed": list(progress),
        "video.upload_progressed": list(progress),
        "video.upload_started": ["video_id", "owner_id", "title", "filename", "size", "visibility"],
        "video.uploaded": ["video_id", "owner_id", "size"],
    }
