"""gRPC API of comments: platform/protos/kinora/media/v1/comments.proto."""
# ruff: noqa: N802 - method names come from the proto

from collections.abc import Callable

import grpc

from kinora.media.v1 import comments_pb2 as pb
from kinora.media.v1.comments_pb2_grpc import CommentsServicer, add_CommentsServicer_to_server
from kinora_kit.commands import command
from kinora_kit.ids import parse_id
from kinora_kit.rpc import optional_caller, signed_in
from kinora_kit.structs import timestamp
from kinora_media import cursors
from kinora_media.comments import Comments
from kinora_media.domain import Comment, CreationKey, Page, Words
from kinora_media.likes import Likes
from kinora_media.rpc.media import page_size


def register(server: grpc.aio.Server, comments: Comments, likes: Likes) -> None:
    add_CommentsServicer_to_server(CommentsRpc(comments, likes), server)


class CommentsRpc(CommentsServicer):
    def __init__(self, comments: Comments, likes: Likes) -> None:
        self._comments = comments
        self._likes = likes

    async def BatchGetComments(
        self, request: pb.BatchGetCommentsRequest, context: object
    ) -> pb.BatchGetCommentsResponse:
        found = await self._comments.many(optional_caller(), [parse_id(text) for text in request.ids])
        return pb.BatchGetCommentsResponse(comments=map(_message, found))

    async def ListComments(self, request: pb.ListCommentsRequest, context: object) -> pb.CommentPage:
        caller, media_id, limit = optional_caller(), parse_id(request.media_id), page_size(request.limit)
        if request.order == pb.COMMENT_ORDER_TOP:
            after = cursors.in_top_comments(request.after) if request.after else None
            return _page(await self._comments.top(caller, media_id, after=after, limit=limit), cursors.of_top_comment)
        before = cursors.in_comments(request.after) if request.after else None
        return _page(await self._comments.newest(caller, media_id, before=before, limit=limit), cursors.of_comment)

    async def ListReplies(self, request: pb.ListRepliesRequest, context: object) -> pb.CommentPage:
        after = cursors.in_replies(request.after) if request.after else None
        comment_id, limit = parse_id(request.comment_id), page_size(request.limit)
        page = await self._comments.replies(optional_caller(), comment_id, after=after, limit=limit)
        return _page(page, cursors.of_reply)

    async def PostComment(self, request: pb.PostCommentRequest, context: object) -> pb.Comment:
        comment = await self._comments.post(
            signed_in(),
            parse_id(request.media_id),
            command(Words, {"body": request.body}),
            parent_id=parse_id(request.parent_id) if request.HasField("parent_id") else None,
            key=command(CreationKey, {"key": request.key}).key,
        )
        return _message(comment)

    async def EditComment(self, request: pb.EditCommentRequest, context: object) -> pb.Comment:
        words = command(Words, {"body": request.body})
        return _message(await self._comments.edit(signed_in(), parse_id(request.id), words))

    async def DeleteComment(self, request: pb.DeleteCommentRequest, context: object) -> pb.DeleteCommentResponse:
        await self._comments.delete(signed_in(), parse_id(request.id))
        return pb.DeleteCommentResponse()

    async def PinComment(self, request: pb.PinCommentRequest, context: object) -> pb.Comment:
        return _message(await self._comments.pin(signed_in(), parse_id(request.id), pinned=True))

    async def UnpinComment(self, request: pb.UnpinCommentRequest, context: object) -> pb.Comment:
        return _message(await self._comments.pin(signed_in(), parse_id(request.id), pinned=False))

    async def LikeComment(self, request: pb.LikeCommentRequest, context: object) -> pb.Comment:
        return _message(await self._likes.switch_comment(signed_in(), parse_id(request.id), on=True))

    async def UnlikeComment(self, request: pb.UnlikeCommentRequest, context: object) -> pb.Comment:
        return _message(await self._likes.switch_comment(signed_in(), parse_id(request.id), on=False))

    async def ListCommentLikes(
        self, request: pb.ListCommentLikesRequest, context: object
    ) -> pb.ListCommentLikesResponse:
        liked = await self._likes.comments_among(signed_in(), [parse_id(text) for text in request.ids])
        return pb.ListCommentLikesResponse(ids=map(str, liked))


def _page(page: Page[Comment], cursor: Callable[[Comment], str]) -> pb.CommentPage:
    entries = [pb.CommentEntry(comment=_message(comment), cursor=cursor(comment)) for comment in page.items]
    return pb.CommentPage(entries=entries, has_more=page.more)


def _message(comment: Comment) -> pb.Comment:
    return pb.Comment(
        id=str(comment.id),
        media_id=str(comment.media_id),
        author_id=str(comment.author_id) if comment.author_id else None,
        parent_id=str(comment.parent_id) if comment.parent_id else None,
        body=comment.body,
        created_at=timestamp(comment.created_at),
        edited_at=timestamp(comment.edited_at) if comment.edited_at else None,
        likes=comment.likes,
        replies=comment.replies,
        pinned=comment.pinned,
    )
