"""The objects of Pulumi's stack `sandbox`, with real secrets, as a List on standard output.

Where there is no Pulumi CLI: the program itself says what the environment consists of, as in `make render`; its random
secrets are made here and kept in the file that is named, so that a second time nothing changes. Run by the Python of
the environments (.kinora/pulumi).
"""

from __future__ import annotations

import json
import secrets
import string
import sys
from pathlib import Path

from kinora_environment import credentials, render

STACK = "sandbox"
LETTERS = string.ascii_letters + string.digits


def main() -> None:
    file = Path(sys.argv[1])
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}

    def random(name: str) -> str:
        if name not in known:
            known[name] = "".join(secrets.choice(LETTERS) for _ in range(credentials.LENGTH))
        return known[name]

    rendered = render.render(STACK, random=random)
    file.touch(mode=0o600)
    file.write_text(json.dumps(known))
    json.dump({"apiVersion": "v1", "kind": "List", "items": rendered.objects}, sys.stdout)


if __name__ == "__main__":
    main()
