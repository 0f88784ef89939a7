"""What a load takes."""

import dataclasses

from msgspec.structs import replace

from inference.protocol import EngineParameters
from inference.supervisor.fit import (
    PROCESS_BYTES,
    Footprint,
    Option,
    Weight,
    arithmetic,
    needs,
    options,
    why_never,
)
from registry.gguf import Shape

MIB = 1 << 20
SHAPE = Shape(
    layers=30,
    embedding=576,
    feed_forward=1536,
    heads=9,
    vocabulary=49_152,
    key_elements=30 * 3 * 64,
    value_elements=30 * 3 * 64,
)
"""SmolLM2-135M's."""
WEIGHT = Weight(files_bytes=94 * MIB, context_tokens=8192, shape=SHAPE)
OWN = EngineParameters()
CELL_BYTES = 30 * 2 * 3 * 64 * 2


def ways(weight: Weight = WEIGHT, explicit: EngineParameters = OWN, footprint: Footprint | None = None) -> list[Option]:
    return list(options(weight, explicit, explicit=explicit, footprint=footprint))


def test_lanes_and_the_long_context_are_what_the_engine_will_make() -> None:
    takes = needs(WEIGHT, OWN)
    assert takes.lanes == 16 * 1024 * CELL_BYTES
    assert takes.long == 8192 * CELL_BYTES
    assert takes.weights == 94 * MIB and takes.process == PROCESS_BYTES and takes.learned == 0


def test_parameters_change_what_it_takes() -> None:
    plain = needs(WEIGHT, OWN)
    assert needs(WEIGHT, EngineParameters(lanes=8)).lanes == plain.lanes // 2
    assert needs(WEIGHT, EngineParameters(context_tokens=1024)).long == 0
    assert needs(WEIGHT, EngineParameters(kv_type="f32")).lanes == plain.lanes * 2
    assert needs(WEIGHT, EngineParameters(kv_type="q8_0")).lanes == plain.lanes * 34 // 64
    assert needs(WEIGHT, EngineParameters(unified=True)).computing > plain.computing
    assert needs(WEIGHT, EngineParameters(flash_attention="on")).computing < plain.computing


def test_a_recurrent_model_has_a_state_for_each_sequence_and_no_rows() -> None:
    shape = dataclasses.replace(SHAPE, key_elements=0, value_elements=0, state_elements=1000)
    takes = needs(Weight(files_bytes=1, context_tokens=8192, shape=shape), OWN)
    assert takes.lanes == 16 * 1000 * 4


def test_a_model_that_only_embeds_has_neither_lanes_nor_a_long_context() -> None:
    weight = replace(WEIGHT, embeds_only=True)
    takes = needs(weight, OWN)
    assert takes.lanes == 2048 * CELL_BYTES and takes.long == 0
    assert len(ways(weight)) == 1 and ", cells for 2,048 tokens 45, " in arithmetic(ways(weight)[0])


def test_a_file_that_can_not_be_read_is_taken_at_its_size() -> None:
    assert needs(Weight(files_bytes=MIB), OWN).total == MIB + PROCESS_BYTES


def test_measured_memory_replaces_what_was_reckoned() -> None:
    plain = needs(WEIGHT, OWN)
    at_first = plain.lanes + plain.process + 30 * MIB
    takes = needs(WEIGHT, OWN, Footprint(under=OWN, ready_bytes=at_first, peak_bytes=at_first))
    assert takes.learned == 30 * MIB and takes.total == plain.total + 30 * MIB
    less = plain.lanes + plain.process - 20 * MIB
    assert needs(WEIGHT, OWN, Footprint(under=OWN, ready_bytes=less, peak_bytes=less)).learned == -20 * MIB


def test_the_most_that_was_ever_seen_counts() -> None:
    peak = 2 * needs(WEIGHT, OWN).total
    assert needs(WEIGHT, OWN, Footprint(under=OWN, ready_bytes=1, peak_bytes=peak)).total == peak + WEIGHT.files_bytes


def test_what_was_measured_under_other_parameters_says_nothing() -> None:
    measured = Footprint(under=EngineParameters(lanes=4), ready_bytes=1, peak_bytes=10**12)
    assert needs(WEIGHT, OWN, measured) == needs(WEIGHT, OWN)
    threads = Footprint(under=EngineParameters(threads=1), ready_bytes=1, peak_bytes=10**12)
    assert needs(WEIGHT, OWN, threads).learned > 0, "how many threads compute changes nothing"


def test_what_was_missing_with_fewer_lanes_is_missing_with_more_and_what_was_too_much_says_nothing() -> None:
    under = EngineParameters(lanes=4)
    plain = needs(WEIGHT, under)
    for more, carried in ((30 * MIB, 30 * MIB), (-20 * MIB, 0)):
        size = plain.lanes + plain.process + more
        learned = [way.needs.learned for way in ways(footprint=Footprint(under=under, ready_bytes=size, peak_bytes=0))]
        assert learned == [carried, carried, more, carried, carried, carried]
    other = Footprint(under=EngineParameters(lanes=4, kv_type="q8_0"), ready_bytes=10**12, peak_bytes=0)
    assert all(way.needs.learned == 0 for way in ways(footprint=other))


def test_each_way_is_smaller_than_the_one_before_lanes_first_then_context() -> None:
    sizes = [way.ram_bytes for way in ways()]
    assert sizes == sorted(set(sizes), reverse=True)
    assert [way.less for way in ways()] == [
        "",
        "8 lanes instead of 16",
        "4 lanes instead of 16",
        "2 lanes instead of 16",
        "2 lanes instead of 16 and a context of 4,096 tokens instead of 8,192",
        "2 lanes instead of 16 and a context of 2,048 tokens instead of 8,192",
    ]
    assert ways()[0].smaller == OWN and ways()[1].smaller == EngineParameters(lanes=8)


def test_what_an_operator_has_set_is_never_made_smaller() -> None:
    assert all(way.cells.lanes == 16 for way in ways(explicit=EngineParameters(lanes=16)))
    assert len(ways(explicit=EngineParameters(lanes=16, context_tokens=8192))) == 1


def test_the_arithmetic_adds_up_in_words() -> None:
    text = arithmetic(ways()[0])
    assert text.startswith(f"{round(ways()[0].ram_bytes / MIB):,} MB (weights 94, 16 lanes of 1,024 tokens 360, ")
    assert "a context of 8,192 tokens 180" in text and text.endswith("process 64)")


def test_a_refusal_names_what_it_takes_and_what_there_is() -> None:
    text = why_never(tuple(ways()), ram_bytes=200 * MIB, kept_bytes=120 * MIB)
    assert "at the least" in text and "this node has 200 MB (NOPENAI_NODE_RAM_MB)" in text
    assert "kept loaded take 120 MB" in text
