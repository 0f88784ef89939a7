"""Processes that are started here: how they begin, and why they ended."""

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How workers are started on this node."""

    command: tuple[str, ...]
    """What the engine's arguments are appended to."""
    spare: tuple[str, ...] = ()
    """What starts one that waits for its arguments. Empty: none is kept waiting."""
    directory: Path
    """Where they run: the project's root, whose packages they import."""
    environment: Mapping[str, str]
    log_level: str
    forward: Callable[[bytes], None]
    """Takes a worker's log line, without its newline."""


def spawn(launch: Launch, *command: str) -> subprocess.Popen[bytes]:
    """A process that dies with us: the kernel kills it when the thread that called this ends. Raises OSError."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=launch.directory,
        env=dict(launch.environment),
        start_new_session=True,
        preexec_fn=_die_with(os.getpid()),
    )


def hand_over(spare: subprocess.Popen[bytes], arguments: Sequence[str]) -> None:
    """Have a process that waits go on with these. Raises OSError where it is gone."""
    assert spare.stdin is not None
    spare.stdin.write(msgspec.json.encode(arguments) + b"\n")
    spare.stdin.flush()


def bury(process: subprocess.Popen[bytes]) -> None:
    """Whatever it does, it is gone."""
    if process.returncode is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # what it did not read any more
                pipe.close()


def explain(returncode: int, last_lines: Sequence[str]) -> str:
    """Why a process ended, in words for an operator, with the last thing it printed if it failed."""
    if returncode == 0:
        return "it exited by itself"
    if returncode == -signal.SIGKILL:
        text = "it was killed by SIGKILL, perhaps because memory ran out"
    elif returncode < 0:
        text = f"it was killed by {_signal_name(-returncode)}"
    else:
        text = f"it exited with status {returncode}"
    return f"{text}; its last words: {last_lines[-1][:300]}" if last_lines else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def exit_of(pid: int) -> None:
    """Wait until a child has ended, leaving it to be reaped by its owner.

    A thread a child waits in the kernel: pidfds would spare it, but not every kernel and sandbox has them.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wait() -> None:
        with suppress(ChildProcessError):  # it has been reaped already
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, name=f"exit of {pid}", daemon=True).start()
    await ended.wait()


def _die_with(parent: int) -> Callable[[], None]:
    """Runs between fork and exec: only calls that need no lock which another thread could hold."""

    def tie() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return tie
