from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from kinora_graphql.documents import MANIFESTS
from kinora_kit.settings import StreamSettings


class GraphqlSettings(StreamSettings):
    service: ClassVar[str] = "graphql"

    public_url: str
    """The platform's URL for clients; also the issuer of the access tokens."""
    redis_url: SecretStr
    rabbitmq_url: SecretStr
    jwks_url: str
    auth_grpc: str
    media_grpc: str
    video_grpc: str

    introspection: bool = False
    """Whether introspection is allowed and errors suggest names. For development."""
    max_depth: int = Field(default=10, ge=1)
    """Maximum depth of an operation, including fragments."""
    max_aliases: int = Field(default=20, ge=0)
    """Maximum number of aliases in an operation, including fragments."""
    max_cost: int = Field(default=2000, ge=1)
    """Maximum estimated cost of an operation; see costs.py. A page of 50 videos with all fields costs 700."""
    max_tokens: int = Field(default=1000, ge=1)
    """Maximum length of a document, in lexical tokens."""

    rate_limit: int = Field(default=120_000, ge=1)
    """What the operations of a user, or of an anonymous address, may cost in a minute."""

    persisted_documents: int = Field(default=1000, ge=0)
    """Maximum number of documents of the automatic protocol in Redis, of at most 16 KiB each."""
    trusted_documents: Path = MANIFESTS / "relay.json"
    """A manifest in Relay's or Apollo's form: documents that clients may name without having sent them."""
    trusted_only: bool = False
    """Whether only trusted documents are executed."""

    socket_origins: tuple[str, ...] = ("*",)
    """Origins that may open a WebSocket. Any by default: authentication is by token, never by cookie."""
    socket_operations: int = Field(default=20, ge=1)
    """Maximum number of concurrent operations on one WebSocket."""
    socket_init_seconds: float = Field(default=10, gt=0)
    """How long a WebSocket may take to send connection_init."""
    keepalive_seconds: float = Field(default=15, gt=0)
    """After how long without events a stream of server-sent events gets a comment."""

    cached_documents: int = Field(default=100, ge=0)
    """Maximum number of parsed and validated documents in memory; 1000 tokens take 0.5 MB."""
