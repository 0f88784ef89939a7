"""Requests as a collector of traces sees them. The collector is real; SQL and the supervisor are played by the test."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from inference.traces.context import new_span_id, new_trace_id
from inference.traces.export import OtlpSink
from inference.traces.sampling import Rule, Sampler
from inference.traces.settings import TraceSettings
from inference.traces.spans import Source, Span
from tests.catalogue import a_model, a_version
from tests.collector import CollectedSpan, Collector, collector
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import until

ABLE = frozenset({"chat", "completion", "embedding"})
ONE = a_model("One", a_version("One", 1, capabilities=ABLE))

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}

ALL = Sampler.of(Rule.PARENT_ALWAYS_ON)


@pytest.fixture
def spans() -> Iterator[Collector]:
    with collector() as collected:
        yield collected


def body() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello!"}]}


def one_span() -> list[Span]:
    moment = time.time_ns()
    return [
        Span(
            source=Source("gateway", "1"),
            name="request",
            trace_id=new_trace_id(),
            span_id=new_span_id(),
            began_ns=moment,
            ended_ns=moment,
        )
    ]


def a_sink(spans: Collector, **settings: Any) -> OtlpSink:
    url = f"{spans.url}/v1/traces"
    return OtlpSink(TraceSettings(**{"url": url, "delay_seconds": 0.05, **settings}), version="1", node="here")


@asynccontextmanager
async def traced(
    start_rig: StartRig, spans: Collector, *stub: str, sampler: Sampler = ALL, **settings: Any
) -> AsyncIterator[Rig]:
    rig = await start_rig(ONE, sampler=sampler, spans=a_sink(spans, **settings))
    await rig.worker(ONE, *stub)
    yield rig


async def tree(spans: Collector, *names: str) -> dict[str, CollectedSpan]:
    """Of the only trace, once it has spans of these names."""
    await until(lambda: set(names) <= {span.name for span in spans.spans})
    return spans.tree()


async def test_a_request_is_a_tree_of_spans_across_gateway_and_worker(start_rig: StartRig, spans: Collector) -> None:
    before = time.time_ns()
    async with traced(start_rig, spans) as rig:
        response, _ = await rig.chat(model="auto")
        found = await tree(spans, "request", "decode")
    assert set(found) == {"request", "routing_decision", "quota_check", "model_execution", "decode"}
    request = found["request"]
    assert (request.parent_id, request.failed, request.kind) == ("", False, 2)
    assert {found[name].parent_id for name in ("routing_decision", "quota_check", "model_execution")} == {
        request.span_id
    }
    assert found["decode"].parent_id == found["model_execution"].span_id
    assert {span.service for name, span in found.items() if name != "decode"} == {"nopenai-gateway"}
    assert (found["decode"].service, found["decode"].instance) == (
        "nopenai-worker",
        response.headers["X-NOpenAI-Replica"].removeprefix("here/"),
    )
    in_order = [found[name] for name in ("routing_decision", "quota_check", "model_execution")]
    assert before <= request.began_ns <= in_order[0].began_ns
    for one, next_one in pairwise(in_order):
        assert one.began_ns <= one.ended_ns <= next_one.began_ns
    assert in_order[-1].ended_ns <= request.ended_ns <= time.time_ns()
    assert request.attributes["nopenai.request_id"] == response.headers["X-Request-ID"]
    assert request.attributes["http.response.status_code"] == 200
    assert found["routing_decision"].attributes["nopenai.strategy"] == "cache_aware"
    assert found["model_execution"].attributes["gen_ai.response.model"] == "One"
    assert found["model_execution"].attributes["gen_ai.usage.output_tokens"] == 3


async def test_a_clients_trace_goes_on_here(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans) as rig:
        await rig.client.post("/v1/chat/completions", json=body(), headers=SAMPLED)
        found = await tree(spans, "request", "decode")
    assert {span.trace_id for span in found.values()} == {TRACE}
    assert (found["request"].parent_id, found["request"].state) == (SPAN, "vendor=1")


async def test_a_garbled_trace_of_a_client_begins_a_new_one(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans) as rig:
        response = await rig.client.post("/v1/chat/completions", json=body(), headers={"traceparent": "00-é-1"})
        assert response.status == 200
        found = await tree(spans, "request")
    assert found["request"].parent_id == ""


async def test_what_a_client_does_not_sample_leaves_its_id_in_the_log_and_no_span(
    start_rig: StartRig, spans: Collector
) -> None:
    async with traced(start_rig, spans) as rig:
        with capture_logs() as lines:
            await rig.client.post(
                "/v1/chat/completions", json={"model": "Nobody"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"}
            )
        await rig.chat()
        await tree(spans, "request")
    assert [line["trace_id"] for line in lines if line["event"] == "Refused a request"] == [TRACE]
    assert TRACE not in {span.trace_id for span in spans.spans}


async def test_of_a_tenth_a_tenth_is_traced(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans, sampler=Sampler.of(Rule.PARENT_RATIO, 0.1)) as rig:
        await asyncio.gather(*(rig.chat() for _ in range(300)))
        await rig.shut_down()
    requests = [span for span in spans.spans if span.name == "request"]
    assert 5 < len(requests) < 70  # of 300: a chance of one in a million to be outside
    assert len({span.trace_id for span in requests}) == len(requests)


async def test_without_a_sampler_a_clients_id_is_still_in_the_log(start_rig: StartRig) -> None:
    rig = await start_rig(ONE)
    with capture_logs() as lines:
        await rig.client.post("/v1/chat/completions", json={"model": "Nobody"}, headers=SAMPLED)
    assert [line["trace_id"] for line in lines if line["event"] == "Refused a request"] == [TRACE]


async def test_who_is_refused_is_refused_in_the_span_of_that(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans) as rig:
        await rig.chat(model="Nobody")
        found = await tree(spans, "request")
    assert set(found) == {"request", "routing_decision"}
    assert not found["request"].failed  # it is the client's fault
    assert found["request"].attributes["error.type"] == "model_not_found"
    assert found["routing_decision"].failed and "Nobody" in found["routing_decision"].message


async def test_a_worker_that_fails_fails_the_execution_and_the_request(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans, "--fail-after", "0") as rig:
        response, _ = await rig.chat()
        found = await tree(spans, "request")
    assert response.status >= 500
    assert found["request"].failed and found["model_execution"].failed
    assert not found["quota_check"].failed


async def test_a_client_that_leaves_ends_its_spans_and_the_worker_still_tells_its_part(
    start_rig: StartRig, spans: Collector
) -> None:
    async with traced(start_rig, spans, "--token-seconds", "0.01") as rig:
        async with rig.chatting(stream=True, max_tokens=4000, ignore_eos=True) as response:
            await response.content.readany()
            response.close()
        found = await tree(spans, "request", "decode")
    assert found["decode"].parent_id == found["model_execution"].span_id
    assert not found["request"].failed


async def test_embeddings_are_traced_likewise(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans) as rig:
        await rig.client.post("/v1/embeddings", json={"model": "One", "input": ["a", "b"]})
        found = await tree(spans, "request", "decode")
    assert found["model_execution"].attributes["gen_ai.operation.name"] == "embeddings"
    assert found["decode"].parent_id == found["model_execution"].span_id


async def test_batches_are_as_large_as_is_set_and_may_be_compressed(start_rig: StartRig, spans: Collector) -> None:
    settings: dict[str, Any] = {"batch_spans": 10, "delay_seconds": 60.0, "gzip": True, "headers": {"Api-Key": "k"}}
    async with traced(start_rig, spans, **settings) as rig:
        await asyncio.gather(*(rig.chat() for _ in range(10)))
        await until(lambda: len(spans.spans) == 50)
    assert spans.batches == [10] * 5
    assert {headers["api-key"] for headers in spans.headers} == {"k"}


async def test_what_waits_at_the_end_is_sent(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans, delay_seconds=600.0) as rig:
        await rig.chat()
        await rig.shut_down()
    assert len(spans.tree()) == 5


async def test_a_collector_that_hangs_delays_neither_requests_nor_the_end(
    start_rig: StartRig, spans: Collector
) -> None:
    spans.gate.clear()
    async with traced(start_rig, spans, queue_spans=20) as rig:
        for _ in range(10):
            response, _ = await rig.chat()
            assert response.status == 200
        await asyncio.to_thread(spans.asked.wait, 30)
        await rig.shut_down()
    assert rig.gateway.spans is not None
    assert (rig.gateway.spans.exported, rig.gateway.spans.dropped) == (0, 50)


async def test_the_supervisor_is_told_what_became_of_spans(start_rig: StartRig, spans: Collector) -> None:
    async with traced(start_rig, spans) as rig:
        await rig.chat()
        await tree(spans, "request", "decode")
        told = 0
        while told < 5:
            told += (await rig.supervisor.counted.get()).gateway.spans_exported
    assert told == 5


async def test_a_fault_of_the_collectors_is_told_once_and_once_more_when_it_is_over(spans: Collector) -> None:
    spans.status = 400
    sink = a_sink(spans, delay_seconds=0.01)
    with capture_logs() as lines:
        sink.start()
        for count in (1, 2):
            sink.take(one_span)
            await until(lambda count=count: sink.dropped == count)  # type: ignore[misc]
        spans.status = 200
        sink.take(one_span)
        await until(lambda: sink.exported == 1)
        await sink.stop()
    assert [line["event"] for line in lines] == [
        "The collector takes no spans: they are dropped",
        "The collector takes spans again",
    ]
    assert lines[0]["reason"].startswith("it answers 400")


async def test_a_batch_that_could_not_be_taken_now_is_sent_again(
    spans: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.traces.export._FIRST_PAUSE_SECONDS", 0.01)
    spans.status = 503
    sink = a_sink(spans, delay_seconds=0.01)
    sink.start()
    sink.take(one_span)
    await asyncio.to_thread(spans.asked.wait, 30)
    spans.status = 200
    await until(lambda: sink.exported == 1)
    await sink.stop()
    assert sink.dropped == 0


async def test_nobody_listens_where_spans_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.traces.export._FIRST_PAUSE_SECONDS", 0.01)
    sink = OtlpSink(TraceSettings(url="http://127.0.0.1:9/v1/traces", delay_seconds=0.01), version="1", node="here")
    sink.start()
    sink.take(one_span)
    await until(lambda: sink.dropped == 1)
    await sink.stop()
