"""local/with-env and the machine's secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from environment import parse

if TYPE_CHECKING:
    from conftest import Checkout

GENERATE = "import environment; environment.generate_secrets()"


def write_env(checkout: Checkout, text: str) -> None:
    (checkout.root / "local/env/example.env").write_text(text)


def variables(checkout: Checkout, **inherited: str) -> dict[str, str]:
    return parse(checkout.run("./with-env", "example", "--", "env", variables=inherited))


def test_with_env_passes_only_the_variables_of_the_file(checkout: Checkout) -> None:
    write_env(checkout, "# a comment\n\nADDRESS=http://user:${EXAMPLE_PASSWORD}@host/?a=b&c=d e\n")
    checkout.python(GENERATE)
    password = parse((checkout.root / ".kinora/secrets.env").read_text())["EXAMPLE_PASSWORD"]
    found = variables(checkout, STRANGER="1", AWS_SECRET_ACCESS_KEY="1", TZ="Europe/Berlin")
    assert found.keys() == {"PATH", "HOME", "TZ", "ADDRESS"}
    assert found["ADDRESS"] == f"http://user:{password}@host/?a=b&c=d e"
    assert found["PATH"].startswith(f"{checkout.root}/.kinora/venv/bin:{checkout.root}/.kinora/bin:")


def test_missing_secret_is_reported(checkout: Checkout) -> None:
    write_env(checkout, "PASSWORD=${EXAMPLE_PASSWORD}\n")
    assert "needs the secret EXAMPLE_PASSWORD" in checkout.run("./with-env", "example", "--", "env", code=1)


def test_missing_file_and_missing_command_are_reported(checkout: Checkout) -> None:
    assert "local/env/nobody.env does not exist" in checkout.run("./with-env", "nobody", "--", "env", code=1)
    write_env(checkout, "")
    assert "no-such-command is not installed" in checkout.run("./with-env", "example", "--", "no-such-command", code=1)


def test_secrets_are_private_and_generated_once(checkout: Checkout) -> None:
    checkout.python(GENERATE)
    file = checkout.root / ".kinora/secrets.env"
    assert file.stat().st_mode & 0o777 == 0o600
    first = parse(file.read_text())
    assert len(set(first.values())) == len(first) > 10
    assert all(len(value) >= 43 for value in first.values())  # 32 bytes in base 64

    write_env(checkout, "PASSWORD=${ADDED_LATER}\n")
    checkout.python(GENERATE)
    second = parse(file.read_text())
    assert second.keys() - first.keys() == {"ADDED_LATER"}
    assert {name: second[name] for name in first} == first
