"""`pulumi up -s <stack>`: reads the stack's configuration once, and creates the environment that it describes."""

import json

import pulumi

from kinora_environment import config, needs
from kinora_environment.environment import create

stack = pulumi.get_stack()
try:
    given = config.parse(stack, json.loads(pulumi.runtime.get_config(config.KEY) or "null"))
    outputs = create(stack, given, needs.read())
except config.ConfigError as error:
    raise pulumi.RunError(str(error)) from None
for name, value in outputs.items():
    pulumi.export(name, value)
