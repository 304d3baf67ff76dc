from typing import Annotated

import strawberry

from kinora.auth.v1 import auth_pb2 as pb
from kinora_graphql.auth.types import Export, Profile, Tokens
from kinora_graphql.context import Info
from kinora_graphql.costs import Cost
from kinora_graphql.ids import parse
from kinora_graphql.inputs import given
from kinora_graphql.problems import InvalidInput, Problem, TooManyRequests, outcome

HASHES = [Cost(weight="100")]
"""Of mutations that hash a password, which takes as long as loading many objects."""


@strawberry.type
class UsernameTaken(Problem): ...


@strawberry.type
class EmailTaken(Problem): ...


@strawberry.type
class InvalidCredentials(Problem): ...


@strawberry.type
class InvalidRefreshToken(Problem): ...


@strawberry.type(description="The token was already used, so its session was ended; sign in again.")
class RefreshTokenReused(Problem): ...


@strawberry.type
class WrongPassword(Problem): ...


@strawberry.type(description="It does not exist, has ended, or is another user's.")
class SessionNotFound(Problem): ...


@strawberry.input
class RegisterInput:
    username: str
    email: str
    password: str
    display_name: str | None = strawberry.UNSET


@strawberry.type
class RegisterPayload:
    profile: Profile


RegisterResult = Annotated[
    RegisterPayload | UsernameTaken | EmailTaken | InvalidInput | TooManyRequests, strawberry.union("RegisterResult")
]


@strawberry.input
class LoginInput:
    login: str = strawberry.field(description="A username or an email address.")
    password: str


@strawberry.type
class LoginPayload:
    tokens: Tokens


LoginResult = Annotated[
    LoginPayload | InvalidCredentials | InvalidInput | TooManyRequests, strawberry.union("LoginResult")
]


@strawberry.input
class RefreshInput:
    refresh_token: str


@strawberry.type
class RefreshPayload:
    tokens: Tokens


RefreshResult = Annotated[
    RefreshPayload | InvalidRefreshToken | RefreshTokenReused | InvalidInput, strawberry.union("RefreshResult")
]


@strawberry.type
class LogoutPayload:
    done: bool


@strawberry.type
class LogoutAllPayload:
    done: bool


@strawberry.type
class RevokeSessionPayload:
    session_id: strawberry.ID


RevokeSessionResult = Annotated[
    RevokeSessionPayload | SessionNotFound | InvalidInput, strawberry.union("RevokeSessionResult")
]


@strawberry.input
class ChangePasswordInput:
    current_password: str
    new_password: str


@strawberry.type
class ChangePasswordPayload:
    done: bool


ChangePasswordResult = Annotated[
    ChangePasswordPayload | WrongPassword | InvalidInput | TooManyRequests, strawberry.union("ChangePasswordResult")
]


@strawberry.input
class DeleteAccountInput:
    current_password: str


@strawberry.type
class DeleteAccountPayload:
    done: bool


DeleteAccountResult = Annotated[
    DeleteAccountPayload | WrongPassword | InvalidInput | TooManyRequests, strawberry.union("DeleteAccountResult")
]


@strawberry.input(description="Fields to change; absent and null fields keep their values.")
class UpdateProfileInput:
    username: str | None = strawberry.UNSET
    email: str | None = strawberry.UNSET
    display_name: str | None = strawberry.UNSET
    bio: str | None = strawberry.UNSET
    current_password: str | None = strawberry.field(
        default=strawberry.UNSET, description="Required to change the email address."
    )


@strawberry.type
class UpdateProfilePayload:
    profile: Profile


UpdateProfileResult = Annotated[
    UpdateProfilePayload | UsernameTaken | EmailTaken | WrongPassword | InvalidInput | TooManyRequests,
    strawberry.union("UpdateProfileResult"),
]


@strawberry.type
class RequestExportPayload:
    export: Export


@strawberry.type
class CancelExportPayload:
    done: bool


