"""The services of media.proto, over a real connection and with real tokens."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from kinora.media.v1 import media_pb2 as pb
from kinora.media.v1.media_pb2_grpc import CatalogueStub, EditingStub, EnforcementStub
from kinora_kit import rpc
from kinora_kit.errors import DomainError
from kinora_kit.identity import TokenVerifier
from kinora_kit.ids import new_id
from kinora_kit.mongo import Collection
from kinora_kit.structs import from_struct, to_struct
from kinora_media.rpc import register
from kinora_media.rpc.media import MAX_PAGE
from kinora_media.settings import MediaSettings
from kinora_media.use_cases import UseCases

if TYPE_CHECKING:  # defined only in the stubs
    from kinora.media.v1.media_pb2_grpc import CatalogueAsyncStub, EditingAsyncStub, EnforcementAsyncStub


Begin = Callable[..., Awaitable[UUID]]


@dataclass(frozen=True)
class Stubs:
    catalogue: "CatalogueAsyncStub"
    editing: "EditingAsyncStub"
    enforcement: "EnforcementAsyncStub"
    token_for: Callable[[UUID], str]

    def sign_in(self, user_id: UUID | None) -> None:
        rpc.access_token.set(self.token_for(user_id) if user_id else None)


@pytest.fixture
async def stubs(
    use_cases: UseCases,
    verifier: TokenVerifier,
    token_for: Callable[[UUID], str],
    make_settings: Callable[[], MediaSettings],
) -> AsyncIterator[Stubs]:
    address = f"127.0.0.1:{make_settings().grpc_port}"
    async with (
        rpc.serve(address, lambda server: register(server, use_cases), verifier=verifier, drain_seconds=0),
        rpc.connect(address) as channel,
    ):
        yield Stubs(CatalogueStub(channel), EditingStub(channel), EnforcementStub(channel), token_for)


async def test_list_media_returns_only_visible_documents(begin: Begin, stubs: Stubs) -> None:
    owner_id = new_id()
    private, public = str(await begin(owner_id)), str(await begin(owner_id, visibility="public"))
    wanted = pb.ListMediaRequest(ids=[private, public, str(new_id())])
    for user_id, seen in ((owner_id, {private, public}), (new_id(), {public}), (None, {public})):
        stubs.sign_in(user_id)
        assert {one.id for one in (await stubs.catalogue.ListMedia(wanted)).media} == seen
    (media,) = (await stubs.catalogue.ListMedia(wanted)).media
    assert (media.owner_id, media.title, media.state) == (str(owner_id), "Title", pb.STATE_DRAFT)
    assert not media.HasField("duration")


async def test_update_media_changes_only_set_fields(begin: Begin, stubs: Stubs) -> None:
    owner_id = new_id()
    stubs.sign_in(owner_id)
    media_id = str(await begin(owner_id))
    request = pb.UpdateMediaRequest(
        id=media_id, title=" New ", tags=pb.TagList(tags=["A"]), visibility=pb.VISIBILITY_PUBLIC
    )
    request.attributes.update({"camera": {"iso": 100}})
    media = await stubs.editing.UpdateMedia(request)
    assert (media.title, list(media.tags), media.visibility) == ("New", ["a"], pb.VISIBILITY_PUBLIC)
    assert from_struct(media.attributes) == {"camera": {"iso": 100}}
    media = await stubs.editing.UpdateMedia(pb.UpdateMediaRequest(id=media_id, tags=pb.TagList(), description=""))
    assert (media.title, list(media.tags)) == ("New", [])
    assert [media] == list((await stubs.catalogue.ListMedia(pb.ListMediaRequest(ids=[media_id]))).media)


async def test_delete_media_rejects_others_and_is_not_found_when_repeated(begin: Begin, stubs: Stubs) -> None:
    owner_id = new_id()
    request = pb.DeleteMediaRequest(id=str(await begin(owner_id, visibility="public")))
    for user_id, code in ((None, "not_signed_in"), (new_id(), "not_the_owner")):
        stubs.sign_in(user_id)
        with pytest.raises(DomainError) as refused:
            await stubs.editing.DeleteMedia(request)
        assert refused.value.code == code
    stubs.sign_in(owner_id)
    await stubs.editing.DeleteMedia(request)
    with pytest.raises(DomainError) as gone:
        await stubs.editing.DeleteMedia(request)
    assert gone.value.code == "media_not_found"


@pytest.mark.parametrize(
    "request_",
    [
        pb.UpdateMediaRequest(id="not an id", title="x"),
        pb.UpdateMediaRequest(id=str(UUID(int=0)), title=""),
        pb.UpdateMediaRequest(id=str(UUID(int=0)), tags=pb.TagList(tags=["x" * 51])),
        pb.UpdateMediaRequest(id=str(UUID(int=0)), visibility=99),  # type: ignore[arg-type]
        pb.UpdateMediaRequest(id=str(UUID(int=0)), attributes=to_struct({"a": float("nan")})),
    ],
    ids=range(5),
)
async def test_update_media_rejects_invalid_input(stubs: Stubs, request_: pb.UpdateMediaRequest) -> None:
    stubs.sign_in(new_id())
    with pytest.raises(DomainError) as refused:
        await stubs.editing.UpdateMedia(request_)
    assert (refused.value.status, refused.value.code) == (422, "invalid_input")


async def test_drop_media_rejects_others_and_is_idempotent(begin: Begin, stubs: Stubs) -> None:
    owner_id = new_id()
    request = pb.DropMediaRequest(id=str(await begin(owner_id, visibility="public")))
    for user_id, code in ((None, "not_signed_in"), (new_id(), "not_the_owner")):
        stubs.sign_in(user_id)
        with pytest.raises(DomainError) as refused:
            await stubs.enforcement.DropMedia(request)
        assert refused.value.code == code
    stubs.sign_in(owner_id)
    for _ in range(2):
        await stubs.enforcement.DropMedia(request)
    await stubs.enforcement.DropMedia(pb.DropMediaRequest(id=str(new_id())))
    assert not (await stubs.catalogue.ListMedia(pb.ListMediaRequest(ids=[request.id]))).media


async def test_drop_all_media_removes_only_the_callers_documents(begin: Begin, stubs: Stubs) -> None:
    owner_id, other = new_id(), new_id()
    own = [str(await begin(owner_id, visibility="public")) for _ in range(3)]
    foreign = str(await begin(other, visibility="public"))
    stubs.sign_in(owner_id)
    for _ in range(2):
        await stubs.enforcement.DropAllMedia(pb.DropAllMediaRequest())
    listed = await stubs.catalogue.ListMedia(pb.ListMediaRequest(ids=[*own, foreign]))
    assert [one.id for one in listed.media] == [foreign]
    later = str(await begin(owner_id, visibility="public"))
    listed = await stubs.catalogue.ListMedia(pb.ListMediaRequest(ids=[later]))
    assert [one.id for one in listed.media] == [later], "if the rest of its deletion fails, the account stays usable"


async def test_list_media_rejects_more_than_100_ids(stubs: Stubs) -> None:
    stubs.sign_in(None)
    with pytest.raises(DomainError) as refused:
        await stubs.catalogue.ListMedia(pb.ListMediaRequest(ids=[str(new_id()) for _ in range(101)]))
    assert refused.value.code == "invalid_input"


async def test_pages_are_read_with_their_cursors(begin: Begin, stubs: Stubs) -> None:
    owner_id = new_id()
    made = [str(await begin(owner_id)) for _ in range(3)]
    stubs.sign_in(owner_id)
    first = await stubs.catalogue.ListUserMedia(pb.ListUserMediaRequest(user_id=str(owner_id), limit=2))
    assert ([entry.media.id for entry in first.entries], first.has_more) == (made[:0:-1], True)
    following = pb.ListUserMediaRequest(user_id=str(owner_id), limit=2, after=first.entries[-1].cursor)
    last = await stubs.catalogue.ListUserMedia(following)
    assert ([entry.media.id for entry in last.entries], last.has_more) == (made[:1], False)
    with pytest.raises(DomainError, match="cursor is invalid"):
        await stubs.catalogue.SearchMedia(pb.SearchMediaRequest(after=following.after, limit=2))
    for limit in (0, MAX_PAGE + 1):
        with pytest.raises(DomainError) as refused:
            await stubs.catalogue.SearchMedia(pb.SearchMediaRequest(limit=limit))
        assert refused.value.code == "invalid_input"


async def test_largest_page_fits_into_a_message(begin: Begin, stubs: Stubs, documents: Collection) -> None:
    owner_id, largest = new_id(), "\N{EARTH GLOBE EUROPE-AFRICA}"
    stubs.sign_in(owner_id)
    request = pb.UpdateMediaRequest(
        id=str(await begin(owner_id)),
        title=largest * 200,
        description=largest * 10_000,
        tags=pb.TagList(tags=[f"{number:02}{largest * 48}" for number in range(20)]),
    )
    request.attributes.update({"a": [0] * 5400})  # of values, zeros take the most bytes per byte of JSON
    await stubs.editing.UpdateMedia(request)
    document = await documents.find_one({"_id": UUID(request.id)})
    assert document is not None
    await documents.insert_many([{**document, "_id": new_id(), "outbox": []} for _ in range(MAX_PAGE - 1)])
    page = await stubs.catalogue.ListUserMedia(pb.ListUserMediaRequest(user_id=str(owner_id), limit=MAX_PAGE))
    assert len(page.entries) == MAX_PAGE
    assert page.ByteSize() > MAX_PAGE * 100_000
