"""KV that was saved and restored, on real contexts of three shapes: what was computed comes back to the last bit.

Texts are compared between runs with the same batch shapes only: llama.cpp rounds differently for others.
"""

import itertools
import queue
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from inference.engine import kv as kv_module
from inference.engine.cache.state import Bytes, Part, Prefix, UnknownForm, parse
from inference.engine.kv import Kv
from inference.engine.sequences import Pool
from inference.protocol import CacheBudget, FinishReason, Partition, Sampling
from tests.integration.engine.kv_rig import (
    ALICE,
    BOB,
    PROMPTS,
    ContextsOf,
    Models,
    Start,
    greedy,
    text_tokens,
)

CASES = [
    *itertools.product(("llama", "sliding", "smollm2"), PROMPTS),
    *itertools.product(("llama unified", "sliding unified", "smollm2 unified"), ["english"]),
    *itertools.product(("llama flash", "smollm2 flash", "smollm2 q8_0", "smollm2 q4_0", "llama stretched"), ["arabic"]),
]
"""Tiny models have heads too narrow for quantized KV."""


# --- Contexts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "language"), CASES)
@pytest.mark.parametrize("pool", Pool)
def test_logits_after_a_restore_are_those_of_where_it_was_computed(
    models: Models, contexts_of: ContextsOf, name: str, language: str, pool: Pool
) -> None:
    model, _ = models(name)
    contexts = contexts_of(name)
    layout = contexts.prove()
    tokens = model.tokenize(PROMPTS[language], add_special=True)[:150]
    lanes = contexts.of(Pool.LANES)
    assert lanes is not None
    lanes.decode(tokens, range(len(tokens)), [2] * len(tokens), [])
    state = contexts.read(Pool.LANES, 2, len(tokens))
    borders = [0, 64, 128, len(tokens)]
    parts: list[Part] = [
        (state.cut(start, end), end - start, end - start) for start, end in itertools.pairwise(borders)
    ]
    computed = greedy(contexts, Pool.LANES, 2, tokens[0], len(tokens))
    contexts.forget(Pool.LANES, 2)  # unified lanes round alike in the same cells only
    assert contexts.write(pool, 1, layout, Prefix.of(parts))
    restored = greedy(contexts, pool, 1, tokens[0], len(tokens))
    assert np.array_equal(computed, restored)


@pytest.mark.parametrize("kind", ["unified", "flash", "q8_0", "stretched"])
def test_kv_is_shared_where_parameters_do_not_change_it_only(
    models: Models, contexts_of: ContextsOf, kind: str
) -> None:
    """Names of blocks hold what their bytes depend on; lanes that are laid out otherwise hold the same bytes."""
    own, other = (
        Kv(contexts_of(name), (str(models(name)[1]),), None, lambda: None) for name in ("smollm2", f"smollm2 {kind}")
    )
    chains = [kv.chain(ALICE, 0) for kv in (own, other)]
    names = [chain.block(0, range(64)).name for chain in chains if chain is not None]
    assert (names[0] == names[1]) is (kind == "unified")


def test_the_disk_is_asked_for_no_more_than_ram_has_room_for(
    models: Models, contexts_of: ContextsOf, tmp_path: Path
) -> None:
    """Its thread reads on while a step is computed, however long that takes."""
    contexts = contexts_of("llama")
    written: queue.SimpleQueue[None] = queue.SimpleQueue()
    kv = Kv(contexts, (str(models("llama")[1]),), tmp_path, lambda: written.put(None))
    layout = contexts.prove()
    two = CacheBudget(ram_bytes=2 * layout.block_bytes(64), ssd_bytes=64 << 20)
    lanes = contexts.of(Pool.LANES)
    assert lanes is not None
    prompts = [[start, *range(127)] for start in (1, 2)]
    kv.set_budget(two)
    for lane, tokens in enumerate(prompts):
        lanes.decode(tokens, range(128), [lane] * 128, [])
        kv.save(kv.chain(ALICE, 0), tokens, Pool.LANES, lane, 128, tail=False)
    found: queue.SimpleQueue[list[tuple[bytes, Bytes]]] = queue.SimpleQueue()
    while kv.report(0).ssd.blocks < 4:
        written.get(timeout=60)
    kv.set_budget(replace(two, ram_bytes=0))  # all that RAM has goes
    kv.set_budget(two)
    first, second = (kv.missing(kv.chain(ALICE, 0), tokens) for tokens in prompts)
    assert [len(missing.ids) for missing in (first, second)] == [2, 2]
    assert kv.fetch(first, found.put)
    assert not kv.fetch(second, found.put)
    assert len(found.get(timeout=60)) == 2
    kv.let_go(first)
    assert kv.fetch(second, found.put)
    assert len(found.get(timeout=60)) == 2
    kv.close()


