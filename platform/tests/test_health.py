from kinora_kit.health import Checks, Health


class Switch:
    """Something that a check asks for."""

    def __init__(self, *, works: bool) -> None:
        self.works = works

    async def check(self) -> None:
        if not self.works:
            raise ConnectionError


async def test_a_process_is_ready_once_its_schema_was_in_place() -> None:
    schema, health = Switch(works=False), Health()
    assert health.report()[0] is False, "it has not started"
    health.begin(Checks(schema=schema.check))
    assert health.report() == (
        False,
        {"status": "not ready", "process": "schema: not asked yet", "dependencies": {}},
    )
    await health.look()
    assert health.report()[1]["process"] == "schema: failed (ConnectionError)"
    schema.works = True
    await health.look()
    assert health.report()[0] is True
    schema.works = False
    await health.look()
    assert health.report()[0] is True, "the database is away, and the schema is where it was"


async def test_a_dependency_makes_no_process_unready_at_any_time() -> None:
    store, health = Switch(works=False), Health()
    health.begin(Checks({"store": store.check}))
    assert health.report() == (
        True,
        {"status": "ready", "process": "ok", "dependencies": {"store": "not asked yet"}},
    )
    for works, said in ((False, "failed (ConnectionError)"), (True, "ok"), (False, "failed (ConnectionError)")):
        store.works = works
        await health.look()
        assert health.report() == (True, {"status": "ready", "process": "ok", "dependencies": {"store": said}})


async def test_a_draining_process_is_not_ready() -> None:
    health = Health()
    health.begin(Checks())
    assert health.report()[0] is True
    health.draining = True
    assert health.report() == (False, {"status": "not ready", "process": "draining", "dependencies": {}})
