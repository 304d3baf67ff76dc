"""Settings from the environment: frozen and complete; invalid ones are rejected with an error message."""

import os
import sys
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from kinora_kit.errors import message_of

PREFIX = "KINORA_"

Port = Annotated[int, Field(ge=1, le=65535)]

Secret = Annotated[SecretStr, Field(min_length=32)]
"""A generated key: too long to guess, and never empty."""


class Settings(BaseSettings):
    """Settings of every process. A service adds its own fields; secrets are ``SecretStr`` and have no default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    service: ClassVar[str]

    http_host: str = "127.0.0.1"
    """The address that it listens on, for HTTP and gRPC."""
    http_port: Port
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trusted_proxies: str = "127.0.0.1"
    """Addresses (comma separated) whose X-Forwarded-For is trusted: the gateway's."""
    load_balancers: str = ""
    """Networks (comma separated) of the load balancers in front of the gateway."""
    drain_delay_seconds: float = Field(default=0, ge=0)
    """How long to keep serving while /readyz already answers 503, so that load balancers stop sending requests."""
    drain_timeout_seconds: int = Field(default=20, ge=1)
    """How long requests in flight may take once no new ones are accepted."""
    max_body_bytes: int = Field(default=1 << 20, ge=1)
    head_timeout_seconds: float = Field(default=10, gt=0)
    """How long the request line and headers may take to arrive."""
    body_timeout_seconds: float = Field(default=10, gt=0)
    """How long a body may take to arrive, in addition to the time that its bytes take at the minimum rate."""
    body_min_bytes_per_second: int = Field(default=16 << 10, ge=1)
    unfinished_bodies: int = Field(default=500, ge=1)
    """Maximum number of incomplete bodies."""
    unfinished_bodies_per_client: int = Field(default=20, ge=1)
    """Maximum number of incomplete bodies from one address."""
    max_requests: int = Field(default=1000, ge=1)
    """Maximum number of concurrent requests, not counting health and metrics."""


class StreamSettings(Settings):
    """For services with long-lived connections: WebSockets, server-sent events."""

    streams: int = Field(default=500, ge=1)
    """Maximum number per process."""
    streams_per_user: int = Field(default=20, ge=1)
    streams_per_address: int = Field(default=50, ge=1)
    """Applies to anonymous clients; all clients of an address together can have half of ``streams``."""
    session_check_seconds: float = Field(default=5, gt=0)
    """How soon such a connection is closed after its session has ended."""


S = TypeVar("S", bound=Settings)


def unknown_keys(settings: type[Settings], environment: dict[str, str]) -> list[str]:
    """The ``KINORA_*`` names in ``environment`` without a field in ``settings``."""
    known = {PREFIX + name.upper() for name in settings.model_fields}
    return sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)


def load(settings: type[S]) -> S:
    """Read the settings from the environment, or exit with one sentence per problem."""
    wrong = [
        f"{name} is not a setting of {settings.service}: remove it or fix the name"
        for name in unknown_keys(settings, dict(os.environ))
    ]
    loaded: S | None = None
    try:
        loaded = settings()
    except ValidationError as error:
        for item in error.errors():
            name = PREFIX + "_".join(str(part) for part in item["loc"]).upper()
            message = message_of(item)
            if item["type"] == "missing":
                wrong.append(f"{name} is not set, and {settings.service} cannot start without it")
            elif item["loc"]:
                wrong.append(f"{name}: {message}")
            else:  # about several settings
                wrong.append(message)
    except SettingsError as error:  # a list or mapping that is not JSON
        wrong.append(str(error))
    if loaded is None or wrong:
        sys.exit("\n".join(wrong))
    return loaded


def reveal(secret: SecretStr) -> str:
    return secret.get_secret_value()
