import json
from dataclasses import asdict
from datetime import datetime
from importlib import resources
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

from kinora_auth import domain, oauth
from kinora_auth.domain import ExportState
from kinora_auth.errors import InvalidRefreshToken, RefreshTokenReused
from kinora_auth.service import Tokens
from kinora_auth.wiring import Wired
from kinora_kit.commands import command_from_json
from kinora_kit.errors import NotSignedIn
from kinora_kit.identity import SignedIn, bearer

router = APIRouter()

# Declared where the caller proves who they are by other means than SignedIn.
UNAUTHORIZED: dict[int | str, dict[str, Any]] = {401: {}}


class User(BaseModel):
    """A user's public data."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    username: str
    display_name: str
    bio: str
    created_at: datetime


class Profile(User):
    email: str
    roles: list[str]


class Users(BaseModel):
    items: list[User]


class Pair(BaseModel):
    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the type of RFC 6750
    expires_in: int
    refresh_token: str


class Session(BaseModel):
    id: UUID
    user_agent: str
    address: str
    created_at: datetime
    last_used_at: datetime
    current: bool


class Sessions(BaseModel):
    items: list[Session]


class ExportId(BaseModel):
    id: UUID


class Export(BaseModel):
    id: UUID
    state: ExportState
    progress: float
    """0 to 1."""
    records: int
    size: int
    """In bytes."""
    created_at: datetime
    expires_at: datetime
    download_url: str | None
    """Null unless ready. Valid for an hour, without a token."""


async def _client(request: Request) -> domain.Client:
    return domain.Client.of(request.client.host if request.client else "", request.headers.get("user-agent", ""))


From = Annotated[domain.Client, Depends(_client)]


def _pair(tokens: Tokens, response: Response) -> Pair:
    response.headers["Cache-Control"] = "no-store"
    return Pair(access_token=tokens.access_token, expires_in=tokens.expires_in, refresh_token=tokens.refresh_token)


# First, because routes are tried in this order, and the gateway asks for nearly every request.
@router.get("/user/token_verify", response_class=Response, responses=UNAUTHORIZED)
async def token_verify(wired: Wired, request: Request, optional: Annotated[bool, Query()] = False) -> Response:
    """ForwardAuth of the gateway: identifies the caller. With ``optional``, requests without a token pass."""
    token = bearer(request.headers)
    if token is None:
        if not optional:
            raise NotSignedIn
        return Response()
    return Response(headers=(await wired.verifier.verify(token)).headers())


@router.post("/auth/register", status_code=201)
async def register(wanted: domain.Registration, wired: Wired, client: From) -> Profile:
    return Profile.model_validate(await wired.accounts.register(wanted, client))


@router.post("/auth/login", responses=UNAUTHORIZED)
async def login(given: domain.SignIn, wired: Wired, client: From, response: Response) -> Pair:
    return _pair(await wired.accounts.login(given, client), response)


@router.post(
    "/auth/refresh",
    response_model=Pair,
    responses={400: {"content": {"application/json": {"schema": oauth.ERROR_SCHEMA}}}, **UNAUTHORIZED},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": domain.Refresh.model_json_schema()},
                oauth.FORM: {"schema": oauth.FORM_SCHEMA},
            },
        }
    },
)
async def refresh(request: Request, wired: Wired, client: From, response: Response) -> Pair | Response:
    """By JSON, or by form as OAuth clients do (RFC 6749, section 6), with OAuth's error responses."""
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != oauth.FORM:
        given = command_from_json(domain.Refresh, body)
        return _pair(await wired.accounts.refresh(given.refresh_token, client), response)
    try:
        try:
            return _pair(await wired.accounts.refresh(oauth.refresh_token(body), client), response)
        except (InvalidRefreshToken, RefreshTokenReused) as error:
            raise oauth.OAuthError("invalid_grant", error.detail) from None
    except oauth.OAuthError as error:
        return JSONResponse(error.body, 400, headers={"Cache-Control": "no-store"})


@router.post("/auth/logout", status_code=204)
async def logout(caller: SignedIn, wired: Wired) -> None:
    await wired.accounts.logout(caller)


@router.post("/auth/logout-all", status_code=204)
async def logout_all(caller: SignedIn, wired: Wired) -> None:
    await wired.accounts.logout_all(caller)


