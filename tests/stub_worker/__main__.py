"""The stub's arguments and its life."""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec
import uvloop

from inference.protocol import (
    CacheBudget,
    WorkerStage,
    WorkerStatus,
)
from tests.stub_worker.connection import Connection
from tests.stub_worker.faults import pass_gate
from tests.stub_worker.supervisor import TUNED, tell_supervisor
from tests.stub_worker.worker import Worker

_PR_SET_PDEATHSIG = 1


def main() -> int:
    arguments = _parse_arguments()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if arguments.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    _forgive(arguments)
    if arguments.chatter:
        print(arguments.chatter, file=sys.stderr, flush=True)
    tell_supervisor(WorkerStatus(stage=WorkerStage.LOADING, progress=0.5))
    if arguments.crash_on_load:
        os.kill(os.getpid(), signal.SIGKILL)
    if arguments.load_gate:
        pass_gate(arguments.load_gate)
    if arguments.fail_load:
        tell_supervisor(WorkerStatus(stage=WorkerStage.FAILED, reason=arguments.fail_load))
        return 1
    Path(arguments.socket).unlink(missing_ok=True)
    uvloop.run(_serve(arguments))
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stub_worker", description="An engine worker without a model."
    )
    parser.add_argument("--socket", required=True)
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--parameters", default="{}")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("files", nargs="*")
    own = parser.add_argument_group("what should go wrong")
    own.add_argument("--load-gate", metavar="FIFO", help="the load ends when somebody opens this for writing")
    own.add_argument("--fail-load", metavar="REASON")
    own.add_argument("--crash-on-load", action="store_true", help="by SIGKILL, as if memory had run out")
    own.add_argument("--crash-after", type=int, metavar="TOKENS", help="of any request; 0 is before the first")
    own.add_argument("--fail-after", type=int, metavar="TOKENS", help="answer Failed instead of going on")
    own.add_argument("--hang-after", type=int, metavar="TOKENS", help="go on at the gate only, or never")
    own.add_argument("--hang-gate", metavar="FIFO", help="what hangs goes on when somebody opens this for writing")
    own.add_argument("--token-seconds", type=float, default=0.0, help="pace; 0 answers at once")
    own.add_argument("--ignore-sigterm", action="store_true")
    own.add_argument("--deaf", action="store_true", help="read no budgets")
    own.add_argument("--chatter", metavar="TEXT", help="a line for standard error that is not JSON")
    own.add_argument("--first-only", metavar="FILE", help="faults are the first process's only: it makes this file")
    own.add_argument("--only", metavar="MODEL", help="faults are this model's only")
    own.add_argument("--tally", type=Path, metavar="DIR", help="count there all tokens it has made, of each model")
    own.add_argument("--running-log", type=Path, metavar="FILE", help="write there how many requests run, and when")
    own.add_argument("--context-tokens", type=int, default=4096)
    own.add_argument("--max-sequences", type=int, default=16)
    arguments = parser.parse_args()
    for name in ("load_gate", "hang_gate", "first_only"):
        if path := getattr(arguments, name):
            setattr(arguments, name, path.replace("{model}", arguments.model_id))
    return arguments


def _forgive(arguments: argparse.Namespace) -> None:
    """Drop the faults if they are another model's, or another process has had them already."""
    if arguments.only not in (None, arguments.model_id) or _had(arguments.first_only):
        arguments.crash_on_load = False
        arguments.load_gate = arguments.fail_load = arguments.chatter = None
        arguments.crash_after = arguments.fail_after = arguments.hang_after = None


def _had(first_only: str | None) -> bool:
    if not first_only:
        return False
    try:
        Path(first_only).touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


async def _serve(arguments: argparse.Namespace) -> None:
    worker = Worker(arguments)
    # Kept until the end: a server that nobody holds is closed by whichever thread collects it, and libuv then aborts.
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(worker), arguments.socket)
    tell_supervisor(WorkerStatus(stage=WorkerStage.READY, progress=1.0))
    if arguments.tune:
        tell_supervisor(TUNED)
    if not arguments.deaf:
        threading.Thread(target=_read_budgets, args=(worker, asyncio.get_running_loop()), daemon=True).start()
    async with server:
        await asyncio.Event().wait()


def _read_budgets(worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(worker.set_budget, msgspec.json.decode(line, type=CacheBudget))


if __name__ == "__main__":
    sys.exit(main())
