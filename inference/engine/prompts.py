"""A request's prompt → tokens that fit the context, or an error that says what to do."""

from dataclasses import dataclass

from inference.engine.answers import AnswerRefused, Answers, Plan
from inference.engine.input_checks import check_vocabulary, fewest_if_hopeless, refusal
from inference.engine.llama import Model
from inference.engine.template import ChatTemplate, TemplateFault
from inference.protocol import ChatMessage, Generate

_SHARED_REMEMBERED = 64
"""Declared prompts whose tokens are remembered. Operators declare them, so there are few."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request is generated from, and how."""

    tokens: list[int]
    limit: int
    """Most tokens that prompt and completion may have together."""
    plan: Plan
    shared_tokens: int = 0
    """So many of the first tokens come from the messages that were declared shareable, alone."""


class Prompts:
    """Turns requests into tokens for one model. Thread-safe."""

    def __init__(self, model: Model, context_tokens: int) -> None:
        """Raises:
        TemplateFault: the model's chat template has a syntax error.
        """
        self._model = model
        self._context_tokens = context_tokens
        self._template = (
            ChatTemplate(model.chat_template, bos_token=model.bos_text, eos_token=model.eos_text)
            if model.chat_template
            else None
        )
        self._answers = Answers(model, model.chat_template)
        self._shared: dict[tuple[ChatMessage, ...], list[int]] = {}
        """Tokens of leading messages that were declared shareable."""

    def build(self, request: Generate) -> Prompt:
        """
        Raises:
            PromptRefused: with status 400 and the field at fault.
        """
        text = self._rendered(request) if request.messages is not None else ""
        tokens = self._tokens(request, text)
        param = "messages" if request.messages is not None else "prompt"
        if not tokens:
            raise refusal(request, "empty_prompt", "the prompt is empty: give it some text", param)
        room = self._context_tokens - len(tokens)
        if room < 1:
            raise refusal(
                request,
                "context_length_exceeded",
                f"the prompt has {len(tokens)} tokens and this model's context holds {self._context_tokens}, "
                "completion included: shorten the prompt",
                param,
            )
        if request.max_tokens is not None and request.max_tokens > room:
            raise refusal(
                request,
                "context_length_exceeded",
                f"the prompt has {len(tokens)} tokens and max_tokens asks for {request.max_tokens} more, but this "
                f"model's context holds {self._context_tokens}: ask for at most {room}, or shorten the prompt",
                "max_tokens",
            )
        try:
            plan = self._answers.plan(request, text)
        except AnswerRefused as refused:
            raise refusal(request, "invalid_schema", str(refused), refused.param) from refused
        limit = len(tokens) + (room if request.max_tokens is None else request.max_tokens)
        return Prompt(tokens, limit, plan, self._shared_tokens(request, tokens))

    def text_of(self, tokens: list[int]) -> str:
        return b"".join(self._model.piece(token) for token in tokens).decode("utf-8", "replace")

    def _tokens(self, request: Generate, rendered: str) -> list[int]:
        if request.messages is not None:
            self._refuse_hopeless(request, rendered, "messages")
            return self._text_tokens(rendered)
        if request.suffix is not None:
            return self._infill_tokens(request, request.suffix)
        return self._prompt_tokens(request)

    def _prompt_tokens(self, request: Generate, *, add_special: bool = True) -> list[int]:
        if request.text is not None:
            self._refuse_hopeless(request, request.text, "prompt")
            return self._model.tokenize(request.text, add_special=add_special)
        tokens = list(request.tokens or ())
        check_vocabulary(self._model, request, tokens, "prompt")
        return tokens

    def _infill_tokens(self, request: Generate, suffix: str) -> list[int]:
        """Prefix, suffix, middle: the order that all models with such tokens know (Bavarian et al. 2022)."""
        if self._model.infill_tokens is None:
            raise refusal(
                request,
                "capability_unavailable",
                "this model was not trained to fill in the middle: leave 'suffix' out, or use a model whose "
                "vocabulary has tokens for it",
                "suffix",
            )
        before, behind, middle = self._model.infill_tokens
        self._refuse_hopeless(request, suffix, "suffix")
        begin = self._model.tokenize("", add_special=True)
        return [
            *(token for token in begin if not self._model.is_end(token)),
            before,
            *self._prompt_tokens(request, add_special=False),
            behind,
            *self._model.tokenize(suffix, add_special=False),
            middle,
        ]

    def _rendered(self, request: Generate) -> str:
        if self._template is None:
            raise refusal(
                request,
                "capability_unavailable",
                "this model has no chat template: use /v1/completions, or a chat model",
                "model",
            )
        messages, tools = self._answers.shown(request)
        try:
            try:
                return self._template.render(messages, tools)
            except TemplateFault:
                others = self._answers.shown_without_system(messages)
                if others is None:
                    raise
                return self._template.render(others, tools)
        except TemplateFault as fault:
            raise refusal(request, "invalid_messages", str(fault), "messages") from fault

    def _shared_tokens(self, request: Generate, tokens: list[int]) -> int:
        """Those in which the prompt and its shareable messages, rendered without the rest, begin alike; what the
        template puts between them and the next message is common to all and counts, too."""
        partition = request.partition
        if partition is None or not partition.shareable_messages or not request.messages:
            return 0
        leading = request.messages[: partition.shareable_messages]
        known = self._shared.get(leading)
        if known is None:
            if len(self._shared) >= _SHARED_REMEMBERED:
                self._shared.clear()
            known = self._shared[leading] = self._leading_tokens(leading)
        return _common(known, tokens)

    def _leading_tokens(self, messages: tuple[ChatMessage, ...]) -> list[int]:
        assert self._template is not None
        try:
            text = self._template.render(messages, add_generation_prompt=False)
        except TemplateFault:  # it wants a user's message, too: nothing can be told apart
            return []
        return self._text_tokens(text)

    def _text_tokens(self, text: str) -> list[int]:
        # Most templates write BOS themselves; a second one would shift the model off its training.
        begins_with_bos = bool(self._model.bos_text) and text.startswith(self._model.bos_text)
        return self._model.tokenize(text, add_special=not begins_with_bos)

    def _refuse_hopeless(self, request: Generate, text: str, param: str) -> None:
        """Leave one token of the context for the answer."""
        fewest = fewest_if_hopeless(self._model, text, self._context_tokens - 1)
        if fewest is not None:
            raise refusal(
                request,
                "context_length_exceeded",
                f"the prompt has at least {fewest} tokens and this model's context holds {self._context_tokens}, "
                "completion included: shorten the prompt",
                param,
            )


def _common(one: list[int], other: list[int]) -> int:
    """How many leading tokens are the same."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
