from kinora_kit.errors import Conflict, Forbidden, NotFound


class MediaNotFound(NotFound):
    """Also for a document that the caller may not see."""

    code = "media_not_found"
    title = "This media does not exist"


class NotTheOwner(Forbidden):
    code = "not_the_owner"
    title = "Only the media's owner may do this"


class ChangedMeanwhile(Conflict):
    code = "changed_meanwhile"
    title = "The media is being changed concurrently; try again"
