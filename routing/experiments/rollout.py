"""A guarded roll-out: B's share of the requests grows in steps, as long as B does well; else all goes back to A.

Each step is judged by what was counted within it, since in it both variants live in the same world: over several steps
B has more of the later requests, and whatever changes with time (load, cold caches) would count as B's doing. Each
step's two tests have an equal part of α, so that the chance of a roll-back of a B that does no worse than allowed is at
most α over the whole roll-out, unless counting begins anew time and again.
"""

import math

import msgspec

from routing.config import Rollout
from routing.experiments.results import VariantCounts
from routing.experiments.sequential import ALPHA, log_difference, rate_difference, rate_exceeds

_NOTHING = VariantCounts()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a roll-out stands; kept between two events."""

    step: int = 0
    since: float
    """Seconds, by the clock of the events: when the step began."""
    a: VariantCounts
    b: VariantCounts
    """As they were when the step began."""
    a_before: VariantCounts = _NOTHING
    """What A did within the step before: what B is held to once A is not asked any more."""
    complete: bool = False
    """The last step has been kept for long enough: B's share stays, and nothing is watched any more."""
    rolled_back: str | None = None
    """Why, in words."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """The event: what is known now."""

    now: float
    a: VariantCounts
    b: VariantCounts
    """Since the test began, over all processes."""


def begin(observed: Observed) -> Progress:
    return Progress(since=observed.now, a=observed.a, b=observed.b)


def advance(rollout: Rollout, progress: Progress, observed: Observed) -> tuple[Progress, float]:
    """The next state, and B's share (0–1) in it. At most one step is taken.

    (1) it is over                    nothing changes
    (2) counting has begun anew       so does the step's: what it counted before is gone
    (3) the clock was set back        the step's time begins anew, lest it last for hours
    (4) B surely does too badly       rolled back
    (5) long and often enough         the next step; after the last one it is complete
    """
    if progress.complete or progress.rolled_back is not None or not rollout.steps:  # (1)
        return progress, share_of_b(rollout, progress)
    progress = _restarted(progress, observed)
    if reason := _worse(rollout, progress, observed):  # (4)
        progress = msgspec.structs.replace(progress, rolled_back=reason)
    elif _lasted(rollout, progress, observed):  # (5)
        progress = _next_step(rollout, progress, observed)
    return progress, share_of_b(rollout, progress)


def share_of_b(rollout: Rollout, progress: Progress) -> float:
    """0–1."""
    if progress.rolled_back is not None or not rollout.steps:
        return 0.0
    return rollout.steps[_step(rollout, progress)]


def _step(rollout: Rollout, progress: Progress) -> int:
    """An operator may have removed steps meanwhile."""
    return min(progress.step, len(rollout.steps) - 1)


def _restarted(progress: Progress, observed: Observed) -> Progress:
    if not (observed.a.contains(progress.a) and observed.b.contains(progress.b)):  # (2)
        progress = msgspec.structs.replace(progress, a=observed.a, b=observed.b)
    if observed.now < progress.since:  # (3)
        progress = msgspec.structs.replace(progress, since=observed.now)
    return progress


def _worse(rollout: Rollout, progress: Progress, observed: Observed) -> str | None:
    """Why B must go, if it must."""
    share = share_of_b(rollout, progress)
    a = observed.a - progress.a if share < 1.0 else progress.a_before
    b = observed.b - progress.b
    alpha = ALPHA / (2 * len(rollout.steps))
    return _fails(rollout, a, b, alpha) or _lags(rollout, a, b, alpha)


def _fails(rollout: Rollout, a: VariantCounts, b: VariantCounts, alpha: float) -> str | None:
    allowed = rollout.max_error_increase
    if not rate_exceeds(a.trials, b.trials, allowed, alpha):
        return None
    lower = rate_difference(a.trials, b.trials, alpha).lower
    return (
        f"B failed {b.failures} of {b.requests} requests ({_percent(b.trials.rate)}), A {a.failures} of {a.requests} "
        f"({_percent(a.trials.rate)}): surely at least {lower * 100:.1f} percentage points more, where "
        f"{allowed * 100:g} may be."
    )


def _lags(rollout: Rollout, a: VariantCounts, b: VariantCounts, alpha: float) -> str | None:
    difference = log_difference(a.first_token_logs, b.first_token_logs, alpha)
    least = math.exp(difference.lower)
    if least <= rollout.max_latency_ratio:
        return None
    seconds_a, seconds_b = a.first_token_logs.typical_seconds, b.first_token_logs.typical_seconds
    return (
        f"B's first token typically came after {seconds_b:.3g} s, A's after {seconds_a:.3g} s: surely at least "
        f"{least:.2f} times as long, where {rollout.max_latency_ratio:g} times may be."
    )


def _lasted(rollout: Rollout, progress: Progress, observed: Observed) -> bool:
    answered = observed.b.answered - progress.b.answered
    return observed.now - progress.since >= rollout.step_seconds and answered >= rollout.step_requests


def _next_step(rollout: Rollout, progress: Progress, observed: Observed) -> Progress:
    step = _step(rollout, progress)
    if step == len(rollout.steps) - 1:
        return msgspec.structs.replace(progress, complete=True)
    return Progress(
        step=step + 1,
        since=observed.now,
        a=observed.a,
        b=observed.b,
        a_before=observed.a - progress.a,
    )


def _percent(rate: float) -> str:
    return f"{rate * 100:.1f} %"
