"""Support for OAuth 2 clients: refresh by form (RFC 6749) and server metadata (RFC 8414)."""

from urllib.parse import parse_qsl

from pydantic import SecretStr, ValidationError

from kinora_auth.domain import Refresh

FORM = "application/x-www-form-urlencoded"
FORM_SCHEMA = {
    "type": "object",
    "required": ["grant_type", "refresh_token"],
    "properties": {
        "grant_type": {"const": "refresh_token"},
        "refresh_token": Refresh.model_json_schema()["properties"]["refresh_token"],
    },
}
ERROR_SCHEMA = {
    "title": "OAuthError",
    "description": "RFC 6749, section 5.2: the error response to a form.",
    "type": "object",
    "required": ["error", "error_description"],
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}
_FIELDS = 20


class OAuthError(Exception):
    """An error of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.body = {"error": error, "error_description": description}


def refresh_token(form: bytes) -> SecretStr:
    """The token of a refresh request (RFC 6749, section 6). Raises OAuthError."""
    try:
        pairs = parse_qsl(form.decode(), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS)
    except ValueError:
        raise OAuthError("invalid_request", "The body is not a form in UTF-8") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise OAuthError("invalid_request", "A parameter is repeated")
    fields = {name: value for name, value in pairs if value}  # an empty parameter counts as omitted (section 3.2)
    if "grant_type" not in fields:
        raise OAuthError("invalid_request", "grant_type is missing")
    if fields["grant_type"] != "refresh_token":
        raise OAuthError("unsupported_grant_type", "Only grant_type=refresh_token is supported")
    if "scope" in fields:
        raise OAuthError("invalid_scope", "Tokens have no scopes")
    try:
        return Refresh.model_validate({"refresh_token": fields.get("refresh_token")}).refresh_token
    except ValidationError:
        raise OAuthError("invalid_request", "refresh_token is missing or malformed") from None


def metadata(issuer: str) -> dict[str, object]:
    """Authorization server metadata (RFC 8414). There is no authorization endpoint: users log in at /auth/login."""
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/auth/refresh",
        "jwks_uri": f"{issuer}/auth/.well-known/jwks.json",
        "grant_types_supported": ["refresh_token"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["none"],
    }
