"""Permits of concurrent requests: gateways and the supervisor's office, with every message on its way by itself."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterable

import pytest

from inference.gateway.permits import Held, Permits
from inference.protocol import (
    Acquire,
    GatewayToSupervisor,
    Holding,
    Limits,
    PermitAnswer,
    Release,
    Withdraw,
)
from inference.supervisor.permits import GRACE_SECONDS, OVERTAKEN_SECONDS, PermitOffice
from quotas.limits import PermitLimit
from registry.errors import QuotaExceeded


def limited(limit: int, subject: str = "model:1") -> PermitLimit:
    return PermitLimit(subject, limit, "max_concurrent_requests", f"The {subject}")


class Net:
    """Gateways, an office, and between them messages that arrive when the test says so, in order."""

    def __init__(self, gateways: int = 2) -> None:
        self.now = 0.0
        self.office = PermitOffice(self.now)
        self.now += GRACE_SECONDS
        self.gateways = [Permits() for _ in range(gateways)]
        self.up: list[deque[GatewayToSupervisor]] = [deque() for _ in self.gateways]
        self.down: list[deque[PermitAnswer]] = [deque() for _ in self.gateways]
        for number in range(gateways):
            self.connect(number)

    def connect(self, number: int) -> None:
        self.gateways[number].connected(self.up[number].extend)

    def disconnect(self, number: int) -> None:
        self.gateways[number].disconnected()
        self.up[number].clear()
        self.down[number].clear()
        self._send(self.office.gone(number, self.now))

    def deliver(self, number: int) -> bool:
        """One message of this gateway's, or to it."""
        if self.up[number]:
            self._receive(number, self.up[number].popleft())
        elif self.down[number]:
            self.gateways[number].accept(self.down[number].popleft())
        else:
            return False
        return True

    async def settle(self) -> None:
        under_way = True
        while under_way:
            delivered = [self.deliver(number) for number in range(len(self.gateways))]
            await asyncio.sleep(0)
            under_way = any(delivered)

    def in_use(self, subject: str = "model:1") -> int:
        return sum(gateway.in_use(subject) for gateway in self.gateways)

    def _receive(self, number: int, message: GatewayToSupervisor) -> None:
        match message:
            case Acquire():
                self._send(self.office.acquire(number, message, self.now))
            case Withdraw(ticket=ticket):
                self._send(self.office.withdraw(number, ticket, self.now))
            case Release(counts=counts):
                self._send(self.office.release(number, counts, self.now))
            case Holding(counts=counts):
                self.office.holding(number, counts)
            case Limits(revision=revision, limits=limits):
                self._send(self.office.limits(revision, limits, self.now))

    def _send(self, effects: Iterable[tuple[int, PermitAnswer]]) -> None:
        for number, answer in effects:
            self.down[number].append(answer)


