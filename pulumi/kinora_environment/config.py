"""The configuration of one environment: the object `kinora:environment` of a stack file, validated.

Unknown, missing or contradictory values are rejected with messages that say what to write instead.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

KEY = "kinora:environment"
PLACED = ("context", "storage_class")
"""Required with `deletion_protection`."""
STORES = ("postgres", "mongo", "redis", "rabbitmq", "s3")
WEBHOOK = r"https://([^/?#@]+@)?[^/?#@:]+(:443)?([/?#]|$)|\$\{"
"""Egress that is open to pods (namespaces.py). In rendered stacks, a secret is a reference."""

Size = Literal["small", "medium", "large"]
Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w.\-/:]*(:[\w.\-]+|@sha256:[0-9a-f]{64})$")]
Cron = Annotated[str, Field(pattern=r"^(\S+ ){4}\S+$")]
Address = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.\-]*[a-z0-9])?(:[0-9]{2,5})?$")]


class ConfigError(Exception):
    """One sentence per line, for the author of the stack file."""


def wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("kinora", "{sentence}", {"sentence": sentence})


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Credential(Model):
    username: str
    password: SecretStr


class External(Model):
    """An external store: its address, and a user for each service that needs it."""

    address: Address
    """Host, or host:port if the port is not the default one."""
    tls: bool = True
    credentials: dict[str, Credential]
    """By service: auth, video, ... The provider creates these users."""


class BackupStorage(Model):
    """A bucket outside of the environment, in which backups outlive it."""

    address: Address
    bucket: str
    secret: str
    """Name of a Secret in the stores' namespace with `access_key` and `secret_key`; created manually."""

    @field_validator("address")
    @classmethod
    def _reachable(cls, given: str) -> str:
        if (port := given.partition(":")[2]) not in ("", "443"):
            raise wrong(f"names port {port}, but egress is open only to port 443: write a host that serves it")
        return given


class Store(Model):
    mode: Literal["single", "operator", "external"] = "single"
    """single: one StatefulSet. operator: replicated by an operator. external: at ``external``."""
    external: External | None = None

    @model_validator(mode="after")
    def _external_or_not(self) -> Store:
        if self.mode == "external" and self.external is None:
            raise wrong(
                "is external, but has no address: write `external: {address: ..., credentials: {<service>:"
                " {username: ..., password: {secure: ...}}}}`, or another mode (single, operator)"
            )
        if self.mode != "external" and self.external is not None:
            raise wrong(f"has an external address, but its mode is {self.mode}: write `mode: external`, or remove it")
        return self


class Backups(Model):
    schedule: Cron = "15 2 * * *"
    """Cron, UTC."""
    keep_days: int = Field(default=7, ge=1, le=365)
    storage: BackupStorage | None = None
    """The destination in mode operator; in mode single, backups go to a volume beside the store."""


class Restore(Model):
    """Point-in-time recovery into a new cluster beside the operator's old one. Services use the new one."""

    cluster: Annotated[str, Field(pattern=r"^postgres-[a-z0-9-]{1,20}[a-z0-9]$|^postgres-[a-z0-9]$")]
    """The new cluster's name, which must never have been used."""
    source: str = "postgres"
    """The cluster whose backups are restored."""
    until: AwareDatetime | None = None
    """The recovery target time, with time zone; default: the latest available."""
    keep_source: bool = True
    """False once the old cluster may be deleted."""

    @model_validator(mode="after")
    def _two_clusters(self) -> Restore:
        if self.cluster == self.source:
            raise wrong(f"would restore {self.source} onto itself: give `cluster` a name that was never used")
        return self


class Postgres(Store):
    backups: Backups | None = None
    restore: Restore | None = None

    @model_validator(mode="after")
    def _backups_have_a_place(self) -> Postgres:
        if self.restore is not None and (self.mode != "operator" or self.backups is None):
            raise wrong(
                "has `restore`, which requires mode operator and backups: write `mode: operator` and `backups`, or"
                " remove it; for dumps of mode single, see docs/environments.md"
            )
        if self.backups is None:
            return self
        if self.mode == "external":
            raise wrong("is external, so its provider is responsible for backups: remove `backups`")
        if self.mode == "operator" and self.backups.storage is None:
            raise wrong(
                "has backups in mode operator, which need object storage: write `backups: {storage: {address: ...,"
                " bucket: ..., secret: <name of a Secret>}}`"
            )
        if self.mode == "single" and self.backups.storage is not None:
            raise wrong("has backups in mode single, which go to a volume: remove `backups.storage`")
        return self


