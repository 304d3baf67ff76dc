"""A session's refresh tokens, compared with a model under any order of use, loss, theft and waiting."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr

from kinora_auth import store
from kinora_auth.domain import LATE_RUN, Client, SignIn, User
from kinora_auth.errors import InvalidRefreshToken, RefreshTokenReused
from kinora_auth.tokens import new_refresh_token
from kinora_auth.wiring import wire
from kinora_kit import postgres
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id

if TYPE_CHECKING:
    from uuid import UUID

    from kinora_auth.service import Accounts, Tokens
    from kinora_auth.settings import AuthSettings

HERE = Client("127.0.0.1", "a test")
PASSWORD = SecretStr("correct horse battery")


class TokenFamily(RuleBasedStateMachine):
    run: asyncio.Runner
    accounts: Accounts
    password_hash: str

    @initialize()
    def sign_in(self) -> None:
        self.clock = datetime.now(UTC)
        self.service = dataclasses.replace(self.accounts, now=lambda: self.clock)
        user = User(new_id(), new_id().hex, f"{new_id().hex}@example.com", "", "", (), self.clock)

        async def begin() -> Tokens:
            async with postgres.transaction(self.service.pool) as connection:
                await store.add_user(connection, user, password_hash=self.password_hash)
            return await self.service.login(SignIn(login=user.username, password=PASSWORD), HERE)

        first = self.run.run(begin())
        self.user_id: UUID = user.id
        self.pairs = [first]
        self.used: list[datetime] = []  # when pairs[i] was exchanged for pairs[i + 1]
        self.late = [0]  # how many consecutive predecessors of pairs[i] were presented late
        self.expires_at = self.clock + timedelta(days=30)
        self.alive = True

    def present(self, token: str) -> Tokens:
        return self.run.run(self.service.refresh(SecretStr(token), HERE))

    @rule(seconds=st.sampled_from([1, 9, 11, 600, 20 * 86400]))
    def wait(self, seconds: int) -> None:
        self.clock += timedelta(seconds=seconds)

    @rule(times=st.integers(1, 4))
    def use_the_newest(self, times: int) -> None:
        newest = self.pairs[-1].refresh_token

        async def at_once() -> list[Tokens | BaseException]:
            calls = (self.service.refresh(SecretStr(newest), HERE) for _ in range(times))
            return await asyncio.gather(*calls, return_exceptions=True)

        answers = self.run.run(at_once())
        if not self.alive or self.clock >= self.expires_at:
            assert all(isinstance(answer, InvalidRefreshToken) for answer in answers)
            return
        pairs = {answer if isinstance(answer, BaseException) else answer.refresh_token for answer in answers}
        assert len(pairs) == 1
        pair = answers[0]
        assert not isinstance(pair, BaseException)
        assert pair.refresh_token not in {known.refresh_token for known in self.pairs}
        self.pairs.append(pair)
        self.used.append(self.clock)
        self.late.append(0)
        self.expires_at = self.clock + timedelta(days=30)

    @rule(times=st.integers(1, LATE_RUN))
    def take_turns(self, times: int) -> None:
        """Two holders alternate; the second is always late."""
        for _ in range(times):
            self.use_the_newest(1)
            self.clock += timedelta(seconds=11)
            if len(self.pairs) > 1:
                self.present_old(len(self.pairs) - 2)

    @precondition(lambda self: len(self.pairs) > 1)
    @rule(data=st.data())
    def use_an_old_one(self, data: st.DataObject) -> None:
        self.present_old(len(self.pairs) - 2 - data.draw(st.integers(0, len(self.pairs) - 2)))

    def present_old(self, index: int) -> None:
        token = self.pairs[index].refresh_token
        last = index == len(self.pairs) - 2
        lost = last and self.clock - self.used[index] <= timedelta(seconds=10)
        if not self.alive or self.clock >= self.expires_at:
            with pytest.raises(InvalidRefreshToken):
                self.present(token)
        elif lost:
            again = self.present(token)
            assert again.refresh_token == self.pairs[-1].refresh_token
            assert again.access_token == self.pairs[-1].access_token
        elif last and self.late[index] < LATE_RUN:
            again = self.present(token)
            assert again.refresh_token == self.pairs[-1].refresh_token
            assert again.access_token != self.pairs[-1].access_token
            self.pairs[-1] = again
            self.late[-1] = self.late[index] + 1
            self.expires_at = self.clock + timedelta(days=30)
        else:
            with pytest.raises(RefreshTokenReused):
                self.present(token)
            self.alive = False

    @rule()
    def make_one_up(self) -> None:
        with pytest.raises(InvalidRefreshToken):
            self.present(new_refresh_token())

    # Only late in a run, because nothing of interest follows.
    @precondition(lambda self: len(self.pairs) > 4)
    @rule()
    def log_out(self) -> None:
        self.run.run(self.service.logout_all(Caller(self.user_id)))
        self.alive = False

    @invariant()
    def rows_agree(self) -> None:
        if not hasattr(self, "pairs"):
            return
        rows = self.run.run(
            self.service.pool.fetch(
                "SELECT used_at FROM refresh_tokens JOIN sessions ON session_id = sessions.id WHERE user_id = $1",
                self.user_id,
            )
        )
        assert len(rows) == (len(self.pairs) if self.alive else 0)
        assert sum(row["used_at"] is None for row in rows) == int(self.alive)

    def teardown(self) -> None:
        if hasattr(self, "pairs"):
            self.run.run(self.service.pool.execute("DELETE FROM users WHERE id = $1", self.user_id))


# Its own event loop, because a state machine is not asynchronous.
@pytest.mark.timeout(300)
def test_token_family_matches_the_model(settings_of_auth: AuthSettings) -> None:
    with asyncio.Runner() as runner:
        wiring = wire(settings_of_auth)
        state = runner.run(wiring.__aenter__())
        try:
            TokenFamily.run = runner
            TokenFamily.accounts = state.accounts
            TokenFamily.password_hash = runner.run(state.accounts.passwords.hash(PASSWORD.get_secret_value()))
            limits = settings(
                max_examples=40,
                stateful_step_count=15,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            run_state_machine_as_test(TokenFamily, settings=limits)
        finally:
            runner.run(wiring.__aexit__(None, None, None))
