"""REST API, in modules by use case."""

from kinora_media.rest import media

ROUTERS = [media.router]
