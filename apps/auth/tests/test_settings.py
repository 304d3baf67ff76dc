from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from kinora_auth.settings import AuthSettings
from kinora_kit.settings import unknown_keys

if TYPE_CHECKING:
    from collections.abc import Callable


def test_local_environment_is_valid(environment: Callable[[str], dict[str, str]], settings: AuthSettings) -> None:
    assert unknown_keys(AuthSettings, environment("auth")) == []
    assert settings.public_url == environment("auth")["KINORA_PUBLIC_URL"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_token_seconds": 901},
        {"refresh_secret": "short"},
        {"pair_failures": "often"},
        {"refresh_grace_seconds": -1},
        {"colour": "blue"},
    ],
)
def test_invalid_settings_are_rejected(settings: AuthSettings, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AuthSettings(**{**settings.model_dump(), **wrong})


def test_settings_repr_hides_secrets(settings: AuthSettings) -> None:
    for secret in (settings.refresh_secret, settings.key_encryption_secret, settings.postgres_url):
        assert secret.get_secret_value() not in repr(settings)
