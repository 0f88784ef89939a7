"""What this gateway process counts of requests, by model, until it tells the supervisor, which makes the sums that
``/metrics`` shows. An answered request costs 1 µs here."""

import asyncio
import time
from types import TracebackType

from inference.durations import Histogram
from inference.gateway.asgi import ClientGone
from inference.gateway.call import Call
from inference.gateway.dispatch import Answer
from inference.protocol import Embedded, Finished, RequestCounts, WorkerCounts
from registry.errors import ApiError


class ModelCounts:
    """Of one model, since they were taken last."""

    __slots__ = (
        "cached_tokens",
        "cancelled",
        "completion_tokens",
        "errors",
        "first_token",
        "prompt_tokens",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = 0
        """That were routed to it."""
        self.cancelled = 0
        self.errors: dict[str, int] = {}
        self.first_token = Histogram()
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        """Of backends elsewhere: workers count theirs themselves."""

    def failed(self, error: ApiError) -> None:
        self.broke(error.code or error.type)

    def broke(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1


class RequestCounting:
    def __init__(self) -> None:
        self._models: dict[str, ModelCounts] = {}

    def of(self, model: str) -> ModelCounts:
        """To be asked for anew at each event: what was taken is counted no more."""
        counts = self._models.get(model)
        if counts is None:
            counts = self._models[model] = ModelCounts()
        return counts

    def served_elsewhere(self, model: str, message: Finished | Embedded) -> None:
        """A backend has answered, and this is what it used."""
        counts = self.of(model)
        counts.prompt_tokens += message.prompt_tokens
        if isinstance(message, Finished):
            counts.cached_tokens += message.cached_tokens
            counts.completion_tokens += message.completion_tokens

    def take(self) -> dict[str, RequestCounts]:
        models, self._models = self._models, {}
        return {
            model: RequestCounts(
                requests=counts.requests,
                cancelled=counts.cancelled,
                errors=counts.errors,
                first_token=counts.first_token.durations,
                elsewhere=WorkerCounts(
                    prompt_tokens=counts.prompt_tokens,
                    cached_tokens=counts.cached_tokens,
                    completion_tokens=counts.completion_tokens,
                ),
            )
            for model, counts in models.items()
        }


class CountedRequest:
    """While entered, a request is a model's; how it ends is counted."""

    __slots__ = ("_began", "_call", "_counting", "_model")

    def __init__(self, counting: RequestCounting, model: str, call: Call) -> None:
        self._counting = counting
        self._model = model
        self._call = call

    def __enter__(self) -> "CountedRequest":
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        counts = self._counting.of(self._model)
        counts.requests += 1
        if fault is None:
            return
        if self._call.gone or isinstance(fault, ClientGone):
            counts.cancelled += 1
        elif isinstance(fault, ApiError):
            counts.failed(fault)
        else:
            counts.broke("shutting_down" if isinstance(fault, asyncio.CancelledError) else "internal_error")

    def begun(self, answer: Answer, waited: float) -> None:
        """Its first token, or all of it, is in our hands, after it ``waited`` so many seconds to be admitted."""
        last = answer.messages[-1]
        if isinstance(last, Finished):  # the worker knows when it began
            seconds = waited + answer.queue_seconds + last.queue_seconds + last.prefill_seconds
        elif isinstance(last, Embedded):
            return
        else:
            seconds = time.perf_counter() - self._began
        self._counting.of(self._model).first_token.observe(seconds)
