"""Signed, expiring URLs of private streams.

One signature covers everything below ``/video/{id}/``, so a player that has the master playlist needs no token for its
media. It is valid until it expires or the video's visibility changes; ``changes`` is the number of changes so far.
"""

import hashlib
import hmac
import math
import re
import time
from dataclasses import dataclass
from urllib.parse import parse_qs
from uuid import UUID

from kinora_video.errors import LinkExpired

SIGNED_QUERY = re.compile(r"exp=[0-9]{1,12}&sig=[0-9a-f]{64}")


@dataclass(frozen=True)
class Links:
    secret: str
    lifetime_seconds: int

    def query(self, video_id: UUID, changes: int, duration: float) -> str:
        """``exp=...&sig=...``; valid for the lifetime plus ``duration``, that of the video."""
        # Rounded up to 15 minutes, so that a returning viewer gets the same URLs, which may be cached.
        expires = math.ceil((time.time() + self.lifetime_seconds + duration) / 900) * 900
        return f"exp={expires}&sig={self._signature(video_id, changes, expires)}"

    def check(self, video_id: UUID, changes: int, query: str) -> None:
        """Raises LinkExpired unless ``query`` is a valid signature for this video."""
        if not SIGNED_QUERY.fullmatch(query):
            raise LinkExpired
        given = parse_qs(query)
        expires, signature = int(given["exp"][0]), given["sig"][0]
        if expires < time.time() or not hmac.compare_digest(
            signature.encode(), self._signature(video_id, changes, expires).encode()
        ):
            raise LinkExpired

    def _signature(self, video_id: UUID, changes: int, expires: int) -> str:
        # Without changes, the same as in the version before the counter, as both run during a rollout.
        text = f"{video_id}:{expires}:{changes}" if changes else f"{video_id}:{expires}"
        return hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