@strawberry.type
class AuthMutation:
    @strawberry.mutation(directives=HASHES)
    async def register(self, info: Info, input: RegisterInput) -> RegisterResult:  # noqa: A002 - the name clients see
        async def call() -> RegisterPayload:
            request = pb.RegisterRequest(**given(input), client=info.context.client)
            return RegisterPayload(profile=Profile.of(await info.context.clients.accounts.Register(request)))

        return await outcome(call(), UsernameTaken, EmailTaken, InvalidInput, TooManyRequests)

    @strawberry.mutation(directives=HASHES)
    async def login(self, info: Info, input: LoginInput) -> LoginResult:  # noqa: A002
        async def call() -> LoginPayload:
            request = pb.LoginRequest(**given(input), client=info.context.client)
            return LoginPayload(tokens=Tokens.of(await info.context.clients.accounts.Login(request)))

        return await outcome(call(), InvalidCredentials, InvalidInput, TooManyRequests)

    @strawberry.mutation(description="Exchange a refresh token for new tokens.")
    async def refresh(self, info: Info, input: RefreshInput) -> RefreshResult:  # noqa: A002
        async def call() -> RefreshPayload:
            request = pb.RefreshRequest(**given(input), client=info.context.client)
            return RefreshPayload(tokens=Tokens.of(await info.context.clients.accounts.Refresh(request)))

        return await outcome(call(), InvalidRefreshToken, RefreshTokenReused, InvalidInput)

    @strawberry.mutation(description="End the session of the access token, effective immediately and everywhere.")
    async def logout(self, info: Info) -> LogoutPayload:
        await info.context.clients.accounts.Logout(pb.LogoutRequest())
        return LogoutPayload(done=True)

    @strawberry.mutation(description="End all sessions of the caller, this one included.")
    async def logout_all(self, info: Info) -> LogoutAllPayload:
        await info.context.clients.accounts.LogoutAll(pb.LogoutAllRequest())
        return LogoutAllPayload(done=True)

    @strawberry.mutation(description="End one session of the caller, effective immediately and everywhere.")
    async def revoke_session(self, info: Info, id: strawberry.ID) -> RevokeSessionResult:  # noqa: A002
        async def call() -> RevokeSessionPayload:
            request = pb.RevokeSessionRequest(id=str(parse(id, "Session")))
            await info.context.clients.accounts.RevokeSession(request)
            return RevokeSessionPayload(session_id=id)

        return await outcome(call(), SessionNotFound, InvalidInput)

    @strawberry.mutation(description="Change the password, which ends all other sessions.", directives=HASHES)
    async def change_password(self, info: Info, input: ChangePasswordInput) -> ChangePasswordResult:  # noqa: A002
        async def call() -> ChangePasswordPayload:
            await info.context.clients.accounts.ChangePassword(pb.ChangePasswordRequest(**given(input)))
            return ChangePasswordPayload(done=True)

        return await outcome(call(), WrongPassword, InvalidInput, TooManyRequests)

    @strawberry.mutation(description="Delete the caller's account and all its data.", directives=HASHES)
    async def delete_account(self, info: Info, input: DeleteAccountInput) -> DeleteAccountResult:  # noqa: A002
        async def call() -> DeleteAccountPayload:
            await info.context.clients.accounts.DeleteAccount(pb.DeleteAccountRequest(**given(input)))
            return DeleteAccountPayload(done=True)

        return await outcome(call(), WrongPassword, InvalidInput, TooManyRequests)

    @strawberry.mutation
    async def update_profile(self, info: Info, input: UpdateProfileInput) -> UpdateProfileResult:  # noqa: A002
        async def call() -> UpdateProfilePayload:
            request = pb.UpdateProfileRequest(**given(input), client=info.context.client)
            return UpdateProfilePayload(profile=Profile.of(await info.context.clients.accounts.UpdateProfile(request)))

        return await outcome(call(), UsernameTaken, EmailTaken, WrongPassword, InvalidInput, TooManyRequests)

    @strawberry.mutation(
        description="Collect all that the platform knows of the caller. The current export if it is running, or was"
        " finished within the last ten minutes."
    )
    async def request_export(self, info: Info) -> RequestExportPayload:
        return RequestExportPayload(
            export=Export.of(await info.context.clients.exports.RequestExport(pb.RequestExportRequest()))
        )

    @strawberry.mutation(description="Delete the caller's export; no error if there is none.")
    async def cancel_export(self, info: Info) -> CancelExportPayload:
        await info.context.clients.exports.CancelExport(pb.CancelExportRequest())
        return CancelExportPayload(done=True)
