from typing import Any

import strawberry


def given(values: object) -> dict[str, Any]:
    """The fields of an input object that the client sent, with the names that the gRPC messages also use.

    ``null`` is treated as absent: generated clients send it for every unset optional variable.
    """
    return {name: value for name, value in vars(values).items() if value is not None and value is not strawberry.UNSET}
