"""Jinja's sandbox with an end: loops, calls and growing values are counted, and a deadline ends them.

The sandbox alone runs nested loops and doubling macros for ever, and builds texts as large as memory. Nothing ends a
single step of Python, so each is kept short: what it is given was weighed when it was made, and what it would make is
estimated before (:mod:`inference.engine.growth`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import Environment, nodes
from jinja2.ext import loopcontrols
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from inference.engine.growth import (
    MAX_CHARACTERS,
    Exhausted,
    gathered,
    refuse_filter,
    refuse_format,
    refuse_method,
    refuse_operator,
    refuse_text,
    weight,
)

MAX_SECONDS = 5.0
MAX_STEPS = 2_000_000
"""Rounds of loops, operators, filters and calls: a few seconds of them. 1,000 messages take some tens of thousands."""

MAX_MADE_CHARACTERS = 16 * MAX_CHARACTERS
"""Of all texts that a rendering makes, which a list could hold at the same time."""

_TICKS = "_ticks"
_CHECK = "_check"
_WITHOUT = ("pprint", "urlize", "wordcount", "wordwrap", "xmlattr")
"""Filters for web pages and people. They take long, and no prompt needs them."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """For one template. Call :meth:`begin` before anything is compiled or rendered in a thread."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self._spent = threading.local()
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace
        for name in _WITHOUT:
            del self.filters[name]
        for name in list(self.filters):
            self.add_filter(name, self.filters[name])
        self.filters[_TICKS] = self._ticks
        self.filters[_CHECK] = self._check
        self.finalize = self._check

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        @wraps(function)  # with it go the marks by which Jinja knows what a filter wants to be given
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._step()
            first = 1 if args and isinstance(args[0], Context | EvalContext | Environment) else 0
            refuse_filter(name, (*args[first:], *kwargs.values()))
            if name == "join" and len(args) > first:
                between = sum(len(arg) for arg in (*args[first + 1 :], *kwargs.values()) if isinstance(arg, str))
                args = (*args[:first], gathered(args[first], between), *args[first + 1 :])
            return self._check(function(*args, **kwargs))

        self.filters[name] = checked

    def begin(self) -> None:
        self._spent.steps = 0
        self._spent.made = 0
        self._spent.deadline = time.monotonic() + MAX_SECONDS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        template.set_environment(self)
        return template

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._step()
        refuse_method(__obj, (*args, *kwargs.values()))
        if getattr(__obj, "__name__", "") == "join" and isinstance(owner := getattr(__obj, "__self__", None), str):
            args = tuple(gathered(arg, len(owner)) for arg in args)
        return __self._check(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox puts its own function in the place of ``str.format``; only here is the text still known."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__
        refuse_format(text, ())

        @wraps(wrapped)
        def bounded(*args: Any, **kwargs: Any) -> str:
            refuse_format(text, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return bounded

    def concat(self, parts: Iterable[str], /) -> str:
        """What a macro or a block has written."""
        pieces = list(parts)
        refuse_text(sum(len(piece) for piece in pieces))
        text: str = self._check("".join(pieces))
        return text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        refuse_operator(operator, left, right)
        return self._check(super().call_binop(context, operator, left, right))

    def _ticks(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _step(self) -> None:
        self._spent.steps += 1
        if self._spent.steps > MAX_STEPS:
            raise Exhausted(f"more than {MAX_STEPS} steps")
        if time.monotonic() > self._spent.deadline:
            raise Exhausted(f"more than {MAX_SECONDS:.0f} seconds")

    def _check(self, value: Any) -> Any:
        if isinstance(value, str):
            refuse_text(len(value))
            self._spent.made += len(value)
            if self._spent.made > MAX_MADE_CHARACTERS:
                raise Exhausted(f"more than {MAX_MADE_CHARACTERS} characters")
        else:
            weight(value)
        return value


class _Namespace(Namespace):
    """Written out it is short, whatever is in it: what is put in later is not weighed with it."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Bounds(NodeTransformer):
    """Loops count their rounds; what ``~`` joins and what stands in brackets is checked, as operators, calls, filters
    and ``{{ }}`` check by themselves."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through(_TICKS, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        node.nodes = [_through(_CHECK, each) for each in node.nodes]
        return _through(_CHECK, node)

    def visit_List(self, node: nodes.List) -> nodes.Filter:
        self.generic_visit(node)
        return _through(_CHECK, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:
        self.generic_visit(node)
        return _through(_CHECK, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _through(_CHECK, node) if node.ctx == "load" else node


def _through(filter_: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, filter_, [], [], None, None, lineno=node.lineno)
