"""Settings are a promise: frozen, complete, and refused with a sentence when they are wrong."""

import os
import sys
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

PREFIX = "KINORA_"

Port = Annotated[int, Field(ge=1, le=65535)]

Secret = Annotated[SecretStr, Field(min_length=32)]
"""A key of our own making: too long to be guessed, and never empty."""


class Settings(BaseSettings):
    """What every process knows. A service adds its own fields; secrets are ``SecretStr`` and have no default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    service: ClassVar[str]

    http_host: str = "127.0.0.1"
    http_port: Port
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trusted_proxies: str = "127.0.0.1"
    """Addresses (comma separated) whose X-Forwarded-For is believed."""
    drain_delay_seconds: float = Field(default=0, ge=0)
    """How long to answer on while /readyz already says no, so that a balancer can look away."""
    drain_timeout_seconds: int = Field(default=20, ge=1)
    """How long requests in flight may take once no new ones are accepted."""
    max_body_bytes: int = Field(default=1 << 20, ge=1)
    head_timeout_seconds: float = Field(default=10, gt=0)
    """How long the line and the headers of a request may take to arrive."""
    body_timeout_seconds: float = Field(default=10, gt=0)
    """How long a body may take to arrive, beside the time that its bytes take at the slowest rate."""
    body_min_bytes_per_second: int = Field(default=16 << 10, ge=1)
    unfinished_bodies: int = Field(default=500, ge=1)
    """Bodies that may be arriving at a time."""
    unfinished_bodies_per_client: int = Field(default=20, ge=1)
    """Of these, from one address."""
    max_requests: int = Field(default=1000, ge=1)
    """Requests that are answered at a time. Those of health and metrics come on top."""


class StreamSettings(Settings):
    """Of a service that holds connections: WebSockets, server-sent events."""

    streams: int = Field(default=500, ge=1)
    """How many of them one process holds at a time."""
    streams_per_user: int = Field(default=20, ge=1)
    streams_per_address: int = Field(default=50, ge=1)
    """Of those who are not signed in."""
    session_check_seconds: float = Field(default=5, gt=0)
    """How soon such a connection is closed after its session has ended."""


S = TypeVar("S", bound=Settings)


def unknown_keys(settings: type[Settings], environment: dict[str, str]) -> list[str]:
    """The ``KINORA_*`` names in ``environment`` that ``settings`` has no field for."""
    known = {PREFIX + name.upper() for name in settings.model_fields}
    return sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)


def load(settings: type[S]) -> S:
    """Read the settings from the environment, or end the process with one sentence for each thing that is wrong."""
    wrong = [
        f"{name} is not a setting of {settings.service}: remove it or mend its spelling"
        for name in unknown_keys(settings, dict(os.environ))
    ]
    loaded: S | None = None
    try:
        loaded = settings()
    except ValidationError as error:
        for item in error.errors():
            name = PREFIX + "_".join(str(part) for part in item["loc"]).upper()
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "missing":
                wrong.append(f"{name} is not set, and {settings.service} cannot start without it")
            elif item["loc"]:
                wrong.append(f"{name}: {message}")
            else:  # of the settings together
                wrong.append(message)
    except SettingsError as error:  # a list or a mapping that is not JSON
        wrong.append(str(error))
    if loaded is None or wrong:
        sys.exit("\n".join(wrong))
    return loaded


def reveal(secret: SecretStr) -> str:
    return secret.get_secret_value()
