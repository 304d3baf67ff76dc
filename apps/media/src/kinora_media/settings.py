from typing import Annotated, ClassVar

from pydantic import Field, SecretStr, StringConstraints

from kinora_kit.settings import Port, Settings

CategoryId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,50}$")]
CategoryName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


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
    auth_grpc: str
    video_grpc: str
    categories: dict[CategoryId, CategoryName] = Field(
        default={
            "animals": "Animals",
            "comedy": "Comedy",
            "education": "Education",
            "film": "Film and animation",
            "food": "Food",
            "gaming": "Gaming",
            "how-to": "How-to and style",
            "music": "Music",
            "news": "News and politics",
            "people": "People and blogs",
            "science": "Science and technology",
            "sport": "Sport",
            "travel": "Travel",
            "vehicles": "Vehicles",
        },
        max_length=100,
    )
    """Names by id, in the order that clients show them. Documents keep a category that is removed."""
    popularity_seconds: float = Field(default=600, gt=0)
    """How often the popular lists are ranked anew, and for how long their cursors are valid at least."""
    tombstone_days: int = Field(default=30, ge=1)
    """How long a tombstone is kept, so that a late event does not recreate a deleted document."""
