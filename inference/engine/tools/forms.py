"""What a family of tool calls is made of."""

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.engine.schemas import Schema


class Scanner(Protocol):
    """Reads one call, piece by piece. It never raises: what is no call ends in ``failed``."""

    done: bool
    failed: bool

    @property
    def name(self) -> str | None:
        """The tool, once that is certain; one that exists. From then on the call is a call."""
        ...

    def feed(self, text: str, start: int) -> tuple[str, int]:
        """Read ``text`` from ``start`` on.

        Returns:
            More of the arguments (JSON, in order; empty until ``name`` is known), and the index of the first
            character that was not read: less than the length only when done or failed.
        """
        ...

    def close(self) -> str:
        """The answer ends here: the last of the arguments, if the call is whole without its end marker."""
        ...


@dataclass(frozen=True, slots=True)
class NamedSchema:
    """A tool as a grammar sees it."""

    name: str
    arguments: Schema


@dataclass(frozen=True, slots=True)
class Unquoted:
    """Arguments in Gemma's notation instead of JSON's: keys bare, strings between ``escape``s."""

    schema: Schema
    escape: str


Part = str | Schema | Unquoted
"""Of a call's grammar: literal text, or JSON that a schema describes, or the same in Gemma's notation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a family writes calls.

    A call is found after one of ``begins`` anywhere in the text, or, where ``bare``, at the very beginning of the
    answer. Between calls stand only ``between`` and the markers.
    """

    name: str
    begins: tuple[str, ...]
    ends: tuple[str, ...] = ()
    bare: bool = False
    marked: bool = True
    """Calls that we force stand after a marker; else they are bare."""
    between: str = " \t\r\n"
    stops: tuple[str, ...] = ()
    """The model goes on with these when it should wait for what its calls return."""
    markers: tuple[str, ...] = ()
    """Every text of this form that a vocabulary may hold as one control token, whose bytes are usually not shown."""
    scanner: Callable[[str, frozenset[str]], Scanner | None]
    """Of a call that begins with this character, given the names of the tools; None: no call begins like this."""
    call: Callable[[NamedSchema], Sequence[Part]]
    """One call as a grammar."""
    several: tuple[str, str, str] | None = ("", "\n", "")
    """Before, between and after calls that are made together; None: one call at a time."""
    new_id: Callable[[], str]
    """A call's id, as the family's template accepts it when it comes back."""


def long_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def nine_letters() -> str:
    """Mistral's templates refuse other ids than nine letters or digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


_LETTERS = string.ascii_letters + string.digits
