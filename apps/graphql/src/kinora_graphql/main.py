"""python -m kinora_graphql.main"""

from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.sockets import Router
from kinora_graphql.wiring import wire
from kinora_kit.app import create_app, run
from kinora_kit.settings import load

if __name__ == "__main__":
    settings = load(GraphqlSettings)
    run(create_app(settings, wire, [Router(settings)]), settings)
