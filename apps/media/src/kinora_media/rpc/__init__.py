"""gRPC API: platform/protos/kinora/media/v1, in modules by proto."""

import grpc

from kinora_media.catalogue import Catalogue
from kinora_media.rpc import media


def register(server: grpc.aio.Server, catalogue: Catalogue) -> None:
    media.register(server, catalogue)
