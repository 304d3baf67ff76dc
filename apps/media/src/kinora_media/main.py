"""python -m kinora_media.main"""

from kinora_kit.app import create_app, run
from kinora_kit.settings import load
from kinora_media.rest import ROUTERS
from kinora_media.settings import MediaSettings
from kinora_media.wiring import wire

if __name__ == "__main__":
    settings = load(MediaSettings)
    run(create_app(settings, wire, ROUTERS), settings)
