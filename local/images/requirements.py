"""The lines of the lock (standard input) of the named distributions and of what they need: their images hold no more.

The lock says below each requirement whose it is ("# via"), so nothing has to be resolved anew.

Standard library only: it runs in an image that has nothing else.
"""

import re
import sys


def needed(lock: str, by: set[str]) -> list[str]:
    """The requirements, each with its hashes: these distributions, where the lock has them, and what they depend on."""
    texts, users = {}, {}
    for text in re.findall(r"^\w.*\n(?:\s.*\n)*", lock, flags=re.MULTILINE):
        name, via = text.partition("==")[0], text.partition("# via")[2]
        texts[name] = text
        users[name] = set(re.findall(r"([\w.-]+)(?: \(.*\))?$", via, flags=re.MULTILINE))
        if not users[name]:
            raise SystemExit(f"requirements: the lock does not say whose {name} is")
    found = by & texts.keys()
    while new := {name for name in texts if users[name] & (by | found)} - found:
        found |= new
    return [texts[name] for name in sorted(found)]


if __name__ == "__main__":
    print("".join(needed(sys.stdin.read(), set(sys.argv[1:]))))
