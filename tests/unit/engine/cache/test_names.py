"""Names of blocks: equal exactly when their KV may be exchanged."""

import msgspec
import pytest

from inference.engine.cache.names import BLOCK_TOKENS, Chain, owners
from inference.protocol import Partition

ALICE = Partition(name="alice", key=b"a" * 32)
TOKENS = list(range(3 * BLOCK_TOKENS))


def names(
    partition: Partition, tokens: list[int] = TOKENS, compatibility: bytes = b"model", shared: int = 0
) -> list[bytes]:
    chain = Chain(*owners(partition, compatibility), shared)
    return [chain.block(index, tokens).name for index in range(len(tokens) // BLOCK_TOKENS)]


def test_the_same_tokens_of_the_same_partition_have_the_same_names() -> None:
    assert names(ALICE) == names(ALICE)


@pytest.mark.parametrize(
    "other",
    [
        {"partition": msgspec.structs.replace(ALICE, name="bob")},
        {"partition": msgspec.structs.replace(ALICE, key=b"b" * 32)},
        {"partition": msgspec.structs.replace(ALICE, salt="pepper")},
        {"partition": ALICE, "compatibility": b"another model"},
        {"partition": ALICE, "tokens": [1, *TOKENS[1:]]},
    ],
)
def test_whatever_the_kv_depends_on_changes_every_name_after_it(other: dict[str, object]) -> None:
    assert not set(names(ALICE)) & set(names(**other))  # type: ignore[arg-type]


def test_a_name_depends_on_the_tokens_before_it_and_not_on_those_behind() -> None:
    changed = [*TOKENS[:BLOCK_TOKENS], -1, *TOKENS[BLOCK_TOKENS + 1 :]]
    assert [one == other for one, other in zip(names(ALICE), names(ALICE, changed), strict=True)] == [
        True,
        False,
        False,
    ]


def test_each_block_names_the_one_before_it() -> None:
    chain = Chain(*owners(ALICE, b"model"))
    blocks = [chain.block(index, TOKENS) for index in range(3)]
    assert [block.parent for block in blocks] == [chain.owner(0).root, blocks[0].name, blocks[1].name]
    tail = chain.tail(2, TOKENS, 10)
    assert (tail.parent, tail.tokens) == (blocks[1].name, 10)
    assert tail.name != blocks[2].name


def test_a_chain_grows_with_its_sequence() -> None:
    chain = Chain(*owners(ALICE, b"model"))
    tokens = TOKENS[: BLOCK_TOKENS + 5]
    first = chain.block(0, tokens)
    tokens += TOKENS[BLOCK_TOKENS + 5 :]
    assert [first.name, chain.block(1, tokens).name, chain.block(2, tokens).name] == names(ALICE)


def with_shared(name: str) -> Partition:
    return Partition(
        name=name, key=name[:1].encode() * 32, shared_name="ours", shared_key=b"s" * 32, shareable_messages=1
    )


def test_tenants_share_the_blocks_wholly_within_a_declared_prompt_and_no_other() -> None:
    declared = 2 * BLOCK_TOKENS - 1
    alice, bob = names(with_shared("alice"), shared=declared), names(with_shared("bob"), shared=declared)
    assert [one == other for one, other in zip(alice, bob, strict=True)] == [True, False, False]


def test_who_does_not_use_the_declared_prompt_does_not_see_its_blocks() -> None:
    assert not set(names(with_shared("alice"), shared=2 * BLOCK_TOKENS)) & set(names(ALICE))


def test_a_salt_does_not_narrow_what_was_declared_shareable() -> None:
    salted = msgspec.structs.replace(with_shared("alice"), salt="pepper")
    assert names(salted, shared=BLOCK_TOKENS)[0] == names(with_shared("bob"), shared=BLOCK_TOKENS)[0]
    assert names(salted, shared=BLOCK_TOKENS)[1] != names(with_shared("alice"), shared=BLOCK_TOKENS)[1]
