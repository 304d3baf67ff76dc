"""argocd/pre-receive, run by git in a bare repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).resolve().parents[1] / "argocd" / "pre-receive"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of a repository with the hook, with two services in two environments and a third in one of them."""
    served, clone = tmp_path / "served.git", tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(served))
    (served / "hooks" / "pre-receive").symlink_to(HOOK)
    git(tmp_path, "clone", "--quiet", str(served), str(clone))
    for app, environment in (("auth", "dev"), ("media", "dev"), ("auth", "prod"), ("media", "prod"), ("likes", "dev")):
        folder = clone / "apps" / app / "deploy" / "envs" / environment
        folder.mkdir(parents=True)
        (folder / "version.yaml").write_text("version: 0.1.0\n")
        (folder / "values.yaml").write_text("workloads: {}\n")
    push(clone)
    return clone


def push(checkout: Path) -> None:
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=change")
    git(checkout, "push", "--quiet", "origin", "HEAD:main")


@pytest.mark.parametrize("removed", ["apps/likes", "apps/auth", "apps/media/deploy/envs/dev"])
def test_push_that_removes_one_service_is_accepted(checkout: Path, removed: str) -> None:
    git(checkout, "rm", "-r", "--quiet", removed)
    push(checkout)


def test_push_that_removes_a_file_of_each_service_is_accepted(checkout: Path) -> None:
    git(checkout, "rm", "--quiet", *(f"apps/{app}/deploy/envs/dev/values.yaml" for app in ("auth", "likes", "media")))
    push(checkout)


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        ("apps", "would remove several services from dev: auth likes media."),
        ("apps/*/deploy/envs/prod", "would remove several services from prod: auth media."),
    ],
)
def test_push_that_renames_environment_folder_is_rejected(checkout: Path, renamed: str, said: str) -> None:
    for folder in list(checkout.glob(renamed)):
        git(checkout, "mv", str(folder), f"{folder}-renamed")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        push(checkout)
    assert said in refused.value.stderr
    assert git(checkout, "ls-remote", "origin", "main").split()[0] != git(checkout, "rev-parse", "HEAD").strip()


def test_branches_can_be_created_and_deleted(checkout: Path) -> None:
    git(checkout, "push", "--quiet", "origin", "HEAD:other")
    git(checkout, "push", "--quiet", "origin", ":other")
