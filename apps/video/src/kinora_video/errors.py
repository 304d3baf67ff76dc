"""What can go wrong with a video, by name."""

from kinora_kit.errors import Conflict, DomainError, Forbidden, NotFound, TooLarge


class VideoNotFound(NotFound):
    """Also for a video that the caller may not know of."""

    code = "video_not_found"
    title = "There is no such video"


class NotTheOwner(Forbidden):
    code = "not_the_owner"
    title = "Only the owner of the video may do this"


class MethodNotAllowed(DomainError):
    status = 405
    code = "method_not_allowed"
    title = "This cannot be done to an upload"


class FileTooLarge(TooLarge):
    code = "file_too_large"
    title = "The file is larger than allowed"


class UploadFull(TooLarge):
    code = "upload_full"
    title = "All bytes of the upload are there; it takes no more"


class MetadataTooLarge(TooLarge):
    code = "metadata_too_large"
    title = "The metadata of an upload may have at most 2 KiB"


class SizeUnknown(DomainError):
    code = "size_unknown"
    title = "Say how large the file is (Upload-Length), or that you will say it later (Upload-Defer-Length)"


class PartialTooSmall(Conflict):
    code = "partial_too_small"
    title = "The parts of a large file must have at least 5 MiB each"


class NotConcatenable(Conflict):
    code = "not_concatenable"
    title = "A final upload is made of partial uploads"


class UnsupportedType(DomainError):
    status = 415
    code = "unsupported_type"
    title = "Only video files can be uploaded"


class TooManyUploads(Conflict):
    code = "too_many_uploads"
    title = "Finish or delete an upload before the next one begins"


class UploadEnded(Conflict):
    status = 410
    code = "upload_ended"
    title = "This upload has ended; begin a new one"


class NotPlayable(Conflict):
    code = "not_playable"
    title = "There is nothing to play yet"


class ObjectNotFound(NotFound):
    code = "object_not_found"
    title = "The stream has no such file"


class PreconditionFailed(DomainError):
    status = 412
    code = "precondition_failed"
    title = "The file is not the one that the request is conditional on"


class RangeNotSatisfiable(DomainError):
    status = 416
    code = "range_not_satisfiable"
    title = "The file has no byte in this range"


class LinkExpired(Forbidden):
    code = "link_expired"
    title = "The link has expired or is not genuine; ask for the video again"
