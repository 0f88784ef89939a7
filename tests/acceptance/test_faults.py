"""Each process is killed, frozen or told to end, while clients ask: who fails, and how soon all is well again.

With ``WRITE_FAULTS=1`` the recovery times that were measured go into README's table; then those are measured,
too, that take a minute because only time tells a frozen process from a busy one.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nopenai_site.environment import PROJECT_ROOT
from tests.installation import Installation, running_installation
from tests.waiting import wait_until

WRITES = os.environ.get("WRITE_FAULTS") == "1"
_MARKS = "<!-- faults: begin -->", "<!-- faults: end -->"

CLIENTS = 6
IN_A_ROW = 4
"""So many answers to each client, without a failure between them, and all is well."""
LONGEST_SECONDS = 60.0
"""Of a request, whatever happens: nothing hangs."""

KILL, STOP, END = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    process: str
    """As :class:`tests.installation.Installation` names it; ``gateway process`` is one of the gateway's workers."""
    number: signal.Signals
    recovery_seconds: float
    """A generous bound for a machine that does other things, too."""
    harmless: bool = True
    """No request fails."""
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.process}, {self.number.name}"


FAULTS = [
    Fault(process="engine", number=KILL, recovery_seconds=20, harmless=False),
    Fault(process="engine", number=END, recovery_seconds=20, harmless=False),
    Fault(process="engine", number=STOP, recovery_seconds=LONGEST_SECONDS, harmless=False, slow=True),
    Fault(process="supervisor", number=KILL, recovery_seconds=20, harmless=False),
    Fault(process="supervisor", number=END, recovery_seconds=20, harmless=False),
    Fault(process="supervisor", number=STOP, recovery_seconds=5),
    Fault(process="gateway process", number=KILL, recovery_seconds=10, harmless=False),
    Fault(process="gateway process", number=END, recovery_seconds=10),
    Fault(process="gateway process", number=STOP, recovery_seconds=LONGEST_SECONDS, harmless=False, slow=True),
    Fault(process="gateway", number=KILL, recovery_seconds=20, harmless=False),
    Fault(process="gateway", number=END, recovery_seconds=20),
    *(
        Fault(process=process, number=number, recovery_seconds=5)
        for process in ("web", "celery", "beat", "redis", "postgres")
        for number in (KILL, STOP, END)
    ),
]
# A frozen gateway's master (gunicorn's) serves nothing itself: its processes go on.


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with running_installation(tmp_path_factory.mktemp("faults"), NOPENAI_GATEWAY_WORKERS="2") as running:
        yield running


@pytest.fixture(scope="module")
def measured() -> Iterator[dict[str, str]]:
    """By fault, what the table says of it."""
    rows: dict[str, str] = {}
    yield rows
    if WRITES:
        _write(rows)


@dataclass(slots=True, kw_only=True)
class Asked:
    client: int
    began: float
    ended: float
    fault: str
    """Empty: it was answered."""


