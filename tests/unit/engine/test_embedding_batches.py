"""Which inputs are embedded next, driven by hand."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.embedding_batches import Batches, Capacity, Turn

ENCODER = Capacity(whole=True, slots=4, batch_tokens=64, tokens=64)
DECODER = Capacity(whole=False, last_only=True, slots=4, batch_tokens=64, tokens=128)
AVERAGING = replace(DECODER, last_only=False)


def batches(capacity: Capacity, **requests: Sequence[int]) -> Batches:
    """With one request for each name, of inputs of these lengths, all of one tenant."""
    made = Batches(capacity)
    for owner, lengths in requests.items():
        add(made, owner, lengths)
    return made


def add(to: Batches, owner: str, lengths: Sequence[int], tenant: str = "t", priority: int = 5) -> None:
    to.add(owner, [[7] * length for length in lengths], tenant=tenant, priority=priority)


def compute(on: Batches, budget: int = 64) -> Turn:
    """Plan a turn and report it as computed."""
    turn = on.plan(budget)
    for chunk in turn.advance + turn.pooled:
        on.done(chunk)
    return turn


def shape(turn: Turn) -> list[tuple[object, int, int]]:
    return [(chunk.input.owner, chunk.input.index, chunk.count) for chunk in turn.pooled]


def test_an_encoder_takes_as_many_whole_inputs_as_fit_into_a_batch() -> None:
    turn = batches(ENCODER, a=[20, 30, 14, 1]).plan(64)
    assert shape(turn) == [("a", 0, 20), ("a", 1, 30), ("a", 2, 14)]
    assert [chunk.input.slot for chunk in turn.pooled] == [0, 1, 2]


def test_inputs_of_several_requests_share_a_batch() -> None:
    assert {owner for owner, _, _ in shape(batches(ENCODER, a=[5], b=[5], c=[5]).plan(64))} == {"a", "b", "c"}


def test_no_more_inputs_than_slots_go_into_a_batch() -> None:
    assert len(batches(ENCODER, a=[1] * 9).plan(64).pooled) == 4


def test_an_encoders_input_that_is_longer_than_the_budget_goes_alone() -> None:
    made = batches(ENCODER, a=[50, 5])
    assert shape(compute(made, budget=32)) == [("a", 0, 50)]
    assert shape(compute(made, budget=32)) == [("a", 1, 5)]


def test_an_encoders_input_that_is_longer_than_the_batch_asks_for_a_larger_context() -> None:
    made = batches(ENCODER, a=[65])
    assert made.plan(64) == Turn(grow_to=65)
    made.capacity = replace(ENCODER, batch_tokens=128, tokens=128)
    assert shape(compute(made, budget=64)) == [("a", 0, 65)]


def test_a_decoder_pools_last_tokens_only_and_all_together() -> None:
    turn = batches(DECODER, a=[10, 20]).plan(64)
    assert [(chunk.input.index, chunk.count) for chunk in turn.advance] == [(0, 9), (1, 19)]
    assert shape(turn) == [("a", 0, 1), ("a", 1, 1)]


def test_a_single_token_needs_no_advance() -> None:
    turn = batches(DECODER, a=[1]).plan(64)
    assert turn.advance == () and shape(turn) == [("a", 0, 1)]


def test_a_long_input_is_computed_in_chunks_within_the_budget() -> None:
    made = batches(DECODER, a=[100])
    turns = [compute(made, budget=40) for _ in range(3)]
    assert [[chunk.count for chunk in turn.advance] for turn in turns] == [[40], [40], [19]]
    assert [len(turn.pooled) for turn in turns] == [0, 0, 1]
    assert not made.running


def test_a_decoder_that_averages_pools_every_chunk() -> None:
    made = batches(AVERAGING, a=[100])
    assert [shape(compute(made, budget=40)) for _ in range(3)] == [[("a", 0, 40)], [("a", 0, 40)], [("a", 0, 20)]]


def test_inputs_wait_until_there_are_cells_for_all_of_them() -> None:
    made = batches(AVERAGING, a=[100, 100])
    compute(made, budget=50)
    assert shape(compute(made, budget=64)) == [("a", 0, 50)]
    assert shape(compute(made, budget=64)) == [("a", 1, 64)]


def test_a_context_grows_for_a_long_input_once_those_who_run_have_ended() -> None:
    made = batches(AVERAGING, a=[100, 300])
    assert shape(compute(made, budget=64)) == [("a", 0, 64)]
    assert shape(compute(made, budget=64)) == [("a", 0, 36)]
    assert made.plan(64) == Turn(grow_to=300)


def test_one_line_does_not_wait_for_two_thousand() -> None:
    made = batches(ENCODER, long=[30] * 2000)
    compute(made)
    add(made, "short", [10])
    assert ("short", 0, 10) in shape(compute(made))


def test_tenants_get_the_same_number_of_tokens_whatever_they_ask_for() -> None:
    made = Batches(replace(ENCODER, slots=8))
    for owner in "abc":
        add(made, owner, [8] * 100, tenant="greedy")
    add(made, "d", [8] * 100, tenant="modest")
    given = [owner for _ in range(10) for owner, _, _ in shape(compute(made))]
    assert len(given) == 80 and given.count("d") == 40


def test_a_tenant_that_was_away_gets_no_more_than_its_share_now() -> None:
    made = Batches(ENCODER)
    add(made, "a", [16] * 100, tenant="early")
    for _ in range(10):
        compute(made)
    add(made, "b", [16] * 100, tenant="late")
    given = [owner for _ in range(4) for owner, _, _ in shape(compute(made))]
    assert given.count("a") == given.count("b")


def test_priority_decides_between_the_requests_of_a_tenant() -> None:
    made = Batches(ENCODER)
    add(made, "later", [60], priority=1)
    add(made, "now", [60], priority=9)
    assert shape(compute(made)) == [("now", 0, 60)]


def test_a_removed_request_leaves_its_slots_and_nothing_behind() -> None:
    made = batches(AVERAGING, a=[100, 100], b=[20])
    compute(made, budget=50)
    assert [input.index for input in made.remove("a")] == [0]
    assert shape(compute(made)) == [("b", 0, 20)]
    assert made.plan(64) == Turn() and not made.running
    assert made.remove("a") == []


@given(
    st.sampled_from([ENCODER, DECODER, AVERAGING]),
    st.lists(st.tuples(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.sampled_from("xyz")), max_size=6),
    st.integers(1, 64),
)
def test_every_token_of_every_input_is_computed_once_and_within_what_there_is(
    capacity: Capacity, requests: list[tuple[list[int], str]], budget: int
) -> None:
    made = Batches(capacity)
    for number, (lengths, tenant) in enumerate(requests):
        add(made, str(number), lengths, tenant=tenant)
    computed: dict[tuple[object, int], int] = {}
    for _ in range(sum(sum(lengths) for lengths, _ in requests) + len(requests) * 5 + 1):
        turn = made.plan(budget)
        if turn == Turn():
            break
        if turn.grow_to is not None:
            made.capacity = replace(
                made.capacity,
                tokens=256,
                batch_tokens=256 if capacity.whole else capacity.batch_tokens,
            )
            continue
        for batch in (turn.advance, turn.pooled):
            assert sum(chunk.count for chunk in batch) <= max(made.capacity.batch_tokens, capacity.slots)
        chunks = turn.advance + turn.pooled
        inputs = {chunk.input for chunk in chunks}
        assert len({input.slot for input in inputs}) == len(inputs) <= capacity.slots
        assert sum(len(input.tokens) for input in inputs) <= made.capacity.tokens
        for chunk in chunks:
            key = (chunk.input.owner, chunk.input.index)
            computed[key] = computed.get(key, 0) + chunk.count
            made.done(chunk)
    expected = {(str(n), i): length for n, (lengths, _) in enumerate(requests) for i, length in enumerate(lengths)}
    assert computed == expected and not made.running
