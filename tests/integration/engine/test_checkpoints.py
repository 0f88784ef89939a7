"""Models with recurrent layers, alone (Mamba) and beside attention (Jamba), resume at checkpoints, to the last bit.

Texts are compared between runs with the same batch shapes only: llama.cpp rounds differently for others. A prompt is
cut at its checkpoint whether anything is cached or not, so what is computed behind it has the same shapes.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.engine.cache.state import Prefix, UnknownForm
from inference.engine.contexts import Contexts
from inference.engine.kv import Kv
from inference.engine.llama import Context
from inference.engine.sequences import Limits, Pool
from inference.engine.sequences import Sequence as Tokens
from inference.protocol import CacheBudget, Partition, Sampling
from tests.integration.engine.kv_rig import (
    ALICE,
    BOB,
    LIMITS,
    PROMPTS,
    ROOMY,
    ContextsOf,
    Models,
    Start,
    greedy,
    text_tokens,
)

SHAPES = ("recurrent", "hybrid", "recurrent unified", "hybrid unified")
CASES = [
    *itertools.product(SHAPES[:2], PROMPTS),
    *itertools.product((*SHAPES[2:], "hybrid flash", "hybrid stretched"), ["english"]),
]
CHECKPOINT = 64
"""In a prompt of 140 tokens the last 16 may be the template's: 124 // 64 * 64."""


# --- Contexts --------------------------------------------------------------------------------------------------------


def computed(contexts: Contexts, tokens: list[int], slot: int) -> Prefix:
    lanes = contexts.of(Pool.LANES)
    assert lanes is not None
    lanes.decode(tokens, range(len(tokens)), [slot] * len(tokens), [])
    return contexts.read(Pool.LANES, slot, len(tokens)).prefix()[1]


@pytest.mark.parametrize(("name", "language"), CASES)
@pytest.mark.parametrize("pool", Pool)
def test_logits_after_a_restore_are_those_of_where_it_was_computed(
    models: Models, contexts_of: ContextsOf, name: str, language: str, pool: Pool
) -> None:
    contexts = contexts_of(name)
    layout = contexts.prove()
    tokens = text_tokens(models, name, language)
    prefix = computed(contexts, tokens, 2)
    wanted = greedy(contexts, Pool.LANES, 2, tokens[0], len(tokens))
    contexts.forget(Pool.LANES, 2)  # unified lanes round alike in the same cells only
    assert contexts.write(pool, 1, layout, prefix)
    assert np.array_equal(greedy(contexts, pool, 1, tokens[0], len(tokens)), wanted)


@pytest.mark.parametrize("name", SHAPES)
def test_a_state_comes_and_goes_beside_others_that_run(models: Models, contexts_of: ContextsOf, name: str) -> None:
    """llama.cpp moves the cells of recurrent layers as sequences come, go and run in changing company."""
    contexts = contexts_of(name)
    layout = contexts.prove()
    lanes = contexts.of(Pool.LANES)
    assert lanes is not None
    saved, next_steps = {}, {}
    texts = {slot: text_tokens(models, name, count=40 + slot)[slot:] for slot in range(LIMITS.lanes)}
    for slot, tokens in texts.items():
        saved[slot] = computed(contexts, tokens, slot)
    for slot in texts:
        next_steps[slot] = greedy(contexts, Pool.LANES, slot, 5, 40, count=3)
    for order in itertools.permutations(texts):
        for slot in order[:2]:
            assert contexts.write(Pool.LANES, slot, layout, saved[slot])
        together = sorted(order[:2])
        lanes.decode([5, 5], [40, 40], together, [0, 1])
        rows = lanes.logits(2).copy()
        for row, slot in zip(rows, together, strict=True):
            np.testing.assert_allclose(row, next_steps[slot][0], atol=1e-3)
    for slot in texts:
        assert contexts.write(Pool.LANES, slot, layout, saved[slot])
        if "unified" not in name:
            assert np.array_equal(greedy(contexts, Pool.LANES, slot, 5, 40, count=3), next_steps[slot])


