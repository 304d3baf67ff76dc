"""All use cases, which REST, gRPC and events call."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from kinora_kit.export import Exporter
from kinora_kit.mongo import Database, Relay
from kinora_media.belongings import Belongings
from kinora_media.catalogue import Catalogue
from kinora_media.comments import Comments
from kinora_media.hiding import Hiding
from kinora_media.likes import Likes
from kinora_media.lists import Lists
from kinora_media.marks import Marks
from kinora_media.notifications import Notifications
from kinora_media.pages import Pages
from kinora_media.playlists import Playlists
from kinora_media.store import export
from kinora_media.subscriptions import Subscriptions
from kinora_media.tallies import Tallies
from kinora_media.users import Users
from kinora_media.videos import Videos
from kinora_media.watching import Watching


@dataclass(frozen=True)
class UseCases:
    catalogue: Catalogue
    lists: Lists
    comments: Comments
    likes: Likes
    subscriptions: Subscriptions
    hiding: Hiding
    watching: Watching
    playlists: Playlists
    notifications: Notifications
    belongings: Belongings
    exporter: Exporter
    users: Users

    @classmethod
    def of(
        cls,
        database: Database,
        relay: Relay,
        tallies: Tallies,
        *,
        videos: Videos,
        users: Users,
        pages: Pages,
        categories: Mapping[str, str],
    ) -> Self:
        """``categories``: names by id."""
        catalogue = Catalogue(database, relay, videos, pages, categories)
        comments = Comments(database, relay, tallies, catalogue, pages)
        marks = Marks(database, relay, tallies)
        return cls(
            catalogue=catalogue,
            lists=Lists(database, pages),
            comments=comments,
            likes=Likes(marks, catalogue, comments),
            subscriptions=Subscriptions(database, marks, users),
            hiding=Hiding(marks, catalogue, users),
            watching=Watching(database, relay, tallies, catalogue),
            playlists=Playlists(database, relay, tallies, catalogue),
            notifications=Notifications(database, catalogue, comments),
            belongings=Belongings(database, catalogue),
            exporter=Exporter({name: partial(export.page, database, kind) for name, kind in export.KINDS.items()}),
            users=users,
        )
