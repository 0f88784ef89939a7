"""Embeddings by llama.cpp on tiny encoders and decoders, against BERT in numpy and against themselves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from inference.engine.embedding_inputs import EmbeddingInputs
from inference.engine.embeddings import Embedder, EmbeddingJob, pooling_of
from inference.engine.input_checks import PromptRefused
from inference.engine.llama import LlamaError, Model, Pooling, silence_native_log
from inference.protocol import Embed, Embedded, Failed
from tests import bert
from tests.gguf_files import (
    WORD_PIECE_SPECIALS,
    encoder_tensors,
    write_encoder,
    write_model,
    write_recurrent,
    write_sliding,
)

MEAN, CLS, LAST = gguf.PoolingType.MEAN, gguf.PoolingType.CLS, gguf.PoolingType.LAST

TEXTS = ("The cat sat on the mat.", "a dog ran", "king", "Hello, world! and the kings, queens and dogs ran on.")

Vectors = list[NDArray[np.float32]]


def load(path: Path) -> Model:
    silence_native_log(lambda level, text: None, verbose=False)
    return Model([str(path)], lambda fraction: None)


def embedder(model: Model) -> Embedder:
    return Embedder(model, context_tokens=model.trained_context_tokens, threads=2)


def job(model: Model, *inputs: str | tuple[int, ...], id: int = 1, **fields: Any) -> EmbeddingJob:
    request = Embed(id=id, request_id=f"r{id}", inputs=inputs, **fields)
    tokens = EmbeddingInputs(model, model.trained_context_tokens).build(request)
    return EmbeddingJob(peer=0, request=request, inputs=tokens)


def run(on: Embedder, *jobs: EmbeddingJob, budget: int = 512) -> dict[int, Embedded | Failed]:
    for each in jobs:
        on.submit(each)
    answers: dict[int, Embedded | Failed] = {}
    while not on.idle:
        answers |= {message.id: message for _, message in on.step(budget)}
    return answers


def vectors(answer: Embedded | Failed) -> Vectors:
    assert isinstance(answer, Embedded), answer
    return [np.frombuffer(vector, "<f4") for vector in answer.vectors]


def embed(model: Model, *inputs: str | tuple[int, ...], budget: int = 512, **fields: Any) -> Vectors:
    return vectors(run(embedder(model), job(model, *inputs, **fields), budget=budget)[1])


def assert_same(some: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]], tolerance: float = 2e-3) -> None:
    """Attention in 16 bits rounds differently in batches of other shapes; vectors of other texts differ by 0.1."""
    for one, other in zip(some, others, strict=True):
        assert np.abs(one - other).max() < tolerance


# --- Right numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [(MEAN, lambda rows: rows.mean(axis=0)), (CLS, lambda rows: rows[0]), (LAST, lambda rows: rows[-1])],
    ids=["mean", "cls", "last"],
)
def test_a_bert_gives_what_numpy_gives_pooled_as_its_gguf_says(
    tmp_path: Path, pooling: gguf.PoolingType, pool: Callable[[bert.Array], bert.Array]
) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf", pooling=pooling))
    weights = encoder_tensors("bert", 64, 2, 0)
    expected = []
    for text in TEXTS:
        pooled = pool(bert.token_vectors(weights, model.tokenize(text, add_special=True), layers=2))
        expected.append(pooled / np.linalg.norm(pooled))
    # llama.cpp computes GELU from a table of 16-bit floats, and keys and values in 16 bits.
    assert_same(embed(model, *TEXTS), expected, tolerance=5e-3)


def test_words_become_pieces_between_cls_and_sep(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    cls, *pieces, unknown, sep = model.tokenize("Kings ran xyz", add_special=True)
    assert [model.piece(token) for token in pieces] == [b" king", b"s", b" ran"]
    assert [WORD_PIECE_SPECIALS[token] for token in (cls, unknown, sep)] == ["[CLS]", "[UNK]", "[SEP]"]


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert"])
def test_vectors_have_length_one(tmp_path: Path, architecture: str) -> None:
    model = load(write_encoder(tmp_path / "encoder.gguf", architecture=architecture))
    made = embed(model, *TEXTS)
    assert all(vector.shape == (32,) and abs(np.linalg.norm(vector) - 1) < 1e-6 for vector in made)
    assert np.abs(made[0] - made[1]).max() > 0.1


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_encoder(path),
        lambda path: write_encoder(path, architecture="nomic-bert", pooling=CLS),
        lambda path: write_model(path, pooling=MEAN),
        lambda path: write_model(path, pooling=CLS),
        lambda path: write_model(path, pooling=LAST),
        lambda path: write_model(path),
        lambda path: write_sliding(path),
        lambda path: write_recurrent(path),
    ],
    ids=["bert", "nomic-bert", "llama-mean", "llama-cls", "llama-last", "llama-chat", "sliding", "recurrent"],
)
def test_a_batch_of_mixed_lengths_equals_one_by_one(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    model = load(write(tmp_path / "model.gguf"))
    alone = [embed(model, text)[0] for text in TEXTS]
    assert_same(embed(model, *TEXTS * 10), alone * 10)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_model(path, pooling=MEAN),
        lambda path: write_model(path, pooling=LAST),
        lambda path: write_sliding(path, window=16),
        lambda path: write_recurrent(path),
    ],
    ids=["mean", "last", "sliding window", "recurrent"],
)
def test_a_decoders_input_computed_in_chunks_equals_it_computed_at_once(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    model = load(write(tmp_path / "model.gguf"))
    text = "the model says hello " * 15
    assert_same(embed(model, text, budget=7), embed(model, text))


def test_a_decoder_averages_over_all_its_tokens(tmp_path: Path) -> None:
    """The mean of what each prefix ends in: a decoder's token sees nothing of what follows it."""
    averaging = load(write_model(tmp_path / "mean.gguf", pooling=MEAN))
    tokens = tuple(averaging.tokenize("the model says", add_special=True))
    context = averaging.create_embedding_context(
        tokens=256, sequences=1, batch_tokens=64, pooling=Pooling.LAST, threads=2
    )
    rows = [context.embed([token], [position], [0])[0] for position, token in enumerate(tokens)]
    context.close()
    mean = np.mean(rows, axis=0)
    assert_same(embed(averaging, tokens), [mean / np.linalg.norm(mean)])