@dataclass(slots=True)
class Load:
    """Clients that ask without a pause, every second one for a stream."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def ask(self, client: aiohttp.ClientSession, number: int) -> None:
        while True:
            began = time.monotonic()
            fault = await self._once(client, stream=bool(number % 2))
            async with self.news:
                self.asked.append(Asked(client=number, began=began, ended=time.monotonic(), fault=fault))
                self.news.notify_all()
            if fault:  # as clients should
                await asyncio.sleep(0.05)

    async def _once(self, client: aiohttp.ClientSession, *, stream: bool) -> str:
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4, "stream": stream}
        try:
            async with client.post("/v1/chat/completions", json=body) as response:
                text = await response.text()
        except TimeoutError:
            return "it hangs"
        except (aiohttp.ClientError, OSError) as fault:
            return f"the connection broke: {fault!r}"
        if response.status != 200:
            return f"{response.status}: {text}"
        return "" if not stream or text.rstrip().endswith("[DONE]") else f"it broke off: {text[-300:]}"

    async def until_well(self, since: float) -> None:
        """The newest requests of each client began after ``since`` and were answered."""
        async with asyncio.timeout(2 * LONGEST_SECONDS), self.news:
            await self.news.wait_for(lambda: all(self._well(client, since) for client in range(CLIENTS)))

    def _well(self, client: int, since: float) -> bool:
        newest = [each for each in self.asked if each.client == client][-IN_A_ROW:]
        return len(newest) == IN_A_ROW and all(each.began > since and not each.fault for each in newest)

    def failures(self, since: float) -> list[Asked]:
        return [each for each in self.asked if each.fault and each.ended > since]

    def recovery_seconds(self, since: float) -> float:
        """Until each client has an answer to a request that it began after ``since``, and after its last failure."""
        return max(self._answered_at(client, since) for client in range(CLIENTS)) - since

    def _answered_at(self, client: int, since: float) -> float:
        own = [each for each in self.asked if each.client == client]
        begin = max([since, *(each.began for each in own if each.fault)])
        return min(each.ended for each in own if each.began > begin and not each.fault)


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Load]:
    load = Load(url)
    timeout = aiohttp.ClientTimeout(total=LONGEST_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as client:
        tasks = [asyncio.create_task(load.ask(client, number)) for number in range(CLIENTS)]
        try:
            await load.until_well(0.0)
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def victim(installation: Installation, process: str) -> int:
    if process != "gateway process":
        return installation.child(process)
    master = installation.child("gateway")
    wait_until(lambda: len(installation.children("gateway")) == 3, 30)
    return next(pid for pid in installation.children("gateway") if pid != master)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name) for fault in FAULTS if WRITES or not fault.slow],
)
async def test_only_what_was_in_its_hands_fails(
    installation: Installation, fault: Fault, measured: dict[str, str]
) -> None:
    async with asking(installation.url) as load:
        pid = await asyncio.to_thread(victim, installation, fault.process)
        struck = time.monotonic()
        os.kill(pid, fault.number)
        try:
            await load.until_well(struck)
        finally:
            if fault.number is STOP:
                _let_go_on(pid)
        seconds, failures = load.recovery_seconds(struck), load.failures(struck)
        assert not any(each.fault == "it hangs" for each in load.asked)
    assert seconds < fault.recovery_seconds
    if fault.harmless:
        assert not failures, failures[0].fault
    begun_later = [each for each in failures if each.began > struck + fault.recovery_seconds]
    assert not begun_later
    measured[fault.name] = f"| {fault.name} | {len(failures)} | {seconds:.1f} s |"
    await asyncio.to_thread(installation.wait_ready)
    await asyncio.to_thread(wait_until, lambda: complete(installation), 60)


def complete(installation: Installation) -> bool:
    """All processes are there again, and no more of them than before."""
    once = ("supervisor", "celery", "beat", "postgres", "redis")
    counts: dict[str, Any] = {name: len(installation.children(name)) for name in ("gateway", "engine")}
    return counts == {"gateway": 3, "engine": 1} and all(_alone(installation, name) for name in once)


def _alone(installation: Installation, name: str) -> bool:
    """Of a process and its own children there is one that nobody else of them started."""
    pids = installation.children(name)
    return len([pid for pid in pids if _parent(pid) not in pids]) == 1


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _let_go_on(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was replaced
        os.kill(pid, signal.SIGCONT)


def _write(rows: dict[str, str]) -> None:
    readme = PROJECT_ROOT / "README.md"
    text = readme.read_text()
    begin, end = (text.index(mark) for mark in _MARKS)
    table = "\n".join(
        [
            f"| what, and how, under {CLIENTS} clients | failed | all well after |",
            "| --- | ---: | ---: |",
            *(rows[fault.name] for fault in FAULTS if fault.name in rows),
        ]
    )
    readme.write_text(f"{text[: begin + len(_MARKS[0])]}\n{table}\n{text[end:]}")
