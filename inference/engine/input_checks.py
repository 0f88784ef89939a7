"""What prompts and inputs of embeddings alike are held to before anything of them is computed."""

from collections.abc import Sequence

from inference.engine.llama import Model
from inference.protocol import Embed, Failed, Generate

_BYTES_PER_TOKEN = 16
"""Text below this times the room for it is always tokenized; above it is first asked whether it can fit at all."""


class PromptRefused(Exception):
    """The request can't be computed; ``failed`` goes to the client."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


def refusal(request: Generate | Embed, code: str, message: str, param: str) -> PromptRefused:
    return PromptRefused(Failed(id=request.id, status=400, code=code, message=message, param=param))


def check_vocabulary(model: Model, request: Generate | Embed, tokens: Sequence[int], param: str) -> None:
    """
    Raises:
        PromptRefused: one of the client's tokens is none of the model's.
    """
    outside = next((token for token in tokens if not 0 <= token < model.vocabulary_size), None)
    if outside is not None:
        message = f"token {outside} is not in this model's vocabulary of {model.vocabulary_size}"
        raise refusal(request, "invalid_token", message, param)


def fewest_if_hopeless(model: Model, text: str, room_tokens: int) -> int | None:
    """At least how many tokens a text has, where that is more than there is room for; None: it may fit.

    Asked before it is tokenized: some megabytes of one word keep a core busy for a minute.
    """
    text_bytes = len(text.encode("utf-8", "replace"))
    if text_bytes <= _BYTES_PER_TOKEN * room_tokens:
        return None
    fewest = model.fewest_tokens(text_bytes)
    return fewest if fewest > room_tokens else None
