"""POST and GET: a user's journey, errors in results and in ``errors``, rejected operations and arguments."""

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import httpx
import pytest
from graphql import build_client_schema, get_introspection_query
from redis.asyncio import Redis

from kinora.media.v1 import media_pb2
from kinora_graphql import ids
from kinora_graphql.problems import extensions
from kinora_kit.errors import InvalidInput, Unavailable
from kinora_kit.ids import new_id
from kinora_kit.revocations import announce
from kinora_kit.testing import eventually

Ask = Callable[..., Awaitable[dict[str, Any]]]
World = Any
Keys = Any
gid = ids.make
REGISTER = """
mutation ($input: RegisterInput!) {
  register(input: $input) {
    __typename
    ... on RegisterPayload { profile { email user { username displayName } } }
    ... on Problem { code message }
    ... on InvalidInput { errors { field message } }
  }
}
"""
LOGIN = """
mutation ($input: LoginInput!) {
  login(input: $input) {
    __typename
    ... on LoginPayload { tokens { accessToken refreshToken expiresIn userId } }
    ... on Problem { code message }
    ... on TooManyRequests { retryAfter }
  }
}
"""
REFRESH = "mutation ($input: RefreshInput!) { refresh(input: $input) { __typename ... on Problem { code } } }"
CREATE_UPLOAD = """
mutation ($input: CreateUploadInput!) {
  createUpload(input: $input) {
    __typename
    ... on CreateUploadPayload { uuid mediaId videoId uploadUrl }
    ... on Problem { code message }
  }
}
"""
MEDIA = """
query ($id: ID!) {
  media(id: $id) {
    title visibility state tags category { slug name } publishAt attributes
    owner { username }
    video { state duration streamUrl posterUrl renditions { name averageBandwidth } }
  }
}
"""
UPDATE_MEDIA = """
mutation ($id: ID!, $input: UpdateMediaInput!) {
  updateMedia(id: $id, input: $input) {
    __typename
    ... on UpdateMediaPayload { media { title tags visibility attributes } }
    ... on Problem { code message }
    ... on InvalidInput { errors { field message } }
  }
}
"""
DELETE_MEDIA = """
mutation ($id: ID!) {
  deleteMedia(id: $id) { __typename ... on DeleteMediaPayload { mediaId } ... on Problem { code } }
}
"""
DELETE_VIDEO = """
mutation ($id: ID!) {
  deleteVideo(id: $id) { __typename ... on DeleteVideoPayload { videoId } ... on Problem { code } }
}
"""


async def test_journey_from_registration_to_deletion(ask: Ask, world: World) -> None:
    name = f"user-{new_id().hex[-8:]}"
    given = {"username": name, "email": f"{name}@example.org", "password": "right", "displayName": "Me"}
    made = (await ask(REGISTER, {"input": given}))["data"]["register"]
    assert made == {
        "__typename": "RegisterPayload",
        "profile": {"email": given["email"], "user": {"username": name, "displayName": "Me"}},
    }
    login = (await ask(LOGIN, {"input": {"login": name, "password": "right"}}))["data"]["login"]
    user_id = ids.parse(login["tokens"]["userId"], "User")
    assert login["tokens"]["expiresIn"] == 600

    at = "2027-01-02T03:04:05.678000+00:00"
    described = {"tags": ["b"], "category": "music", "publishAt": at}
    upload = {"title": "Mine", "filename": "a.mp4", "size": 6 << 30, **described}
    created = (await ask(CREATE_UPLOAD, {"input": upload}, user_id))["data"]["createUpload"]
    media_id = created["mediaId"]
    assert created["uploadUrl"] == f"http://upload.test/{created['uuid']}"
    assert (media_id, created["videoId"]) == (gid("Media", created["uuid"]), gid("Video", created["uuid"]))

    media = (await ask(MEDIA, {"id": media_id}, user_id))["data"]["media"]
    assert media == {
        "title": "Mine",
        "visibility": "PRIVATE",
        "state": "PROCESSING",
        "tags": ["b"],
        "category": {"slug": "music", "name": "Music"},
        "publishAt": at,
        "attributes": {},
        "owner": {"username": name},
        "video": {"state": "UPLOADING", "duration": None, "streamUrl": None, "posterUrl": None, "renditions": []},
    }
    assert await ask(MEDIA, {"id": media_id}) == {"data": {"media": None}}

    changes = {"title": "New", "tags": ["a"], "visibility": "PUBLIC", "attributes": {"iso": 100, "f": 1.8}}
    updated = (await ask(UPDATE_MEDIA, {"id": media_id, "input": changes}, user_id))["data"]["updateMedia"]
    assert updated == {"__typename": "UpdateMediaPayload", "media": changes}
    assert (await ask(MEDIA, {"id": media_id}))["data"]["media"]["title"] == "New"

    deleted = (await ask(DELETE_MEDIA, {"id": media_id}, user_id))["data"]["deleteMedia"]
    assert deleted == {"__typename": "DeleteMediaPayload", "mediaId": media_id}
    again = (await ask(DELETE_MEDIA, {"id": media_id}, user_id))["data"]["deleteMedia"]
    assert again == {"__typename": "MediaNotFound", "code": "media_not_found"}


