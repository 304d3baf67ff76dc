"""Invalid stack configurations are rejected with a message that says what to write instead."""

from pathlib import Path

import pytest
import yaml

from kinora_environment import config, needs, render

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.yaml"))
RIGHT = {"size": "small", "public_url": "http://kinora.localhost", "repository": {"url": "https://git.example/k.git"}}


@pytest.mark.parametrize("file", WRONG, ids=lambda file: file.stem)
def test_invalid_configuration_is_rejected_with_its_message(file: Path) -> None:
    text = file.read_text()
    expected = text.splitlines()[0].removeprefix("# says: ")
    with pytest.raises(config.ConfigError) as refused:
        render.render("test", config.parse("test", yaml.safe_load(text)))
    assert any(line.startswith(expected) for line in str(refused.value).splitlines()), refused.value


def test_all_configuration_errors_are_reported_together() -> None:
    with pytest.raises(config.ConfigError) as refused:
        config.parse("test", {**RIGHT, "size": "huge", "colour": "red", "redis": {"mode": "cluster"}})
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize("secret", ["external.credentials.auth.password"])
def test_malformed_password_is_not_shown(secret: str) -> None:
    given = {"address": "db.example", "credentials": {"auth": {"username": "auth", "password": 4711}}}
    with pytest.raises(config.ConfigError) as refused:
        config.parse("test", {**RIGHT, "postgres": {"mode": "external", "external": given}})
    assert f"postgres.{secret}" in str(refused.value)
    assert "4711" not in str(refused.value)


def test_needs_with_unknown_key_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "music" / "deploy" / "needs.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("music:\n  postgres: {}\n  kafka: {}\n")
    with pytest.raises(config.ConfigError, match=r"apps/music/deploy/needs\.yaml: music\.kafka: Extra inputs"):
        needs.read(tmp_path)


@pytest.mark.parametrize("stack", render.stacks())
def test_committed_stacks_are_valid(stack: str) -> None:
    assert render.configuration(stack).size in ("small", "medium", "large")


def test_new_service_needs_one_file(tmp_path: Path) -> None:
    file = tmp_path / "music" / "deploy" / "needs.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("music:\n  postgres: {extensions: [vector]}\n  redis: {}\n  keys: [signing_secret]\n")
    rendered = render.render("test", config.parse("test", RIGHT), needed=needs.read(tmp_path))
    secrets = {each["metadata"]["name"] for each in rendered.objects if each["kind"] == "Secret"}
    assert {"music-postgres", "music-redis", "music-keys"} <= secrets
