"""Queries and the indexes that they use, as far as the stand-in for MongoDB explains them (local/mongo/README.md)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Collection, Relay
from kinora_media.store.media import FEED_AT


def indexes(plan: dict[str, Any]) -> list[str]:
    """Names of the indexes that a winning plan scans."""
    inner = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
    own = [plan["indexName"]] if plan["stage"] == "IXSCAN" else []
    return [*own, *(name for stage in inner for name in indexes(stage))]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"owner_id": new_id()}, "owner"),
        ({FEED_AT: {"$lte": datetime.now(UTC)}}, "feed"),
        ({f"{OUTBOX}.id": {"$exists": True}}, "outbox"),
    ],
)
async def test_query_uses_its_index(documents: Collection, relay: Relay, query: dict[str, Any], index: str) -> None:
    explained = await documents.find(query).explain()
    assert indexes(explained["queryPlanner"]["winningPlan"]) == [index], explained
