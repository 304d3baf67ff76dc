"""The API of video: ``python -m kinora_video.main``."""

from fastapi import FastAPI

from kinora_kit.app import create_app, run
from kinora_kit.settings import load
from kinora_video import elsewhere, internal, rest
from kinora_video.settings import VideoSettings
from kinora_video.wiring import wire


def build(settings: VideoSettings) -> FastAPI:
    return create_app(settings, wire, [internal.router, rest.router, elsewhere.router])


if __name__ == "__main__":
    loaded = load(VideoSettings)
    run(build(loaded), loaded)
