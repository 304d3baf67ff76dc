from typing import ClassVar

from pydantic import Field, SecretStr

from kinora_kit.settings import StreamSettings


class GraphqlSettings(StreamSettings):
    service: ClassVar[str] = "graphql"

    public_url: str
    """Where clients reach the platform; the issuer of the access tokens."""
    redis_url: SecretStr
    rabbitmq_url: SecretStr
    jwks_url: str
    auth_grpc: str
    media_grpc: str
    video_grpc: str

    introspection: bool = False
    """Whether clients may ask for the schema, and errors suggest names of it. For development."""
    max_depth: int = Field(default=10, ge=1)
    """How deep an operation may nest, fragments followed."""
    max_aliases: int = Field(default=20, ge=0)
    """How many fields of an operation may be renamed, fragments followed."""
    max_tokens: int = Field(default=1000, ge=1)
    """How long a document may be, counted in words and brackets."""

    socket_origins: tuple[str, ...] = ("*",)
    """Origins whose pages may open a WebSocket. Any by default: who calls is told by a token, never by a cookie."""
    socket_operations: int = Field(default=20, ge=1)
    """Operations that run at a time on one WebSocket."""
    socket_init_seconds: float = Field(default=10, gt=0)
    """How long a WebSocket may wait before it sends connection_init."""