@pytest.mark.parametrize("name", SHAPES)
def test_a_sequence_that_fills_its_lane_moves_and_goes_on_alike(
    models: Models, contexts_of: ContextsOf, name: str
) -> None:
    contexts = contexts_of(name)
    layout = contexts.prove()
    kv = Kv(contexts, (str(models(name)[1]),), None, lambda: None)
    tokens = text_tokens(models, name, count=200)
    prefix = computed(contexts, tokens, 0)
    wanted = greedy(contexts, Pool.LANES, 0, 5, 200)
    assert contexts.write(Pool.LANES, 0, layout, prefix)
    assert kv.move(0, 1, 200)
    assert np.array_equal(greedy(contexts, Pool.LONG, 1, 5, 200), wanted)


@pytest.mark.parametrize("name", ["recurrent", "hybrid"])
def test_a_long_state_is_read_back_range_by_range(models: Models, contexts_of: ContextsOf, name: str) -> None:
    contexts = contexts_of(name)
    layout = contexts.prove()
    tokens = text_tokens(models, name, count=200)
    prefix = computed(contexts, tokens, 0)
    assert contexts.write(Pool.LONG, 1, layout, prefix)
    assert contexts.write(Pool.LONG, 0, layout, prefix)
    _, again = contexts.read(Pool.LONG, 1, len(tokens)).prefix(range_tokens=64)
    assert again.checkpoint is not None and prefix.checkpoint is not None
    assert np.array_equal(again.checkpoint, prefix.checkpoint)
    borders = [*range(0, len(tokens), 64), len(tokens)]
    lane = contexts.read(Pool.LANES, 0, len(tokens))
    for (payload, _, _), (first, last) in zip(again.parts, itertools.pairwise(borders), strict=False):
        assert np.array_equal(payload, lane.cut(first, last))
    assert len(again.parts) == (0 if name == "recurrent" else 4)


def test_a_checkpoint_of_another_number_of_tokens_is_refused(models: Models, contexts_of: ContextsOf) -> None:
    contexts = contexts_of("hybrid")
    layout = contexts.prove()
    short = computed(contexts, text_tokens(models, "hybrid", count=40), 0)
    long = computed(contexts, text_tokens(models, "hybrid", count=41), 1)
    assert not contexts.write(Pool.LANES, 2, layout, Prefix(40, short.parts, long.checkpoint))
    with pytest.raises(UnknownForm):
        contexts.read(Pool.LANES, 2, 40).prefix()


