"""Which installations run from this project, so that an operator's command finds the one it is meant for.

`manage.py up` may have been given its settings in another shell. It writes down which, in ``var/running`` below the
project's root: the one place that every command knows, whatever the data directory is. What may hold a password is
named there and not shown.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nopenai_site.environment import PROJECT_ROOT, BadEnvironment, Environment, path
from nopenai_site.up.directories import make_private
from nopenai_site.up.locks import running_pid

RECORDS = PROJECT_ROOT / "var" / "running"

_SECRET = ("DATABASE_URL", "REDIS_URL")
_FIRST_START_ONLY = ("NOPENAI_ADMIN_USER", "NOPENAI_ADMIN_PASSWORD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An installation as its `up` wrote it down."""

    pid: int
    data_dir: str
    port: int
    given: Mapping[str, str]
    """The settings that came from the environment, as they stood there."""
    withheld: tuple[str, ...] = ()
    """Settings that came from the environment too and may hold a password."""


class NotDecided(BadEnvironment):
    """The environment of a command does not say which installation it means, or not all that it takes to reach it."""


def announce(environment: Environment, variables: Mapping[str, str], *, pid: int, records: Path = RECORDS) -> Path:
    """Write down that ``environment``, made of ``variables``, is served by ``pid``; the record, to be removed in the
    end. Records of those that ended without removing theirs go.

    Raises:
        OSError, DirectoryFault: it can't be written.
    """
    make_private(records.parent)
    make_private(records)
    for record, known in _records(records):
        if known is None or running_pid(Path(known.data_dir)) is None:
            record.unlink(missing_ok=True)
    names = [name for name, source in environment.sources.items() if source == "environment"]
    running = Running(
        pid=pid,
        data_dir=str(environment.data_dir),
        port=environment.port,
        given={name: variables[name] for name in names if name not in (*_SECRET, *_FIRST_START_ONLY)},
        withheld=tuple(name for name in names if name in _SECRET),
    )
    record = records / f"{pid}.json"
    record.write_text(json.dumps(asdict(running)))
    return record


def found(records: Path = RECORDS) -> list[Running]:
    """The installations that run now, as far as we may know of them."""
    return [known for _, known in _records(records) if known and running_pid(Path(known.data_dir)) == known.pid]


def missing_settings(variables: Mapping[str, str], running: Iterable[Running]) -> tuple[Running | None, dict[str, str]]:
    """Which installation a command with the environment ``variables`` means, and what its environment lacks for it.

    What the environment says always holds: an installation that differs from it in data directory, port or database is
    not meant.

    Raises:
        NotDecided: naming the installations with what to give.
    """
    meant = [one for one in running if not _contradicts(variables, one)]
    if not meant:
        return None, {}
    if len(meant) > 1:
        listed = "\n".join(f"  {_to_give(one)}   (pid {one.pid})" for one in meant)
        raise NotDecided(f"Several servers run; say which is meant by giving the command its settings:\n{listed}")
    (one,) = meant
    absent = [name for name in one.withheld if not variables.get(name, "").strip()]
    if absent:
        raise NotDecided(
            f"The server that runs with pid {one.pid} was given {' and '.join(absent)}. Give the same to this command: "
            "it may hold a password, so it is written down nowhere."
        )
    return one, {name: value for name, value in one.given.items() if not variables.get(name, "").strip()}


def _contradicts(variables: Mapping[str, str], one: Running) -> bool:
    said = {name: value for name, raw in variables.items() if (value := raw.strip())}
    if "NOPENAI_DATA_DIR" in said:  # says it all: two never share one
        return str(path(said["NOPENAI_DATA_DIR"])) != one.data_dir
    if said.get("NOPENAI_PORT", str(one.port)) != str(one.port):
        return True
    return "DATABASE_URL" in said and "DATABASE_URL" not in one.withheld


def _to_give(one: Running) -> str:
    shown = {"NOPENAI_DATA_DIR": one.data_dir} | dict.fromkeys(one.withheld, "…")
    return " ".join(f"{name}={value}" for name, value in shown.items())


def _records(records: Path) -> Iterator[tuple[Path, Running | None]]:
    """Every record with its content; None for what is none, such as one of which only half was written."""
    for record in sorted(records.glob("*.json")):
        try:
            content = json.loads(record.read_text())
            yield record, Running(**content | {"withheld": tuple(content["withheld"])})
        except (OSError, ValueError, KeyError, TypeError):
            yield record, None