async def test_mutation_returns_expected_errors_as_problems(ask: Ask, world: World) -> None:
    owner_id, media_id = world.add_user("taken"), world.add_video(world.add_user())
    registration = {"username": "taken", "email": "a@example.org", "password": "x"}
    answers = [
        (await ask(REGISTER, {"input": registration}))["data"]["register"],
        (await ask(REGISTER, {"input": {**registration, "email": "a"}}))["data"]["register"],
        (await ask(LOGIN, {"input": {"login": "nobody", "password": "x"}}))["data"]["login"],
        (await ask(UPDATE_MEDIA, {"id": gid("Media", media_id), "input": {}}, owner_id))["data"]["updateMedia"],
        (await ask(CREATE_UPLOAD, {"input": {"title": "", "filename": "", "size": 11 << 30}}, owner_id))["data"][
            "createUpload"
        ],
        (await ask('mutation { refresh(input: {refreshToken: "x"}) { __typename ... on Problem { code message } } }'))[
            "data"
        ]["refresh"],
    ]
    assert [(answer["__typename"], answer["code"]) for answer in answers] == [
        ("UsernameTaken", "username_taken"),
        ("InvalidInput", "invalid_input"),
        ("InvalidCredentials", "invalid_credentials"),
        ("NotTheOwner", "not_the_owner"),
        ("FileTooLarge", "file_too_large"),
        ("RefreshTokenReused", "refresh_token_reused"),
    ]
    assert answers[1]["message"] == "email: is none; display_name: is missing"
    assert answers[1]["errors"] == [
        {"field": "email", "message": "is none"},
        {"field": "displayName", "message": "is missing"},
    ]


async def test_throttled_login_returns_retry_delay(ask: Ask, world: World) -> None:
    for _ in range(3):
        await ask(LOGIN, {"input": {"login": "nobody", "password": "x"}})
    answer = (await ask(LOGIN, {"input": {"login": "nobody", "password": "x"}}))["data"]["login"]
    assert answer == {
        "__typename": "TooManyRequests",
        "code": "too_many_requests",
        "message": "Too many attempts, try again in 7 s",
        "retryAfter": 7,
    }


async def test_login_passes_client_address_to_auth(http: httpx.AsyncClient, world: World) -> None:
    body = {"query": LOGIN, "variables": {"input": {"login": "nobody", "password": "x"}}}
    headers = {"x-forwarded-for": "198.51.100.7", "user-agent": "Player/1"}
    await http.post("/graphql", json=body, headers=headers)
    assert [(client.address, client.user_agent) for client in world.clients] == [("198.51.100.7", "Player/1")]


def codes(answer: dict[str, Any]) -> list[str]:
    return [error["extensions"]["code"] for error in answer["errors"]]


async def test_anonymous_caller_gets_not_signed_in(ask: Ask, world: World) -> None:
    answer = await ask("{ me { email } }")
    assert (answer["data"], codes(answer)) == ({"me": None}, ["not_signed_in"])
    upload = {"title": "", "filename": "", "size": 1}
    for document, variables in (
        (CREATE_UPLOAD, {"input": upload}),
        (DELETE_MEDIA, {"id": gid("Media", new_id())}),
        ("mutation { logout { done } }", None),
    ):
        assert codes(await ask(document, variables)) == ["not_signed_in"]


async def test_empty_authorization_header_counts_as_absent(http: httpx.AsyncClient) -> None:
    answer = await http.post("/graphql", json={"query": "{ me { email } }"}, headers={"Authorization": ""})
    assert codes(answer.json()) == ["not_signed_in"]


