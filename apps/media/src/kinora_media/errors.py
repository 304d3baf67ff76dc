"""What can go wrong with a media document, by name."""

from kinora_kit.errors import Conflict, Forbidden, NotFound


class MediaNotFound(NotFound):
    """Also for a document that the caller may not know of."""

    code = "media_not_found"
    title = "There is no such media"


class NotTheOwner(Forbidden):
    code = "not_the_owner"
    title = "Only the owner of the media may do this"


class ChangedMeanwhile(Conflict):
    code = "changed_meanwhile"
    title = "The media was changed by others again and again, try again"
