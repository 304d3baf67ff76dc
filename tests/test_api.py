"""What docs/api.md says is true: its documents, its commands, and its table of REST and GraphQL."""

import json
import re
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from graphql import GraphQLObjectType, OperationDefinitionNode, build_schema, parse

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
SCHEMA = build_schema((ROOT / "apps/graphql/schema.graphql").read_text())
OPENAPI = json.loads(resources.files("kinora").joinpath("openapi.json").read_text())
METHODS = {"get", "post", "put", "patch", "delete", "head", "options"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_documents_are_those_of_the_repository() -> None:
    for document in blocks("graphql"):
        (operation,) = parse(document).definitions
        assert isinstance(operation, OperationDefinitionNode)
        assert operation.name
        assert document == (ROOT / f"apps/graphql/operations/{operation.name.value}.graphql").read_text()


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_commands_work(tmp_path: Path) -> None:
    helpers, *journey = blocks("sh")
    (tmp_path / "apps").symlink_to(ROOT / "apps")

    def run(*scripts: str) -> list[str]:
        """What each script printed."""
        end = "\necho '-- end of a block'\n"
        command = ["bash", "-euo", "pipefail", "-c", end.join((helpers, *scripts, ""))]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("-- end of a block\n")[1:-1]

    for script, printed in zip(journey, run(*journey), strict=True):
        assert not re.search(r'"(errors|code)": ?["\[]', printed), f"{script}\n{printed}"
        assert "404 page not found" not in printed, script


def table() -> list[tuple[list[str], list[str]]]:
    """The names in both columns of each row."""
    rows = re.findall(r"^\| (.+) \| (.+) \|$", PAGE[PAGE.index("\n## REST and GraphQL\n") :], flags=re.MULTILINE)
    return [(re.findall("`(.+?)`", rest), re.findall("`(.+?)`", graphql)) for rest, graphql in rows]


def test_table_has_every_route() -> None:
    routes = [
        f"{method.upper()} {path}"
        for path, operations in OPENAPI["paths"].items()
        for method in METHODS & set(operations)
    ]
    assert sorted(name for rest, _ in table() for name in rest) == sorted(routes)


def test_table_has_every_root_field() -> None:
    named = {name for _, graphql in table() for name in graphql}
    roots = {
        f"{kind.name}.{name}"
        for kind in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type)
        if kind
        for name in kind.fields
    }
    assert roots - named == set()
    for name in named:
        kind, _, field = name.partition(".")
        owner = SCHEMA.type_map[kind]
        assert isinstance(owner, GraphQLObjectType)
        assert field in owner.fields, name
