"""What each service needs from an environment: apps/<app>/deploy/needs.yaml, one entry for each identity.

An identity (auth, video, tusd, ...) has its own credentials for each store that it lists, with only the permissions
listed there. Its pods get them as the Secrets ``<identity>-<store>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from kinora_environment.config import STORES, ConfigError, Model

APPS = Path(__file__).resolve().parents[2] / "apps"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Postgres(Model):
    """A database of the identity's name, which it owns."""

    extensions: tuple[Name, ...] = ()


class Mongo(Model):
    """A database of the identity's name."""


class Redis(Model):
    """The keys and channels below ``<identity>:``."""

    reads: tuple[str, ...] = ()
    """Patterns of other keys that it may read."""


class Rabbitmq(Model):
    """Exchanges and queues named ``<identity>`` or ``<identity>.*``, and binding to others' exchanges."""

    exchanges: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]*$")], ...] = ()
    """Exchanges that it publishes to: its name, or below it."""
    consumes: bool = False
    """Whether it publishes directly to queues, as consumers do for retries."""


class S3(Model):
    """Full access to the objects in these buckets."""

    buckets: Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]+[a-z0-9]$")]], Field(min_length=1)]


class Needs(Model):
    postgres: Postgres | None = None
    mongo: Mongo | None = None
    redis: Redis | None = None
    rabbitmq: Rabbitmq | None = None
    s3: S3 | None = None
    keys: tuple[Name, ...] = ()
    """Its own random secrets, by the names of its settings, in the Secret ``<identity>-keys``."""

    def stores(self) -> list[str]:
        return [store for store in STORES if getattr(self, store) is not None]


def app(identity: str, apps: Path = APPS) -> str:
    """The app of an identity, whose Deployments are rolled out together."""
    (found,) = (
        file.parts[-3]
        for file in apps.glob("*/deploy/needs.yaml")
        if identity in (yaml.safe_load(file.read_text()) or {})
    )
    return found


def exchanges(needs: Mapping[str, Needs]) -> list[str]:
    """All exchanges that somebody publishes to."""
    return sorted({each for need in needs.values() if need.rabbitmq is not None for each in need.rabbitmq.exchanges})


def read(apps: Path = APPS) -> Mapping[str, Needs]:
    """The needs of every identity, by its name.

    Raises:
        ConfigError: with one sentence per problem in a file.
    """
    found: dict[str, Needs] = {}
    for file in sorted(apps.glob("*/deploy/needs.yaml")):
        shown = f"apps/{file.parts[-3]}/deploy/needs.yaml"
        for name, given in (yaml.safe_load(file.read_text()) or {}).items():
            if not re.fullmatch(r"[a-z][a-z0-9]*", name):
                raise ConfigError(f"{shown}: {name} cannot be an identity: write lower-case letters and digits only.")
            if name in found:
                raise ConfigError(f"{shown}: {name} is already in another app's needs: choose another name.")
            try:
                found[name] = need = Needs.model_validate(given)
            except ValidationError as error:
                places = (f"{name}.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
                raise ConfigError("\n".join(f"{shown}: {place}." for place in places)) from None
            for exchange in need.rabbitmq.exchanges if need.rabbitmq is not None else ():
                if exchange != name and not exchange.startswith(f"{name}."):
                    raise ConfigError(f"{shown}: {name} may not publish to {exchange}: call it {name}.{exchange}.")
    return found
