"""Print the lines of the lock file (stdin) for the named distributions and their dependencies, for their images;
``--without NAME...``: except those that these need, too.

The lock file names the parents of each requirement ("# via"), so nothing has to be resolved again.

Standard library only: it runs in an image without packages.
"""

import re
import sys


def needed(lock: str, by: set[str]) -> list[str]:
    """The requirements, with hashes, of these distributions and their dependencies, as far as they are locked."""
    texts, users = {}, {}
    for text in re.findall(r"^\w.*\n(?:\s.*\n)*", lock, flags=re.MULTILINE):
        name, via = text.partition("==")[0], text.partition("# via")[2]
        texts[name] = text
        users[name] = set(re.findall(r"([\w.-]+)(?: \(.*\))?$", via, flags=re.MULTILINE))
        if not users[name]:
            raise SystemExit(f"requirements: the lock file does not say what requires {name}")
    found = by & texts.keys()
    while new := {name for name in texts if users[name] & (by | found)} - found:
        found |= new
    return [texts[name] for name in sorted(found)]


def own(lock: str, by: set[str], without: set[str]) -> list[str]:
    """Those that the distributions ``without`` do not need."""
    shared = needed(lock, without)
    return [text for text in needed(lock, by) if text not in shared]


if __name__ == "__main__":
    names = sys.argv[1:]
    end = names.index("--without") if "--without" in names else len(names)
    print("".join(own(sys.stdin.read(), set(names[:end]), set(names[end + 1 :]))))
