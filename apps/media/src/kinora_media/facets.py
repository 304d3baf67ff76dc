"""Facets: strings by which published documents are found. A list is all documents that have certain facets.

All facets of a document are one array, so one index for each order serves every list.
"""

import re
import unicodedata
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kinora_media.domain import Category, Media, normal_tag

MAX_TOKENS = 64
MAX_TOKEN_LENGTH = 64
ALL = "*"
"""Of every published document."""
_WORD = re.compile(r"[^\W_]+")


def tokens(text: str) -> list[str]:
    """The words of a title or query, without case, diacritics and duplicates, in order; only the first MAX_TOKENS."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    words = _WORD.findall(unicodedata.normalize("NFKC", plain.casefold()))
    return list(dict.fromkeys(word[:MAX_TOKEN_LENGTH] for word in words))[:MAX_TOKENS]


def of_owner(owner_id: UUID) -> str:
    return f"o:{owner_id.hex}"


def of(media: Media) -> list[str]:
    return [
        ALL,
        of_owner(media.owner_id),
        *([f"c:{media.category}"] if media.category else []),
        *(f"g:{tag}" for tag in media.tags),
        *(f"t:{token}" for token in tokens(media.title)),
    ]


class Filters(BaseModel):
    """What a list is restricted to; empty: not by this."""

    model_config = ConfigDict(frozen=True)

    query: str = Field("", max_length=200, description="Words, all of which are in the title")
    category: Category = ""
    tag: str = Field("", max_length=50)
    owner: UUID | None = None

    def facets(self) -> list[str] | None:
        """Those that a document must have, sorted. None if there can be no such document: the query has no words."""
        words = tokens(self.query)
        if not words and self.query.strip():
            return None
        wanted = {f"t:{word}" for word in words}
        if self.category:
            wanted.add(f"c:{self.category}")
        if self.tag:
            wanted.add(f"g:{normal_tag(self.tag)}")
        if self.owner:
            wanted.add(of_owner(self.owner))
        return sorted(wanted) or [ALL]
