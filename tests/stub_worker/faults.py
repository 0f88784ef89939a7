"""What should go wrong, and the gates behind which it goes on."""

import re

_FAULT = re.compile(r"stub:(crash|hang|fail)-after-(\d+)")


def faults_of(text: str, faults: dict[str, int]) -> dict[str, int]:
    if "stub:" not in text:
        return dict(faults) if faults else {}
    return faults | {kind: int(after) for kind, after in _FAULT.findall(text)}


def pass_gate(gate: str) -> None:
    """Wait until somebody opens the gate for writing."""
    with open(gate, "rb"):  # noqa: PTH123 - a pipe, not a file's content
        pass
