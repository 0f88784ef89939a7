"""Whose a request is: tenant, partition, and what it shares with others."""

from typing import Any

from inference.gateway.origin import CacheRights, Origin, origin_of
from inference.gateway.parse import InferenceRequest
from inference.protocol import ChatMessage, Partition
from quotas.callers import CachePartition, Caller, Role

OURS = CachePartition(name="a" * 32, key=b"a" * 32)
SHARED = CachePartition(name="b" * 32, key=b"b" * 32)
DEFAULT = CachePartition(name="c" * 32, key=b"c" * 32)
RIGHTS = CacheRights(
    default_tenant="default", default=DEFAULT, shared=SHARED, shared_prompts=frozenset({"You help.", "You sing."})
)
CALLER = Caller(key_pk=1, tenant="ours", role=Role.INFERENCE, prefix="nok_x", expires_at=None, partition=OURS)


def chat(*messages: ChatMessage, **fields: Any) -> InferenceRequest:
    return InferenceRequest(kind="chat", model=None, messages=messages or (ChatMessage("user", "Hi"),), **fields)


def partition(request: InferenceRequest, rights: CacheRights = RIGHTS) -> Partition:
    found = origin_of(request, CALLER, rights).partition
    assert found is not None
    return found


def test_a_caller_has_the_partition_of_its_tenant() -> None:
    origin = origin_of(chat(), CALLER, RIGHTS)
    assert (origin.tenant, origin.partition) == ("ours", Partition(name="a" * 32, key=b"a" * 32))


def test_who_needs_no_key_is_the_default_tenant() -> None:
    origin = origin_of(chat(), None, RIGHTS)
    assert (origin.tenant, origin.partition) == ("default", Partition(name="c" * 32, key=b"c" * 32))


def test_nothing_is_cached_for_a_tenant_whose_key_can_not_be_opened() -> None:
    locked = Caller(key_pk=1, tenant="ours", role=Role.INFERENCE, prefix="nok_x", expires_at=None)
    assert origin_of(chat(), locked, RIGHTS) == Origin(tenant="ours", partition=None)
    assert origin_of(chat(), None, CacheRights(shared=SHARED)).partition is None


def test_a_salt_narrows_the_partition() -> None:
    assert partition(chat(cache_salt="mine")).salt == "mine"


def test_beginnings_are_named_for_what_is_cached_only() -> None:
    assert len(origin_of(chat(ChatMessage("system", "Hi"), ChatMessage("user", "Hi")), CALLER, RIGHTS).prefixes) == 2
    assert (
        len(origin_of(InferenceRequest(kind="completion", model=None, text="x" * 2048), CALLER, RIGHTS).prefixes) == 2
    )
    tokens = InferenceRequest(kind="completion", model=None, tokens=tuple(range(256)))
    assert len(origin_of(tokens, CALLER, RIGHTS).prefixes) == 1
    assert origin_of(InferenceRequest(kind="embedding", model=None, inputs=("Hi",)), CALLER, RIGHTS).prefixes == ()
    assert origin_of(chat(), None, CacheRights()).prefixes == ()


def test_a_declared_system_prompt_is_shared_with_other_tenants() -> None:
    found = partition(chat(ChatMessage("system", "You help."), ChatMessage("user", "Hi")))
    assert (found.shareable_messages, found.shared_name, found.shared_key) == (1, SHARED.name, SHARED.key)
    assert (found.name, found.key) == (OURS.name, OURS.key)


def test_what_is_not_declared_to_the_letter_is_not_shared() -> None:
    for request in (
        chat(ChatMessage("system", "You help. ")),
        chat(ChatMessage("user", "You help.")),
        chat(ChatMessage("user", "Hi"), ChatMessage("system", "You help.")),
        chat(ChatMessage("system", "You help.", name="someone")),
        chat(ChatMessage("system", "You help."), cache_salt="mine"),
        InferenceRequest(kind="completion", model=None, text="You help."),
    ):
        assert partition(request).shareable_messages == 0
        assert partition(request).shared_key == b""


def test_nothing_is_shared_without_a_shared_partition() -> None:
    rights = CacheRights(shared_prompts=RIGHTS.shared_prompts)
    assert partition(chat(ChatMessage("system", "You help.")), rights).shareable_messages == 0
