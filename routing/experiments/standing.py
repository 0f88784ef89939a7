"""How a roll-out stands, for people and programs."""

from enum import StrEnum

import msgspec

from routing.config import Rollout
from routing.experiments.results import VariantCounts
from routing.experiments.rollout import Observed, Progress, share_of_b


class RolloutState(StrEnum):
    RUNNING = "running"
    COMPLETE = "complete"
    """The last step's share stays."""
    ROLLED_BACK = "rolled_back"
    """A has all requests, until an operator begins it anew."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    state: RolloutState
    step: int
    """From 1."""
    steps: int
    share_of_b: float
    """0–1; of the step, or 0 after it was rolled back."""
    since: float
    """Seconds, by the clock of the events: when the step began."""
    a: VariantCounts
    """What was counted within the step; after its end, until now."""
    b: VariantCounts
    words: str
    """A sentence."""


def state_of(progress: Progress) -> RolloutState:
    if progress.rolled_back is not None:
        return RolloutState.ROLLED_BACK
    return RolloutState.COMPLETE if progress.complete else RolloutState.RUNNING


def standing(rollout: Rollout, progress: Progress, observed: Observed) -> Standing:
    a, b = _within(observed.a, progress.a), _within(observed.b, progress.b)
    step = min(progress.step, len(rollout.steps) - 1) + 1
    return Standing(
        state=state_of(progress),
        step=step,
        steps=len(rollout.steps),
        share_of_b=share_of_b(rollout, progress),
        since=progress.since,
        a=a,
        b=b,
        words=_words(rollout, progress, observed, step, b),
    )


def _within(now: VariantCounts, then: VariantCounts) -> VariantCounts:
    """Counting that has begun anew is told of from there on."""
    return now - then if now.contains(then) else now


def _words(rollout: Rollout, progress: Progress, observed: Observed, step: int, b: VariantCounts) -> str:
    share = f"{rollout.steps[step - 1] * 100:g} %"
    if progress.rolled_back is not None:
        return f"Rolled back in step {step} of {len(rollout.steps)} ({share} for B): {progress.rolled_back}"
    if progress.complete:
        return f"Complete: B keeps {share} of the requests, and nothing is watched any more."
    lasted = min(max(0.0, observed.now - progress.since), rollout.step_seconds)
    return (
        f"Step {step} of {len(rollout.steps)}: B has {share} of the requests. It has answered {b.answered:,} of the "
        f"{rollout.step_requests:,} that the step needs at least, in {lasted:,.0f} of {rollout.step_seconds:,.0f} s."
    )
