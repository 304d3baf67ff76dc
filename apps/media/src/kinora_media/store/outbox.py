"""Pending events of documents, for the exchange of media."""

from collections.abc import Sequence

from kinora.events.media import EXCHANGE
from kinora_kit.events import Event
from kinora_kit.mongo import Document, pending


def entries(events: Sequence[Event]) -> list[Document]:
    """The outbox of a document."""
    return [pending(event, exchange=EXCHANGE) for event in events]