async def test_token_identifies_the_caller(ask: Ask, world: World) -> None:
    user_id = world.add_user()
    assert (await ask("{ me { user { id } } }", None, user_id))["data"]["me"]["user"]["id"] == gid("User", user_id)
    answer = await ask(
        'mutation { updateProfile(input: {bio: "Hi"}) { ... on UpdateProfilePayload { profile { user { bio } } } } }',
        None,
        user_id,
    )
    assert answer["data"]["updateProfile"]["profile"]["user"]["bio"] == "Hi"


@pytest.fixture(params=["no token", "another scheme", "expired", "of an ended session"])
async def bad_token(request: pytest.FixtureRequest, world: World, keys: Keys, revocations: Redis) -> str:
    ended, user_id = new_id(), world.add_user()
    await announce(revocations, {ended: 60})
    return {
        "no token": "Bearer x",
        "another scheme": "Basic x",
        "expired": f"Bearer {keys.token(user_id, seconds=-60)}",
        "of an ended session": f"Bearer {keys.token(user_id, session_id=ended)}",
    }[str(request.param)]


@pytest.mark.parametrize(
    "document",
    [
        "{ me { email } }",
        '{ media(id: "x") { title } }',
        "mutation { logout { done } }",
        'mutation { refresh(input: {refreshToken: "x"}) { __typename } logout { done } }',
        "mutation { ...A } fragment A on Mutation { logout { done } }",
        'subscription { videoProgress(id: "x") { state } }',
    ],
)
async def test_operation_with_invalid_token_is_rejected_as_a_whole(
    http: httpx.AsyncClient, bad_token: str, document: str
) -> None:
    headers = {"authorization": bad_token}
    answer = await http.post("/graphql", json={"query": document}, headers=headers)
    assert answer.headers["content-type"].startswith("application/json")
    if not document.startswith("subscription"):  # rejected by POST anyway
        assert (answer.status_code, answer.json().get("data"), codes(answer.json())) == (200, None, ["invalid_token"])
    streamed = await http.post(
        "/graphql", json={"query": document}, headers={**headers, "accept": "multipart/mixed;subscriptionSpec=1.0"}
    )
    assert '"state"' not in streamed.text


async def test_login_and_refresh_work_with_invalid_token(http: httpx.AsyncClient, world: World, bad_token: str) -> None:
    """The refresh links of urql and Apollo send the expired token along."""
    name = f"user-{new_id().hex[-8:]}"
    register = {"username": name, "email": f"{name}@example.org", "password": "right"}
    for document, variables, expected in (
        (REGISTER, {"input": register}, "RegisterPayload"),
        (LOGIN, {"input": {"login": name, "password": "right"}}, "LoginPayload"),
        (REFRESH, {"input": {"refreshToken": "used"}}, "RefreshTokenReused"),
    ):
        body = {"query": document, "variables": variables}
        answer = (await http.post("/graphql", json=body, headers={"authorization": bad_token})).json()
        assert "errors" not in answer
        assert next(iter(answer["data"].values()))["__typename"] == expected


async def test_null_for_optional_input_keeps_the_value(ask: Ask, world: World) -> None:
    name = f"user-{new_id().hex[-8:]}"
    register = {"username": name, "email": f"{name}@example.org", "password": "right", "displayName": None}
    assert (await ask(REGISTER, {"input": register}))["data"]["register"]["__typename"] == "RegisterPayload"
    user_id = world.add_user()
    change = {"bio": "Hi", "username": None, "email": None, "displayName": None, "currentPassword": None}
    document = "mutation ($input: UpdateProfileInput!) { updateProfile(input: $input) { __typename } }"
    answer = await ask(document, {"input": change}, user_id)
    assert answer["data"]["updateProfile"]["__typename"] == "UpdateProfilePayload"
    assert world.users[str(user_id)].user.bio == "Hi"
    media_id = world.add_video(user_id)
    change = dict.fromkeys(["title", "description", "tags", "category", "visibility", "attributes"])
    document = "mutation ($id: ID!, $input: UpdateMediaInput!) { updateMedia(id: $id, input: $input) { __typename } }"
    answer = await ask(document, {"id": gid("Media", media_id), "input": change}, user_id)
    assert answer["data"]["updateMedia"]["__typename"] == "UpdateMediaPayload"
    assert world.media[media_id].title == "Title"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"input": None}, "not to be null"),
        ({"input": 7}, "to be an object"),
        ({"input": {"title": "", "filename": "", "size": 1, "visibility": None}}, "not to be null"),
        ({"input": {"title": "", "filename": "", "size": True}}, "BigInt cannot represent true"),
        ({"input": {"title": True, "filename": "", "size": 1}}, "non string value: true"),
        ({"input": {"title": {"a": None}, "filename": "", "size": 1}}, "null"),
    ],
)
async def test_variable_errors_name_no_python_types(ask: Ask, variables: Any, said: str) -> None:
    answer = await ask(CREATE_UPLOAD, variables)
    assert codes(answer) == ["invalid_query"]
    message = answer["errors"][0]["message"]
    assert said in message
    assert not re.search(r"\b(None|True|False|str|dict|list|int|Maybe|mapping)\b", message)


