"""Which requests are traced, by OpenTelemetry's ``OTEL_TRACES_SAMPLER``. Pure."""

from enum import StrEnum

import msgspec

from inference.traces.context import Parent

_ALL = 1 << 64


class Rule(StrEnum):
    """The names that the specification gives them."""

    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    RATIO = "traceidratio"
    PARENT_ALWAYS_ON = "parentbased_always_on"
    PARENT_ALWAYS_OFF = "parentbased_always_off"
    PARENT_RATIO = "parentbased_traceidratio"


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    follows_parent: bool
    """Whether it does as the trace's other spans do, where there are any."""
    bound: int
    """Of a trace's id, its last 64 bits: below it, it is sampled. So all processes that a trace passes through decide
    alike."""

    @classmethod
    def of(cls, rule: Rule, ratio: float = 1.0) -> "Sampler":
        """``ratio``: 0–1, for the two rules that have one."""
        share = {"on": 1.0, "off": 0.0}.get(rule.rpartition("_")[2], ratio)
        return cls(follows_parent=rule.startswith("parentbased_"), bound=round(share * _ALL))

    def samples(self, trace_id: bytes, parent: Parent | None) -> bool:
        if parent is not None and self.follows_parent:
            return parent.sampled
        return int.from_bytes(trace_id[8:]) < self.bound
