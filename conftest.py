"""Fixtures shared by all test suites."""

import platform
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from environment import load

pytest_plugins = ["sampling"]

# pytest names the kit's tests platform.tests.*, and would replace the standard library's `platform` with a package of
# that name. With a __path__, the module itself is used as the package.
platform.__path__ = []

PARTS = {8432: "postgres", 8379: "redis", 8672: "rabbitmq", 8017: "mongo", 8900: "minio"}


@pytest.fixture(scope="session")
def environment() -> Callable[[str], dict[str, str]]:
    """``environment("auth")``: the variables of local/env/auth.env, with this machine's secrets filled in.

    Fails the test if a store in these variables does not answer.
    """

    def of(name: str) -> dict[str, str]:
        try:
            variables = load(name)
        except SystemExit as error:
            pytest.fail(str(error), pytrace=False)
        for value in variables.values():
            port = urlsplit(value).port if "://" in value else None
            if port in PARTS:
                _must_answer(port)
        return variables

    return of


def _must_answer(port: int) -> None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        part = PARTS[port]
        pytest.fail(f"{part} does not answer on port {port} ({error}). Start it: make up S={part}", pytrace=False)
