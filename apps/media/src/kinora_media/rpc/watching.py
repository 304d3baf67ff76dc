"""gRPC API of watching: platform/protos/kinora/media/v1/watching.proto."""
# ruff: noqa: N802 - method names come from the proto

import grpc

from kinora.media.v1 import watching_pb2 as pb
from kinora.media.v1.watching_pb2_grpc import WatchingServicer, add_WatchingServicer_to_server
from kinora_kit.commands import command
from kinora_kit.ids import parse_id
from kinora_kit.rpc import optional_caller, signed_in
from kinora_kit.structs import timestamp
from kinora_media import cursors
from kinora_media.domain import CreationKey, Heartbeat, Impressions
from kinora_media.rpc.media import message_of, page_size
from kinora_media.watching import Viewer, Watching


def register(server: grpc.aio.Server, watching: Watching) -> None:
    add_WatchingServicer_to_server(WatchingRpc(watching), server)


class WatchingRpc(WatchingServicer):
    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    async def RecordView(self, request: pb.RecordViewRequest, context: object) -> pb.RecordViewResponse:
        heartbeat = command(Heartbeat, {"position": request.position, "final": request.final})
        await self._watching.record(Viewer(optional_caller(), request.address), parse_id(request.media_id), heartbeat)
        return pb.RecordViewResponse()

    async def RecordImpressions(
        self, request: pb.RecordImpressionsRequest, context: object
    ) -> pb.RecordImpressionsResponse:
        given = [
            {"media_id": parse_id(each.media_id), "surface": each.surface, "position": each.position}
            for each in request.impressions
        ]
        shown, key = command(Impressions, {"impressions": given}), command(CreationKey, {"key": request.key}).key
        await self._watching.record_impressions(Viewer(optional_caller(), request.address), shown, key=key)
        return pb.RecordImpressionsResponse()

    async def ListPositions(self, request: pb.ListPositionsRequest, context: object) -> pb.ListPositionsResponse:
        found = await self._watching.positions(signed_in(), [parse_id(text) for text in request.media_ids])
        return pb.ListPositionsResponse(positions={str(media_id): position for media_id, position in found.items()})

    async def ListHistory(self, request: pb.ListHistoryRequest, context: object) -> pb.HistoryPage:
        after = cursors.in_history(request.after) if request.after else None
        page = await self._watching.history(signed_in(), after=after, limit=page_size(request.limit))
        entries = [
            pb.HistoryEntry(
                media=message_of(media),
                position=visit.position,
                watched_at=timestamp(visit.at),
                cursor=cursors.of_visit(visit),
            )
            for media, visit in page.items
        ]
        return pb.HistoryPage(entries=entries, has_more=page.more)

    async def RemoveFromHistory(
        self, request: pb.RemoveFromHistoryRequest, context: object
    ) -> pb.RemoveFromHistoryResponse:
        await self._watching.forget(signed_in(), parse_id(request.media_id))
        return pb.RemoveFromHistoryResponse()

    async def ClearHistory(self, request: pb.ClearHistoryRequest, context: object) -> pb.ClearHistoryResponse:
        await self._watching.clear(signed_in())
        return pb.ClearHistoryResponse()

    async def GetPersonalisation(self, request: pb.GetPersonalisationRequest, context: object) -> pb.Personalisation:
        return pb.Personalisation(enabled=await self._watching.keeps_history(signed_in()))

    async def SetPersonalisation(self, request: pb.SetPersonalisationRequest, context: object) -> pb.Personalisation:
        await self._watching.keep_history(signed_in(), on=request.enabled)
        return pb.Personalisation(enabled=request.enabled)

    async def GetRetention(self, request: pb.GetRetentionRequest, context: object) -> pb.GetRetentionResponse:
        return pb.GetRetentionResponse(parts=await self._watching.retention(signed_in(), parse_id(request.media_id)))
