"""What an account, a session and a token are, and the rules that need no store."""

import enum
import ipaddress
import json
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

from kinora_auth import text
from kinora_kit import strict_json
from kinora_kit.errors import InvalidInput, MalformedRequest

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
    late_run: int = 0
    """How many tokens in a row before this one were presented again late."""


class Turn(enum.Enum):
    """What presenting a refresh token of a living session amounts to."""

    ROTATE = enum.auto()
    """Its first use."""
    REPEAT = enum.auto()
    """Again at once: tabs of one browser, or a client that lost the answer. It gets the same answer."""
    LATE = enum.auto()
    """Again later, while its successor is unused: a tab that slept, or an answer that got lost with the network."""
    REUSE = enum.auto()
    """Again although its successor was used: a thief, or the owner after a thief."""


LATE_RUN = 3
"""So many tokens in a row may be presented late: two holders who take turns do that with each."""


def turn(token: RefreshToken, successor: RefreshToken | None, *, now: datetime, grace: timedelta) -> Turn:
    if token.used_at is None:
        return Turn.ROTATE
    if successor is None or successor.used_at is not None:
        return Turn.REUSE
    if now - token.used_at <= grace:
        return Turn.REPEAT
    return Turn.LATE if token.late_run < LATE_RUN else Turn.REUSE


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
        """What one client has: an IPv4 address, or an IPv6 /64."""
        return self._network(v4=32, v6=64)

    @property
    def neighbourhood(self) -> str:
        """What somebody with many addresses may own as a whole: an IPv4 /24, an IPv6 /48."""
        return self._network(v4=24, v6=48)

    def _network(self, *, v4: int, v6: int) -> str:
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError:
            return self.address
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return str(ipaddress.ip_network((address, v4 if address.version == 4 else v6), strict=False))


def _printable(value: str) -> str:
    return "".join(character for character in value if character.isprintable())


def _email(value: str) -> str:
    try:
        # No mail is sent, so deliverability does not matter. Only ASCII letters fold to one case in every collation.
        return validate_email(value, check_deliverability=False, allow_smtputf8=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


def _new_password(secret: SecretStr) -> SecretStr:
    return SecretStr(text.new_password(secret.get_secret_value()))


# A part of UsernameCaseMapped (RFC 8265) in which no two names look alike but for I, l, 1, O and 0.
Username = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9][A-Za-z0-9_.-]*$", min_length=3, max_length=32)
]
Email = Annotated[str, StringConstraints(max_length=254), AfterValidator(_email)]
DisplayName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), AfterValidator(text.display_name)
]
Bio = Annotated[str, StringConstraints(max_length=1000), AfterValidator(text.prose)]
Login = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=254), AfterValidator(text.one_line)
]
NewPassword = Annotated[SecretStr, Field(min_length=8, max_length=256), AfterValidator(_new_password)]
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


def command_from_json(kind: type[C], body: bytes) -> C:
    """Raises MalformedRequest, InvalidInput."""
    try:
        return command(kind, strict_json.loads(body))
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not JSON as this service takes it: {error.msg}") from None
