"""REST API, in modules by use case."""

from kinora_media.rest import channels, comments, likes, media, notifications, playlists, watching

ROUTERS = [
    media.router,
    channels.router,
    comments.router,
    likes.router,
    watching.router,
    playlists.router,
    notifications.router,
]