async def test_internal_errors_hide_details(ask: Ask, world: World) -> None:
    media_id = world.add_video(world.add_user())
    world.media[media_id].state = media_pb2.STATE_UNSPECIFIED  # no service returns this
    answer = await ask(MEDIA, {"id": gid("Media", media_id)})
    assert answer["data"] == {"media": None}
    (error,) = answer["errors"]
    assert (error["message"], error["extensions"]) == ("Something went wrong on our side", {"code": "internal"})


async def test_fields_of_an_unavailable_service_return_unavailable(
    start: Callable[..., AbstractAsyncContextManager[str]], world: World
) -> None:
    media_id = world.add_video(world.add_user())
    async with (
        start(auth_grpc="127.0.0.1:9") as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client,
    ):
        answer = (
            await client.post("/graphql", json={"query": MEDIA, "variables": {"id": gid("Media", media_id)}})
        ).json()
    assert answer["data"]["media"]["title"] == "Title"  # other fields still work
    assert answer["data"]["media"]["owner"] is None
    assert [error["extensions"] for error in answer["errors"]] == [{"code": "unavailable", "retryAfter": 5}]


async def test_bug_of_a_service_is_internal(ask: Ask, world: World) -> None:
    answer = await ask("{ me { email } }", None, new_id())  # for which the fake service raises KeyError
    assert answer["data"] == {"me": None}
    assert [(error["message"], error["extensions"]) for error in answer["errors"]] == [
        ("Something went wrong on our side", {"code": "internal"})
    ]


def test_extensions_have_fields_and_retry_delay_where_known() -> None:
    assert extensions(Unavailable(retry_after_seconds=2)) == {"code": "unavailable", "retryAfter": 2}
    assert extensions(InvalidInput("Nothing to change")) == {"code": "invalid_input"}
    assert extensions(InvalidInput.of([("display_name", "Too long")])) == {
        "code": "invalid_input",
        "errors": [{"field": "displayName", "message": "Too long"}],
    }


def aliases(count: int) -> str:
    return "{" + " ".join(f"a{index}: me {{ email }}" for index in range(count)) + "}"


def fanned(levels: int) -> str:
    """A document with 2 ** levels paths through its fragments."""
    spread = [f"fragment F{index} on Query {{ ...F{index + 1} ...F{index + 1} }}" for index in range(levels)]
    return "\n".join(["{ ...F0 }", *spread, f"fragment F{levels} on Query {{ a: me {{ email }} }}"])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (aliases(21), "more than 20 aliases"),
        (fanned(60), "more than 20 aliases"),
        ("{ me { " + "email " * 1000 + "} }", "Syntax Error: Document contains more than 1000 tokens"),
        ("{ ...A } fragment A on Query { ...A }", "Cannot spread fragment"),
        ("{ ...Missing }", "Unknown fragment"),
        ("{ __schema { types { name } } }", "introspection"),
        ("{ mee { email } }", "Cannot query field 'mee' on type 'Query'."),
        ('{ media(id: "x") { title { x } } }', "must not have a selection"),
        ('mutation { createUpload(input: {title: "", filename: "", size: true}) { __typename } }', "BigInt cannot"),
        ("{", "Syntax Error"),
    ],
    ids=lambda value: value[:30],
)
async def test_invalid_or_excessive_operation_is_rejected(ask: Ask, document: str, said: str) -> None:
    answer = await ask(document)  # which has a timeout, for those that would take exponential time
    assert "data" not in answer
    assert set(codes(answer)) == {"invalid_query"}
    assert any(said in error["message"] for error in answer["errors"])
    assert not any("Did you mean" in error["message"] for error in answer["errors"])