class Gateway(Model):
    service: Literal["LoadBalancer", "NodePort"] = "LoadBalancer"
    node_port: int | None = Field(default=None, ge=30000, le=32767)
    certificate: str | None = None
    """Name of a TLS Secret in the gateway's namespace, created by cert-manager or manually."""
    trusted_addresses: list[str] = []
    """CIDR ranges of load balancers in front of the gateway whose X-Forwarded-For is trusted."""

    @field_validator("trusted_addresses")
    @classmethod
    def _ranges(cls, given: list[str]) -> list[str]:
        for each in given:
            try:
                network = ip_network(each)
            except ValueError:
                raise wrong(f"names {each}, which is not a CIDR range: write it as 10.0.0.0/8") from None
            if network.prefixlen == 0:
                raise wrong(f"names {each}, so any client could forge its address: name the load balancers' range")
        return given

    @model_validator(mode="after")
    def _port_of_a_node(self) -> Gateway:
        if (self.service == "NodePort") != (self.node_port is not None):
            raise wrong("`node_port` is required with `service: NodePort`, and valid only there: write both or neither")
        return self


class Mesh(Model):
    enabled: bool = True
    cni: bool = True
    """Whether this environment installs Istio's node agent. One per cluster: false if it already runs."""

    @model_validator(mode="after")
    def _agent_of_a_mesh(self) -> Mesh:
        if not self.enabled and "cni" in self.model_fields_set:
            raise wrong("is not enabled, so it has no node agent: remove `cni`, or enable it")
        return self


