"""Errors of videos and uploads."""

from kinora_kit.errors import Conflict, DomainError, Forbidden, NotFound, TooLarge


class VideoNotFound(NotFound):
    """Also for a video that is hidden from the caller."""

    code = "video_not_found"
    title = "Video not found"


class NotTheOwner(Forbidden):
    code = "not_the_owner"
    title = "Only the owner of the video can do this"


class MethodNotAllowed(DomainError):
    status = 405
    code = "method_not_allowed"
    title = "Uploads do not support this method"


class FileTooLarge(TooLarge):
    code = "file_too_large"
    title = "The file is too large"


class UploadFull(TooLarge):
    code = "upload_full"
    title = "The upload is complete and accepts no more bytes"


class MetadataTooLarge(TooLarge):
    code = "metadata_too_large"
    title = "Upload-Metadata may have at most 2 KiB"


class SizeUnknown(DomainError):
    code = "size_unknown"
    title = "Send the size of the file (Upload-Length), or defer it (Upload-Defer-Length: 1)"


class PartialTooSmall(Conflict):
    code = "partial_too_small"
    title = "Each part of a large file must have at least 5 MiB"


class NotConcatenable(Conflict):
    code = "not_concatenable"
    title = "A final upload can only concatenate partial uploads"


class UnsupportedType(DomainError):
    status = 415
    code = "unsupported_type"
    title = "Only video files can be uploaded"


class TooManyUploads(Conflict):
    code = "too_many_uploads"
    title = "Too many uploads in progress; finish or delete one first"


class UploadEnded(Conflict):
    status = 410
    code = "upload_ended"
    title = "This upload has ended; create a new one"


class NotPlayable(Conflict):
    code = "not_playable"
    title = "The video is not playable yet"


class ObjectNotFound(NotFound):
    code = "object_not_found"
    title = "The stream does not have this file"


class PreconditionFailed(DomainError):
    status = 412
    code = "precondition_failed"
    title = "The file does not match the precondition of the request"


class RangeNotSatisfiable(DomainError):
    status = 416
    code = "range_not_satisfiable"
    title = "The range is outside the file"


class LinkExpired(Forbidden):
    code = "link_expired"
    title = "The link is invalid or has expired; fetch the video again for a new one"
