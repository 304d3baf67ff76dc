"""The gateway's OpenAPI document: generated, complete, and consistent with the gateway's routes."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi import document

COMMITTED = Path(__file__).resolve().parents[1] / "platform" / "src" / "kinora" / "openapi.json"
PUBLIC = {".well-known", "auth", "media", "recommendation", "user", "video"}
"""The first path segments that the gateway serves."""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document()


def test_committed_document_is_current(made: dict[str, Any]) -> None:
    assert json.loads(COMMITTED.read_text()) == made, "run make generate"


def test_operations_have_security_and_problem_responses(made: dict[str, Any]) -> None:
    known = set(made["components"]["securitySchemes"])
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            where = f"{method.upper()} {path}"
            named = {scheme for requirement in operation["security"] for scheme in requirement}
            assert named <= known, where
            assert {"429", "503", "default"} <= set(operation["responses"]), where
            for status, response in operation["responses"].items():
                if status == "default" or status >= "400":
                    assert "application/problem+json" in response["content"], f"{where}: {status}"
            assert "401" in operation["responses"] or not operation["security"], where


def test_bodies_of_edits_have_no_defaults(made: dict[str, Any]) -> None:
    """Clients that tools generate send the defaults of absent fields, which would overwrite what is stored."""
    for path, operations in made["paths"].items():
        if "patch" not in operations or path.startswith("/video/upload/"):
            continue
        reference = operations["patch"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = made["components"]["schemas"][reference.rpartition("/")[2]]
        assert not {name for name, field in schema["properties"].items() if field.get("default") is not None}, path


def test_document_contains_no_internal_operation(made: dict[str, Any]) -> None:
    assert all(path.split("/")[1] in PUBLIC for path in made["paths"])
