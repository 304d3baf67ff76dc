"""gRPC API of accounts: platform/protos/kinora/auth/v1/auth.proto."""
# ruff: noqa: N802 - method names come from the proto

from typing import Any

import grpc

from kinora.auth.v1 import auth_pb2 as pb
from kinora.auth.v1 import auth_pb2_grpc as service
from kinora_auth import domain
from kinora_auth.domain import ExportState
from kinora_auth.exports import Exports
from kinora_auth.service import Accounts, Tokens
from kinora_kit.commands import command
from kinora_kit.ids import parse_id
from kinora_kit.rpc import fields, signed_in
from kinora_kit.structs import timestamp

STATES = {
    ExportState.RUNNING: pb.EXPORT_STATE_RUNNING,
    ExportState.READY: pb.EXPORT_STATE_READY,
    ExportState.FAILED: pb.EXPORT_STATE_FAILED,
}


def register(server: grpc.aio.Server, accounts: Accounts, exports: Exports) -> None:
    service.add_UsersServicer_to_server(UsersServicer(accounts), server)
    service.add_AccountsServicer_to_server(AccountsServicer(accounts), server)
    service.add_ExportsServicer_to_server(ExportsServicer(exports), server)


def _user(user: domain.User) -> pb.User:
    return pb.User(
        id=str(user.id),
        username=user.username,
        display_name=user.display_name,
        bio=user.bio,
        created_at=timestamp(user.created_at),
    )


def _profile(user: domain.User) -> pb.Profile:
    return pb.Profile(user=_user(user), email=user.email, roles=user.roles)


def _tokens(tokens: Tokens) -> pb.Tokens:
    return pb.Tokens(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=tokens.expires_in,
        user_id=str(tokens.user_id),
    )


def _client(client: pb.Client) -> domain.Client:
    return domain.Client.of(client.address, client.user_agent)


class UsersServicer(service.UsersServicer):
    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        wanted = command(domain.UserIds, {"ids": list(request.ids)})
        named = command(domain.Usernames, {"usernames": list(request.usernames)})
        found = await self._accounts.users(wanted.ids) if wanted.ids else []
        if named.usernames:
            found = [*found, *await self._accounts.users_named(named.usernames)]
        return pb.ListUsersResponse(users=[_user(user) for user in found])

    async def GetProfile(self, request: pb.GetProfileRequest, context: Any) -> pb.Profile:
        return _profile(await self._accounts.user(signed_in().user_id))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        caller = signed_in()
        return pb.ListSessionsResponse(
            sessions=[
                pb.Session(
                    id=str(session.id),
                    user_agent=session.user_agent,
                    address=session.address,
                    created_at=timestamp(session.created_at),
                    last_used_at=timestamp(session.last_used_at),
                    current=session.id == caller.session_id,
                )
                for session in await self._accounts.sessions(caller)
            ]
        )


class AccountsServicer(service.AccountsServicer):
    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.Profile:
        wanted = command(domain.Registration, fields(request, "username", "email", "password", "display_name"))
        return _profile(await self._accounts.register(wanted, _client(request.client)))

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.Tokens:
        given = command(domain.SignIn, fields(request, "login", "password"))
        return _tokens(await self._accounts.login(given, _client(request.client)))

    async def Refresh(self, request: pb.RefreshRequest, context: Any) -> pb.Tokens:
        given = command(domain.Refresh, fields(request, "refresh_token"))
        return _tokens(await self._accounts.refresh(given.refresh_token, _client(request.client)))

    async def Logout(self, request: pb.LogoutRequest, context: Any) -> pb.LogoutResponse:
        await self._accounts.logout(signed_in())
        return pb.LogoutResponse()

    async def LogoutAll(self, request: pb.LogoutAllRequest, context: Any) -> pb.LogoutAllResponse:
        await self._accounts.logout_all(signed_in())
        return pb.LogoutAllResponse()

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> pb.RevokeSessionResponse:
        await self._accounts.end_session(signed_in(), parse_id(request.id))
        return pb.RevokeSessionResponse()

    async def UpdateProfile(self, request: pb.UpdateProfileRequest, context: Any) -> pb.Profile:
        change = command(
            domain.ProfileChange,
            fields(request, "username", "email", "display_name", "bio", "current_password"),
        )
        return _profile(await self._accounts.change_profile(signed_in(), change, _client(request.client)))

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Any) -> pb.ChangePasswordResponse:
        change = command(domain.PasswordChange, fields(request, "current_password", "new_password"))
        await self._accounts.change_password(signed_in(), change)
        return pb.ChangePasswordResponse()

    async def DeleteAccount(self, request: pb.DeleteAccountRequest, context: Any) -> pb.DeleteAccountResponse:
        deletion = command(domain.Deletion, fields(request, "current_password"))
        await self._accounts.delete_account(signed_in(), deletion.current_password)
        return pb.DeleteAccountResponse()


class ExportsServicer(service.ExportsServicer):
    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    async def RequestExport(self, request: pb.RequestExportRequest, context: Any) -> pb.Export:
        return self._message(await self._exports.request(signed_in()))

    async def GetExport(self, request: pb.GetExportRequest, context: Any) -> pb.Export:
        return self._message(await self._exports.find(signed_in()))

    async def CancelExport(self, request: pb.CancelExportRequest, context: Any) -> pb.CancelExportResponse:
        await self._exports.cancel(signed_in())
        return pb.CancelExportResponse()

    def _message(self, export: domain.Export) -> pb.Export:
        return pb.Export(
            id=str(export.id),
            state=STATES[self._exports.state(export)],
            progress=export.progress,
            records=export.records,
            size=export.size,
            created_at=timestamp(export.created_at),
            expires_at=timestamp(export.expires_at),
            download_url=self._exports.url(export),
        )
