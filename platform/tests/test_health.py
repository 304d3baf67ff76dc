from kinora_kit.health import Checks, Health


class Switch:
    """A dependency that can be switched off."""

    def __init__(self, *, works: bool) -> None:
        self.works = works

    async def check(self) -> None:
        if not self.works:
            raise ConnectionError


async def test_process_is_ready_once_its_schema_was_seen() -> None:
    schema, health = Switch(works=False), Health()
    assert health.report()[0] is False, "the process has not started"
    health.begin(Checks(schema=schema.check))
    assert health.report() == (
        False,
        {"status": "not ready", "process": "schema: not checked yet", "dependencies": {}},
    )
    await health.check_all()
    assert health.report()[1]["process"] == "schema: failed (ConnectionError)"
    schema.works = True
    await health.check_all()
    assert health.report()[0] is True
    schema.works = False
    await health.check_all()
    assert health.report()[0] is True, "an outage of the database does not affect readiness"


async def test_unavailable_dependency_does_not_affect_readiness() -> None:
    store, health = Switch(works=False), Health()
    health.begin(Checks({"store": store.check}))
    assert health.report() == (
        True,
        {"status": "ready", "process": "ok", "dependencies": {"store": "not checked yet"}},
    )
    for works, said in ((False, "failed (ConnectionError)"), (True, "ok"), (False, "failed (ConnectionError)")):
        store.works = works
        await health.check_all()
        assert health.report() == (True, {"status": "ready", "process": "ok", "dependencies": {"store": said}})


async def test_draining_process_is_not_ready() -> None:
    health = Health()
    health.begin(Checks())
    assert health.report()[0] is True
    health.draining = True
    assert health.report() == (False, {"status": "not ready", "process": "draining", "dependencies": {}})
