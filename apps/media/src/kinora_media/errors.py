from kinora_kit.errors import Conflict, DomainError, Forbidden, NotFound


class MediaNotFound(NotFound):
    """Also for a document that the caller may not see."""

    code = "media_not_found"
    title = "This media does not exist"


class CommentNotFound(NotFound):
    """Also for a comment of a document that the caller may not see."""

    code = "comment_not_found"
    title = "This comment does not exist"


class ChannelNotFound(NotFound):
    code = "channel_not_found"
    title = "This channel does not exist"


class PlaylistNotFound(NotFound):
    """Also for a playlist that the caller may not see."""

    code = "playlist_not_found"
    title = "This playlist does not exist"


class PlaylistFull(Conflict):
    code = "playlist_full"
    title = "This playlist has the largest number of items"


class TooManyPlaylists(Conflict):
    code = "too_many_playlists"
    title = "You have the largest number of playlists; delete one first"


class TooManySubscriptions(Conflict):
    code = "too_many_subscriptions"
    title = "You subscribe to too many channels; unsubscribe from one first"


class NotificationNotFound(NotFound):
    """Also for one of another user."""

    code = "notification_not_found"
    title = "This notification does not exist"


class NotTheOwner(Forbidden):
    code = "not_the_owner"
    title = "Only the media's owner may do this"


class NotTheAuthor(Forbidden):
    code = "not_the_author"
    title = "Only the comment's author may do this"


class CommentsDisabled(Forbidden):
    code = "comments_disabled"
    title = "Comments are switched off for this media"


class ChangedMeanwhile(Conflict):
    code = "changed_meanwhile"
    title = "This is being changed concurrently; try again"


class CursorExpired(DomainError):
    """The order that a list was read in no longer exists."""

    status = 410
    code = "cursor_expired"
    title = "This list has been ranked anew; read it from its beginning"
