"""Comments by GraphQL, for the owner of a video, a stranger and an anonymous visitor."""

from collections.abc import Callable
from typing import Any

import pytest
from client import Person, global_id
from clips import Clip

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

COMMENT = "id uuid body isPinned isDeleted likeCount replyCount viewerHasLiked author { username }"
READ = f"""query ($id: ID!) {{ media(id: $id) {{
  commentCount pinnedComment {{ uuid }} comments {{ nodes {{ {COMMENT} replies {{ nodes {{ {COMMENT} }} }} }} }}
}} }}"""
POST = f"""mutation ($input: PostCommentInput!) {{ postComment(input: $input) {{
  __typename ... on PostCommentPayload {{ comment {{ {COMMENT} }} }}
}} }}"""


def act(name: str, result: str) -> str:
    return f"mutation ($id: ID!) {{ {name}(id: $id) {{ __typename ... on {result} }} }}"


LIKE = act("likeComment", "LikeCommentPayload { comment { likeCount viewerHasLiked } }")
PIN = act("pinComment", "PinCommentPayload { comment { isPinned } }")
DELETE = act("deleteComment", "DeleteCommentPayload { commentId }")


async def test_conversation_below_a_video(person: Person, stranger: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("short").path)
    media = {"id": global_id("Media", video)}

    async def listed() -> bool:
        return (await stranger.get(f"/media/{video}")).status_code == 200

    await until(listed, what="the catalogue to be updated")

    async def post(by: Person, body: str, parent: str | None = None) -> Any:
        wanted = {"mediaId": media["id"], "body": body, "parentId": parent, "key": body}
        return (await by.graphql(POST, {"input": wanted}))["postComment"]

    comment = (await post(stranger, "First"))["comment"]
    assert (await post(stranger, "First"))["comment"]["id"] == comment["id"]
    await post(person, "Thanks", comment["id"])
    about = {"id": comment["id"]}
    assert (await person.graphql(LIKE, about))["likeComment"]["comment"] == {"likeCount": 1, "viewerHasLiked": True}
    assert (await person.graphql(PIN, about))["pinComment"]["comment"] == {"isPinned": True}

    anonymous = await person.http.post("/graphql", json={"query": READ, "variables": media})
    seen = anonymous.json()["data"]["media"]
    assert (seen["commentCount"], seen["pinnedComment"]) == (2, {"uuid": comment["uuid"]})
    (shown,) = seen["comments"]["nodes"]
    assert (shown["body"], shown["isPinned"], shown["likeCount"], shown["viewerHasLiked"]) == ("First", True, 1, False)
    assert shown["author"] == {"username": stranger.username}
    assert [each["body"] for each in shown["replies"]["nodes"]] == ["Thanks"]

    assert (await person.graphql(DELETE, about))["deleteComment"]["commentId"] == comment["id"]
    after = (await stranger.graphql(READ, media))["media"]
    (shown,) = after["comments"]["nodes"]
    assert (shown["isDeleted"], shown["body"], shown["author"]) == (True, "", None)
    assert (after["pinnedComment"], len(shown["replies"]["nodes"])) == (None, 1)
