from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import grpc
import pytest

from kinora.auth.v1 import auth_pb2 as pb
from kinora.auth.v1.auth_pb2_grpc import AccountsStub, UsersStub
from kinora_kit import rpc
from kinora_kit.errors import DomainError
from kinora_kit.ids import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import Api

PASSWORD = "correct horse battery"
HERE = pb.Client(address="2001:db8::7", user_agent="a phone\n")


@pytest.fixture
async def channel(api: Api) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.connect(f"127.0.0.1:{api.settings.grpc_port}") as connected:
        yield connected


async def test_account_lifecycle_over_grpc(channel: grpc.aio.Channel) -> None:
    users, accounts = UsersStub(channel), AccountsStub(channel)
    name = f"user_{secrets.token_hex(8)}"
    registered = await accounts.Register(
        pb.RegisterRequest(username=name, email=f"{name}@example.com", password=PASSWORD, client=HERE)
    )
    assert registered.user.display_name == name
    tokens = await accounts.Login(pb.LoginRequest(login=name, password=PASSWORD, client=HERE))
    assert tokens.user_id == registered.user.id
    tokens = await accounts.Refresh(pb.RefreshRequest(refresh_token=tokens.refresh_token, client=HERE))
    rpc.access_token.set(tokens.access_token)
    assert (await users.GetProfile(pb.GetProfileRequest())).email == f"{name}@example.com"
    [session] = (await users.ListSessions(pb.ListSessionsRequest())).sessions
    assert (session.current, session.address, session.user_agent) == (True, "2001:db8::7", "a phone")

    changed = await accounts.UpdateProfile(pb.UpdateProfileRequest(bio="", display_name="Ada"))
    assert (changed.user.username, changed.user.display_name) == (name, "Ada")
    await accounts.ChangePassword(pb.ChangePasswordRequest(current_password=PASSWORD, new_password="another one"))
    await accounts.DeleteAccount(pb.DeleteAccountRequest(current_password="another one"))
    with pytest.raises(DomainError) as refused:
        await users.GetProfile(pb.GetProfileRequest())
    assert (refused.value.status, refused.value.code) == (401, "invalid_token")


async def test_list_users_over_grpc_is_public_and_omits_private_fields(api: Api, channel: grpc.aio.Channel) -> None:
    rpc.access_token.set(None)
    people = [await api.person() for _ in range(2)]
    ids = [str(person.id) for person in people]
    answer = await UsersStub(channel).ListUsers(pb.ListUsersRequest(ids=[*ids, str(new_id())]))
    assert [user.id for user in answer.users] == ids
    assert answer.users[0].created_at.ToDatetime().year > 2000
    names = [people[1].username.upper(), "nobody", "not a name"]
    answer = await UsersStub(channel).ListUsers(pb.ListUsersRequest(ids=[ids[0]], usernames=names))
    assert [user.id for user in answer.users] == ids
    for wrong in (["1"], [str(new_id())] * 101):
        with pytest.raises(DomainError) as refused:
            await UsersStub(channel).ListUsers(pb.ListUsersRequest(ids=wrong))
        assert (refused.value.status, refused.value.code) == (422, "invalid_input")


async def test_logout_over_grpc_ends_sessions(api: Api, channel: grpc.aio.Channel) -> None:
    person = await api.person()
    here, there, third = [await person.sign_in() for _ in range(3)]
    accounts = AccountsStub(channel)
    rpc.access_token.set(here.access_token)
    await accounts.RevokeSession(pb.RevokeSessionRequest(id=str(await there.session_id())))
    assert (await there.verify()).status_code == 401
    for wrong, code in ((str(new_id()), "session_not_found"), ("x", "invalid_input")):
        with pytest.raises(DomainError) as refused:
            await accounts.RevokeSession(pb.RevokeSessionRequest(id=wrong))
        assert refused.value.code == code
    await accounts.Logout(pb.LogoutRequest())
    assert (await here.verify()).status_code == 401
    rpc.access_token.set(third.access_token)
    await accounts.LogoutAll(pb.LogoutAllRequest())
    assert (await third.verify()).status_code == 401


async def test_anonymous_grpc_calls_are_rejected(channel: grpc.aio.Channel) -> None:
    rpc.access_token.set(None)
    for call in (
        UsersStub(channel).GetProfile(pb.GetProfileRequest()),
        UsersStub(channel).ListSessions(pb.ListSessionsRequest()),
        AccountsStub(channel).Logout(pb.LogoutRequest()),
        AccountsStub(channel).DeleteAccount(pb.DeleteAccountRequest(current_password=PASSWORD)),
    ):
        with pytest.raises(DomainError) as refused:
            await call
        assert (refused.value.status, refused.value.code) == (401, "not_signed_in")
