"""From what was seen of a version to its health. Pure.

The checks, and what each of them can find:

    file_integrity      failed   a file is missing, cut, unreadable, or not what was registered
    memory_allocation   failed   three workers in a row could not be started, or died soon; for two minutes
                        unknown  after that: the next request will show
                        pending  its load takes longer than a moment, and no worker is ready
                        warning  its worker does not answer, or the last one died; or one takes more than its node's
                                 budget; or it is not loaded, and its files alone are more than any node's
    response_time       warning  95 % of the first tokens take 5 s or more, without queues and load
    error_rate          failed   not one request succeeded, and they failed again and again
                        warning  1 % or more failed by the server's fault

    health: a check failed → unhealthy; pending → loading; unknown → unknown; a warning → degraded; else healthy

What is measured (memory, time, errors) has hysteresis: a bound counts as crossed, or as kept again, once that has been
so in two checks in a row, and it is kept again below 80 % of it. Too few requests say that it is kept, so what nobody
asks for any more recovers. All the rest is a fact, and counts at once.
"""

from collections.abc import Sequence

import msgspec

from registry.catalogue import Health
from registry.health.report import Check, CheckName, Checks, Result, not_loaded
from registry.health.vitals import Window
from registry.presentation import size_text

RESPONSE_SECONDS = 5.0
ERROR_SHARE = 0.01
LEAST_REQUESTS = 20
"""Fewer say nothing of a share or a quantile,"""
LEAST_FAULTS = 5
"""unless so many of them failed."""
LEAST_FAULTY_PARTS = 3
"""Of the window's stretches of ten seconds: what failed at once, with a worker that died, is no reason to end the
next."""

HOLD_SECONDS = 25.0
"""A reading must last until the next check, 30 s later or a little less. Checks that are asked for hasten nothing."""
RELIEF = 0.8
FAILURES = 3
RETRY_SECONDS = 120.0
LOADING_SECONDS = 25.0
"""A load that lasts no longer is not worth a word: it would send requests to models that are not being loaded."""

_QUANTILE = 0.95


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A replica on a node that is heard of."""

    node: str
    state: str
    """As registry.models.Replica.Observed."""
    reason: str = ""
    since: float = 0.0
    missed: int = 0
    """Greetings in a row."""
    failures: int = 0
    memory_bytes: int | None = None
    budget_bytes: int = 0
    """What the node may give to models. 0: not known."""

    @property
    def serves(self) -> bool:
        """One that drains says nothing: it may be about to end because its load has failed."""
        return self.state == "ready" and not self.missed


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that a check looks at."""

    file_fault: str = ""
    hashed: bool = False
    """Its SHA-256 is known, and of the files as they are."""
    size_bytes: int = 0
    largest_budget_bytes: int = 0
    """Of all nodes. 0: not known."""
    replicas: tuple[Deployed, ...] = ()
    window: Window = Window()
    forced: bool = False
    """Somebody wants to know whether what failed still does."""


