"""``make bench``: compare with the peers in one run and print Markdown.

``python -m tests.bench [SECTION…] [--write]``: all sections, or those named; ``--write`` puts them into README.md
between its benchmark marks, where sections that were not measured stay as they are, with their dates and machines.
"""

import argparse
import datetime
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.bench import (
    cache,
    coldstart,
    footprint,
    limits,
    overhead,
    registry,
    routing,
    swap,
    tenants,
    throughput,
    trace,
)
from tests.bench.environments import DoesNotRun

README = Path(__file__).resolve().parents[2] / "README.md"
_MARKS = "<!-- bench: begin -->", "<!-- bench: end -->"

SECTIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "throughput": ("Tokens per second, SmolLM2-135M Q4_1, 128 tokens an answer", throughput.measure),
    "cache": ("What was seen before, SmolLM2-135M Q4_1", cache.measure),
    "overhead": ("Gateway overhead, a worker that answers at once", overhead.measure),
    "routing": ("What a routing decision costs", routing.measure),
    "trace": ("Strategies on one trace, SmolLM2-135M Q4_1", trace.measure),
    "limits": ("What limits cost, a worker that answers at once", limits.measure),
    "tenants": ("One tenant floods a model, SmolLM2-135M Q4_1", tenants.measure),
    "swap": ("Six models, memory for two, SmolLM2-135M Q4_1", swap.measure),
    "coldstart": ("From a cold model to its first token, SmolLM2-135M Q4_1", coldstart.measure),
    "registry": ("Ten thousand models", registry.measure),
    "footprint": ("At rest, no model loaded", footprint.measure),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    # An end by signal unwinds, too: the servers that were started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    measured: dict[str, str] = {}
    for name in arguments.sections or SECTIONS:
        title, measure = SECTIONS[name]
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        measured[title] = f"**{title}** ({_today()}, {_machine()})\n\n{_table(measure)}"
        # At once, so that a section that fails does not take the others along.
        print(measured[title] + "\n", flush=True)
    if arguments.write:
        _write(measured)
    return 0


def _table(measure: Callable[[], str]) -> str:
    try:
        return measure()
    except DoesNotRun as fault:
        return f"Not measured, for a peer does not run: {fault}."


def _machine() -> str:
    cpu = re.search(r"model name\s+: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    gigabytes = int(memory[1]) / 1024**2 if memory else 0
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {cpu[1] if cpu else 'an unknown CPU'}, {gigabytes:.0f} GB"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _write(measured: Mapping[str, str]) -> None:
    """``measured``: sections by their titles."""
    text = README.read_text()
    begin, end = (text.index(mark) for mark in _MARKS)
    there = dict(_sections(text[begin:end]))
    kept = [measured.get(title) or there.get(title) for title, _ in SECTIONS.values()]
    report = "\n\n".join(filter(None, kept))
    README.write_text(f"{text[: begin + len(_MARKS[0])]}\n{report}\n{text[end:]}")


def _sections(report: str) -> Iterator[tuple[str, str]]:
    """Each with its title."""
    titles = "|".join(re.escape(title) for title, _ in SECTIONS.values())
    starts = [*re.finditer(rf"^\*\*({titles})\*\*", report, re.MULTILINE)]
    ends = [*(match.start() for match in starts[1:]), len(report)]
    for match, end in zip(starts, ends, strict=False):
        yield match[1], report[match.start() : end].strip()


if __name__ == "__main__":
    sys.exit(main())
