"""The OpenAPI document that the gateway serves: it is generated, whole, and true to the gateway's routes."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi import document

COMMITTED = Path(__file__).resolve().parents[1] / "platform" / "src" / "kinora" / "openapi.json"
PUBLIC = {".well-known", "auth", "media", "recommendation", "user", "video"}
"""First segments of what the gateway serves."""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document()


def test_committed_document_is_what_the_routes_give(made: dict[str, Any]) -> None:
    assert json.loads(COMMITTED.read_text()) == made, "run make generate"


def test_every_operation_names_its_security_and_its_problems(made: dict[str, Any]) -> None:
    known = set(made["components"]["securitySchemes"])
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            where = f"{method.upper()} {path}"
            named = {scheme for requirement in operation["security"] for scheme in requirement}
            assert named <= known, where
            assert {"429", "503", "default"} <= set(operation["responses"]), where
            for status, response in operation["responses"].items():
                if status == "default" or status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], f"{where}: {status}"
            assert ("401" in operation["responses"]) == bool(operation["security"]), where


def test_no_operation_of_the_inside_is_in_it(made: dict[str, Any]) -> None:
    assert all(path.split("/")[1] in PUBLIC for path in made["paths"])
