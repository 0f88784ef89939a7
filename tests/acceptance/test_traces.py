"""A trace of a request through the whole installation, with a real model, as a real collector gets it."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from tests.collector import CollectedSpan, Collector, collector
from tests.installation import Installation
from tests.waiting import wait_until

PARTS = {
    "request",
    "routing_decision",
    "quota_check",
    "model_execution",
    "queue",
    "cache_lookup",
    "prefill",
    "decode",
}

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

CLOCK_NS = 1_000_000
"""Each process reads two clocks one after the other, and something may come between."""


def test_the_guides_tree_of_spans_with_ids_that_go_through_all_processes_and_their_logs(
    own_installation: Callable[..., Installation],
) -> None:
    with collector() as spans:
        installation = own_installation(OTEL_EXPORTER_OTLP_ENDPOINT=spans.url, OTEL_BSP_SCHEDULE_DELAY="100")
        installation.start()
        installation.wait_ready()
        body = {"messages": [{"role": "user", "content": "Tell me about the sea. " * 40}], "max_tokens": 4}
        for _ in range(2):  # the second one finds what the first has left
            status, answer = installation.post("/v1/chat/completions", body)
            assert status == 200, answer
        status, _ = installation.post("/v1/chat/completions", {**body, "model": "Nobody"})
        assert status == 404
        ours = partial(of_requests, spans)
        wait_until(lambda: len(ours()) == 2 * len(PARTS) + 2, 20, lambda: f"spans missed in {spans.spans}")
        engine = installation.child("engine")

    first, second, refused = sorted((span for span in ours() if span.name == "request"), key=lambda span: span.began_ns)
    tree = {span.name: span for span in ours() if span.trace_id == second.trace_id}
    assert first.trace_id != second.trace_id
    assert set(tree) == PARTS
    of_worker = [tree[name] for name in ("queue", "cache_lookup", "prefill", "decode")]
    assert {span.parent_id for span in of_worker} == {tree["model_execution"].span_id}
    assert {(span.service, span.instance) for span in of_worker} == {("nopenai-worker", str(engine))}
    for one, following in pairwise(of_worker):
        assert one.ended_ns <= following.began_ns + CLOCK_NS
    assert tree["model_execution"].began_ns <= of_worker[0].began_ns + CLOCK_NS
    found, computed = tree["cache_lookup"].attributes, tree["prefill"].attributes
    assert found["nopenai.blocks.ram"] > 1 and found["nopenai.blocks.ssd"] == 0  # type: ignore[operator]
    assert found["nopenai.cached_tokens"] + computed["nopenai.computed_tokens"] == found["nopenai.prompt_tokens"]  # type: ignore[operator]
    (line,) = [line for line in installation.log_records() if line["message"] == "Refused a request"]
    assert line["trace_id"] == refused.trace_id


def of_requests(spans: Collector) -> list[CollectedSpan]:
    return [span for span in spans.spans if span.service in ("nopenai-gateway", "nopenai-worker")]


def test_pages_and_tasks_are_traced_and_go_on_in_a_clients_trace(
    own_installation: Callable[..., Installation],
) -> None:
    with collector() as spans:
        installation = own_installation(OTEL_EXPORTER_OTLP_ENDPOINT=spans.url, OTEL_BSP_SCHEDULE_DELAY="100")
        installation.start()
        installation.wait_started()
        status, _ = installation.post("/routing/config", {"strategy": "no"}, traceparent=f"00-{TRACE}-{SPAN}-01")
        assert status == 400
        wait_until(lambda: "nopenai-web" in services(spans), 20, lambda: f"no span of web in {spans.spans}")
        sent = installation.command(
            "shell", "-c", "from nopenai_site.celery import app; app.send_task('registry.scan')"
        )
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: "nopenai-celery" in services(spans), 20, lambda: f"no span of Celery in {spans.spans}")
        record = installation.wait_for_log(lambda record: record.get("module") == "web" and "trace_id" in record)
        spans.gate.clear()  # a collector that hangs holds up nobody's end
        installation.get("/routing/config")
        assert installation.stop() == 0
    (page,) = [span for span in spans.spans if span.trace_id == TRACE]
    assert (page.service, page.parent_id, record["trace_id"]) == ("nopenai-web", SPAN, TRACE)
    assert page.attributes["http.route"] == "routing/config"


def services(spans: Collector) -> set[str]:
    return {span.service for span in spans.spans}
