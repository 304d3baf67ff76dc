from typing import ClassVar
from uuid import UUID

from kinora_kit.events import Payload

EXCHANGE = "auth"


class _User(Payload):
    user_id: UUID

    @property
    def subject(self) -> str:
        return str(self.user_id)


class UserRegistered(_User):
    type: ClassVar[str] = "user.registered"
    username: str
    display_name: str


class UserUpdated(_User):
    type: ClassVar[str] = "user.updated"
    username: str
    display_name: str


class UserDeleted(_User):
    type: ClassVar[str] = "user.deleted"
