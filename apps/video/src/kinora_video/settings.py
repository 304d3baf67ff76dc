"""Settings of the two processes, the API and the worker, which needs fewer secrets."""

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

    grpc_port: Port
    public_url: str
    """The gateway's URL for clients, without a trailing slash; also the issuer of the access tokens."""
    tusd_url: str
    jwks_url: str
    media_grpc: str
    redis_url: SecretStr
    signing_secret: Secret
    """Signs the URLs of private streams."""
    upload_max_bytes: int = Field(default=10 << 30, ge=1)
    upload_ttl_seconds: int = Field(default=24 * 3600, ge=60)
    """An upload expires after this time without new bytes."""
    upload_begin_seconds: int = Field(default=600, ge=1)
    """An upload expires after this time if tusd has not created it."""
    uploads_per_user: int = Field(default=20, ge=1)
    """Concurrent uploads per user."""
    link_lifetime_seconds: int = Field(default=6 * 3600, ge=60)
    """How long the URLs of a private stream are valid, in addition to the duration of the video."""


class WorkerSettings(StoreSettings):
    service: ClassVar[str] = "video-worker"

    part_seconds: float = Field(default=12, gt=0)
    segment_seconds: float = Field(default=4, gt=0)
    work_dir: Path | None = None
    """Where parts are encoded; the system's temporary folder by default."""
    require_landlock: bool = True
    """Whether the worker refuses to start if the kernel has no Landlock. Without it, code in a hostile file could read
    whatever the worker's user can read, but could still not send signals or reach the network."""
