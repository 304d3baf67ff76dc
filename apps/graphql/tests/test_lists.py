"""Lists and pages: their order and limits, and that each makes one call for each service and type."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kinora.media.v1 import media_pb2
from kinora_graphql import ids
from kinora_kit.ids import new_id

Ask = Callable[..., Awaitable[dict[str, Any]]]
World = Any
gid = ids.make


def codes(answer: dict[str, Any]) -> list[str]:
    return [error["extensions"]["code"] for error in answer["errors"]]


async def test_media_list_makes_few_calls(ask: Ask, world: World) -> None:
    owners = [world.add_user() for _ in range(5)]
    made = [(world.add_video(owner), owner) for owner in owners for _ in range(11)]
    wanted = [gid("Media", media_id) for media_id, _ in made]
    answer = await ask(
        "query ($ids: [ID!]!) { mediaList(ids: $ids) { id owner { id } video { id } } }",
        {"ids": [*wanted, gid("Media", new_id())]},
    )
    assert answer["data"]["mediaList"] == [
        {"id": gid("Media", media_id), "owner": {"id": gid("User", owner)}, "video": {"id": gid("Video", media_id)}}
        for media_id, owner in made
    ] + [None]
    assert world.calls == {"ListMedia": 2, "ListUsers": 1, "ListVideos": 1}, "documents are large: 50 per call"


async def test_nodes_are_loaded_by_type_in_few_calls(ask: Ask, world: World) -> None:
    user_id, other = world.add_user(), world.add_user()
    sessions = [world.add_session(user_id), world.add_session(other)]
    media_id = world.add_video(other)
    wanted = [
        ("Media", media_id),
        ("Video", media_id),
        ("User", other),
        ("User", user_id),
        ("Channel", other),
        ("Profile", user_id),
        ("Session", sessions[0]),
        *(("Profile", other), ("Session", sessions[1]), ("Media", new_id()), ("User", media_id)),  # hidden or missing
    ]
    document = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id uuid ... on User { username } } }"
    nodes = (await ask(document, {"ids": [gid(*each) for each in wanted]}, user_id))["data"]["nodes"]
    assert [node and (node["__typename"], node["uuid"], node["id"]) for node in nodes] == [
        *((kind, str(uuid), gid(kind, uuid)) for kind, uuid in wanted[:7]),
        *[None] * 4,
    ]
    assert nodes[2]["username"] == world.users[str(other)].user.username
    expected = ("ListMedia", "ListUsers", "ListVideos", "GetProfile", "ListSessions")
    assert world.calls == dict.fromkeys(expected, 1)

    for kind, uuid in wanted:
        answer = await ask("query ($id: ID!) { node(id: $id) { uuid } }", {"id": gid(kind, uuid)}, user_id)
        found = (kind, uuid) in wanted[:7]
        assert answer == {"data": {"node": {"uuid": str(uuid)} if found else None}}


async def test_media_list_of_largest_documents(ask: Ask, world: World) -> None:
    """A gRPC response with all of them would exceed its limit."""
    user_id = world.add_user()
    made = [world.add_video(user_id) for _ in range(100)]
    for media_id in made:
        world.media[media_id].description = "😀" * 10_000
        world.media[media_id].attributes.update({"a": [1] * 5400})
    wanted = [gid("Media", media_id) for media_id in made]
    answer = await ask("query ($ids: [ID!]!) { mediaList(ids: $ids) { id } }", {"ids": wanted})
    assert answer == {"data": {"mediaList": [{"id": media_id} for media_id in wanted]}}


@pytest.mark.parametrize(
    ("lists", "each", "accepted"), [(1, 100, True), (1, 101, False), (4, 25, True), (5, 25, False)]
)
async def test_lists_of_an_operation_have_100_ids(ask: Ask, *, lists: int, each: int, accepted: bool) -> None:
    variables = {f"v{number}": [gid("Media", new_id()) for _ in range(each)] for number in range(lists)}
    declared = " ".join(f"${name}: [ID!]!" for name in variables)
    fields = " ".join(f"{name}: mediaList(ids: ${name}) {{ id }}" for name in variables)
    answer = await ask(f"query ({declared}) {{ {fields} }}", variables)
    if accepted:
        assert answer == {"data": {name: [None] * each for name in variables}}
    else:
        assert {error["extensions"]["code"] for error in answer["errors"]} == {"invalid_input"}


FEED = """
query ($first: Int, $after: String) {
  feed(first: $first, after: $after) {
    edges { cursor node { uuid viewerHasLiked viewerPosition owner { username } video { state } } }
    pageInfo { hasNextPage endCursor startCursor hasPreviousPage }
  }
}
"""
CHANNEL = "query ($id: ID!, $first: Int) { channel(id: $id) { user { uuid } media(first: $first) { nodes { uuid } } } }"


async def test_channel_is_found_by_handle(ask: Ask, world: World) -> None:
    ada, other = world.add_user("Ada"), world.add_user()
    username = world.users[str(other)].user.username
    document = """
        query ($other: String!) {
          a: channel(handle: "aDA") { id uuid } b: channel(handle: $other) { uuid } c: channel(handle: "none") { uuid }
        }
    """
    world.calls.clear()
    found = (await ask(document, {"other": username}))["data"]
    assert found == {"a": {"id": gid("Channel", ada), "uuid": str(ada)}, "b": {"uuid": str(other)}, "c": None}
    assert world.calls == {"ListUsers": 1}
    for arguments in ("", f'(handle: "ada", id: "{gid("User", ada)}")'):
        assert codes(await ask(f"{{ channel{arguments} {{ uuid }} }}")) == ["invalid_input"]


async def test_search_forwards_filters_order_and_cursor(ask: Ask, world: World) -> None:
    owner_id = world.add_user()
    for _ in range(3):
        world.media[world.add_video(owner_id)].category = "music"
    document = """
        query ($owner: ID, $after: String) {
          search(query: "cats", category: "music", tag: "a", ownerId: $owner, sort: POPULAR, first: 2, after: $after) {
            nodes { category { slug name } } pageInfo { endCursor hasNextPage }
          }
          categories { slug name }
        }
    """
    world.calls.clear()
    answer = (await ask(document, {"owner": gid("User", owner_id)}))["data"]
    assert answer["categories"] == [{"slug": "music", "name": "Music"}]
    assert answer["search"]["nodes"][0]["category"] == {"slug": "music", "name": "Music"}
    assert world.searches[-1] == media_pb2.SearchMediaRequest(
        query="cats", category="music", tag="a", owner_id=str(owner_id), sort=media_pb2.SORT_POPULAR, limit=2
    )
    assert world.calls["ListCategories"] <= 2, "one for the list, and one for all names of an operation"
    wrong = (await ask(document, {"owner": gid("Media", owner_id)}))["errors"][0]
    assert (wrong["extensions"]["code"], wrong["extensions"]["errors"][0]["field"]) == ("invalid_input", "ownerId")
    expired = await ask(document, {"after": "expired"})
    assert codes(expired) == ["cursor_expired"]


async def test_feed_of_fifty_makes_one_call_per_service(ask: Ask, world: World) -> None:
    owners = [world.add_user() for _ in range(50)]
    made = [world.add_video(owner) for owner in owners]
    liked = {made[3], made[41]}
    world.likes[owners[0]] = liked
    world.calls.clear()
    feed = (await ask(FEED, {"first": 50}, owners[0]))["data"]["feed"]
    assert [edge["node"]["uuid"] for edge in feed["edges"]] == made[::-1]
    assert all(edge["node"]["owner"] and edge["node"]["video"] for edge in feed["edges"])
    assert {edge["node"]["uuid"] for edge in feed["edges"] if edge["node"]["viewerHasLiked"]} == liked
    assert [edge["node"]["viewerPosition"] for edge in feed["edges"]] == [1.5, None] * 25
    assert world.calls == {"SearchMedia": 1, "ListUsers": 1, "ListVideos": 1, "ListLikes": 1, "ListPositions": 1}
    assert feed["pageInfo"]["startCursor"] == feed["edges"][0]["cursor"]
    assert feed["pageInfo"]["endCursor"] == feed["edges"][-1]["cursor"]


async def test_pages_continue_after_the_last_edge(ask: Ask, world: World) -> None:
    made = [world.add_video(world.add_user()) for _ in range(5)]
    seen: list[str] = []
    after = None
    while len(seen) < 5:
        feed = (await ask(FEED, {"first": 2, "after": after}))["data"]["feed"]
        seen += [edge["node"]["uuid"] for edge in feed["edges"]]
        after = feed["pageInfo"]["endCursor"]
        assert feed["pageInfo"]["hasPreviousPage"] is False
    assert seen[:5] == made[::-1]


@pytest.mark.parametrize("first", [0, -1, 51])
async def test_page_size_is_limited(ask: Ask, first: int) -> None:
    (error,) = (await ask(FEED, {"first": first}))["errors"]
    assert error["extensions"] == {
        "code": "invalid_input",
        "errors": [{"field": "first", "message": "must be 1 to 50"}],
    }


async def test_channel_has_its_own_videos_only(ask: Ask, world: World) -> None:
    owner = world.add_user()
    made = [world.add_video(owner) for _ in range(2)]
    world.add_video(world.add_user())
    for kind in ("Channel", "User"):
        channel = (await ask(CHANNEL, {"id": gid(kind, owner)}))["data"]["channel"]
        assert channel["user"] == {"uuid": str(owner)}
        assert channel["media"]["nodes"] == [{"uuid": media_id} for media_id in made[::-1]]
    assert (await ask(CHANNEL, {"id": gid("User", new_id())}))["data"] == {"channel": None}


COMMENTS = """
query ($id: ID!) {
  media(id: $id) {
    comments(first: 50, order: TOP) {
      nodes { uuid author { username } parent { uuid } media { title } viewerHasLiked isDeleted }
    }
  }
}
"""


async def test_fifty_comments_make_one_call_per_type(ask: Ask, world: World) -> None:
    authors = [world.add_user() for _ in range(50)]
    media_id = world.add_video(authors[0])
    parent = world.add_comment(media_id, authors[0])
    made = [parent, *(world.add_comment(media_id, author, parent) for author in authors[1:])]
    world.likes[authors[0]] = set(made[::2])
    world.calls.clear()
    found = (await ask(COMMENTS, {"id": gid("Media", media_id)}, authors[0]))["data"]["media"]["comments"]["nodes"]
    assert [comment["uuid"] for comment in found] == made
    assert [comment["viewerHasLiked"] for comment in found] == [True, False] * 25
    assert all(comment["author"] and comment["media"] == {"title": "Title"} for comment in found)
    assert [comment["parent"] for comment in found] == [None] + [{"uuid": parent}] * 49
    # ListMedia: of the query, and then of the comments, from the loader's cache.
    once = ("ListMedia", "ListComments", "ListUsers", "BatchGetComments", "ListCommentLikes")
    assert world.calls == dict.fromkeys(once, 1)


NOTIFICATIONS = """
{ notifications(first: 50) { nodes { uuid kind media { title } comment { author { username } } } } }
"""


async def test_fifty_notifications_make_one_call_per_type(ask: Ask, world: World) -> None:
    authors = [world.add_user() for _ in range(50)]
    made = [world.add_comment(world.add_video(author), author) for author in authors]
    world.calls.clear()
    found = (await ask(NOTIFICATIONS, None, authors[0]))["data"]["notifications"]["nodes"]
    assert [notification["uuid"] for notification in found] == made[::-1]
    assert all(each["kind"] == "REPLY" and each["media"] and each["comment"]["author"] for each in found)
    once = ("ListNotifications", "ListMedia", "BatchGetComments", "ListUsers")
    assert world.calls == dict.fromkeys(once, 1)


SUBSCRIPTIONS = """
{ subscriptions(first: 50) { nodes { uuid user { username } subscriberCount viewCount viewerIsSubscribed } } }
"""


async def test_fifty_channels_make_one_call_per_type(ask: Ask, world: World) -> None:
    for _ in range(50):
        world.add_user()
    world.calls.clear()
    found = (await ask(SUBSCRIPTIONS, None, new_id()))["data"]["subscriptions"]["nodes"]
    assert [channel["uuid"] for channel in found] == list(world.users)[:50]
    assert all(channel["user"] and channel["subscriberCount"] == 7 for channel in found)
    assert [channel["viewerIsSubscribed"] for channel in found] == [True, False] * 25
    once = ("ListSubscribedChannels", "ListUsers", "BatchGetChannels", "ListSubscriptions")
    assert world.calls == dict.fromkeys(once, 1)
