from typing import ClassVar

from pydantic import Field, SecretStr

from kinora_kit.settings import Port, Settings


class MediaSettings(Settings):
    service: ClassVar[str] = "media"

    grpc_port: Port
    public_url: str
    """The platform's URL for clients, and the issuer of the access tokens."""
    mongo_url: SecretStr
    mongo_database: str = "media"
    redis_url: SecretStr
    rabbitmq_url: SecretStr
    jwks_url: str
    video_grpc: str
    tombstone_days: int = Field(default=30, ge=1)
    """How long a tombstone is kept, so that a late event does not recreate a deleted document."""
