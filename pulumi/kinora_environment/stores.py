"""What all stores have in common: connection variables, logins and network access."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment.config import ConfigError, External, Store
from kinora_environment.credentials import Credentials, Login
from kinora_environment.place import Place
from kinora_environment.sizes import Sizes


@dataclass(frozen=True)
class StoreArgs:
    place: Place
    config: Store
    sizes: Sizes
    images: Mapping[str, str]
    credentials: Credentials
    storage_class: str | None
    retain: bool
    """Whether the data outlives the store."""
    protect: bool
    """Whether Pulumi refuses to delete resources with data."""


class StoreComponent(pulumi.ComponentResource):
    """A store in one of its three modes. The variables of services do not depend on the mode."""

    store: ClassVar[str]
    usual_ports: ClassVar[tuple[int, int]]
    """Default ports of an external store: with TLS, and without."""

    def __init__(self, kind: str, name: str, args: StoreArgs, opts: pulumi.ResourceOptions | None) -> None:
        super().__init__(f"kinora:environment:{kind}", name, None, opts)
        self.args = args
        self.name = name
        self.child = pulumi.ResourceOptions(parent=self)
        if args.config.external is not None:
            self._check_credentials(args.config.external)

    def variables(self, identity: str) -> Mapping[str, pulumi.Output[str]]:
        """The connection variables of an identity's services: name -> secret value."""
        raise NotImplementedError

    def logins(self) -> Sequence[Login]:
        return self.args.credentials.logins(self.store)

    def login(self, identity: str) -> Login:
        """The current login of an identity; in mode external, the configured one."""
        external = self.args.config.external
        if external is None:
            return self.args.credentials.current(identity, self.store)
        given = external.credentials[identity]
        # External passwords may contain any character, and are put into URLs.
        password = pulumi.Output.secret(quote(given.password.get_secret_value(), safe=""))
        return Login(identity, quote(given.username, safe=""), password)

    def address(self, external: External) -> str:
        """Host and port of an external store, with the store's default port unless configured."""
        if ":" in external.address:
            return external.address
        return f"{external.address}:{self.usual_ports[0 if external.tls else 1]}"

    def allow_egress(self, place: Place) -> None:
        """If the store is external, allow the pods of a namespace egress to its port only.

        A NetworkPolicy cannot match host names. The mesh can: ``outside``.
        """
        external = self.args.config.external
        if external is None:
            return
        port = int(self.address(external).rpartition(":")[2])
        name = f"external-{self.store}"
        k8s.networking.v1.NetworkPolicy(
            f"{name}-{place.role}",
            metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
            spec={
                "pod_selector": {},
                "policy_types": ["Egress"],
                "egress": [{"ports": [{"port": port, "protocol": "TCP"}]}],
            },
            opts=self.child,
        )

    def outside(self) -> dict[str, Any] | None:
        """The external store's address for the mesh (istio/values.yaml, `external`)."""
        external = self.args.config.external
        if external is None:
            return None
        host, _, port = self.address(external).partition(":")
        # A PostgreSQL connection starts in plain text even if it is encrypted.
        protocol = "TLS" if external.tls and self.store != "postgres" else "TCP"
        return {"host": host, "port": int(port), "protocol": protocol}

    def _check_credentials(self, external: External) -> None:
        needed = {login.identity for login in self.logins()}
        if missing := sorted(needed - external.credentials.keys()):
            raise ConfigError(
                f"{self.store} is external, but has no credentials for {', '.join(missing)}. Create a user there for"
                f" each, and run: pulumi config set --secret --path"
                f" 'kinora:environment.{self.store}.external.credentials.{missing[0]}.password'; likewise `username`."
            )
        if unknown := sorted(external.credentials.keys() - needed):
            raise ConfigError(
                f"{self.store}.external.credentials: {', '.join(unknown)} does not need {self.store}: remove it."
            )

    def passwords(self, logins: Sequence[Login]) -> dict[str, pulumi.Output[str]]:
        """For the provisioning job: PASSWORD_<LOGIN> -> password."""
        return {f"PASSWORD_{login.name.upper()}": login.password for login in logins}
