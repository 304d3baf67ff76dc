import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from graphql import GraphQLNonNull, GraphQLObjectType, build_schema, find_breaking_changes

from kinora_graphql.node.types import Node
from kinora_graphql.settings import GraphqlSettings
from kinora_kit.settings import unknown_keys

HERE = Path(__file__).parent


def test_committed_schema_is_current() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "kinora_graphql.schema"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == (HERE.parent / "schema.graphql").read_text()


ACCEPTED: set[str] = {
    f"Field {owner}.{name} changed type from Int! to Int."
    for owner in ("Rendition", "Video")
    for name in ("width", "height")
}
"""Breaking changes that clients have been told of, as the test names them. Remove them when they are on main."""


def breaking_changes(before: str, after: str) -> set[str]:
    return {change.description for change in find_breaking_changes(build_schema(before), build_schema(after))}


def committed(revision: str) -> str | None:
    """The schema of a revision; None if there is none."""
    file = f"{revision}:./schema.graphql"
    shown = subprocess.run(["git", "show", file], cwd=HERE.parent, capture_output=True, text=True, check=False)
    return shown.stdout if shown.returncode == 0 else None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_schema_breaks_no_client() -> None:
    """Compared with the last commit, and with main."""
    now = (HERE.parent / "schema.graphql").read_text()
    before = [schema for revision in ("HEAD", "origin/main") if (schema := committed(revision))]
    assert set().union(*(breaking_changes(schema, now) for schema in before)) - ACCEPTED == set()


def test_breaking_changes_are_named() -> None:
    now = (HERE.parent / "schema.graphql").read_text()
    other = now.replace("streamUrl: String\n", "streamUrl: Int\n")
    assert breaking_changes(now, other) == {"Field Video.streamUrl changed type from String to Int."}


def test_local_environment_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (HERE.parents[2] / "local/env/graphql.env").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert unknown_keys(GraphqlSettings, environment) == []
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert GraphqlSettings().video_grpc == "127.0.0.1:8203"


def test_descriptions_say_when_a_field_is_null() -> None:
    schema = build_schema((HERE.parent / "schema.graphql").read_text())
    objects = [each for each in schema.type_map.values() if isinstance(each, GraphQLObjectType)]
    silent = [
        f"{each.name}.{name}"
        for each in objects
        if not each.name.startswith("__")
        for name, field in each.fields.items()
        if not isinstance(field.type, GraphQLNonNull) and "null" not in (field.description or "").lower()
    ]
    assert silent == []


def test_every_type_with_an_id_is_a_node() -> None:
    schema = build_schema((HERE.parent / "schema.graphql").read_text())
    objects = [each for each in schema.type_map.values() if isinstance(each, GraphQLObjectType)]
    nodes = {each.name for each in objects if "Node" in {interface.name for interface in each.interfaces}}
    assert nodes == {each.name for each in objects if "id" in each.fields}
    assert nodes == {each.__name__ for each in Node.__subclasses__()}, "the name of the class is in the id"
    assert all("load" in vars(each) for each in Node.__subclasses__())
