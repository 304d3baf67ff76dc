"""``make bench``: the platform's performance, compared with the machine's limit, measured in the same run.

Figures are only meaningful relative to the limit, or to another commit's figures on the same machine.

Each module has ``bench``, which registers whom it needs and returns its rows.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "local")]

import forward_auth  # noqa: E402
import memory  # noqa: E402
import queries  # noqa: E402
import scale  # noqa: E402
import transcode  # noqa: E402

BENCHES = {module.__name__: module.bench for module in (forward_auth, queries, memory, scale, transcode)}

console = Console(highlight=False, width=120)


async def main(*names: str) -> None:
    """Run the named benches; all if none is named."""
    if unknown := set(names) - BENCHES.keys():
        raise SystemExit(f"Unknown bench: {', '.join(sorted(unknown))}. Known: {', '.join(BENCHES)}.")
    table = Table("benchmark", "measured", "limit in the same run", "ratio", box=None)
    for name in names or BENCHES:
        with tempfile.TemporaryDirectory() as folder, console.status(f"measuring {name}"):
            for row in await BENCHES[name](Path(folder)):
                table.add_row(row.what, row.measured, row.limit, f"{row.ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
