from kinora_auth import rest
from kinora_auth.settings import AuthSettings
from kinora_auth.wiring import wire
from kinora_kit.app import create_app, run
from kinora_kit.settings import load

if __name__ == "__main__":
    settings = load(AuthSettings)
    run(create_app(settings, wire, [rest.router]), settings)