def test_a_state_that_does_not_come_back_alike_is_told_apart_and_nothing_is_cached(
    models: Models, contexts_of: ContextsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = contexts_of("recurrent")
    lanes = contexts.of(Pool.LANES)
    assert lanes is not None
    honest = lanes.write_state

    def write_state(slot: int, state: np.ndarray) -> bool:
        state[-1] ^= 1
        return honest(slot, state)

    monkeypatch.setattr(lanes, "write_state", write_state)
    kv = Kv(contexts, (str(models("recurrent")[1]),), None, lambda: None)
    report = kv.report(0)
    assert not report.ram.possible and "reads out differently" in report.ram.reason
    assert kv.chain(ALICE, 0) is None and kv.stops(140, 0) == ()
    sequence = Tokens(key=0, tokens=[1, 2, 3], limit=8, pool=Pool.LANES, slot=0)
    assert kv.restore(sequence, None, Prefix()) == 0


def test_recurrent_layers_beside_a_sliding_window_are_told_apart(
    models: Models, contexts_of: ContextsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models("hybrid")[0], "window_tokens", 16)
    with pytest.raises(UnknownForm, match="beside a sliding window"):
        contexts_of("hybrid").prove()


# --- The engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "language"), CASES)
def test_the_same_text_comes_from_computing_from_ram_and_from_ssd_after_a_restart(
    models: Models, start: Start, name: str, language: str
) -> None:
    first = start(name)
    prompt = text_tokens(models, name, language)
    cold, end = first.run(prompt)
    assert end.cached_tokens == 0
    from_ram, end = first.run(prompt)
    assert (from_ram, end.cached_tokens) == (cold, CHECKPOINT)
    written = first.until_report(lambda report: report.lookups == 2 and report.ssd.blocks >= report.ram.blocks > 0)
    assert written.cached_tokens == CHECKPOINT and written.prompt_tokens == 2 * len(prompt)
    first.engine.stop()
    second = start(name)
    from_ssd, end = second.run(prompt)
    assert (from_ssd, end.cached_tokens) == (cold, CHECKPOINT)
    assert second.until_report(lambda report: report.hits == 1).ssd_hits == 1


@pytest.mark.parametrize("name", SHAPES)
def test_a_conversation_that_returns_computes_its_new_tokens_only_also_after_a_restart(
    models: Models, start: Start, name: str
) -> None:
    first = start(name)
    prompt = text_tokens(models, name)
    first.run(prompt, sampling=Sampling(temperature=0, logit_bias={7: 100.0}))
    answered = [*prompt, *[7] * 8]
    turn_two = [*answered, *prompt[1:20]]
    from_ram, end = first.run(turn_two)
    assert end.cached_tokens == len(answered) - 1, "all but the last token, which was chosen and never computed"
    first.until_report(lambda report: report.ssd.blocks >= report.ram.blocks > 0)
    first.engine.stop()
    second = start(name)
    from_ssd, end = second.run(turn_two)
    assert (from_ssd, end.cached_tokens) == (from_ram, len(answered) - 1)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens llama.cpp was given, call by call."""
    counts: list[int] = []
    decode = Context.decode

    def counting(context: Context, tokens: list[int], *rest: Any) -> None:
        counts.append(len(tokens))
        decode(context, tokens, *rest)

    monkeypatch.setattr(Context, "decode", counting)
    return counts


@pytest.mark.parametrize("name", SHAPES[:2])
def test_a_hit_is_counted_for_tokens_that_are_not_computed_only(
    models: Models, start: Start, decoded: list[int], name: str
) -> None:
    running = start(name)
    prompt = text_tokens(models, name)
    for cached in (0, CHECKPOINT):
        decoded.clear()
        _, end = running.run(prompt)
        assert end.cached_tokens == cached
        assert sum(decoded) == len(prompt) - cached + end.completion_tokens - 1
    report = running.until_report(lambda report: report.lookups == 2)
    assert (report.prompt_tokens, report.cached_tokens, report.hits) == (2 * len(prompt), CHECKPOINT, 1)


@pytest.mark.parametrize("name", SHAPES[:2])
def test_broken_files_cost_computing_again_and_nothing_else(
    models: Models, start: Start, tmp_path: Path, name: str
) -> None:
    first = start(name)
    prompt = text_tokens(models, name)
    cold, _ = first.run(prompt)
    first.until_report(lambda report: report.ssd.blocks >= report.ram.blocks > 0)
    first.engine.stop()
    for file in (tmp_path / "kv").rglob("*.kv"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    text, end = start(name).run(prompt)
    assert (text, end.cached_tokens) == (cold, 0)


@pytest.mark.parametrize("name", SHAPES[:2])
def test_an_answer_that_repeats_itself_is_not_guessed_where_a_wrong_guess_could_not_be_taken_back(
    models: Models, start: Start, decoded: list[int], name: str
) -> None:
    running = start(name)
    decoded.clear()
    prompt = text_tokens(models, name, count=20)
    running.run(prompt, max_tokens=100, sampling=Sampling(temperature=0, logit_bias={7: 100.0}))
    assert decoded == [len(prompt), *[1] * 99]


@pytest.mark.parametrize("name", SHAPES[:2])
def test_two_tenants_with_the_same_prompt_share_nothing(models: Models, start: Start, name: str) -> None:
    running = start(name)
    prompt = text_tokens(models, name)
    running.run(prompt, partition=ALICE)
    before = running.until_report(lambda report: report.lookups == 1 and report.ram.blocks > 0).ram
    _, stranger = running.run(prompt, partition=BOB)
    assert stranger.cached_tokens == 0
    after = running.until_report(lambda report: report.lookups == 2 and report.ram.blocks > before.blocks).ram
    assert (after.blocks, after.bytes) == (2 * before.blocks, 2 * before.bytes)


@pytest.mark.parametrize("name", SHAPES[:2])
def test_a_declared_prompt_is_computed_once_for_all_tenants(models: Models, start: Start, name: str) -> None:
    running = start(name)
    prompt = text_tokens(models, name, count=230)
    shared = {"shared_name": "ours", "shared_key": b"s" * 32, "shareable_messages": 1}
    alice, bob = (Partition(name=who, key=who[:1].encode() * 32, **shared) for who in ("alice", "bob"))  # type: ignore[arg-type]
    running.run(prompt, partition=alice, shared_tokens=130)
    other = [*prompt[:130], *prompt[1:80]]
    assert running.run(other, partition=bob, shared_tokens=130)[1].cached_tokens == 128


@pytest.mark.parametrize("name", SHAPES[:2])
def test_choices_go_on_from_the_state_of_their_prompt(
    models: Models, start: Start, decoded: list[int], name: str
) -> None:
    running = start(name, budget=CacheBudget(ram_bytes=0, ssd_bytes=0))
    prompt = text_tokens(models, name)
    alone, _ = running.run(prompt)
    decoded.clear()
    alike, end = running.run(prompt, n=3)
    assert alike == alone * 3 and end.completion_tokens == 24
    assert sum(decoded) == len(prompt) + 3 * 7, "the prompt is computed once"
    texts, _ = running.run(prompt, n=3, sampling=Sampling(temperature=1.0, seed=7))
    assert len(set(texts)) == 3
    assert running.run(prompt, n=3, sampling=Sampling(temperature=1.0, seed=7))[0] == texts


@pytest.mark.parametrize("name", SHAPES[:2])
def test_sequences_that_outgrow_the_long_pool_together_give_way_and_all_end(
    models: Models, start: Start, name: str
) -> None:
    running = start(name)
    prompts = [text_tokens(models, name, count=270 - index)[index:] for index in range(3)]
    jobs = [running.submit(prompt, max_tokens=512 - len(prompt)) for prompt in prompts]
    for prompt, (_, end) in zip(prompts, running.finish(jobs), strict=True):
        assert end.completion_tokens == 512 - len(prompt)
    running.until_report(lambda report: report.context_tokens == 0)


@pytest.mark.parametrize("name", SHAPES[:2])
def test_ram_never_exceeds_its_budget_and_what_went_out_is_still_on_ssd(
    models: Models, start: Start, name: str
) -> None:
    roomy = start(name, budget=ROOMY)
    prompts = [text_tokens(models, name, count=120 + index)[index:] for index in range(6)]
    roomy.run(prompts[0])
    one = roomy.until_report(lambda report: report.ram.blocks > 0 and report.context_tokens == 0).ram.bytes
    roomy.engine.stop()
    budget = CacheBudget(ram_bytes=2 * one, ssd_bytes=64 << 20)
    running = start(name, budget=budget)
    for prompt in prompts[1:]:
        running.run(prompt)
    report = running.until_report(lambda report: report.ram.evicted_blocks > 0 and report.lookups == 5)
    assert report.ram.bytes <= budget.ram_bytes
    assert running.run(prompts[0])[1].cached_tokens == CHECKPOINT
    assert running.until_report(lambda report: report.ssd_hits == 1).ram.bytes <= budget.ram_bytes


def test_lanes_too_short_to_prove_anything_cache_nothing(models: Models, start: Start) -> None:
    running = start("recurrent", limits=Limits(lanes=1, lane_tokens=256, long_slots=0, long_tokens=0))
    prompt = text_tokens(models, "recurrent")
    first, _ = running.run(prompt)
    again, end = running.run(prompt)
    assert (first, end.cached_tokens) == (again, 0)
    report = running.until_report(lambda report: bool(report.ram.reason))
    assert "too few cells" in report.ram.reason and not report.ssd.enabled
