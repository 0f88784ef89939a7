"""Which requests are traced, by OpenTelemetry's ``OTEL_TRACES_SAMPLER``. Pure."""

from enum import StrEnum

import msgspec

from inference.traces.context import Parent

_TWO_TO_64 = 1 << 64


class Rule(StrEnum):
    """The names that the specification gives them."""

    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    RATIO = "traceidratio"
    PARENT_ALWAYS_ON = "parentbased_always_on"
    PARENT_ALWAYS_OFF = "parentbased_always_off"
    PARENT_RATIO = "parentbased_traceidratio"


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    rule: Rule = Rule.PARENT_ALWAYS_ON
    ratio: float = 1.0
    """0–1; of the two rules that have one."""

    def samples(self, trace_id: bytes, parent: Parent | None) -> bool:
        """All processes that a trace passes through decide alike: by its id alone, or as its parent did."""
        if parent is not None and self.rule.startswith("parentbased_"):
            return parent.sampled
        if self.rule.endswith("ratio"):
            return int.from_bytes(trace_id[8:]) < round(self.ratio * _TWO_TO_64)
        return self.rule.endswith("_on")
