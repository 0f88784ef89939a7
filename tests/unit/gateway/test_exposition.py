"""Prometheus' text format, read back by prometheus_client."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from inference.durations import Histogram
from inference.gateway.exposition import HistogramMetric, Metric, written
from inference.protocol import DURATION_BOUNDS_SECONDS, Durations

values = st.floats(allow_nan=False) | st.integers(0, 10**18)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.text(), values), max_size=5))
def test_labels_and_values_are_read_as_they_were_written(samples: list[tuple[str, float]]) -> None:
    metric = Metric("a", "gauge", "Help.", [([("model", text)], value) for text, value in samples])
    (family,) = text_string_to_metric_families(written(metric))
    assert (family.type, family.documentation) == ("gauge", "Help.")
    read = [(sample.labels["model"], float(sample.value)) for sample in family.samples]
    assert read == [(text, float(value)) for text, value in samples]


def test_a_metric_without_labels_has_no_braces() -> None:
    assert written(Metric("a", "gauge", "Help.", [((), 1.0)])) == "# HELP a Help.\n# TYPE a gauge\na 1\n"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 1000)))
def test_a_histograms_buckets_hold_all_that_took_no_longer(observed: list[float]) -> None:
    histogram = Histogram()
    for seconds in observed:
        histogram.observe(seconds)
    (family,) = text_string_to_metric_families(
        written(HistogramMetric("a_seconds", "Help.", [([("model", "m")], histogram.durations)]))
    )
    samples = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    for bound in DURATION_BOUNDS_SECONDS:
        assert samples["a_seconds_bucket", str(bound)] == sum(seconds <= bound for seconds in observed)
    assert samples["a_seconds_bucket", "+Inf"] == samples["a_seconds_count", None] == len(observed)
    assert abs(samples["a_seconds_sum", None] - sum(observed)) < 1e-6
    assert {sample.labels["model"] for sample in family.samples} == {"m"}


def test_counts_of_another_length_break_nothing() -> None:
    for counts in [(), (1,), (1,) * 40]:
        text = written(HistogramMetric("a", "Help.", [([("model", "m")], Durations(counts=counts))]))
        (family,) = text_string_to_metric_families(text)
        assert len(family.samples) == len(DURATION_BOUNDS_SECONDS) + 3
