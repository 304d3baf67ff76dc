"""Business metrics of video."""

from prometheus_client import Counter, Histogram

from kinora_kit.metrics import SECONDS

UPLOADS = Counter("kinora_video_uploads_total", "Uploads by outcome", ["outcome"])
UPLOADED_BYTES = Counter("kinora_video_uploaded_bytes_total", "Bytes of finished uploads")
PARTS = Histogram("kinora_video_part_seconds", "Time to encode and store one part, by kind", ["kind"], buckets=SECONDS)
ENCODE_SPEED = Histogram(
    "kinora_video_encode_speed_ratio",
    "Seconds of video encoded per second, all renditions of a part together",
    buckets=(0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30),
)
PLAYABLE_SECONDS = Histogram(
    "kinora_video_time_to_playable_seconds",
    "From the last byte of an upload until its first seconds are playable",
    buckets=SECONDS,
)
PURGED_OBJECTS = Counter("kinora_video_purged_objects_total", "Objects removed for failed and deleted videos")