async def test_invalid_variables_are_a_client_error(ask: Ask) -> None:
    for size in (True, 1.5, "x", 1 << 63, None):
        answer = await ask(CREATE_UPLOAD, {"input": {"title": "", "filename": "", "size": size}})
        assert codes(answer) == ["invalid_query"]


async def test_introspection_can_be_enabled(start: Callable[..., AbstractAsyncContextManager[str]]) -> None:
    async with (
        start(introspection=True) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client,
    ):
        whole = (await client.post("/graphql", json={"query": get_introspection_query()})).json()["data"]
        assert build_client_schema(whole).query_type, "code generators work"
        answer = (await client.post("/graphql", json={"query": "{ mee { email } }"})).json()
        assert "Did you mean" in answer["errors"][0]["message"]


async def test_get_executes_query(http: httpx.AsyncClient, world: World) -> None:
    media_id = world.add_video(world.add_user())
    answer = await http.get("/graphql", params={"query": f'{{ media(id: "{gid("Media", media_id)}") {{ title }} }}'})
    assert answer.json()["data"] == {"media": {"title": "Title"}}


NO_OBJECTS = [b"1", b"1.5", b"true", b"null", b'"{ me { email } }"', b"[]", b"[1]", b"[[]]"]
NO_JSON = [
    b"",
    b"{",
    b'{"query": "\xff"}',
    b'{"query": "\\ud800"}',
    b'{"query": "{ me { email } }", "variables": {"x": "\\udfff"}}',
    b'{"query": "{ me { email } }", "variables": {"x": "\\u0000"}}',
    b'{"query": "{ me { email } }", "variables": ' + b'{"x":' * 20_000,
    b"[" * 100_000,
]
NO_REQUESTS = [
    b"{}",
    b'{"query": 1}',
    b'{"query": ["{ me { email } }"]}',
    b'{"query": "{ me { email } }", "variables": []}',
    b'{"query": "{ me { email } }", "extensions": 1}',
]


