"""Passwords: made once, kept as secrets in the stack's state, one for each identity and store.

They rotate by generations. A store knows two at a time, the current and the one before it, each a user of its own
(auth_3, auth_2). Services are given the current one; what still runs with the one before goes on. So nothing has to
happen at the same moment, and no request is lost. The next rotation removes the oldest.
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
    """By ``<identity>-<store>``; 1 unless given."""

    def __post_init__(self) -> None:
        known = {f"{identity}-{store}" for identity, needs in self.needs.items() for store in needs.stores()}
        if unknown := sorted(self.generations.keys() - known):
            raise ConfigError(
                f"generations: {', '.join(unknown)} is no secret that rotates. There are: {', '.join(sorted(known))}."
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
        # Letters and digits only: it is safe in an address, a shell, a configuration file and SQL.
        return pulumi_random.RandomPassword(
            name, length=LENGTH, special=False, opts=pulumi.ResourceOptions(parent=self)
        ).result

    def logins(self, store: str) -> list[Login]:
        """All users that a store has to know."""
        return [login for logins in self._logins.get(store, {}).values() for login in logins]

    def current(self, identity: str, store: str) -> Login:
        return self._logins[store][identity][-1]

    def retired(self, store: str) -> list[tuple[str, str]]:
        """The users that a store may still know from earlier generations, and must not any more: identity, name."""
        return [
            (identity, f"{identity}_{generation}")
            for identity, logins in self._logins.get(store, {}).items()
            for generation in range(1, self._args.generations.get(f"{identity}-{store}", 1) - 1)
        ]

    @property
    def exchanges(self) -> list[str]:
        """All that identities publish to."""
        return exchanges(self._args.needs)

    def needs(self, identity: str) -> Needs:
        return self._args.needs[identity]
