"""What ForwardAuth adds to a request."""

from collections.abc import Sequence
from pathlib import Path

from client import Person, register
from measure import GATEWAY_PORT, Load, Request, Row, at_rate, one_by_one, saturate

CLIENTS = 10
AUTH_PORT = 8101


def added(loads: Sequence[Load], percent: int) -> float:
    """What ForwardAuth adds: the gateway's share of a guarded route, minus that of a public one."""
    direct_open, direct_signed, gateway_open, gateway_signed = (load.at(percent) for load in loads)
    return (gateway_signed - direct_signed) - (gateway_open - direct_open)


async def bench(_: Path) -> list[Row]:
    async with register() as person:
        return await _bench(person)


async def _bench(person: Person) -> list[Row]:
    # A nonexistent path is the only route without ForwardAuth and without throttling.
    open_route, signed_route = "/nowhere", "/user/profile"
    identity = {"X-User-Id": person.id, "X-Session-Id": "01890000-0000-7000-8000-000000000000"}
    verify = Request.of(AUTH_PORT, "/user/token_verify", person.headers)
    signed = Request.of(GATEWAY_PORT, signed_route, person.headers)
    requests = [
        Request.of(AUTH_PORT, open_route, {}),
        Request.of(AUTH_PORT, signed_route, identity),
        Request.of(GATEWAY_PORT, open_route, {}),
        signed,
    ]

    def row(what: str, loads: Sequence[Load]) -> Row:
        p50, p99 = added(loads, 50), added(loads, 99)
        hop = loads[2].at(50) - loads[0].at(50)
        return Row(what, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", f"{hop:.2f} ms gateway hop", p50 / hop)

    await one_by_one([*requests, verify])  # warm-up
    *alone, verify_alone = await one_by_one([*requests, verify])
    busy = (await saturate(signed, clients=CLIENTS)).rate / 2
    half = [await at_rate(request, busy) for request in requests]
    most = await saturate(verify, clients=CLIENTS)
    verify_half = await at_rate(verify, most.rate / 2)
    return [
        row("ForwardAuth adds, one client", alone),
        row(f"ForwardAuth adds, at {busy:.0f}/s", half),
        *(
            Row(
                f"GET /user/token_verify, {what}",
                f"p50 {load.at(50):.2f} ms, p99 {load.at(99):.2f} ms",
                f"{alone[0].at(50):.2f} ms open route",
                load.at(50) / alone[0].at(50),
            )
            for what, load in (("one client", verify_alone), (f"at {most.rate / 2:.0f}/s", verify_half))
        ),
        Row(
            f"GET /user/token_verify, {CLIENTS} clients",
            f"{most.rate:.0f}/s, {most.cpu['auth']:.2f} ms CPU",
            f"{1000 / most.cpu['auth']:.0f}/s of one core",
            most.rate * most.cpu["auth"] / 1000,
        ),
    ]
