"""Settings of the two processes: the API, and the worker, which knows less."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from kinora_kit.settings import Port, Secret, Settings, StreamSettings


class StoreSettings(Settings):
    postgres_url: SecretStr
    rabbitmq_url: SecretStr
    s3_url: str
    s3_access_key: str
    s3_secret_key: SecretStr
    uploads_bucket: str = "uploads"
    streams_bucket: str = "streams"


class VideoSettings(StoreSettings, StreamSettings):
    service: ClassVar[str] = "video"

    grpc_host: str = "127.0.0.1"
    grpc_port: Port
    public_url: str
    """Where clients reach the gateway, without a slash at the end; also the issuer of the access tokens."""
    tusd_url: str
    jwks_url: str
    media_grpc: str
    redis_url: SecretStr
    signing_secret: Secret
    """Signs the addresses of private streams."""
    upload_max_bytes: int = Field(default=10 << 30, ge=1)
    upload_ttl_seconds: int = Field(default=24 * 3600, ge=60)
    """An upload that nothing was added to for so long is given up."""
    upload_begin_seconds: int = Field(default=600, ge=1)
    """An upload for which no place was made within so long is given up."""
    uploads_per_user: int = Field(default=20, ge=1)
    """Uploads that one user may have under way at a time."""
    link_lifetime_seconds: int = Field(default=6 * 3600, ge=60)
    """How long the address of a private stream is good for, on top of the video's own length."""


class WorkerSettings(StoreSettings):
    service: ClassVar[str] = "video-worker"

    part_seconds: float = Field(default=12, gt=0)
    segment_seconds: float = Field(default=4, gt=0)
    work_dir: Path | None = None
    """Where parts are encoded; the system's temporary folder unless given."""
    require_landlock: bool = True
    """Whether the worker refuses to start where the kernel has no Landlock. Without it, code in a hostile file could
    read what the worker's user can read; it could still signal nothing and reach nothing."""
