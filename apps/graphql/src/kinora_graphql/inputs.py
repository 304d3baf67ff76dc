from typing import Any

import strawberry


def given(values: object) -> dict[str, Any]:
    """The fields of an input object that the client sent, by the names that the gRPC messages have too."""
    sent = ((name, value) for name, value in vars(values).items() if value is not None)
    return {name: value.value if isinstance(value, strawberry.Some) else value for name, value in sent}
