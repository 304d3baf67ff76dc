from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from kinora_kit.settings import unknown_keys
from kinora_media.settings import MediaSettings
from kinora_media.wiring import wire

ENVIRONMENT = Path(__file__).parents[3] / "local/env/media.env"


async def test_wire_succeeds_without_dependencies_and_their_checks_fail(
    make_settings: Callable[..., MediaSettings],
) -> None:
    nowhere = "127.0.0.1:9"
    settings = make_settings(
        mongo_url=f"mongodb://{nowhere}", redis_url=f"redis://{nowhere}", rabbitmq_url=f"amqp://{nowhere}"
    )
    async with wire(settings) as state:
        assert set(state.checks.dependencies) == {"mongo", "redis", "rabbitmq"}
        with pytest.raises(ConnectionError):
            await state.checks.dependencies["rabbitmq"]()


def test_committed_environment_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in ENVIRONMENT.read_text().splitlines() if line and not line.startswith("#")]
    environment = dict(line.split("=", 1) for line in lines)
    assert unknown_keys(MediaSettings, environment) == []
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert MediaSettings().grpc_port == 8202


def test_missing_secret_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONGO_URL", "REDIS_URL", "RABBITMQ_URL"):
        monkeypatch.delenv(f"KINORA_{name}", raising=False)
    with pytest.raises(ValidationError):
        MediaSettings(http_port=1, grpc_port=1, public_url="", jwks_url="", video_grpc="")
