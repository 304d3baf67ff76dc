"""What an account, a session and a token are, and the rules that need no store."""

import enum
import ipaddress
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Self, TypeVar
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from kinora_kit.errors import InvalidInput

LIST_LIMIT = 100
_USER_AGENT_LENGTH = 256
_ADDRESS_LENGTH = 45


@dataclass(frozen=True)
class User:
    id: UUID
    username: str
    email: str
    display_name: str
    bio: str
    roles: tuple[str, ...]
    created_at: datetime

    def registered_as(self, wanted: "Registration") -> bool:
        """Whether it may be what this very registration made; the password is yet to be checked."""
        display_name = wanted.display_name or wanted.username
        return (self.username, self.email, self.display_name) == (wanted.username, wanted.email, display_name)


@dataclass(frozen=True)
class Credentials:
    user: User
    password_hash: str
    password_changed_at: datetime


@dataclass(frozen=True)
class Session:
    id: UUID
    user_id: UUID
    user_agent: str
    address: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class RefreshToken:
    """As it is stored: without the token itself."""

    hash: bytes
    session_id: UUID
    access_id: UUID
    created_at: datetime
    used_at: datetime | None = None


class Turn(enum.Enum):
    """What presenting a refresh token of a living session amounts to."""

    ROTATE = enum.auto()
    REPEAT = enum.auto()
    REUSE = enum.auto()


def turn(token: RefreshToken, successor: RefreshToken | None, *, now: datetime, grace: timedelta) -> Turn:
    """REPEAT is a client that never got the answer: it is soon back, and nobody has used what the answer held."""
    if token.used_at is None:
        return Turn.ROTATE
    answered = successor is not None and successor.used_at is not None
    return Turn.REUSE if answered or now - token.used_at > grace else Turn.REPEAT


@dataclass(frozen=True)
class Client:
    """Where a request came from."""

    address: str
    user_agent: str

    @classmethod
    def of(cls, address: str, user_agent: str) -> Self:
        """From what the other side says, cut to what is worth keeping."""
        return cls(_printable(address)[:_ADDRESS_LENGTH], _printable(user_agent)[:_USER_AGENT_LENGTH])

    @property
    def network(self) -> str:
        """What throttling counts: an IPv6 client owns at least a /64, an IPv4 client one address."""
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError:
            return self.address
        return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _no_control_characters(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in text):
        raise ValueError("control characters are not allowed")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\t" in text:
        raise ValueError("line breaks are not allowed")
    return _no_control_characters(text)


def _email(text: str) -> str:
    try:
        # Whether mail arrives is not ours to ask; and only letters of ASCII fold to one case in every collation.
        return validate_email(text, check_deliverability=False, allow_smtputf8=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


Username = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{3,32}$")]
Email = Annotated[str, StringConstraints(max_length=254), AfterValidator(_email)]
DisplayName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), AfterValidator(_one_line)
]
Bio = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_no_control_characters)]
Login = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=254), AfterValidator(_one_line)
]
NewPassword = Annotated[SecretStr, Field(min_length=8, max_length=256)]
Password = Annotated[SecretStr, Field(max_length=256)]


class Command(BaseModel):
    """What a client asks for, checked in the same way however it arrived."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Registration(Command):
    username: Username
    email: Email
    password: NewPassword
    display_name: DisplayName | None = None


class SignIn(Command):
    login: Login
    password: Password


class Refresh(Command):
    refresh_token: Annotated[SecretStr, Field(min_length=1, max_length=256)]


class ProfileChange(Command):
    """A field that is left out stays as it is."""

    username: Username | None = None
    email: Email | None = None
    display_name: DisplayName | None = None
    bio: Bio | None = None
    current_password: Password | None = None

    @model_validator(mode="after")
    def _no_nulls(self) -> Self:
        nulls = sorted(name for name in self.model_fields_set if getattr(self, name) is None)
        if nulls:
            raise ValueError(f"{', '.join(nulls)}: null is not allowed, leave the field out to keep its value")
        return self


class PasswordChange(Command):
    current_password: Password
    new_password: NewPassword


class Deletion(Command):
    current_password: Password


class UserIds(Command):
    ids: Annotated[list[UUID], Field(max_length=LIST_LIMIT)]


C = TypeVar("C", bound=Command)


def command(kind: type[C], fields: Mapping[str, Any]) -> C:
    """For callers that have no framework to read a body. Raises InvalidInput."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        errors = [{"field": ".".join(map(str, item["loc"])), "message": item["msg"]} for item in error.errors()]
        raise InvalidInput("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors) from None
