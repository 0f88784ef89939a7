"""Permits to run: of all requests that a limit on concurrency holds for, so many at once on a node.

The supervisor owns them. A gateway asks for all that a request needs at once, and keeps those of requests that have
ended for a moment, to use again without asking, unless somebody waits for them (``Contended``).
"""

import msgspec

Counts = tuple[tuple[str, int], ...]
"""Subjects (``model:12``, ``key:…``, ``tenant:3``), and a number for each."""


class Acquire(msgspec.Struct, frozen=True, tag="acquire"):
    """A request of this gateway wants one permit of each of these subjects."""

    ticket: int
    """The gateway's own number of it."""
    needs: Counts
    """With the limit of each, as this gateway knows it."""
    revision: int
    """Of the configuration that the limits are from: the newest counts."""
    tenant: str
    weight: float
    priority: int
    most_waiting: int


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """It does not want them any more."""

    ticket: int


class Release(msgspec.Struct, frozen=True, tag="release"):
    """This gateway gives so many back."""

    counts: Counts


class Holding(msgspec.Struct, frozen=True, tag="holding"):
    """After a new connection: so many this gateway's requests hold already."""

    counts: Counts


class Limits(msgspec.Struct, frozen=True, tag="limits"):
    """The configuration has changed: the limits of subjects that this gateway holds permits of."""

    revision: int
    limits: Counts


class Permitted(msgspec.Struct, frozen=True, tag="permitted"):
    """The request of this ticket has all that it asked for. If it was withdrawn meanwhile, its gateway releases
    them."""

    ticket: int
    subjects: tuple[str, ...]


class Crowded(msgspec.Struct, frozen=True, tag="crowded"):
    """It will not get them: too many wait."""

    ticket: int


class Contended(msgspec.Struct, frozen=True, tag="contended"):
    """Whether somebody waits for this subject: then what lies idle is to be given back, at once and from now on."""

    subject: str
    waiting: bool
