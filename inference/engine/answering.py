"""What becomes of the tokens that were chosen: what each client is sent, and the ways in which a choice ends."""

import time

from inference.engine.job_spans import Times, text_spans
from inference.engine.jobs import AnyJob, Choice, Job
from inference.engine.llama import FloatArray, Model
from inference.engine.logprobs import token_logprob
from inference.engine.output import Sent
from inference.protocol import Delta, Failed, Finished, FinishReason, TokenLogprob, Wants, WorkerToGateway

_WANTS_TOKENS = 16
"""More is asked for when so few are left, so that it is there before they are spent."""


class Answering:
    """The jobs that have not ended, and the messages on their way out. Owned by the engine's thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._jobs: dict[Job, list[Choice]] = {}
        """The choices of each that have not ended."""
        self._ended: list[Choice] = []
        self._outbox: list[tuple[AnyJob | None, WorkerToGateway]] = []

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs

    def __bool__(self) -> bool:
        return bool(self._jobs)

    @property
    def choices(self) -> list[Choice]:
        return [choice for choices in self._jobs.values() for choice in choices]

    def open(self, choice: Choice) -> None:
        """It is answered from now on."""
        self._jobs.setdefault(choice.job, []).append(choice)

    def send(self, job: AnyJob | None, message: WorkerToGateway) -> None:
        self._outbox.append((job, message))

    def take_messages(self) -> list[tuple[AnyJob | None, WorkerToGateway]]:
        messages, self._outbox = self._outbox, []
        return messages

    def take_ended(self) -> list[Choice]:
        """Choices that have ended since the last call: their KV may be kept, and their cells freed."""
        ended, self._ended = self._ended, []
        return ended

    def advance(self, choice: Choice, token: int, logits: FloatArray) -> bool:
        """The model chose ``token``, the last of its sequence: send what comes of it. False: the choice has ended."""
        job, sampler, output = choice.job, choice.sampler, choice.output
        job.completion_tokens += 1
        if sampler.fault:
            self.fail(job, 400, "grammar_failed", f"what the answer must be can't be followed: {sampler.fault}")
        elif self._model.is_end(token) and (sampler.held or not job.request.ignore_eos):
            self._finish(choice, FinishReason.STOP)
        else:
            sent = output.push(token, self._model.piece(token), self._logprob(job, token, logits))
            choice.answer.take(sent)
            sampler.lifted = output.thinking
            if output.stopped or sampler.complete:
                self._finish(choice, FinishReason.STOP, sent)
            elif len(choice.sequence.tokens) >= choice.sequence.limit:
                self._finish(choice, FinishReason.LENGTH, sent)
            else:
                if sent:
                    self.send(job, _delta(choice, sent))
                self._want(choice)
                return True
        return False

    def grant(self, job: Job, tokens: int, *, last: bool) -> None:
        """It may come to so many tokens; if that is the ``last`` word, it ends when it does, or at once if it has."""
        job.granted, job.wants = tokens, False
        if last and job.allowed is not None:
            job.limit = min(job.limit, job.allowed)  # of choices that are still to begin, too
        for choice in list(self._jobs.get(job, ())):
            sequence = choice.sequence
            sequence.allowed = job.allowed
            sequence.limit = max(job.limit, len(sequence.tokens))
            if last and len(sequence.tokens) == sequence.limit:
                self._finish(choice, FinishReason.LENGTH)

    def cancel(self, job: Job) -> None:
        if job in self._jobs:
            self._finish_job(job, FinishReason.CANCELLED)

    def fail(self, job: Job, status: int, code: str, message: str) -> None:
        if job in self._jobs:
            self.send(job, Failed(id=job.id, status=status, code=code, message=message))
            self._ended += self._jobs.pop(job)

    def _want(self, choice: Choice) -> None:
        """Ask for more tokens in good time."""
        job, sequence = choice.job, choice.sequence
        if sequence.allowed is None or job.wants or sequence.allowed >= sequence.limit:
            return
        if sequence.allowed - len(sequence.tokens) < _WANTS_TOKENS:
            assert job.granted is not None
            job.wants = True
            self.send(job, Wants(id=job.id, tokens=job.granted + job.request.n))

    def _logprob(self, job: Job, token: int, logits: FloatArray) -> TokenLogprob | None:
        count = job.request.logprobs
        return None if count is None else token_logprob(logits, token, count, self._model.piece)

    def _finish(self, choice: Choice, reason: FinishReason, sent: Sent | None = None) -> None:
        job = choice.job
        if sent:
            self.send(job, _delta(choice, sent))
        last, reason = choice.output.finish(reason)
        choice.answer.take(last)
        choice.complete = True
        self.send(job, _delta(choice, last, reason))
        self._jobs[job].remove(choice)
        self._ended.append(choice)
        if not self._jobs[job]:
            self._finish_job(job, reason)

    def _finish_job(self, job: Job, reason: FinishReason) -> None:
        now = time.monotonic()
        started = job.started or now
        first_token = job.first_token or now
        finished = Finished(
            id=job.id,
            reason=reason,
            prompt_tokens=len(job.tokens),
            completion_tokens=job.completion_tokens,
            cached_tokens=job.cached_tokens,
            queue_seconds=started - job.arrived,
            prefill_seconds=first_token - started,
            decode_seconds=now - first_token,
            spans=text_spans(
                job.request,
                Times(job.arrived, job.started, job.first_token, now),
                job.lookup,
                prompt_tokens=len(job.tokens),
                cached_tokens=job.cached_tokens,
                completion_tokens=job.completion_tokens,
            ),
        )
        self.send(job, finished)
        self._ended += self._jobs.pop(job)


def _delta(choice: Choice, sent: Sent, finish: FinishReason | None = None) -> Delta:
    return Delta(
        id=choice.job.id,
        index=choice.index,
        tokens=choice.job.completion_tokens,
        text=sent.text,
        reasoning=sent.reasoning,
        tool_calls=sent.tool_calls,
        logprobs=sent.logprobs,
        finish=finish,
    )
