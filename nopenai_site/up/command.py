"""``manage.py up``: the whole installation in one command.

Exit status: 0 stopped as asked, 1 a part of it can't run, 2 a setting is wrong, 3 it is running already, 4 the port
can't be had, 5 the database or the broker does not answer.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence

from nopenai_site import environment as settings
from nopenai_site import running
from nopenai_site.environment import BadEnvironment, Environment
from nopenai_site.up import report
from nopenai_site.up.directories import DirectoryFault, make_private
from nopenai_site.up.installation import Installation, StartFault
from nopenai_site.up.journal import Journal
from nopenai_site.up.keeper import NeverReady
from nopenai_site.up.listener import PortFault, listen
from nopenai_site.up.locks import AlreadyRunning, LeftoversRemain, lock_children, lock_installation
from nopenai_site.up.postgres import PostgresFault
from nopenai_site.up.privileges import NoAccount
from nopenai_site.up.redis import RedisFault

FAILED, BAD_SETTING, RUNNING_ALREADY, NO_PORT = 1, 2, 3, 4

_LEFTOVERS_PATIENCE_SECONDS = 60.0


def run(argv: Sequence[str]) -> int:
    """Start everything and stay until a signal; the process's exit status."""
    began_at = time.monotonic()
    argparse.ArgumentParser(prog="manage.py up", description=__doc__).parse_args(argv)
    try:
        environment = settings.load()
    except BadEnvironment as fault:
        return _refuse(BAD_SETTING, f"These settings keep the server from starting:\n{fault}")
    os.umask(0o077)
    try:
        make_private(environment.data_dir)
        make_private(environment.run_dir)
        lock_installation(environment.data_dir)
        # Before the port: what an earlier run left behind may still hold it.
        lock = lock_children(environment.data_dir, patience_seconds=_LEFTOVERS_PATIENCE_SECONDS)
        listening = listen(environment.host, environment.port)
        journal = Journal(environment.log_dir, level=environment.log_level)
    except AlreadyRunning as fault:
        owner = f" (pid {fault.pid})" if fault.pid else ""
        return _refuse(
            RUNNING_ALREADY,
            f"nOpenAI Server is running already with the data directory {environment.data_dir}{owner}. "
            "Stop that one, or give this one a NOPENAI_DATA_DIR and NOPENAI_PORT of its own.",
        )
    except LeftoversRemain as fault:
        return _refuse(
            RUNNING_ALREADY,
            f"Processes of an earlier run still use {environment.data_dir} after "
            f"{_LEFTOVERS_PATIENCE_SECONDS:.0f} s: {fault.pids}. Look at them with ps, and end them with kill.",
        )
    except PortFault as fault:
        return _refuse(NO_PORT, str(fault))
    except (DirectoryFault, OSError) as fault:
        return _refuse(FAILED, str(fault))
    return _serve(environment, listening, lock, journal, began_at)


def _serve(environment: Environment, listening: socket.socket, lock: int, journal: Journal, began_at: float) -> int:
    _say(report.settings(environment))
    installation = Installation(
        environment, listening=listening, lock=lock, journal=journal, say=_say, began_at=began_at
    )
    try:
        with _announced(environment, journal):
            asyncio.run(installation.run())
    except StartFault as fault:
        return _refuse(fault.status, str(fault))
    except (NeverReady, PostgresFault, RedisFault, NoAccount, DirectoryFault, OSError) as fault:
        return _refuse(FAILED, str(fault))
    finally:
        _remove_sockets(environment)
        journal.close()
    _say("Stopped.")
    return 0


@contextlib.contextmanager
def _announced(environment: Environment, journal: Journal) -> Iterator[None]:
    """Let operators' commands in other shells find this server. It serves without that, too."""
    record = None
    try:
        record = running.announce(environment, os.environ, pid=os.getpid())
    except (OSError, DirectoryFault) as fault:
        journal.log(
            "INFO", "Commands must be given the server's settings: they can't be written down", reason=str(fault)
        )
    try:
        yield
    finally:
        if record is not None:
            record.unlink(missing_ok=True)


def _remove_sockets(environment: Environment) -> None:
    """Whatever is outside the data directory is not left behind."""
    if not environment.run_dir.is_relative_to(environment.data_dir):
        shutil.rmtree(environment.run_dir, ignore_errors=True)


def _say(text: str) -> None:
    """The report goes to standard output, the log to standard error."""
    with contextlib.suppress(OSError):  # whoever read it has left; the server has not
        print(f"{text}\n", flush=True)


def _refuse(status: int, message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return status