@pytest.mark.parametrize("body", [*NO_OBJECTS, *NO_JSON, *NO_REQUESTS], ids=lambda body: str(body[:24]))
async def test_malformed_body_is_a_client_error(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/graphql", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["variables", "extensions"])
@pytest.mark.parametrize("value", ["1", "[]", '"x"', '{"x": "\\ud800"}', '{"x": "\\u0000"}', '{"x":' * 5000, "{"])
async def test_malformed_get_parameter_is_a_client_error(http: httpx.AsyncClient, name: str, value: str) -> None:
    answer = await http.get("/graphql", params={"query": "{ me { email } }", name: value})
    assert answer.status_code == 400


@pytest.mark.parametrize("operation_name", [1, True, [], {}, "x"], ids=str)
async def test_operation_name_of_any_type_causes_no_500(http: httpx.AsyncClient, operation_name: object) -> None:
    body = {"query": "query a { me { email } }", "operationName": operation_name}
    assert (await http.post("/graphql", json=body)).status_code in (200, 400)


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00\\ud800", "\\u0000"])
async def test_lone_surrogate_in_literal_is_a_client_error(ask: Ask, world: World, escape: str) -> None:
    answer = await ask(
        f'mutation {{ login(input: {{login: "{escape}", password: "x"}}) {{ ... on Problem {{ code }} }} }}'
    )
    told = answer["data"]["login"]["code"] if "data" in answer else codes(answer)[0]
    assert told in ("invalid_query", "invalid_input")


async def test_readyz_reports_dependencies(http: httpx.AsyncClient) -> None:
    async def well() -> bool:
        report = (await http.get("/readyz")).json()
        assert report == {"status": "ready", "process": "ok", "dependencies": {"redis": "ok", "rabbitmq": "ok"}}
        return True

    await eventually(well)
    assert "kinora_graphql_operation_seconds" in (await http.get("/metrics")).text


def _short(value: object) -> str:
    return str(value)[:20]


@pytest.mark.parametrize("size", ["9" * 5000, "9" * 20, "-" + "9" * 19, "٣", "1e3", "", 1 << 63, 1.5, True], ids=_short)
async def test_size_that_is_no_64_bit_integer_is_an_invalid_query(ask: Ask, world: World, size: object) -> None:
    given = {"title": "a", "filename": "a.mp4", "size": size}
    [error] = (await ask(CREATE_UPLOAD, {"input": given}, world.add_user()))["errors"]
    assert error["extensions"]["code"] == "invalid_query"
    assert "BigInt cannot represent" in error["message"]
    assert "digits" not in error["message"], "the message of a Python exception"


def deep(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("attributes", [{"a": 10**400}, {"a": [-(10**309)]}, deep(40), deep(57), [], 1, "a"], ids=str)
async def test_attributes_that_fit_into_no_message_are_invalid(ask: Ask, world: World, attributes: object) -> None:
    user_id = world.add_user()
    changes = {"attributes": attributes}
    answer = await ask(UPDATE_MEDIA, {"id": gid("Media", world.add_video(user_id)), "input": changes}, user_id)
    assert answer["data"]["updateMedia"]["code"] == "invalid_input"
    assert answer["data"]["updateMedia"]["message"].startswith("attributes: ")
    assert [error["field"] for error in answer["data"]["updateMedia"]["errors"]] == ["attributes"]


MALFORMED = ["{}", "", "#", "Media:{}", " {gid}", "{gid}\n", "{gid}=", "\u0660{gid}", "{upper}", "{hex}", "{foreign}"]


@pytest.mark.parametrize("form", MALFORMED)
async def test_malformed_and_foreign_ids_are_invalid_input_of_their_argument(ask: Ask, world: World, form: str) -> None:
    user_id = world.add_user()
    uuid = world.add_video(user_id)
    given = form.format(
        uuid,
        gid=gid("Media", uuid),
        upper=gid("Media", uuid.upper()),
        hex=gid("Media", UUID(uuid).hex),
        foreign=gid("Query", uuid),
    )
    for document, field in (
        ("query ($id: ID!) { media(id: $id) { id } }", "id"),
        ("query ($id: ID!) { node(id: $id) { id } }", "id"),
        ("query ($id: ID!) { channel(id: $id) { id } }", "id"),
        ("query ($id: ID!) { mediaList(ids: [$id]) { id } }", "ids"),
        ("query ($id: ID!) { users(ids: [$id]) { id } }", "ids"),
        ("query ($id: ID!) { nodes(ids: [$id]) { id } }", "ids"),
    ):
        (error,) = (await ask(document, {"id": given}, user_id))["errors"]
        assert error["extensions"]["code"] == "invalid_input"
        assert [each["field"] for each in error["extensions"]["errors"]] == [field]
    for document in (UPDATE_MEDIA, DELETE_MEDIA, DELETE_VIDEO):
        answer = await ask(document, {"id": given, "input": {}}, user_id)  # deletions declare no input
        assert [told["__typename"] for told in answer["data"].values()] == ["InvalidInput"]
    assert world.calls == {}


async def test_id_of_another_type_is_invalid_input(ask: Ask, world: World) -> None:
    """The same UUID: only the type in the id tells them apart."""
    user_id = world.add_user()
    uuid = world.add_video(user_id)
    for document, kind in (
        (DELETE_MEDIA, "Video"),
        (DELETE_VIDEO, "Media"),
        (UPDATE_MEDIA, "User"),
    ):
        answer = await ask(document, {"id": gid(kind, uuid), "input": {}}, user_id)
        assert [told["__typename"] for told in answer["data"].values()] == ["InvalidInput"]
    answer = await ask("query ($id: ID!) { user(id: $id) { id } }", {"id": gid("Profile", user_id)}, user_id)
    assert answer["errors"][0]["extensions"] == {
        "code": "invalid_input",
        "errors": [{"field": "id", "message": "must be the id of a User"}],
    }
    assert uuid in world.media


LIKE = """
mutation ($id: ID!) {
  like(mediaId: $id) { __typename ... on LikePayload { media { uuid likeCount viewerHasLiked } } }
}
"""


async def test_like_returns_the_new_count(ask: Ask, world: World) -> None:
    media_id, user_id = world.add_video(world.add_user()), world.add_user()
    for _ in range(2):
        answer = await ask(LIKE, {"id": gid("Media", media_id)}, user_id)
        assert answer["data"]["like"]["media"] == {"uuid": media_id, "likeCount": 1, "viewerHasLiked": True}
    missing = await ask(LIKE, {"id": gid("Media", new_id())}, user_id)
    assert missing["data"] == {"like": {"__typename": "MediaNotFound"}}
    assert (await ask(LIKE, {"id": gid("Media", media_id)}))["errors"][0]["extensions"]["code"] == "not_signed_in"
