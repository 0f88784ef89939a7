"""What the engine relies on in llama.cpp, proven on a real model."""

from pathlib import Path

import numpy as np
import pytest

from inference import memory
from inference.engine.cache.state import join, parse
from inference.engine.llama import LlamaError, Model, silence_native_log


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Model:
    silence_native_log(lambda level, text: None, verbose=False)
    return Model([str(smollm2)], lambda fraction: None)


@pytest.mark.parametrize("slot", [0, 7, 15])
def test_a_sequence_copied_to_the_long_context_gives_the_same_logits_to_the_last_bit(model: Model, slot: int) -> None:
    lanes = model.create_context(tokens=16 * 256, sequences=16, unified=False, batch_tokens=256, threads=2)
    long = model.create_context(tokens=1024, sequences=4, unified=True, batch_tokens=256, threads=2)
    tokens = model.tokenize("The quick brown fox jumps over the lazy dog. " * 12, add_special=True)
    lanes.decode(tokens, range(len(tokens)), [slot] * len(tokens), [len(tokens) - 1])
    state = parse(lanes.read_state(slot))
    whole = (state.cut(0, len(tokens)), len(tokens), len(tokens))
    assert long.write_state(2, join(state.layout, [whole], slot=2, streams=1))
    assert long.positions(2) == (0, len(tokens) - 1)
    rows = []
    for context, where in ((lanes, slot), (long, 2)):
        context.decode([400], [len(tokens)], [where], [0])
        rows.append(context.logits(1)[0].copy())
    assert np.array_equal(rows[0], rows[1])


def test_rows_of_logits_are_in_the_order_of_the_batch(model: Model) -> None:
    """Split cells compute a batch sequence by sequence; the outputs must come back in the batch's order."""
    prompts = [
        model.tokenize(text, add_special=True) for text in ("The capital of France is", "Two plus two equals", "A")
    ]
    alone = []
    for prompt in prompts:
        context = model.create_context(tokens=256, sequences=4, unified=False, batch_tokens=64, threads=2)
        context.decode(prompt, range(len(prompt)), [0] * len(prompt), [len(prompt) - 1])
        alone.append(int(context.logits(1)[0].argmax()))
    together = model.create_context(tokens=256, sequences=4, unified=False, batch_tokens=64, threads=2)
    tokens = [token for prompt in prompts for token in prompt]
    positions = [position for prompt in prompts for position in range(len(prompt))]
    slots = [slot for slot, prompt in zip((3, 0, 2), prompts, strict=True) for _ in prompt]
    ends = np.cumsum([len(prompt) for prompt in prompts]) - 1
    together.decode(tokens, positions, slots, [int(end) for end in ends])
    assert [int(row.argmax()) for row in together.logits(3)] == alone


def test_cells_that_there_is_no_memory_for_are_refused_before_the_kernel_ends_the_process(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux grants them, and the process dies of using them."""
    with monkeypatch.context() as patch:
        patch.setattr(memory, "available_bytes", lambda: 128 << 20)
        with pytest.raises(LlamaError, match="a context of 16384 tokens, for want of memory"):
            model.create_context(tokens=16384, sequences=1, unified=True, batch_tokens=64, threads=2)
        model.create_context(tokens=256, sequences=1, unified=True, batch_tokens=64, threads=2).close()
    model.create_context(tokens=16384, sequences=1, unified=True, batch_tokens=64, threads=2).close()


def test_text_survives_the_way_through_tokens(model: Model) -> None:
    text = "Hello, مرحبا بالعالم, 你好, 👩‍👩‍👧!"
    assert b"".join(model.piece(token) for token in model.tokenize(text, add_special=False)).decode() == text
