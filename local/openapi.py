"""Print the OpenAPI document of all public REST routes; the gateway serves it at /openapi.json (``make generate``)."""

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from kinora_kit import identity

ROOT = Path(__file__).resolve().parent.parent

PROBLEM = {
    "title": "Problem",
    "description": "RFC 9457. `code` is stable and machine-readable; `detail` is a sentence for people.",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "description": "For invalid input: the fields and what is wrong with each.",
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
REASONS = {
    "400": "The request cannot be parsed",
    "401": "Not signed in, or the access token is invalid",
    "403": "Not allowed",
    "404": "Not found, or not visible to the caller",
    "409": "Conflicts with the current state",
    "410": "Ended: it accepts no more bytes",
    "412": "A precondition does not hold, such as If-Match; for uploads, the protocol version",
    "413": "The body is too large",
    "415": "The content type is not supported",
    "416": "The range is outside the file",
    "422": "Invalid input",
    "429": "Too many requests: retry after Retry-After",
    "503": "A part of the platform is unavailable: retry after Retry-After",
    "default": "Any other problem",
}


def routers() -> list[APIRouter]:
    """The routers of all services with REST routes."""
    packages = sorted(path.name for path in ROOT.glob("apps/*/src/kinora_*") if path.is_dir())
    names = [f"{package}.{module}" for package in packages for module in ("rest", "elsewhere")]
    modules = [importlib.import_module(name) for name in names if find_spec(name)]
    return [router for module in modules for router in getattr(module, "ROUTERS", None) or [module.router]]


def _security(dependant: Dependant) -> list[dict[str, list[str]]]:
    calls = {each.call for each in dependant.dependencies}
    if calls & {identity._required, identity._required_token}:
        return [{"bearer": []}]
    return [{}, {"bearer": []}] if identity._optional in calls else []


def _problems(route: APIRoute, operation: dict[str, Any]) -> dict[str, Any]:
    """The error responses: those that the route declares, and those that come from what it takes."""
    declared = {status: response for status, response in operation["responses"].items() if status >= "400"}
    statuses = {"429", "503", "default", *declared}
    if operation["security"]:
        statuses |= {"401"}
    if route.param_convertors:
        statuses |= {"404"}
    if operation.get("parameters") or "requestBody" in operation:
        statuses |= {"400", "422"}
    if "requestBody" in operation:
        statuses |= {"413"}
    if not (route.methods or set()) & {"GET", "HEAD", "OPTIONS"}:
        statuses |= {"403", "409"}
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {
            "description": REASONS[status],
            "content": declared.get(status, {}).get("content", {}) | problem,
        }
        for status in sorted(statuses)
    }


def document() -> dict[str, Any]:
    app = FastAPI(
        title="Kinora",
        version="1",
        description="Except for upload and playback, everything is also available in GraphQL: POST /graphql. "
        "A path with a percent-encoded NUL or one of / \\ ; % ? # gets 400 without a body. "
        "Requests beyond the gateway's limits per address get 429 with Retry-After and a body in plain text.",
        servers=[{"url": "/"}],
    )
    included = routers()
    for router in included:
        app.include_router(router)
    made = app.openapi()
    for router in included:
        for route in router.routes:
            if not isinstance(route, APIRoute) or not route.include_in_schema:
                continue
            for method in route.methods or ():
                operation = made["paths"][route.path_format][method.lower()]
                operation["security"] = _security(route.dependant)
                operation["responses"].pop("422", None)
                operation["responses"] |= _problems(route, operation)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = PROBLEM
    made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    return made


if __name__ == "__main__":
    print(json.dumps(document(), indent=2))
