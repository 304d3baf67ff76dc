"""Accounts, sessions and tokens, and the rules that need no store."""

import enum
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Self
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from kinora_auth import text

LIST_LIMIT = 100
SESSION_LIMIT = 100
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
        """Whether this account may come from the same registration; the password remains to be checked."""
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
    """The stored form, without the token itself."""

    hash: bytes
    session_id: UUID
    access_id: UUID
    created_at: datetime
    used_at: datetime | None = None
    late_run: int = 0
    """How many consecutive predecessors of this token were presented late."""


class RefreshKind(enum.Enum):
    """The classification of a presented refresh token of a live session."""

    ROTATE = enum.auto()
    """The token's first use."""
    REPEAT = enum.auto()
    """Presented again within the grace period: several tabs, or a lost response. It gets the same response."""
    LATE = enum.auto()
    """Presented again later, while its successor is unused: a sleeping tab, or a response lost with the network."""
    REUSE = enum.auto()
    """Presented again although its successor was used: by a thief, or by the owner after a thief."""


LATE_RUN = 3
"""How many consecutive tokens may be presented late: two holders who take turns present every token late."""


def classify_refresh(
    token: RefreshToken, successor: RefreshToken | None, *, now: datetime, grace: timedelta
) -> RefreshKind:
    if token.used_at is None:
        return RefreshKind.ROTATE
    if successor is None or successor.used_at is not None:
        return RefreshKind.REUSE
    if now - token.used_at <= grace:
        return RefreshKind.REPEAT
    return RefreshKind.LATE if token.late_run < LATE_RUN else RefreshKind.REUSE


class ExportState(enum.StrEnum):
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


EXPORT_KEPT = timedelta(days=1)
EXPORT_LIMIT = timedelta(hours=6)
"""How long an export may take: longer than outages of other services."""
EXPORT_AGAIN = timedelta(minutes=10)
"""How long after an export was finished there is no new one."""


@dataclass(frozen=True)
class Export:
    """One's own data, as collected so far. ``size`` is in bytes, ``progress`` from 0 to 1."""

    id: UUID
    user_id: UUID
    session_id: UUID
    created_at: datetime
    expires_at: datetime
    source: str
    """The service of the next page."""
    cursor: str = ""
    progress: float = 0
    pages: int = 0
    records: int = 0
    size: int = 0
    finished_at: datetime | None = None

    def state(self, now: datetime) -> ExportState:
        if self.finished_at is not None:
            return ExportState.READY
        return ExportState.RUNNING if now < self.created_at + EXPORT_LIMIT else ExportState.FAILED

    def is_current(self, now: datetime) -> bool:
        """Whether a new request is answered with this export."""
        if self.finished_at is not None:
            return now < min(self.finished_at + EXPORT_AGAIN, self.expires_at)
        return self.state(now) is ExportState.RUNNING


@dataclass(frozen=True)
class Client:
    """The origin of a request."""

    address: str
    user_agent: str

    @classmethod
    def of(cls, address: str, user_agent: str) -> Self:
        """From values reported by the client, truncated."""
        return cls(_printable(address)[:_ADDRESS_LENGTH], _printable(user_agent)[:_USER_AGENT_LENGTH])

    @property
    def network(self) -> str:
        """The addresses of one client: an IPv4 address, or an IPv6 /64."""
        return self._network(v4=32, v6=64)

    @property
    def neighbourhood(self) -> str:
        """The wider network that one owner may control: an IPv4 /24, or an IPv6 /48."""
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
        # No mail is sent, so deliverability does not matter. Only ASCII letters case-fold identically in every
        # collation.
        return validate_email(value, check_deliverability=False, allow_smtputf8=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


def _new_password(secret: SecretStr) -> SecretStr:
    return SecretStr(text.new_password(secret.get_secret_value()))


# A subset of UsernameCaseMapped (RFC 8265) without lookalike names, except for I, l, 1, O and 0.
Username = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9][A-Za-z0-9_.-]*$", min_length=3, max_length=32)
]
Email = Annotated[
    str,
    StringConstraints(min_length=3, max_length=254),
    AfterValidator(_email),
    Field(json_schema_extra={"format": "email"}),
]
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
    """Validated input of a use case, the same for every transport."""

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
    """Omitted fields keep their values."""

    username: Username | SkipJsonSchema[None] = None
    email: Email | SkipJsonSchema[None] = None
    display_name: DisplayName | SkipJsonSchema[None] = None
    bio: Bio | SkipJsonSchema[None] = None
    current_password: Password | SkipJsonSchema[None] = None

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


class Usernames(Command):
    usernames: Annotated[list[str], Field(max_length=LIST_LIMIT)]