def test_texts_and_their_tokens_are_the_same_input(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    tokens = tuple(model.tokenize(TEXTS[0], add_special=True))
    assert_same(embed(model, TEXTS[0]), embed(model, tokens))


def test_fewer_dimensions_are_the_leading_ones_at_length_one(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    whole, short = embed(model, TEXTS[0])[0], embed(model, TEXTS[0], dimensions=8)[0]
    assert_same([short], [whole[:8] / np.linalg.norm(whole[:8])])


def test_prompt_tokens_are_counted_exactly(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    answer = run(embedder(model), job(model, *TEXTS))[1]
    assert isinstance(answer, Embedded)
    assert answer.prompt_tokens == sum(len(model.tokenize(text, add_special=True)) for text in TEXTS)


def test_requests_side_by_side_each_get_their_own(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    answers = run(embedder(model), *[job(model, text, id=id) for id, text in enumerate(TEXTS)])
    for id, text in enumerate(TEXTS):
        assert_same(vectors(answers[id]), embed(model, text))


# --- What can't be had ---------------------------------------------------------------------------------------------


def test_an_input_as_long_as_the_context_is_embedded_and_one_token_more_is_refused(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf", context_length=64))
    assert embed(model, (5,) * 64)[0].shape == (32,)
    with pytest.raises(PromptRefused, match=r"65 tokens.*holds 64") as refused:
        job(model, "king", (5,) * 65)
    assert (refused.value.failed.status, refused.value.failed.code) == (400, "context_length_exceeded")
    assert refused.value.failed.param == "input[1]"


def test_a_long_input_gets_a_larger_context_that_is_given_back(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf", context_length=2048))
    one = embedder(model)
    assert vectors(run(one, job(model, (5,) * 1500, "king"))[1])[0].shape == (32,)
    assert one._batches.capacity.tokens == 512
    assert_same(vectors(run(one, job(model, "king"))[1]), embed(model, "king"))


def test_a_decoder_grows_for_a_long_input_too(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model.gguf", context_length=4096))
    one = embedder(model)
    answers = run(one, job(model, "hello", id=1), job(model, (100,) * 4096, id=2), job(model, "hello", id=3))
    assert_same(vectors(answers[1]), vectors(answers[3]))
    assert vectors(answers[2])[0].shape == (32,)


@pytest.mark.parametrize(
    ("inputs", "fields", "code", "param"),
    [
        (("",), {}, None, None),
        (((),), {}, "empty_input", "input"),
        ((), {}, "empty_input", "input"),
        (("a", (1, 10**6)), {}, "invalid_token", "input[1]"),
        (((-1,),), {}, "invalid_token", "input"),
        (("a",), {"dimensions": 33}, "invalid_dimensions", "dimensions"),
    ],
)
def test_a_request_that_can_not_be_served_is_refused_with_the_field_at_fault(
    tmp_path: Path, inputs: tuple[Any, ...], fields: dict[str, int], code: str | None, param: str | None
) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    if code is None:  # [CLS] and [SEP] alone: the gateway refuses empty texts, the model does not mind
        assert len(embed(model, *inputs, **fields)) == 1
        return
    with pytest.raises(PromptRefused) as refused:
        job(model, *inputs, **fields)
    failed = refused.value.failed
    assert (failed.status, failed.code, failed.param) == (400, code, param)


def test_an_answer_that_no_frame_could_carry_is_refused(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf"))
    with pytest.raises(PromptRefused, match="send at most 262144"):
        job(model, *[(5,)] * 262_145)


@pytest.mark.parametrize(("pooling", "word"), [(gguf.PoolingType.RANK, "rank"), (gguf.PoolingType.NONE, "none")])
def test_a_model_that_makes_no_vector_of_a_text_says_why(tmp_path: Path, pooling: gguf.PoolingType, word: str) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf", pooling=pooling))
    with pytest.raises(PromptRefused, match=f"pooling is '{word}'") as refused:
        job(model, "king")
    assert (refused.value.failed.status, refused.value.failed.code) == (400, "capability_unavailable")


def test_where_the_gguf_names_no_pooling_encoders_average_and_decoders_take_the_last(tmp_path: Path) -> None:
    assert pooling_of(load(write_encoder(tmp_path / "bert.gguf", pooling=None))) is Pooling.MEAN
    assert pooling_of(load(write_model(tmp_path / "chat.gguf"))) is Pooling.LAST


# --- Ends ----------------------------------------------------------------------------------------------------------


def test_a_cancelled_request_ends_and_its_neighbours_go_on(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "model.gguf", pooling=MEAN))
    one = embedder(model)
    gone, stays = job(model, (100,) * 300, id=1), job(model, "hello the model", id=2)
    one.submit(gone)
    one.step(64)
    one.submit(stays)
    ((_, last),) = one.cancel(gone)
    assert isinstance(last, Failed) and last.code == "cancelled"
    assert_same(vectors(run(one)[2]), embed(model, "hello the model"))
    assert one.cancel(gone) == []


class _Exhausted:
    """A model's context creation, refused."""

    def __init__(self, model: Model, refuse_above: int) -> None:
        self._create = model.create_embedding_context
        self._refuse_above = refuse_above

    def __call__(self, *, tokens: int, **rest: Any) -> Any:
        if tokens > self._refuse_above:
            raise LlamaError(f"not enough memory for embeddings of {tokens} tokens")
        return self._create(tokens=tokens, **rest)


def test_no_memory_for_a_long_input_is_told_to_its_client_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf", context_length=2048))
    monkeypatch.setattr(model, "create_embedding_context", _Exhausted(model, refuse_above=512))
    answers = run(embedder(model), job(model, (5,) * 1500, id=1), job(model, "king", id=2))
    assert isinstance(answers[1], Failed)
    assert (answers[1].status, answers[1].code) == (503, "insufficient_memory")
    assert isinstance(answers[2], Embedded)


def test_an_input_that_the_machine_has_no_memory_for_is_refused_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(write_encoder(tmp_path / "bert.gguf", context_length=2048))
    monkeypatch.setattr("inference.engine.embeddings.available_bytes", lambda: 20 << 20)
    answers = run(embedder(model), job(model, (5,) * 2000, id=1), job(model, "king", id=2))
    failed = answers[1]
    assert isinstance(failed, Failed) and (failed.status, failed.code) == (503, "insufficient_memory")
    assert "2048 tokens at once need 24 MB" in failed.message and "20 MB are available" in failed.message
    assert isinstance(answers[2], Embedded)
