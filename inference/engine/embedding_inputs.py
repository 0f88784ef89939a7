"""A request for embeddings → tokens of each input, or an error that says what to do."""

from collections.abc import Sequence

from inference.engine.embeddings import pooling_of
from inference.engine.llama import Model, Pooling
from inference.engine.prompts import PromptRefused
from inference.protocol import Embed, Failed

_BYTES_PER_TOKEN = 16
"""Text below this times the context is always tokenized; above it is first asked whether it can fit at all."""

_ANSWER_BYTES = 32 * 1024 * 1024
"""All vectors of one answer: half of what a frame of the protocol may hold."""


class EmbeddingInputs:
    """Turns requests into tokens for one model. Thread-safe: it only reads."""

    def __init__(self, model: Model, context_tokens: int) -> None:
        self._model = model
        self._context_tokens = context_tokens
        self._pooled = pooling_of(model) is not None

    def build(self, request: Embed) -> list[Sequence[int]]:
        """
        Raises:
            PromptRefused: with status 400 and the field at fault.
        """
        if not self._pooled:
            raise _refusal(request, "capability_unavailable", self._why_none(), "model")
        if not request.inputs:
            raise _refusal(request, "empty_input", "there is no input: give at least one text", "input")
        self._check_size(request)
        one = len(request.inputs) == 1
        return [
            self._tokens(request, content, "input" if one else f"input[{index}]")
            for index, content in enumerate(request.inputs)
        ]

    def _why_none(self) -> str:
        what = (
            "scores how well texts fit a query (its pooling is 'rank')"
            if self._model.pooling is Pooling.RANK
            else "keeps a vector for each token and none for a text (its pooling is 'none')"
        )
        return f"this model {what}: use one whose capabilities name 'embedding'"

    def _check_size(self, request: Embed) -> None:
        width = self._model.embedding_width
        if request.dimensions is not None and request.dimensions > width:
            raise _refusal(
                request,
                "invalid_dimensions",
                f"this model's embeddings have {width} dimensions: {request.dimensions} can't be had, ask for at most "
                f"{width}",
                "dimensions",
            )
        most = _ANSWER_BYTES // (4 * (request.dimensions or width))
        if len(request.inputs) > most:
            raise _refusal(
                request,
                "too_many_inputs",
                f"{len(request.inputs)} inputs of {request.dimensions or width} dimensions each are more than one "
                f"answer holds: send at most {most} at once, or ask for fewer dimensions",
                "input",
            )

    def _tokens(self, request: Embed, content: str | tuple[int, ...], param: str) -> Sequence[int]:
        tokens: Sequence[int]
        if isinstance(content, str):
            self._refuse_hopeless(request, content, param)
            tokens = self._model.tokenize(content, add_special=True)
        else:
            tokens = content
            outside = next((token for token in tokens if not 0 <= token < self._model.vocabulary_size), None)
            if outside is not None:
                size = self._model.vocabulary_size
                message = f"token {outside} is not in this model's vocabulary of {size}"
                raise _refusal(request, "invalid_token", message, param)
        if not tokens:
            raise _refusal(request, "empty_input", "the input is empty: give it some text", param)
        if len(tokens) > self._context_tokens:
            raise self._too_long(request, str(len(tokens)), param)
        return tokens

    def _refuse_hopeless(self, request: Embed, text: str, param: str) -> None:
        """Refuse what can't fit before it is tokenized: some megabytes of one word keep a core busy for a minute."""
        text_bytes = len(text.encode("utf-8", "replace"))
        if text_bytes > _BYTES_PER_TOKEN * self._context_tokens:
            fewest = self._model.fewest_tokens(text_bytes)
            if fewest > self._context_tokens:
                raise self._too_long(request, f"at least {fewest}", param)

    def _too_long(self, request: Embed, tokens: str, param: str) -> PromptRefused:
        return _refusal(
            request,
            "context_length_exceeded",
            f"the input has {tokens} tokens and this model's context holds {self._context_tokens}: cut it into "
            "shorter ones",
            param,
        )


def _refusal(request: Embed, code: str, message: str, param: str) -> PromptRefused:
    return PromptRefused(Failed(id=request.id, status=400, code=code, message=message, param=param))
