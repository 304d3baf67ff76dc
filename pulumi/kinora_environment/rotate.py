"""Rotates a secret: `python -m kinora_environment.rotate STACK SECRET` increments its generation in the stack's file.

For generations, see credentials.py. The environment does not change before the next `pulumi up`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ruamel.yaml import YAML

from kinora_environment import config, needs
from kinora_environment.place import namespace_name
from kinora_environment.render import PROJECT, configuration


def rotating(given: config.EnvironmentConfig) -> list[str]:
    """The secrets of a stack that can be rotated: those of its own stores."""
    return [
        f"{identity}-{store}"
        for identity, need in needs.read().items()
        for store in need.stores()
        if given.store(store).mode != "external"
    ]


def rotate(stack: str, secret: str, project: Path = PROJECT) -> int:
    """Increment the generation of a secret in the stack's file; nothing else changes. Returns the new one.

    Raises:
        ConfigError: if the stack does not exist or the secret does not rotate.
    """
    given = configuration(stack, project)
    if secret not in (known := rotating(given)):
        why = "signs or encrypts: existing data would become invalid" if secret.endswith("-keys") else "does not rotate"
        raise config.ConfigError(f"{secret} {why}. These rotate: {', '.join(known)}.")
    file, yaml = project / f"Pulumi.{stack}.yaml", YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(file)
    generation = given.generations.get(secret, 1) + 1
    document["config"][config.KEY].setdefault("generations", {})[secret] = generation
    with file.open("w") as opened:
        yaml.dump(document, opened)
    return generation


def main() -> None:
    parser = argparse.ArgumentParser(prog="rotate", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("secret")
    arguments = parser.parse_args()
    stack, secret = arguments.stack, arguments.secret
    try:
        generation = rotate(stack, secret)
    except config.ConfigError as error:
        sys.exit(str(error))
    app = needs.app(secret.rpartition("-")[0])
    context = configuration(stack).context
    kubectl = f"kubectl --context {context}" if context else "kubectl"
    print(
        f"{secret} is now in generation {generation}, in pulumi/Pulumi.{stack}.yaml. Commit it, then:\n"
        f"  pulumi -C pulumi up -s {stack}\n"
        f"  {kubectl} -n {namespace_name(stack, 'apps')} rollout restart deployment"
        f" -l app.kubernetes.io/instance={app}\n"
        "Pods with the previous generation keep working until the next rotation."
    )


if __name__ == "__main__":
    main()
