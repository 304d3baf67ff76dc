"""`make rotate`: one number in the stack's file, and error messages for invalid arguments."""

import shutil
from pathlib import Path

import pytest

from kinora_environment import config, needs, render
from kinora_environment.rotate import rotate


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for stack in render.stacks():
        shutil.copy(render.PROJECT / f"Pulumi.{stack}.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("stack", render.stacks())
def test_rotate_changes_only_the_generation(project: Path, stack: str) -> None:
    file = project / f"Pulumi.{stack}.yaml"
    before, given = file.read_text().splitlines(), render.configuration(stack, project)
    assert rotate(stack, "auth-postgres", project) == 2
    assert rotate(stack, "auth-postgres", project) == 3
    assert rotate(stack, "video-s3", project) == 2
    generations = {"auth-postgres": 3, "video-s3": 2}
    assert render.configuration(stack, project) == given.model_copy(update={"generations": generations})
    after = file.read_text().splitlines()
    assert [line for line in after if "#" in line] == [line for line in before if "#" in line]
    assert len(after) == len(before) + 3


@pytest.mark.parametrize(
    ("stack", "secret", "sentence"),
    [
        ("production", "auth-postgres", "Unknown stack production"),
        ("dev", "media-postgres", "media-postgres does not rotate. These rotate: auth-postgres, auth-redis"),
        ("dev", "auth-keys", "auth-keys signs or encrypts: existing data would become invalid"),
    ],
)
def test_rotate_rejects_other_secrets(project: Path, stack: str, secret: str, sentence: str) -> None:
    with pytest.raises(config.ConfigError, match=sentence):
        rotate(stack, secret, project)


@pytest.mark.parametrize(("identity", "app"), [("auth", "auth"), ("video", "video"), ("tusd", "video")])
def test_rotate_names_the_app_to_restart(identity: str, app: str) -> None:
    """video-worker also uses video's password, and tusd is rolled out with both."""
    assert needs.app(identity) == app