@router.get("/auth/sessions")
async def sessions(caller: SignedIn, wired: Wired) -> Sessions:
    living = await wired.accounts.sessions(caller)
    return Sessions(items=[Session(**asdict(each), current=each.id == caller.session_id) for each in living])


@router.delete("/auth/sessions/{session_id:uuid}", status_code=204)
async def end_session(session_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.accounts.end_session(caller, session_id)


@router.put("/auth/password", status_code=204)
async def change_password(change: domain.PasswordChange, caller: SignedIn, wired: Wired) -> None:
    await wired.accounts.change_password(caller, change)


@router.get("/auth/.well-known/jwks.json")
async def key_set(wired: Wired, response: Response) -> dict[str, list[dict[str, str]]]:
    # As long as the kit's verifiers cache it, and shorter than the time between a key's publication and its first use.
    response.headers["Cache-Control"] = "public, max-age=300"
    return await wired.keys.key_set()


@router.get("/openapi.json", include_in_schema=False)
async def openapi(wired: Wired) -> dict[str, Any]:
    """The routes of the whole platform, as generated by ``make generate``."""
    document: dict[str, Any] = json.loads(resources.files("kinora").joinpath("openapi.json").read_text())
    return {**document, "servers": [{"url": wired.accounts.settings.public_url}]}


@router.get("/.well-known/oauth-authorization-server")
async def metadata(wired: Wired, response: Response) -> dict[str, object]:
    response.headers["Cache-Control"] = "public, max-age=300"
    return oauth.metadata(wired.accounts.settings.public_url)


@router.get("/user/profile")
async def profile(caller: SignedIn, wired: Wired) -> Profile:
    return Profile.model_validate(await wired.accounts.user(caller.user_id))


@router.patch("/user/profile")
async def change_profile(change: domain.ProfileChange, caller: SignedIn, wired: Wired, client: From) -> Profile:
    return Profile.model_validate(await wired.accounts.change_profile(caller, change, client))


@router.delete("/user/profile", status_code=204)
async def delete_account(deletion: domain.Deletion, caller: SignedIn, wired: Wired) -> None:
    await wired.accounts.delete_account(caller, deletion.current_password)


@router.post("/user/export", status_code=202)
async def request_export(caller: SignedIn, wired: Wired) -> ExportId:
    return ExportId(id=(await wired.exports.request(caller)).id)


@router.get("/user/export", responses={404: {}})
async def export(caller: SignedIn, wired: Wired, response: Response) -> Export:
    found = await wired.exports.find(caller)
    response.headers["Cache-Control"] = "no-store"
    return Export(
        id=found.id,
        state=wired.exports.state(found),
        progress=found.progress,
        records=found.records,
        size=found.size,
        created_at=found.created_at,
        expires_at=found.expires_at,
        download_url=wired.exports.url(found),
    )


@router.delete("/user/export", status_code=204)
async def cancel_export(caller: SignedIn, wired: Wired) -> None:
    await wired.exports.cancel(caller)


@router.get(
    "/user/export/{export_id:uuid}/archive",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}}, 403: {}},
)
async def export_archive(
    export_id: UUID,
    wired: Wired,
    exp: Annotated[int, Query(ge=0, le=1 << 40)],
    sig: Annotated[str, Query(max_length=64)],
) -> StreamingResponse:
    """The signed address of an export: JSON objects {kind, data}, each on a line, compressed with gzip."""
    found, pages = await wired.exports.archive(export_id, exp, sig)
    headers = {
        "Content-Length": str(found.size),
        "Content-Disposition": 'attachment; filename="kinora-export.ndjson.gz"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(pages, media_type="application/gzip", headers=headers)


@router.post("/user/list")
async def list_users(wanted: domain.UserIds, wired: Wired) -> Users:
    return Users(items=[User.model_validate(user) for user in await wired.accounts.users(wanted.ids)])


@router.get("/user/by-name/{username}")
async def user_named(username: domain.Username, wired: Wired) -> User:
    """By username, regardless of case."""
    return User.model_validate(await wired.accounts.user_named(username))


@router.get("/user/{user_id:uuid}")
async def user(user_id: UUID, wired: Wired) -> User:
    return User.model_validate(await wired.accounts.user(user_id))
