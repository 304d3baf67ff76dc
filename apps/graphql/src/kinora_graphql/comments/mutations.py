from typing import Annotated

import strawberry

from kinora.media.v1 import comments_pb2 as pb
from kinora_graphql.comments.types import Comment
from kinora_graphql.context import Info
from kinora_graphql.ids import make, parse
from kinora_graphql.media.mutations import ChangedMeanwhile, MediaNotFound
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome


@strawberry.type
class CommentNotFound(Problem): ...


@strawberry.type
class CommentsDisabled(Problem): ...


@strawberry.type
class NotTheAuthor(Problem): ...


@strawberry.input
class PostCommentInput:
    media_id: strawberry.ID
    body: str = strawberry.field(description="1 to 5000 characters.")
    parent_id: strawberry.ID | None = strawberry.field(
        default=None, description="The comment to reply to; null for a comment on the video."
    )
    key: str = strawberry.field(
        description="Chosen by the client, such as a UUID: repeated requests with the same key return the same comment."
    )


@strawberry.type
class PostCommentPayload:
    comment: Comment


PostCommentResult = Annotated[
    PostCommentPayload | MediaNotFound | CommentNotFound | CommentsDisabled | ChangedMeanwhile | InvalidInput,
    strawberry.union("PostCommentResult"),
]


@strawberry.type
class EditCommentPayload:
    comment: Comment


EditCommentResult = Annotated[
    EditCommentPayload | CommentNotFound | NotTheAuthor | ChangedMeanwhile | InvalidInput,
    strawberry.union("EditCommentResult"),
]


@strawberry.type
class DeleteCommentPayload:
    comment_id: strawberry.ID


DeleteCommentResult = Annotated[
    DeleteCommentPayload | CommentNotFound | NotTheAuthor | InvalidInput, strawberry.union("DeleteCommentResult")
]


@strawberry.type
class PinCommentPayload:
    comment: Comment


PinCommentResult = Annotated[
    PinCommentPayload | CommentNotFound | NotTheOwner | InvalidInput, strawberry.union("PinCommentResult")
]


@strawberry.type
class LikeCommentPayload:
    comment: Comment


LikeCommentResult = Annotated[
    LikeCommentPayload | CommentNotFound | ChangedMeanwhile | InvalidInput, strawberry.union("LikeCommentResult")
]


@strawberry.type
class CommentsMutation:
    @strawberry.mutation(description="Post a comment or a reply.")
    async def post_comment(self, info: Info, input: PostCommentInput) -> PostCommentResult:  # noqa: A002
        async def call() -> PostCommentPayload:
            parent_id = parse(input.parent_id, "Comment", field="parentId") if input.parent_id else None
            request = pb.PostCommentRequest(
                media_id=str(parse(input.media_id, "Media", field="mediaId")),
                parent_id=str(parent_id) if parent_id else None,
                body=input.body,
                key=input.key,
            )
            return PostCommentPayload(comment=Comment.of(await info.context.clients.comments.PostComment(request)))

        return await outcome(call(), MediaNotFound, CommentNotFound, CommentsDisabled, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="By its author.")
    async def edit_comment(self, info: Info, id: strawberry.ID, body: str) -> EditCommentResult:  # noqa: A002
        async def call() -> EditCommentPayload:
            request = pb.EditCommentRequest(id=str(parse(id, "Comment")), body=body)
            return EditCommentPayload(comment=Comment.of(await info.context.clients.comments.EditComment(request)))

        return await outcome(call(), CommentNotFound, NotTheAuthor, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="By its author or the video's owner. Its replies stay.")
    async def delete_comment(self, info: Info, id: strawberry.ID) -> DeleteCommentResult:  # noqa: A002
        async def call() -> DeleteCommentPayload:
            uuid = parse(id, "Comment")
            await info.context.clients.comments.DeleteComment(pb.DeleteCommentRequest(id=str(uuid)))
            return DeleteCommentPayload(comment_id=make("Comment", uuid))

        return await outcome(call(), CommentNotFound, NotTheAuthor, InvalidInput)

    @strawberry.mutation(description="By the video's owner: show one comment before all others.")
    async def pin_comment(self, info: Info, id: strawberry.ID) -> PinCommentResult:  # noqa: A002
        async def call() -> PinCommentPayload:
            request = pb.PinCommentRequest(id=str(parse(id, "Comment")))
            return PinCommentPayload(comment=Comment.of(await info.context.clients.comments.PinComment(request)))

        return await outcome(call(), CommentNotFound, NotTheOwner, InvalidInput)

    @strawberry.mutation(description="By the video's owner; no error if it is not pinned.")
    async def unpin_comment(self, info: Info, id: strawberry.ID) -> PinCommentResult:  # noqa: A002
        async def call() -> PinCommentPayload:
            request = pb.UnpinCommentRequest(id=str(parse(id, "Comment")))
            return PinCommentPayload(comment=Comment.of(await info.context.clients.comments.UnpinComment(request)))

        return await outcome(call(), CommentNotFound, NotTheOwner, InvalidInput)

    @strawberry.mutation
    async def like_comment(self, info: Info, id: strawberry.ID) -> LikeCommentResult:  # noqa: A002
        async def call() -> LikeCommentPayload:
            uuid = parse(id, "Comment")
            comment = await info.context.clients.comments.LikeComment(pb.LikeCommentRequest(id=str(uuid)))
            info.context.loaders.comment_likes.prime(uuid, True, force=True)
            return LikeCommentPayload(comment=Comment.of(comment))

        return await outcome(call(), CommentNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="No error if the caller does not like it.")
    async def unlike_comment(self, info: Info, id: strawberry.ID) -> LikeCommentResult:  # noqa: A002
        async def call() -> LikeCommentPayload:
            uuid = parse(id, "Comment")
            comment = await info.context.clients.comments.UnlikeComment(pb.UnlikeCommentRequest(id=str(uuid)))
            info.context.loaders.comment_likes.prime(uuid, False, force=True)
            return LikeCommentPayload(comment=Comment.of(comment))

        return await outcome(call(), CommentNotFound, ChangedMeanwhile, InvalidInput)