def test_memory_of_blocks_that_a_smaller_budget_evicts_is_given_back(
    models: Models, contexts_of: ContextsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[None] = []
    monkeypatch.setattr(kv_module, "give_back_freed", lambda: given.append(None))
    contexts = contexts_of("llama")
    kv = Kv(contexts, (str(models("llama")[1]),), None, lambda: None)
    block_bytes = contexts.prove().block_bytes(64)
    monkeypatch.setattr(kv_module, "_MUCH_FREED_BYTES", 2 * block_bytes)
    kv.set_budget(CacheBudget(ram_bytes=3 * block_bytes, ssd_bytes=0))
    lanes = contexts.of(Pool.LANES)
    assert lanes is not None
    lanes.decode(range(192), range(192), [0] * 192, [])
    kv.save(kv.chain(ALICE, 0), range(192), Pool.LANES, 0, 192, tail=False)
    calls = []
    for blocks in (3, 2, 1, 0):  # also where each takes little
        kv.set_budget(CacheBudget(ram_bytes=blocks * block_bytes, ssd_bytes=0))
        calls.append(len(given))
    assert calls == [0, 0, 1, 1]


def test_a_state_of_another_model_is_refused_and_leaves_nothing(contexts_of: ContextsOf) -> None:
    contexts, others = contexts_of("llama"), contexts_of("sliding")
    lanes = others.of(Pool.LANES)
    assert lanes is not None
    lanes.decode([1, 2, 3], range(3), [0] * 3, [])
    foreign = parse(lanes.read_state(0))
    assert not contexts.write(Pool.LANES, 0, foreign.layout, Prefix.of([(foreign.cut(0, 3), 3, 3)]))
    with pytest.raises(UnknownForm):
        contexts.read(Pool.LANES, 0, 3).cut(0, 3)


# --- The engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "language"), CASES)
def test_a_conversation_that_returns_computes_its_new_tokens_only_also_after_a_restart(
    models: Models, start: Start, name: str, language: str
) -> None:
    model, _ = models(name)
    first = start(name)
    prompt = text_tokens(models, name, language)
    (text,), _ = first.run(prompt)
    answered = [*prompt, *model.tokenize(text, add_special=False)]
    turn_two = [*answered, *prompt[1:20]]
    from_ram, end = first.run(turn_two)
    kept = end.cached_tokens
    assert kept >= len(prompt) - 1
    written = first.until_report(lambda report: report.ssd.blocks >= report.ram.blocks)
    assert written.ssd.blocks == written.ram.blocks
    first.engine.stop()
    second = start(name)
    from_ssd, end = second.run(turn_two)
    assert end.cached_tokens >= 128
    if end.cached_tokens == kept:
        assert from_ssd == from_ram
    assert second.until_report(lambda report: report.hits == 1).ssd_hits == 1


def test_a_prompt_comes_from_the_cache_short_of_its_last_token(models: Models, start: Start) -> None:
    running = start()
    prompt = text_tokens(models, "llama", count=100)
    running.run(prompt)
    assert running.run(prompt)[1].cached_tokens == 99


def test_two_tenants_with_the_same_prompt_share_no_block(models: Models, start: Start) -> None:
    running = start()
    prompt = text_tokens(models, "llama")
    _, cold = running.run(prompt, partition=ALICE)
    before = running.until_report(lambda report: report.lookups == 1 and report.ram.blocks > 0).ram.blocks
    _, stranger = running.run(prompt, partition=BOB)
    assert (cold.cached_tokens, stranger.cached_tokens) == (0, 0)
    assert (
        running.until_report(lambda report: report.lookups == 2 and report.ram.blocks > before).ram.blocks == 2 * before
    )


def test_a_salt_parts_requests_of_one_tenant(models: Models, start: Start) -> None:
    running = start()
    prompt = text_tokens(models, "llama")
    salted = Partition(name="alice", key=b"a" * 32, salt="pepper")
    running.run(prompt, partition=ALICE)
    assert running.run(prompt, partition=salted)[1].cached_tokens == 0
    assert running.run(prompt, partition=salted)[1].cached_tokens == len(prompt) - 1


def test_a_declared_prompt_is_computed_once_for_all_tenants(models: Models, start: Start) -> None:
    running = start()
    prompt = text_tokens(models, "llama")
    shared = {"shared_name": "ours", "shared_key": b"s" * 32, "shareable_messages": 1}
    partitions = [Partition(name=name, key=name[:1].encode() * 32, **shared) for name in ("alice", "bob")]  # type: ignore[arg-type]
    running.run(prompt, partition=partitions[0], shared_tokens=130)
    assert running.run(prompt, partition=partitions[1], shared_tokens=130)[1].cached_tokens == 128


def test_a_request_without_a_partition_leaves_nothing_behind(models: Models, start: Start) -> None:
    running = start()
    prompt = text_tokens(models, "llama")
    running.run(prompt, partition=None)
    assert running.run(prompt)[1].cached_tokens == 0


def test_choices_share_the_computing_of_their_prompt(models: Models, start: Start) -> None:
    running = start(budget=CacheBudget(ram_bytes=0, ssd_bytes=0))
    prompt = text_tokens(models, "llama")
    texts, end = running.run(prompt, n=3, sampling=Sampling(temperature=1.0, seed=7))
    assert (end.prompt_tokens, end.completion_tokens, end.reason) == (len(prompt), 24, FinishReason.LENGTH)
    assert len(set(texts)) == 3
    assert running.run(prompt, n=3, sampling=Sampling(temperature=1.0, seed=7))[0] == texts


def test_greedy_choices_are_alike(models: Models, start: Start) -> None:
    running = start()
    texts, _ = running.run(text_tokens(models, "llama"), n=2)
    assert texts[0] == texts[1]


def test_ram_never_exceeds_its_budget_and_what_goes_out_is_still_on_ssd(models: Models, start: Start) -> None:
    token_bytes = 256
    budget = CacheBudget(ram_bytes=300 * token_bytes, ssd_bytes=64 << 20)
    running = start(budget=budget)
    prompts = [text_tokens(models, "llama", count=120 + index)[index:] for index in range(6)]
    for prompt in prompts:
        running.run(prompt)
    report = running.until_report(lambda report: report.ssd.blocks >= 12)
    assert report.ram.bytes <= budget.ram_bytes and report.ram.evicted_blocks > 0
    assert running.run(prompts[0])[1].cached_tokens >= 64
    assert running.until_report(lambda report: report.ssd_hits == 1).ram.bytes <= budget.ram_bytes


def test_a_budget_of_nothing_empties_both_tiers(models: Models, start: Start, tmp_path: Path) -> None:
    running = start()
    prompt = text_tokens(models, "llama")
    running.run(prompt)
    running.until_report(lambda report: report.ssd.blocks > 0)
    running.engine.set_cache_budget(CacheBudget(ram_bytes=0, ssd_bytes=0))
    report = running.until_report(lambda report: not report.ram.enabled and report.ssd.bytes == 0)
    assert (report.ram.bytes, report.ssd.blocks) == (0, 0)
    assert running.run(prompt)[1].cached_tokens == 0
    assert not list((tmp_path / "kv").rglob("*.kv"))


def test_sequences_that_outgrow_the_long_pool_together_give_way_and_all_end(models: Models, start: Start) -> None:
    running = start()
    prompts = [text_tokens(models, "llama", count=270 - index)[index:] for index in range(3)]
    jobs = [running.submit(prompt, max_tokens=512 - len(prompt)) for prompt in prompts]
    for prompt, (_, end) in zip(prompts, running.finish(jobs), strict=True):
        assert end.completion_tokens == 512 - len(prompt)
    running.until_report(lambda report: report.context_tokens == 0)


def test_what_is_cancelled_while_it_waits_for_the_disk_leaves_nothing_pinned(models: Models, start: Start) -> None:
    first = start()
    prompt = text_tokens(models, "llama")
    first.run(prompt)
    first.until_report(lambda report: report.ssd.blocks >= report.ram.blocks > 0)
    first.engine.stop()
    second = start()
    job = second.submit(prompt)
    second.engine.cancel(job)
    (_, end) = second.finish([job])[0]
    assert end.reason is FinishReason.CANCELLED
    second.engine.set_cache_budget(CacheBudget(ram_bytes=0, ssd_bytes=0))
    assert second.until_report(lambda report: not report.ram.enabled).ram.bytes == 0