class Held(msgspec.Struct, frozen=True):
    """How a measured check stands."""

    over: bool = False
    contrary_since: float | None = None
    """Since when readings say otherwise."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What one check leaves to the next."""

    memory: Held = Held()
    response_time: Held = Held()
    error_rate: Held = Held()
    broken_at: float | None = None
    """When workers were last seen to fail in a row; None: they don't, or one has served since."""
    broken_reason: str = ""
    because: tuple[CheckName, ...] = ()
    """The checks that made the health what it was; none made it healthy."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    health: Health
    reason: str
    """Of the checks that make it so."""
    checks: Checks
    standing: Standing


def judge(before: Standing, seen: Seen, now: float) -> Judged:
    """
    Args:
        before: what the last judgement left; the empty one at first.
        now: seconds since the epoch, by the clock of all checks.
    """
    file = _file(seen, now)
    memory, standing = _memory(before, seen, now)
    response, response_held = _response_time(before.response_time, seen, now)
    errors, errors_held = _error_rate(before.error_rate, seen, now)
    checks = (file, memory, response, errors)
    health = _health(checks)
    causes = [check for check in checks if _HEALTH_OF.get(check.result) is health]
    return Judged(
        health=health,
        reason="; ".join(check.reason for check in causes),
        checks=checks,
        standing=msgspec.structs.replace(
            standing,
            response_time=response_held,
            error_rate=errors_held,
            because=tuple(check.name for check in causes),
        ),
    )


_HEALTH_OF = {
    Result.FAILED: Health.UNHEALTHY,
    Result.PENDING: Health.LOADING,
    Result.UNKNOWN: Health.UNKNOWN,
    Result.WARNING: Health.DEGRADED,
}
"""The worst first."""


def _health(checks: Sequence[Check]) -> Health:
    found = {check.result for check in checks}
    return next((health for result, health in _HEALTH_OF.items() if result in found), Health.HEALTHY)


# --- The checks ------------------------------------------------------------------------------------------------------


def _file(seen: Seen, now: float) -> Check:
    if seen.file_fault:
        return _check(CheckName.FILE_INTEGRITY, Result.FAILED, seen.file_fault, now)
    digest = "SHA-256 too" if seen.hashed else "SHA-256 not computed yet"
    return _check(CheckName.FILE_INTEGRITY, Result.PASSED, f"its files are as they were registered, {digest}", now)


def _memory(before: Standing, seen: Seen, now: float) -> tuple[Check, Standing]:
    """The worst that holds, and what is kept in mind of it."""
    result, reason, after = _allocation(before, seen, now)
    over, told = _beyond_budget(seen)
    held = _settle(before.memory, over, now)
    if held.over and result is Result.PASSED:
        result, reason = Result.WARNING, told
    check = _check(CheckName.MEMORY_ALLOCATION, result, reason, now)
    return check, msgspec.structs.replace(after, memory=held)


def _allocation(before: Standing, seen: Seen, now: float) -> tuple[Result, str, Standing]:
    """The first that applies:

    (1) a worker serves                               → passed, and earlier failures are over
    (2) workers fail in a row                         → failed, from now on
    (3) they did, less than RETRY_SECONDS ago         → failed
    (4) they did, and none has been tried since       → unknown; at once where somebody asks
    (5) one does not answer                           → warning
    (6) one is being loaded for LOADING_SECONDS       → pending
    (7) the last one died                             → warning
    (8) its files alone are more than any node's      → warning
    (9) nothing is loaded                             → skipped
    """
    serving = [each for each in seen.replicas if each.serves]
    sound = msgspec.structs.replace(before, broken_at=None, broken_reason="")
    if serving:
        return Result.PASSED, "; ".join(map(_memory_text, serving)), sound  # 1
    failing = next((each for each in seen.replicas if each.failures >= FAILURES), None)
    if failing is not None:
        reason = f"{failing.failures} workers in a row could not be started or died soon, the last one: "
        told = reason + (failing.reason or "without a reason")
        return Result.FAILED, told, msgspec.structs.replace(before, broken_at=now, broken_reason=told)  # 2
    if before.broken_at is not None:
        broken_at = min(before.broken_at, now)
        if now - broken_at < RETRY_SECONDS and not seen.forced:
            return Result.FAILED, before.broken_reason, msgspec.structs.replace(before, broken_at=broken_at)  # 3
        long_ago = msgspec.structs.replace(before, broken_at=min(broken_at, now - RETRY_SECONDS))
        return Result.UNKNOWN, f"not tried again since: {before.broken_reason}", long_ago  # 4
    silent = next((each for each in seen.replicas if each.missed and each.state == "ready"), None)
    if silent is not None:
        return Result.WARNING, f"its worker on {silent.node} does not answer", sound  # 5
    loading = next((each for each in seen.replicas if each.state == "loading"), None)
    if loading is not None and now - loading.since >= LOADING_SECONDS:
        return Result.PENDING, f"it is being loaded for {now - loading.since:.0f} s", sound  # 6
    died = next((each for each in seen.replicas if each.state == "failed"), None)
    if died is not None:
        return Result.WARNING, f"its last worker failed: {died.reason or 'without a reason'}", sound  # 7
    if 0 < seen.largest_budget_bytes < seen.size_bytes:
        needs, has = size_text(seen.size_bytes), size_text(seen.largest_budget_bytes)
        return Result.WARNING, f"its files take {needs}, and no node may use more than {has}", sound  # 8
    return Result.SKIPPED, not_loaded(CheckName.MEMORY_ALLOCATION, now).reason, sound  # 9


def _beyond_budget(seen: Seen) -> tuple[bool | None, str]:
    known = [each for each in seen.replicas if each.serves and each.memory_bytes is not None and each.budget_bytes]
    worst = max(known, key=lambda each: (each.memory_bytes or 0) / each.budget_bytes, default=None)
    if worst is None:
        return False, ""
    return _reading(worst.memory_bytes or 0, worst.budget_bytes), _memory_text(worst)


def _memory_text(replica: Deployed) -> str:
    if replica.memory_bytes is None:
        return f"loaded on {replica.node}"
    takes = f"its worker on {replica.node} takes {size_text(replica.memory_bytes)}"
    return f"{takes} of {size_text(replica.budget_bytes)}" if replica.budget_bytes else takes


def _response_time(before: Held, seen: Seen, now: float) -> tuple[Check, Held]:
    times = seen.window.first_token
    seconds = times.quantile(_QUANTILE) if times.total >= LEAST_REQUESTS else None
    held = _settle(before, False if seconds is None else _reading(seconds, RESPONSE_SECONDS), now)
    if seconds is None:
        told = _too_few(times.total, "its first tokens took too long, and " if held.over else "")
    else:
        told = f"95 % of {times.total} first tokens took at most {seconds:.2g} s"
    result = Result.WARNING if held.over else Result.SKIPPED if seconds is None else Result.PASSED
    return _check(CheckName.RESPONSE_TIME, result, told, now), held


def _error_rate(before: Held, seen: Seen, now: float) -> tuple[Check, Held]:
    requests, faults = seen.window.requests, seen.window.faults
    enough = requests >= LEAST_REQUESTS or faults >= LEAST_FAULTS
    held = _settle(before, _reading(faults / requests, ERROR_SHARE) if enough else False, now)
    if enough:
        told = f"{faults} of {requests} requests failed by the server's fault"
    else:
        told = _too_few(requests, "too many requests failed, and " if held.over else "")
    if held.over:
        hopeless = faults == requests and seen.window.faulty_parts >= LEAST_FAULTY_PARTS
        result = Result.FAILED if enough and hopeless else Result.WARNING
    else:
        result = Result.PASSED if enough else Result.SKIPPED
    return _check(CheckName.ERROR_RATE, result, told, now), held


def _reading(value: float, bound: float) -> bool | None:
    """Whether a bound is crossed. None: it says neither, so things stay as they are."""
    if value >= bound:
        return True
    return False if value < RELIEF * bound else None


def _settle(held: Held, over: bool | None, now: float) -> Held:
    if over is None or over == held.over:
        return Held(held.over)
    since = now if held.contrary_since is None else min(held.contrary_since, now)  # a clock may be set back
    return Held(over) if now - since >= HOLD_SECONDS else Held(held.over, since)


def _too_few(requests: int, before: str) -> str:
    return f"{before}{requests} requests in the last minutes are too few to tell"


def _check(name: CheckName, result: Result, reason: str, now: float) -> Check:
    return Check(name=name, result=result, reason=reason, checked_at=now)
