"""A request for embeddings → tokens of each input, or an error that says what to do."""

from collections.abc import Sequence

from inference.engine.embeddings import pooling_of
from inference.engine.input_checks import PromptRefused, check_vocabulary, fewest_if_hopeless, refusal
from inference.engine.llama import Model, Pooling
from inference.protocol import Embed

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
            raise refusal(request, "capability_unavailable", self._why_none(), "model")
        if not request.inputs:
            raise refusal(request, "empty_input", "there is no input: give at least one text", "input")
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
            raise refusal(
                request,
                "invalid_dimensions",
                f"this model's embeddings have {width} dimensions: {request.dimensions} can't be had, ask for at most "
                f"{width}",
                "dimensions",
            )
        most = _ANSWER_BYTES // (4 * (request.dimensions or width))
        if len(request.inputs) > most:
            raise refusal(
                request,
                "too_many_inputs",
                f"{len(request.inputs)} inputs of {request.dimensions or width} dimensions each are more than one "
                f"answer holds: send at most {most} at once, or ask for fewer dimensions",
                "input",
            )

    def _tokens(self, request: Embed, content: str | tuple[int, ...], param: str) -> Sequence[int]:
        tokens: Sequence[int]
        if isinstance(content, str):
            fewest = fewest_if_hopeless(self._model, content, self._context_tokens)
            if fewest is not None:
                raise self._too_long(request, f"at least {fewest}", param)
            tokens = self._model.tokenize(content, add_special=True)
        else:
            tokens = content
            check_vocabulary(self._model, request, tokens, param)
        if not tokens:
            raise refusal(request, "empty_input", "the input is empty: give it some text", param)
        if len(tokens) > self._context_tokens:
            raise self._too_long(request, str(len(tokens)), param)
        return tokens

    def _too_long(self, request: Embed, tokens: str, param: str) -> PromptRefused:
        return refusal(
            request,
            "context_length_exceeded",
            f"the input has {tokens} tokens and this model's context holds {self._context_tokens}: cut it into "
            "shorter ones",
            param,
        )
