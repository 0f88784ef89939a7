"""JSON as we accept it: one object, every key once, finite numbers, at most as large as settings allow."""

import json
import math
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from nopenai_site.errors import body_too_large


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """Raises ParseError, saying where; BodyTooLarge."""
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        # DRF hands over the raw stream, past Django's own limit.
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise body_too_large()
        return loads(body)


def loads(body: bytes) -> Any:
    """Parse strictly; see the module.

    Raises:
        ParseError: with a message for the client.
    """
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_once_each, parse_constant=_refuse_constant, parse_float=_finite
        )
        if b"\\u" in body:
            _refuse_half_characters(value)
        return value
    except UnicodeDecodeError as fault:
        raise ParseError(f"The body is not UTF-8 (byte {fault.start}).") from fault
    except json.JSONDecodeError as fault:
        raise ParseError(f"The body is not JSON: {fault.msg} at line {fault.lineno} column {fault.colno}.") from fault
    except RecursionError as fault:
        raise ParseError("The body is nested too deeply.") from fault
    except ValueError as fault:
        raise ParseError(f"The body is not JSON that we accept: {fault}.") from fault


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a repeated key one reader takes the first, another the last: we refuse to guess what was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for position, name in enumerate(names) if name in names[:position])
        raise ValueError(f"the key {json.dumps(repeated)} occurs more than once")
    return found


def _refuse_half_characters(value: Any) -> None:
    """JSON can spell half a character (a lone surrogate); no text column, log or answer can hold one."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as fault:
        raise ValueError("it contains half a character (a lone surrogate)") from fault


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number
