from typing import Any

import strawberry


def given(values: object) -> dict[str, Any]:
    """The fields of an input object that the client sent, by the names that the gRPC messages have too.

    ``null`` is as if absent: generated clients send it for every optional variable that was not set.
    """
    return {name: value for name, value in vars(values).items() if value is not None and value is not strawberry.UNSET}
