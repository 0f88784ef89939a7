"""Under which account the embedded servers run.

PostgreSQL refuses to run as root. Started by root, we run it (and Redis beside it) as an unprivileged account that
exists on every machine. That account can't look into a root's private directories, where the checkout and the data
directory often are. Opening these to everyone, or copying the servers elsewhere, would change the machine behind its
owner's back; instead the servers keep one capability, the weakest that suffices. The database role we connect as is no
superuser, so SQL can't make use of it.
"""

import ctypes
import os
import pwd
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the operating system to run a server as, and the capability it keeps (None: none)."""

    name: str
    uid: int
    gid: int
    capability: int | None


class NoAccount(Exception):
    """The embedded servers can't run here. ``str()`` is meant for the operator."""


def server_account(binary: Path) -> Account | None:
    """Whom to run the server ``binary`` as; None: as we are, which is not root.

    Raises:
        NoAccount: we are root, but not root enough to become somebody else.
    """
    if os.geteuid() != 0:
        return None
    capability = weakest_capability(_own_capabilities(), executable_by_all=bool(binary.stat().st_mode & 0o001))
    if capability is None:
        raise NoAccount(
            "PostgreSQL does not run as root, and this root may not lend another account the rights it needs "
            "(CAP_DAC_OVERRIDE is missing). Start as an ordinary user, or set DATABASE_URL and REDIS_URL"
        )
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, capability)
    raise NoAccount(
        "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody. "
        "Start as an ordinary user, or set DATABASE_URL and REDIS_URL"
    )


def weakest_capability(held: int, *, executable_by_all: bool) -> int | None:
    """Looking is enough where others may execute the binaries; a checkout made under umask 077 takes more."""
    if executable_by_all and held & 1 << CAP_DAC_READ_SEARCH:
        return CAP_DAC_READ_SEARCH
    return CAP_DAC_OVERRIDE if held & 1 << CAP_DAC_OVERRIDE else None


def tie_to_parent(
    death_signal: signal.Signals, account: Account | None = None, *, niceness: int = 0
) -> Callable[[], None]:
    """A ``preexec_fn``: the child becomes ``account`` and gets ``death_signal`` when the thread that spawns it ends."""
    parent = os.getpid()

    def between_fork_and_exec() -> None:
        os.nice(niceness)
        if account is not None:
            _become(account)
        # After the change of account, which clears it.
        die_with_parent(death_signal, parent=parent)

    return between_fork_and_exec


def die_with_parent(death_signal: signal.Signals, *, parent: int) -> None:
    """Have the kernel send us ``death_signal`` when our parent, which has the pid ``parent``, ends."""
    _prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above


def _become(account: Account) -> None:
    if account.capability is not None:
        _keep_capabilities()
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if account.capability is not None:
        _keep_only(account.capability)


def _keep_capabilities() -> None:
    """Let them outlive the change of account that follows, and count in access(2) too.

    Without the secure bit access(2), by which ``initdb`` looks for ``postgres``, passes over the capabilities of
    whoever is not root. A container may forbid to set it (CAP_SETPCAP); then only binaries within everyone's reach
    will do.
    """
    try:
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    except OSError:
        _prctl(_PR_SET_KEEPCAPS, 1)


def _keep_only(capability: int) -> None:
    """Only an ambient capability outlives exec, and it has to be permitted and inheritable first."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low = 1 << capability
    data = (ctypes.c_uint32 * 6)(low, low, low, 0, 0, 0)  # effective, permitted, inheritable: low words, high words
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _libc.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _own_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
