"""REST API, in modules by use case."""

from kinora_media.rest import comments, likes, media

ROUTERS = [media.router, comments.router, likes.router]
