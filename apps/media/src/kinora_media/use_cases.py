"""All use cases, which REST, gRPC and events call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from kinora_kit.mongo import Database, Relay
from kinora_media.belongings import Belongings
from kinora_media.catalogue import Catalogue
from kinora_media.comments import Comments
from kinora_media.likes import Likes
from kinora_media.lists import Lists
from kinora_media.tallies import Tallies
from kinora_media.videos import Videos


@dataclass(frozen=True)
class UseCases:
    catalogue: Catalogue
    lists: Lists
    comments: Comments
    likes: Likes
    belongings: Belongings

    @classmethod
    def of(
        cls, database: Database, relay: Relay, tallies: Tallies, *, videos: Videos, categories: Mapping[str, str]
    ) -> Self:
        """``categories``: names by id."""
        catalogue = Catalogue(database, relay, videos, categories)
        comments = Comments(database, relay, tallies, catalogue)
        likes = Likes(database, relay, tallies, catalogue, comments)
        return cls(catalogue, Lists(database), comments, likes, Belongings(database, catalogue))