class Monitoring(Model):
    mode: Literal["single", "operator"] = "single"
    """single: Prometheus and Alertmanager as StatefulSets. operator: as resources of Prometheus Operator."""
    retention_days: int = Field(default=7, ge=1, le=730)
    alert_webhook: SecretStr | None = None
    """The URL that Alertmanager sends alerts to; without it they are only displayed."""
    grafana: bool = True
    """False where its image is unavailable: then there are no dashboards."""

    @field_validator("alert_webhook")
    @classmethod
    def _an_address(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not re.match(WEBHOOK, given.get_secret_value()):
            raise wrong(
                "is not a URL that alerts can be sent to: write https://... without a port, because egress is open"
                " only to port 443"
            )
        return given


class Repository(Model):
    url: str
    revision: str = "main"
    """The branch that Argo CD follows."""
    username: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> Repository:
        if (self.username is None) != (self.password is None):
            raise wrong("`username` and `password` require each other: write both or neither")
        url = urlsplit(self.url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise wrong("`url` is not an HTTP URL: write it as https://...")
        if url.username is not None or url.password is not None:
            raise wrong("`url` contains credentials in plain text: write `username` and `password`")
        if self.password is not None and url.scheme == "http":
            raise wrong("`password` would be sent in plain text: write `url` as https://...")
        return self


class EnvironmentConfig(Model):
    size: Size
    public_url: str
    """The platform's URL for clients, without a trailing slash; also the issuer of its tokens."""
    repository: Repository
    context: str | None = None
    """The kubeconfig's context; default: the current one. Required with `deletion_protection`."""
    deletion_protection: bool = False
    """Pulumi refuses to delete resources with data, and no push deletes an application."""
    disposable: bool = False
    """Whether volumes are deleted with their StatefulSet. Scaling down never deletes any."""
    await_ready: bool = True
    """Whether `pulumi up` waits until its resources are ready. False only where nothing can run, as in tests."""
    storage_class: str | None = None
    """The storage class of all volumes; default: the cluster's. Required with `deletion_protection`."""
    postgres: Postgres = Postgres()
    mongo: Store = Store()
    redis: Store = Store()
    rabbitmq: Store = Store()
    s3: Store = Store()
    gateway: Gateway = Gateway()
    mesh: Mesh = Mesh()
    monitoring: Monitoring = Monitoring()
    keda: bool = False
    """Whether KEDA runs in the cluster, in the namespace `keda`; workers then scale by queue length."""
    images: dict[str, Image] = {}
    """Replacements for the images in images.py, by the same names."""
    generations: dict[str, Annotated[int, Field(ge=1)]] = {}
    """The number of rotations of each secret, plus one; written by `make rotate`."""

    @model_validator(mode="after")
    def _agrees(self) -> EnvironmentConfig:
        url = urlsplit(self.public_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.path:
            raise wrong(f"public_url is {self.public_url}: write it as https://kinora.example.org, without a path")
        if url.query or url.fragment or url.username is not None:
            raise wrong("public_url is more than scheme, host and port: write it as https://kinora.example.org")
        if url.scheme == "http" and self.gateway.certificate:
            raise wrong(
                "public_url is http, but with `gateway.certificate` the gateway redirects to https: write https"
            )
        if url.scheme == "https" and not self.gateway.certificate and self.gateway.service == "NodePort":
            raise wrong("public_url is https, but a NodePort gateway has no `gateway.certificate`: name the TLS Secret")
        if self.deletion_protection and self.disposable:
            raise wrong("deletion_protection is on, but disposable, too: turn one of them off")
        if self.deletion_protection and (lost := [name for name in STORES if self.store(name).mode == "single"]):
            raise wrong(
                f"deletion_protection is on, but {', '.join(lost)} would be one pod: write `mode: operator` or"
                " `mode: external` for each, or turn the protection off"
            )
        if self.deletion_protection and self.postgres.mode == "operator" and self.postgres.backups is None:
            raise wrong("deletion_protection is on, but postgres has no backups: write `postgres: {backups: ...}`")
        if self.deletion_protection and (missing := [each for each in PLACED if getattr(self, each) is None]):
            raise wrong(
                f"deletion_protection is on, but {' and '.join(missing)} not set: set them, so that they do not depend"
                " on who runs `pulumi up` or on the cluster's defaults"
            )
        if self.deletion_protection and not self.await_ready:
            raise wrong("deletion_protection is on, but await_ready is off: failures to start would go unnoticed")
        for secret in self.generations:
            store = secret.rpartition("-")[2]
            if store in STORES and self.store(store).mode == "external":
                raise wrong(
                    f"generations: {secret} is a password of {store}, which is external: its provider rotates it"
                )
        return self

    def store(self, name: str) -> Store:
        store: Store = getattr(self, name)
        return store


def parse(stack: str, given: Any) -> EnvironmentConfig:
    """The configuration of a stack.

    Raises:
        ConfigError: with one sentence per problem.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?", stack):
        raise ConfigError(f"Stack {stack} cannot be part of namespace names: use at most 30 of a-z, 0-9 and `-`.")
    if not isinstance(given, dict):
        raise ConfigError(f"Stack {stack} has no `{KEY}`: copy Pulumi.dev.yaml to Pulumi.{stack}.yaml and change it.")
    try:
        return EnvironmentConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(stack, item) for item in error.errors())) from None


def _sentence(stack: str, item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        parent = _model_at(item["loc"][:-1])
        return f"Pulumi.{stack}.yaml: {where} is unknown. Known: {', '.join(sorted(parent.model_fields))}."
    if kind == "missing":
        return f"Pulumi.{stack}.yaml: {where} is missing: write it below `{KEY}`."
    if kind == "kinora":
        return f"Pulumi.{stack}.yaml: {f'{where} ' if where else ''}{context['sentence']}."
    if kind == "literal_error":
        return f"Pulumi.{stack}.yaml: {where} is {item['input']}: write one of {context['expected']}."
    given = "" if "password" in where or "key" in where else f" (it is {item['input']!r})"
    return f"Pulumi.{stack}.yaml: {where}: {item['msg']}{given}."


def _model_at(path: tuple[Any, ...]) -> type[BaseModel]:
    """The model at a path of the configuration."""
    model: type[BaseModel] = EnvironmentConfig
    for step in path:
        if not isinstance(step, str) or step not in model.model_fields:
            continue  # the key of a mapping, such as a service's name
        annotation = model.model_fields[step].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model
