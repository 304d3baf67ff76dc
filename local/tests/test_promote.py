"""`make promote` changes one file, or nothing if the promotion is invalid."""

import subprocess
from pathlib import Path

import pytest
from promote import Refused, promote, version_file


def git(checkout: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", *identity, *words], cwd=checkout, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    stack = "config:\n  kinora:environment:\n    repository: {{url: https://git.example, revision: {}}}\n"
    for environment, version in (("dev", "1.10"), ("staging", "1.9"), ("prod", None)):
        file = tmp_path / "pulumi" / f"Pulumi.{environment}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(stack.format("live" if environment == "prod" else "main"))
        if version:
            written = version_file(tmp_path, "auth", environment)
            written.parent.mkdir(parents=True)
            written.write_text(f"version: {version}\n")
    (tmp_path / "apps" / "auth" / "deploy" / "values.yaml").write_text("app: auth\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=start")
    return tmp_path


def test_promote_copies_the_version_and_changes_nothing_else(checkout: Path) -> None:
    said = promote(checkout, "auth", "dev", "staging")
    assert git(checkout, "status", "--porcelain") == " M apps/auth/deploy/envs/staging/version.yaml\n"
    assert version_file(checkout, "auth", "staging").read_text() == "version: 1.10\n"
    assert said.startswith("staging: auth 1.9 -> 1.10\n")
    assert "push it to main" in said


def test_promote_reports_first_deployment_and_branch(checkout: Path) -> None:
    said = promote(checkout, "auth", "dev", "prod")
    assert git(checkout, "status", "--porcelain", "--untracked-files=all") == (
        "?? apps/auth/deploy/envs/prod/version.yaml\n"
    )
    assert said.startswith("prod: auth 1.10, for the first time\n")
    assert "push it to live" in said


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("", "dev", "staging"), "make promote SVC=auth FROM=dev TO=staging"),
        (("auth", "", ""), "make promote SVC=auth FROM=dev TO=staging"),
        (("author", "dev", "staging"), "service author. Known: auth."),
        (("auth", "dev", "stage"), "environment stage. Known: dev, prod, staging."),
        (("auth", "dev", "dev"), "both dev"),
        (("auth", "prod", "dev"), "auth is not in prod"),
    ],
)
def test_promote_rejects_invalid_arguments(checkout: Path, given: tuple[str, str, str], sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        promote(checkout, *given)
    assert sentence in str(refused.value)
    assert git(checkout, "status", "--porcelain", "--untracked-files=all") == ""


def test_promote_rejects_current_version(checkout: Path) -> None:
    promote(checkout, "auth", "dev", "staging")
    with pytest.raises(Refused, match=r"auth 1\.10 is already in staging"):
        promote(checkout, "auth", "dev", "staging")


def test_promote_rejects_uncommitted_version(checkout: Path) -> None:
    version_file(checkout, "auth", "dev").write_text("version: 2.0.0\n")
    with pytest.raises(Refused, match="push it first"):
        promote(checkout, "auth", "dev", "staging")
    assert git(checkout, "status", "--porcelain") == " M apps/auth/deploy/envs/dev/version.yaml\n"


@pytest.mark.parametrize("text", ["", "0.1.0", "tag: 0.1.0"])
def test_promote_rejects_malformed_version_file(checkout: Path, text: str) -> None:
    version_file(checkout, "auth", "dev").write_text(text)
    git(checkout, "commit", "--quiet", "--all", "--message=wrong")
    with pytest.raises(Refused, match="must contain one line"):
        promote(checkout, "auth", "dev", "staging")
