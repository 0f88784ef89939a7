"""A Lark grammar as it grows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rules:
    controls: Mapping[str, int]
    """Markers that are one control token: grammars see the token, not its text."""
    lines: list[str] = field(default_factory=list)
    _names: int = 0

    def add(self, name: str, body: str) -> str:
        self.lines.append(f"{name}: {body}")
        return name

    def fresh(self, prefix: str) -> str:
        """A name that no rule has."""
        self._names += 1
        return f"{prefix}_{self._names}"

    def literal(self, text: str) -> str:
        """``text``, with control tokens where the vocabulary has them."""
        parts: list[str] = []
        while text:
            found = [(place, marker) for marker in self.controls if (place := text.find(marker)) >= 0]
            place, marker = min(found, default=(len(text), ""))
            if place:
                parts.append(json.dumps(text[:place]))
            if marker:
                parts.append(f"<[{self.controls[marker]}]>")
            text = text[place + len(marker) :]
        return " ".join(parts) or '""'

    def text(self) -> str:
        return "\n".join(self.lines)
