"""What a service stores about a user, page by page: the service ``kinora.export.v1.Export``, which auth calls.

A kind is named in the records, and has a function that reads a page of a user's records. To add one is a line in the
service's ``Exporter``; its tests name the collections and tables that have none.
"""
# ruff: noqa: N802 - method names come from the proto

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import grpc
from pydantic_core import to_json

from kinora.export.v1 import export_pb2 as pb
from kinora.export.v1.export_pb2_grpc import ExportServicer, add_ExportServicer_to_server
from kinora_kit.errors import InvalidInput
from kinora_kit.rpc import signed_in

PAGE_RECORDS = 200
PAGE_BYTES = 1 << 20
"""Of the lines of a page, unless a single record is larger."""

Record: TypeAlias = Mapping[str, object]
"""With values that JSON has, and times, UUIDs and bytes."""
Read: TypeAlias = Callable[[UUID, str, int], Awaitable[Sequence[tuple[str, Record]]]]
"""``read(user_id, after, limit)``: records in a fixed order, each with its position; those after the position
``after``, or the first ones if it is empty."""


@dataclass(frozen=True)
class Page:
    lines: bytes
    records: int
    next_cursor: str
    progress: float
    """0 to 1."""


@dataclass(frozen=True)
class Exporter:
    kinds: Mapping[str, Read]
    page_records: int = PAGE_RECORDS

    async def page(self, user_id: UUID, cursor: str) -> Page:
        """Raises InvalidInput for a cursor of a kind that does not exist."""
        names = list(self.kinds)
        name, _, after = cursor.partition(":") if cursor else (names[0], "", "")
        if name not in names:
            raise InvalidInput("The cursor is of no kind of record")
        found = await self.kinds[name](user_id, after, self.page_records)
        lines, records = bytearray(), 0
        for position, record in found:
            line = to_json({"kind": name, "data": record}, bytes_mode="base64") + b"\n"
            if records and len(lines) + len(line) > PAGE_BYTES:
                break
            lines += line
            records, after = records + 1, position
        is_last = records == len(found) < self.page_records
        done = names.index(name) + is_last
        following = f"{name}:{after}" if not is_last else f"{names[done]}:" if done < len(names) else ""
        return Page(bytes(lines), records, following, done / len(names))


class ExportRpc(ExportServicer):
    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    async def ExportPage(self, request: pb.ExportPageRequest, context: object) -> pb.ExportPageResponse:
        page = await self._exporter.page(signed_in().user_id, request.cursor)
        return pb.ExportPageResponse(
            lines=page.lines, records=page.records, next_cursor=page.next_cursor, progress=page.progress
        )


def register(server: grpc.aio.Server, exporter: Exporter) -> None:
    add_ExportServicer_to_server(ExportRpc(exporter), server)
