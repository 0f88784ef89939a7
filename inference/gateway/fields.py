"""Checks of single fields of a request body. Each takes the value and the field's name as OpenAI's ``param`` writes it
(``messages[0].role``), returns the value as the engine gets it, and raises InvalidRequest otherwise."""

from collections.abc import Callable
from typing import Any, NoReturn

from registry.errors import InvalidRequest

Check = Callable[[Any, str], Any]

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""

_STOP_CHARACTERS = 1024
"""Text that may be the beginning of a stop string is compared with all of it, and held back meanwhile."""

_BIASED_TOKENS = 1024
"""They are added up at each token that is drawn, for all who are answered in that step."""

_JSON_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a fraction",
    list: "an array",
    dict: "an object",
}


def refuse(param: str, problem: str) -> NoReturn:
    raise InvalidRequest(f"'{param}' {problem}", param=param)


def wrong_type(value: object, param: str, expected: str) -> NoReturn:
    refuse(param, f"must be {expected}, not {_JSON_NAMES.get(type(value), 'null')}.")


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def boolean(value: Any, param: str) -> bool:
    if type(value) is not bool:
        wrong_type(value, param, "true or false")
    return value


def string(value: Any, param: str) -> str:
    if type(value) is not str:
        wrong_type(value, param, "a string")
    return value


def filled_string(value: Any, param: str) -> str:
    if not string(value, param):
        refuse(param, "must not be empty.")
    return value  # type: ignore[no-any-return]


def one_of(*allowed: str) -> Check:
    """One of these words."""
    words = " or ".join(f'"{word}"' for word in allowed)

    def check(value: Any, param: str) -> str:
        if type(value) is not str:
            wrong_type(value, param, words)
        if value not in allowed:
            refuse(param, f"must be {words}, not {shown(value)}.")
        return value

    return check


def number(low: float, high: float, *, above_low: bool = False) -> Check:
    """A number from ``low`` to ``high``; ``above_low`` leaves ``low`` itself out."""
    allowed = f"greater than {low:g} and at most {high:g}" if above_low else f"from {low:g} to {high:g}"

    def check(value: Any, param: str) -> float:
        if type(value) is not float and type(value) is not int:
            wrong_type(value, param, "a number")
        if not low <= value <= high or (above_low and value == low):
            refuse(param, f"must be {allowed}, not {shown(value)}.")
        return float(value)

    return check


def whole(low: int, high: int) -> Check:
    """A whole number from ``low`` to ``high``."""

    def check(value: Any, param: str) -> int:
        if type(value) is not int:
            wrong_type(value, param, "a whole number")
        if not low <= value <= high:
            refuse(param, f"must be from {low} to {high}, not {shown(value)}.")
        return value

    return check


def stop(value: Any, param: str) -> tuple[str, ...]:
    """One stop string or up to 16 of them (OpenAI stops at 4)."""
    if type(value) is str:
        return (_stop_string(value, param),)
    if type(value) is not list:
        wrong_type(value, param, "a string or an array of strings")
    if len(value) > 16:
        refuse(param, f"may hold at most 16 strings, not {len(value)}.")
    return tuple(_stop_string(entry, f"{param}[{position}]") for position, entry in enumerate(value))


def _stop_string(value: Any, param: str) -> str:
    text: str = filled_string(value, param)
    if len(text) > _STOP_CHARACTERS:
        refuse(param, f"may have at most {_STOP_CHARACTERS} characters, not {len(text)}.")
    return text


def logit_bias(value: Any, param: str) -> dict[int, float]:
    """Token id (a string, as JSON's keys are) → bias from −100 to 100."""
    if type(value) is not dict:
        wrong_type(value, param, "an object of token ids and biases")
    if len(value) > _BIASED_TOKENS:
        refuse(param, f"may hold at most {_BIASED_TOKENS} tokens, not {len(value)}.")
    biases = {}
    for token, bias in value.items():
        # The length comes first: int() raises ValueError above some thousand digits.
        if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) < 2**31):
            refuse(param, f"must have token ids as its keys, not {shown(token)}.")
        biases[int(token)] = _bias(bias, f"{param}.{token}")
    return biases


_bias = number(-100, 100)


def words(value: Any, param: str) -> frozenset[str]:
    """A set of names, such as capabilities."""
    if type(value) is not list:
        wrong_type(value, param, "an array of strings")
    if len(value) > 32:
        refuse(param, f"may hold at most 32 names, not {len(value)}.")
    return frozenset(filled_string(entry, f"{param}[{position}]") for position, entry in enumerate(value))


def stream_options(value: Any, param: str) -> bool:
    """Whether the stream ends with the usage."""
    if type(value) is not dict:
        wrong_type(value, param, "an object")
    include_usage = value.get("include_usage")
    return include_usage is not None and boolean(include_usage, f"{param}.include_usage")


def unserved(problem: str, *harmless: object) -> Check:
    """A field of OpenAI's that would change the answer and that we can't honour: only values that ask for nothing
    (``harmless``; null always is) pass. Ignoring it would be a wrong answer that looks right."""

    def check(value: Any, param: str) -> None:
        # `in` would take 1 for True.
        if not any(type(value) is type(allowed) and value == allowed for allowed in harmless):
            refuse(param, f"is not supported: {problem}")

    return check
