"""The wire format of events: CloudEvents 1.0 in JSON, with a versioned pydantic model as data.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import builtins
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kinora_kit import logs
from kinora_kit.ids import new_id


class Payload(BaseModel):
    """The data of one event type. ``type`` is ``owner.past_tense``; the owner is also its exchange."""

    # Older consumers must be able to read events of newer producers.
    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]

    @property
    def subject(self) -> str:
        """The id of the entity that the event is about."""
        raise NotImplementedError


P = TypeVar("P", bound=Payload)


class Event(BaseModel):
    """The envelope. ``id`` identifies the event permanently, also across redeliveries."""

    model_config = ConfigDict(frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: UUID = Field(default_factory=new_id)
    source: str
    type: str
    subject: str
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    datacontenttype: Literal["application/json"] = "application/json"
    traceparent: str | None = None
    data: dict[str, Any]

    def read(self, payload: builtins.type[P]) -> P:
        """The data as its model. Raises pydantic.ValidationError if it does not match."""
        return payload.model_validate(self.data)


def event(source: str, payload: Payload) -> Event:
    return Event(
        source=f"kinora/{source}",
        type=payload.type,
        subject=payload.subject,
        traceparent=logs.traceparent.get(),
        data=payload.model_dump(mode="json"),
    )
