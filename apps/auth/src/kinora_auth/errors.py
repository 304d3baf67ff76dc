from kinora_kit.errors import Conflict, DomainError, Forbidden, NotFound


class InvalidCredentials(DomainError):
    """Does not reveal whether the login is unknown or the password is wrong."""

    status = 401
    code = "invalid_credentials"
    title = "The login or the password is wrong"


class InvalidRefreshToken(DomainError):
    status = 401
    code = "invalid_refresh_token"
    title = "The refresh token is invalid; sign in again"


class RefreshTokenReused(DomainError):
    status = 401
    code = "refresh_token_reused"
    title = "The refresh token was already used, so its session was ended; sign in again"


class WrongPassword(Forbidden):
    code = "wrong_password"
    title = "The current password is missing or wrong"


class UsernameTaken(Conflict):
    code = "username_taken"
    title = "This username is taken"


class EmailTaken(Conflict):
    code = "email_taken"
    title = "An account with this email address already exists"


class UserNotFound(NotFound):
    code = "user_not_found"
    title = "User not found"


class SessionNotFound(NotFound):
    code = "session_not_found"
    title = "Session not found"


class ExportNotFound(NotFound):
    """There is none, it has expired, was cancelled, or ended with its session."""

    code = "export_not_found"
    title = "Export not found"


class LinkExpired(Forbidden):
    code = "link_expired"
    title = "This address has expired or is incomplete; get a new one"


class TooBusy(DomainError):
    status = 503
    code = "too_busy"
    title = "Too many passwords are being checked; try again"
    retry_after_seconds = 2
