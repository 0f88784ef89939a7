"""What gateways count of A/B tests, as routing judges it. Pure."""

from inference.protocol import Durations, ExperimentSums, VariantSums
from routing.experiments.results import ExperimentCounts, Histogram, Moments, VariantCounts


def experiment_counts(sums: ExperimentSums) -> ExperimentCounts:
    return ExperimentCounts(a=variant_counts(sums.a), b=variant_counts(sums.b))


def variant_counts(sums: VariantSums) -> VariantCounts:
    return VariantCounts(
        requests=sums.requests,
        errors=sums.errors,
        unavailable=sums.unavailable,
        prompt_tokens=sums.prompt_tokens,
        cached_tokens=sums.cached_tokens,
        completion_tokens=sums.completion_tokens,
        generation_seconds=sums.generation_seconds,
        first_token=_histogram(sums.first_token),
        first_token_logs=Moments(sum(sums.first_token.counts), sums.first_token_log, sums.first_token_log_squares),
        token_logs=Moments(sums.token_gaps, sums.token_gap_log, sums.token_gap_log_squares),
    )


def _histogram(durations: Durations) -> Histogram:
    return Histogram(durations.counts, durations.seconds)
