"""REST API, in modules by use case."""

from kinora_media.rest import likes, media

ROUTERS = [media.router, likes.router]
