from enum import StrEnum
from typing import Annotated

import strawberry

from kinora.media.v1 import watching_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.ids import make, parse
from kinora_graphql.media.mutations import ChangedMeanwhile, MediaNotFound
from kinora_graphql.problems import InvalidInput, outcome


@strawberry.input
class RecordViewInput:
    media_id: strawberry.ID
    position: float = strawberry.field(description="Seconds.")
    final: bool = strawberry.field(default=False, description="Whether the viewer stops here.")


@strawberry.type
class RecordViewPayload:
    media_id: strawberry.ID


RecordViewResult = Annotated[
    RecordViewPayload | MediaNotFound | ChangedMeanwhile | InvalidInput, strawberry.union("RecordViewResult")
]


@strawberry.enum(description="Where videos are shown.")
class Surface(StrEnum):
    FEED = "feed"
    SEARCH = "search"
    CHANNEL = "channel"
    SUBSCRIPTIONS = "subscriptions"
    SIMILAR = "similar"
    FOR_YOU = "for_you"
    OTHER = "other"


@strawberry.input
class ImpressionInput:
    media_id: strawberry.ID
    surface: Surface
    position: int = strawberry.field(description="In the list, from 0.")


@strawberry.input
class RecordImpressionsInput:
    impressions: list[ImpressionInput] = strawberry.field(description="1 to 100.")
    key: str = strawberry.field(
        description="Chosen by the client, such as a UUID: repeated requests with the same key record nothing."
    )


@strawberry.type
class RecordImpressionsPayload:
    done: bool


RecordImpressionsResult = Annotated[
    RecordImpressionsPayload | InvalidInput, strawberry.union("RecordImpressionsResult")
]


@strawberry.type
class RemoveFromHistoryPayload:
    media_id: strawberry.ID


RemoveFromHistoryResult = Annotated[
    RemoveFromHistoryPayload | MediaNotFound | InvalidInput, strawberry.union("RemoveFromHistoryResult")
]


@strawberry.type
class ClearHistoryPayload:
    done: bool


@strawberry.type
class SetPersonalisationPayload:
    enabled: bool


@strawberry.type
class WatchingMutation:
    @strawberry.mutation(
        description="Where the viewer is: send it every ten seconds, and at pauses and seeks. A view counts once per"
        " viewer and hour, after 10 s or half of a shorter video; the owner does not count."
    )
    async def record_view(self, info: Info, input: RecordViewInput) -> RecordViewResult:  # noqa: A002
        async def call() -> RecordViewPayload:
            uuid = parse(input.media_id, "Media", field="mediaId")
            request = pb.RecordViewRequest(
                media_id=str(uuid),
                position=input.position,
                final=input.final,
                address=info.context.client.address,
            )
            await info.context.clients.watching.RecordView(request)
            return RecordViewPayload(media_id=make("Media", uuid))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(
        description="Which videos were shown to the viewer, and where: for recommendations. Of anonymous viewers, and"
        " of users without personalisation, nothing personal is kept."
    )
    async def record_impressions(self, info: Info, input: RecordImpressionsInput) -> RecordImpressionsResult:  # noqa: A002
        async def call() -> RecordImpressionsPayload:
            request = pb.RecordImpressionsRequest(
                impressions=[
                    pb.Impression(
                        media_id=str(parse(each.media_id, "Media", field="impressions")),
                        surface=each.surface.value,
                        position=each.position,
                    )
                    for each in input.impressions
                ],
                address=info.context.client.address,
                key=input.key,
            )
            await info.context.clients.watching.RecordImpressions(request)
            return RecordImpressionsPayload(done=True)

        return await outcome(call(), InvalidInput)

    @strawberry.mutation(description="No error if it is not in the history.")
    async def remove_from_history(self, info: Info, media_id: strawberry.ID) -> RemoveFromHistoryResult:
        async def call() -> RemoveFromHistoryPayload:
            uuid = parse(media_id, "Media", field="mediaId")
            await info.context.clients.watching.RemoveFromHistory(pb.RemoveFromHistoryRequest(media_id=str(uuid)))
            return RemoveFromHistoryPayload(media_id=make("Media", uuid))

        return await outcome(call(), MediaNotFound, InvalidInput)

    @strawberry.mutation(description="Remove the caller's whole watch history.")
    async def clear_history(self, info: Info) -> ClearHistoryPayload:
        await info.context.clients.watching.ClearHistory(pb.ClearHistoryRequest())
        return ClearHistoryPayload(done=True)

    @strawberry.mutation(description="Whether what the caller watches is kept, and used for recommendations.")
    async def set_personalisation(self, info: Info, enabled: bool) -> SetPersonalisationPayload:
        wanted = pb.SetPersonalisationRequest(enabled=enabled)
        answer = await info.context.clients.watching.SetPersonalisation(wanted)
        return SetPersonalisationPayload(enabled=answer.enabled)
