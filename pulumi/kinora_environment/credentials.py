"""Passwords: generated once and kept as secrets in the stack's state, one for each identity and store.

They rotate by generation. A store has two at a time, the current and the previous one, each a separate user (auth_3,
auth_2). Services get the current one; pods that still use the previous one keep working. So nothing has to happen
simultaneously, and no request is lost. The next rotation removes the older one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_random

from kinora_environment.config import ConfigError
from kinora_environment.needs import Needs, exchanges

LENGTH = 40


@dataclass(frozen=True)
class Login:
    """A user of a store."""

    identity: str
    name: str
    password: pulumi.Output[str]


@dataclass(frozen=True)
class CredentialsArgs:
    needs: Mapping[str, Needs]
    generations: Mapping[str, int]
    """By ``<identity>-<store>``; default: 1."""

    def __post_init__(self) -> None:
        known = {f"{identity}-{store}" for identity, needs in self.needs.items() for store in needs.stores()}
        if unknown := sorted(self.generations.keys() - known):
            raise ConfigError(
                f"generations: {', '.join(unknown)} does not rotate. These rotate: {', '.join(sorted(known))}."
            )


class Credentials(pulumi.ComponentResource):
    def __init__(self, name: str, args: CredentialsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:Credentials", name, None, opts)
        self._args = args
        self._logins: dict[str, dict[str, list[Login]]] = {}
        for identity, needs in args.needs.items():
            for store in needs.stores():
                current = args.generations.get(f"{identity}-{store}", 1)
                self._logins.setdefault(store, {})[identity] = [
                    Login(identity, f"{identity}_{generation}", self.random(f"{identity}-{store}-{generation}"))
                    for generation in range(max(1, current - 1), current + 1)
                ]
        self.keys = {
            identity: {key: self.random(f"{identity}-{key.replace('_', '-')}") for key in needs.keys}
            for identity, needs in args.needs.items()
            if needs.keys
        }
        self.register_outputs({})

    def random(self, name: str) -> pulumi.Output[str]:
        # Letters and digits only: safe in URLs, shells, configuration files and SQL.
        return pulumi_random.RandomPassword(
            name, length=LENGTH, special=False, opts=pulumi.ResourceOptions(parent=self)
        ).result

    def logins(self, store: str) -> list[Login]:
        """All users that a store must have."""
        return [login for logins in self._logins.get(store, {}).values() for login in logins]

    def current(self, identity: str, store: str) -> Login:
        return self._logins[store][identity][-1]

    def retired(self, store: str) -> list[tuple[str, str]]:
        """Users of earlier generations that a store may still have and must drop: identity, name."""
        return [
            (identity, f"{identity}_{generation}")
            for identity, logins in self._logins.get(store, {}).items()
            for generation in range(1, self._args.generations.get(f"{identity}-{store}", 1) - 1)
        ]

    @property
    def exchanges(self) -> list[str]:
        """All exchanges that identities publish to."""
        return exchanges(self._args.needs)

    def needs(self, identity: str) -> Needs:
        return self._args.needs[identity]