class Requests:
    """That ask for permits, run and end, when the test says so."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.tasks: list[asyncio.Task[None]] = []
        self.running: list[tuple[str, Held]] = []
        self.refused: list[str] = []

    def begin(self, gateway: int, *wanted: PermitLimit, name: str = "", tenant: str = "t", most: int = 100) -> None:
        async def run() -> None:
            try:
                held = await self.net.gateways[gateway].acquire(
                    wanted, tenant=tenant, weight=1.0, priority=5, patience_seconds=60, most_waiting=most
                )
            except QuotaExceeded as refusal:
                self.refused.append(refusal.message)
            else:
                self.running.append((name or tenant, held))

        self.tasks.append(asyncio.create_task(run()))

    def end(self, which: int = 0) -> None:
        self.running.pop(which)[1].release()

    def leave(self, which: int) -> None:
        self.tasks.pop(which).cancel()


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def requests(net: Net) -> Requests:
    return Requests(net)


async def begun(requests: Requests) -> None:
    await asyncio.sleep(0)
    await requests.net.settle()
    await asyncio.sleep(0)
    await requests.net.settle()


async def test_as_many_run_as_the_limit_says_over_both_gateways(net: Net, requests: Requests) -> None:
    for number in range(8):
        requests.begin(number % 2, limited(3))
    await begun(requests)
    assert len(requests.running) == 3
    for _ in range(5):
        requests.end()
        await begun(requests)
        assert len(requests.running) == 3
    for left in (2, 1, 0):
        requests.end()
        await begun(requests)
        assert len(requests.running) == left


async def test_one_gateway_alone_asks_for_as_many_as_ever_run_at_once(net: Net, requests: Requests) -> None:
    for _ in range(100):
        requests.begin(0, limited(3))
        requests.begin(0, limited(3))
        await begun(requests)
        requests.end()
        requests.end()
    assert net.gateways[0].round_trips == 2


async def test_what_lies_idle_in_one_gateway_goes_to_who_waits_in_another(net: Net, requests: Requests) -> None:
    for _ in range(3):
        requests.begin(0, limited(3))
    await begun(requests)
    for _ in range(3):
        requests.end()
    requests.begin(1, limited(3))
    requests.begin(1, limited(3))
    await begun(requests)
    assert net.gateways[1].in_use("model:1") == 2
    requests.begin(0, limited(3))
    await begun(requests)
    assert net.in_use() == 3


async def test_who_waits_is_served_in_turns_of_tenants(net: Net, requests: Requests) -> None:
    requests.begin(0, limited(1), tenant="first")
    await begun(requests)
    for _ in range(6):
        requests.begin(0, limited(1), tenant="flood")
    await begun(requests)
    requests.begin(1, limited(1), tenant="own")
    await begun(requests)
    order = []
    for _ in range(8):
        order.append(requests.running[0][0])
        requests.end()
        await begun(requests)
    assert order.index("own") <= 2


async def test_a_request_that_needs_several_has_all_or_none(net: Net, requests: Requests) -> None:
    both = limited(1, "model:1"), limited(1, "key:a")
    requests.begin(0, *both, name="both")
    requests.begin(1, limited(1, "model:2"), both[1], name="other model")
    await begun(requests)
    assert [name for name, _ in requests.running] == ["both"]
    assert net.in_use("model:2") == 0
    requests.end()
    await begun(requests)
    assert [name for name, _ in requests.running] == ["other model"]


async def test_who_needs_several_is_not_overtaken_for_ever(net: Net, requests: Requests) -> None:
    model, key = limited(1, "model:1"), limited(1, "key:a")
    requests.begin(0, limited(1, "model:2"), key, name="has the key")
    requests.begin(0, model, name="simple")
    await begun(requests)
    requests.begin(0, model, key, name="needs both", tenant="patient")
    await begun(requests)
    net.now += OVERTAKEN_SECONDS + 0.1
    requests.begin(0, model, name="late")
    await begun(requests)
    requests.end([name for name, _ in requests.running].index("simple"))
    await begun(requests)
    assert [name for name, _ in requests.running] == ["has the key"], "the model's is kept for who needs both"
    requests.end()
    await begun(requests)
    assert [name for name, _ in requests.running] == ["needs both"]


async def test_a_gateway_that_is_gone_leaves_its_permits_to_the_others(net: Net, requests: Requests) -> None:
    for _ in range(3):
        requests.begin(0, limited(3))
    await begun(requests)
    requests.begin(1, limited(3))
    await begun(requests)
    assert net.gateways[1].in_use("model:1") == 0
    net.disconnect(0)
    await begun(requests)
    assert net.gateways[1].in_use("model:1") == 1


async def test_a_new_supervisor_hears_who_runs_before_it_grants_anything(net: Net, requests: Requests) -> None:
    for number in range(3):
        requests.begin(number % 2, limited(3))
    await begun(requests)
    for number in range(2):
        net.disconnect(number)
    requests.begin(0, limited(3))
    await begun(requests)
    net.office = PermitOffice(net.now)
    net.connect(0)
    await begun(requests)
    assert net.in_use() == 3
    net.connect(1)
    await begun(requests)
    net.now += GRACE_SECONDS
    net._send(net.office.open(net.now))
    await begun(requests)
    assert net.in_use() == 3
    requests.end()
    await begun(requests)
    assert net.in_use() == 3


async def test_a_lower_limit_holds_as_soon_as_enough_have_ended(net: Net, requests: Requests) -> None:
    for number in range(4):
        requests.begin(number % 2, limited(4))
    await begun(requests)
    for gateway in net.gateways:
        gateway.retune(2, {"model:1": limited(1)})
    await begun(requests)
    for expected in (3, 2, 1, 1, 1):
        requests.end()
        requests.begin(0, limited(1))
        await begun(requests)
        assert net.in_use() == expected


async def test_a_gateway_with_an_older_configuration_changes_nothing(net: Net, requests: Requests) -> None:
    net.gateways[0].retune(5, {})
    requests.begin(0, limited(1))
    await begun(requests)
    requests.begin(1, limited(10))
    await begun(requests)
    assert net.in_use() == 1


async def test_nothing_runs_where_the_limit_is_zero(net: Net, requests: Requests) -> None:
    requests.begin(0, limited(0))
    await begun(requests)
    assert requests.refused == [
        "The model:1 runs at most 0 requests at the same time (max_concurrent_requests), so none may run. "
        "Try again later, send fewer at once, or have the limit raised."
    ]


async def test_when_too_many_wait_the_next_one_is_refused_and_another_tenant_is_not(
    net: Net, requests: Requests
) -> None:
    for _ in range(4):
        requests.begin(0, limited(1), most=3)
    await begun(requests)
    requests.begin(0, limited(1), most=3)
    await begun(requests)
    assert len(requests.refused) == 1
    assert "too many wait" in requests.refused[0]
    requests.begin(1, limited(1), tenant="other", most=3)
    await begun(requests)
    assert len(requests.refused) == 2, "the flood's last one made room"
    requests.end()
    await begun(requests)
    requests.end()
    await begun(requests)
    assert "other" in {name for name, _ in requests.running} or net.office.waiting


async def test_who_waited_too_long_is_told_so(net: Net) -> None:
    held = asyncio.create_task(acquire(net.gateways[0], 60))
    await asyncio.sleep(0)
    await net.settle()
    assert await held
    with pytest.raises(QuotaExceeded, match="has waited 0 s"):
        await acquire(net.gateways[0], 0.0)
    await net.settle()
    assert net.office.waiting == 0


async def acquire(gateway: Permits, seconds: float) -> Held:
    return await gateway.acquire(
        (limited(1),), tenant="t", weight=1.0, priority=5, patience_seconds=seconds, most_waiting=9
    )


@pytest.mark.parametrize("seed", range(60))
async def test_never_too_many_and_never_too_few_whatever_the_order_of_events(seed: int) -> None:
    """Messages are under way all the time, clients leave, permits lie idle, limits of a key and a tenant hold as
    well."""
    chance = random.Random(seed)
    net = Net(gateways=3)
    requests = Requests(net)
    subjects = {"model:1": 3, "model:2": 2, "key:a": 2}
    for _ in range(400):
        event = chance.random()
        if event < 0.3:
            names = chance.choice((["model:1"], ["model:2"], ["model:1", "key:a"], ["model:2", "key:a"]))
            wanted = [limited(subjects[name], name) for name in names]
            requests.begin(chance.randrange(3), *wanted, tenant=chance.choice("ab"))
            await asyncio.sleep(0)
        elif event < 0.5 and requests.running:
            requests.end(chance.randrange(len(requests.running)))
        elif event < 0.55 and requests.tasks:
            requests.leave(chance.randrange(len(requests.tasks)))
            await asyncio.sleep(0)
        elif event < 0.6:
            for gateway in net.gateways:
                for pool in gateway._pools.values():
                    pool.used_at = float("-inf")
                gateway.keep_up()
        else:
            net.deliver(chance.randrange(3))
            await asyncio.sleep(0)
        for subject, limit in subjects.items():
            assert net.in_use(subject) <= limit
    await begun(requests)
    waiting = [ticket.acquire for gateway in net.gateways for ticket in gateway._tickets.values()]
    for ticket in waiting:
        assert any(net.in_use(subject) == limit for subject, limit in ticket.needs), "it waits for nothing"
    while requests.running:
        requests.end()
        await begun(requests)
    assert net.office.waiting == 0
    assert Counter({subject: net.in_use(subject) for subject in subjects}).total() == 0
    for gateway in net.gateways:
        for pool in gateway._pools.values():
            pool.used_at = float("-inf")
        gateway.keep_up()
    await begun(requests)
    assert net.office.sums() == (), "all are back"
