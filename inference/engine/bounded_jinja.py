"""Jinja's sandbox with an end: loops, calls and growing values are counted, and a deadline ends them.

The sandbox alone runs nested loops and doubling macros for ever, and builds texts as large as memory.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SECONDS = 5.0
MAX_STEPS = 2_000_000
"""Rounds of loops, operators, filters and calls: a few seconds of them. 1,000 messages take some tens of thousands."""

MAX_CHARACTERS = 16 * 1024 * 1024
MAX_ITEMS = 1_000_000
_MAX_WIDTH = 100_000
_MAX_BITS = 4096

_STEPS_PER_LOOK = 16
_TICKS = "_ticks"
_CHECK = "_check"
_WIDE_FORMAT = re.compile(r"[%{][^%{}]*\d{6}|\{[^{}]*:[^{}]*\{")
"""A width of six digits, or one that a value gives (``{:{width}}``)."""

_FILTERS_WITH_WIDTHS = frozenset({"center", "indent"})
_METHODS_WITH_WIDTHS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})


class Exhausted(Exception):
    """The template took more than it may; ``str()`` says of what."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """For one template. Call :meth:`begin` before anything is compiled or rendered in a thread."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self._spent = threading.local()
        for name in list(self.filters):
            self.filters[name] = self._checked(name, self.filters[name])
        self.filters[_TICKS] = self._ticks
        self.filters[_CHECK] = self._check
        self.finalize = self._check

    def begin(self) -> None:
        self._spent.steps = 0
        self._spent.deadline = time.monotonic() + MAX_SECONDS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Loops count their rounds; what ``~`` joins is checked, as operators and ``{{ }}`` check by themselves."""
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = _through(_TICKS, loop.iter)
        for concat in list(template.find_all(nodes.Concat)):
            concat.nodes = [_through(_CHECK, node) for node in concat.nodes]
        template.set_environment(self)
        return template

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._step()
        _refuse_growth_of_method(__obj, args)
        return __self._check(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox puts its own function in the place of ``str.format``; only here is the text still known."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE_FORMAT.search(value.__self__):
            raise Exhausted("a width that is too large")
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        _refuse_growth_of_operator(operator, left, right)
        return self._check(super().call_binop(context, operator, left, right))

    def _ticks(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _step(self) -> None:
        self._spent.steps += 1
        if self._spent.steps > MAX_STEPS:
            raise Exhausted(f"more than {MAX_STEPS} steps")
        if self._spent.steps % _STEPS_PER_LOOK == 0 and time.monotonic() > self._spent.deadline:
            raise Exhausted(f"more than {MAX_SECONDS:.0f} seconds")

    def _check(self, value: Any) -> Any:
        if isinstance(value, str):
            if len(value) > MAX_CHARACTERS:
                raise Exhausted("a text that grows too large")
        elif isinstance(value, list | tuple | dict) and len(value) > MAX_ITEMS:
            raise Exhausted("a list that grows too large")
        return value

    def _checked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # with it go the marks by which Jinja knows what a filter wants to be given
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._step()
            if name in _FILTERS_WITH_WIDTHS:
                _refuse_widths((*args, *kwargs.values()))
            elif name == "format" and args:
                _refuse_format(args[0], args[1:])
            return self._check(function(*args, **kwargs))

        return checked


def _through(filter_: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, filter_, [], [], None, None, lineno=node.lineno)


def _refuse_growth_of_method(function: Any, args: tuple[Any, ...]) -> None:
    """Methods of a text that make one much larger than it in a single step."""
    text = getattr(function, "__self__", None)
    if not isinstance(text, str):
        return
    name = getattr(function, "__name__", "")
    if name in _METHODS_WITH_WIDTHS:
        _refuse_widths(args)
    elif name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        if text.count(args[0]) * len(args[1]) > MAX_CHARACTERS:
            raise Exhausted("a text that grows too large")
    elif name == "join" and args and isinstance(args[0], list | tuple):
        joined = len(text) * len(args[0]) + sum(len(item) for item in args[0] if isinstance(item, str))
        if joined > MAX_CHARACTERS:
            raise Exhausted("a text that grows too large")


def _refuse_growth_of_operator(operator: str, left: Any, right: Any) -> None:
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        too_large = left.bit_length() * abs(right) > _MAX_BITS
        if too_large:
            raise Exhausted("a power that grows too large")
    if operator == "*":
        _refuse_repetition(left, right)
        _refuse_repetition(right, left)
    if operator == "%":
        _refuse_format(left, right if isinstance(right, tuple) else (right,))


def _refuse_repetition(value: Any, times: Any) -> None:
    if not isinstance(times, int):
        return
    if isinstance(value, str | list | tuple) and len(value) * times > MAX_ITEMS:
        raise Exhausted("a value that grows too large")
    if isinstance(value, int) and value.bit_length() + times.bit_length() > _MAX_BITS:
        raise Exhausted("a number that grows too large")


def _refuse_widths(args: Iterable[Any]) -> None:
    """Numbers that say how wide a text should be; none that a prompt needs comes near."""
    for argument in args:
        if isinstance(argument, int) and abs(argument) > _MAX_WIDTH:
            raise Exhausted("a width that is too large")


def _refuse_format(text: Any, values: tuple[Any, ...]) -> None:
    if not isinstance(text, str):
        return
    if _WIDE_FORMAT.search(text):
        raise Exhausted("a width that is too large")
    if "*" in text:  # a width among the values
        _refuse_widths(values)
