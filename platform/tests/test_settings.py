import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

PROGRAM = """
from typing import ClassVar
from pydantic import SecretStr, model_validator
from kinora_kit.settings import Settings, load

class Example(Settings):
    service: ClassVar[str] = "example"
    password: SecretStr
    low: int = 1
    high: int = 2
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> "Example":
        if self.low > self.high:
            raise ValueError("KINORA_LOW must not be above KINORA_HIGH")
        return self
"""
GOOD = {"KINORA_HTTP_PORT": "8199", "KINORA_PASSWORD": "do-not-print-me"}


def run(environment: dict[str, str], then: str = "print(repr(load(Example)))") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + then],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_settings_are_loaded_and_secrets_hidden() -> None:
    outcome = run(GOOD, "s = load(Example); print(repr(s), str(s), s.http_port, s.model_dump())")
    assert outcome.returncode == 0, outcome.stderr
    assert "8199" in outcome.stdout
    assert "do-not-print-me" not in outcome.stdout


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"KINORA_PASWORD": "x"}, "KINORA_PASWORD is not a setting of example: remove it or fix the name"),
        ({"kinora_pasword": "x"}, "kinora_pasword is not a setting of example: remove it or fix the name"),
        ({"KINORA_PASSWORD": None}, "KINORA_PASSWORD is not set, and example cannot start without it"),
        (
            {"KINORA_HTTP_PORT": ""},
            "KINORA_HTTP_PORT: Input should be a valid integer, unable to parse string as an integer",
        ),
        ({"KINORA_HTTP_PORT": "70000"}, "KINORA_HTTP_PORT: Input should be less than or equal to 65535"),
        ({"KINORA_LOG_LEVEL": "loud"}, "KINORA_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"),
        ({"KINORA_LOW": "3"}, "KINORA_LOW must not be above KINORA_HIGH"),
        ({"KINORA_NAMES": "a,b"}, 'error parsing value for field "names" from source "EnvSettingsSource"'),
    ],
)
def test_invalid_settings_exit_with_a_message(change: dict[str, str | None], sentence: str) -> None:
    environment = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    outcome = run(environment)
    assert outcome.returncode == 1
    assert outcome.stderr.strip() == sentence
    assert outcome.stdout == ""


def test_all_invalid_settings_are_reported_together() -> None:
    outcome = run({"KINORA_WHAT": "1"})
    assert len(outcome.stderr.strip().splitlines()) == 3
    assert "Traceback" not in outcome.stderr


def test_settings_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    from kinora_kit.settings import Settings

    settings = Settings(http_port=1)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "http_port", 2)  # noqa: B010 - mypy knows, too
