"""Whose a request is, as far as its worker has to know: whose turn it takes and whose cached blocks it may see."""

import msgspec

from inference.gateway.parse import InferenceRequest
from inference.prefixes import chat_chain, text_chain, token_chain
from inference.protocol import Partition, ToolChoice
from quotas.callers import CachePartition, Caller


class CacheRights(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshot's part of it: who shares cached blocks with whom."""

    default_tenant: str = ""
    """Whose requests those without a key are, where none is required."""
    default: CachePartition | None = None
    """That tenant's partition. None: nothing of such requests is cached."""
    shared: CachePartition | None = None
    """The partition of declared prompts. None: they are cached for each tenant apart."""
    shared_prompts: frozenset[str] = frozenset()
    """Texts that operators have declared to hold nothing of any tenant."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    weight: float = 1.0
    """The tenant's."""
    partition: Partition | None
    """None: nothing of the request is cached."""
    prefixes: tuple[bytes, ...] = ()
    """The names of its beginnings: of its first prompt, where it has several."""


def origin_of(request: InferenceRequest, caller: Caller | None, rights: CacheRights) -> Origin:
    """Whom the request belongs to. A caller whose partition can't be opened is served without a cache."""
    if caller is None:
        tenant, weight, own = rights.default_tenant, 1.0, rights.default
    else:
        tenant, weight, own = caller.tenant, caller.weight, caller.partition
    if own is None:
        return Origin(tenant=tenant, weight=weight, partition=None)
    if rights.shared is None or not _declared(request, rights):
        partition = Partition(name=own.name, key=own.key, salt=request.cache_salt or "")
    else:
        partition = Partition(
            name=own.name,
            key=own.key,
            shared_name=rights.shared.name,
            shared_key=rights.shared.key,
            shareable_messages=1,
        )
    return Origin(tenant=tenant, weight=weight, partition=partition, prefixes=_prefixes(request, partition))


def prompt_prefixes(partition: Partition, prompt: str | tuple[int, ...], *, infill: bool) -> tuple[bytes, ...]:
    """The names of a plain prompt's beginnings."""
    if isinstance(prompt, str):
        return text_chain(partition, prompt, infill=infill)
    return token_chain(partition, prompt, infill=infill)


def _prefixes(request: InferenceRequest, partition: Partition) -> tuple[bytes, ...]:
    if request.messages is not None:
        tools = () if request.tool_choice is ToolChoice.NONE else request.tools
        return chat_chain(partition, request.messages, tools)
    prompt = request.text if request.text is not None else request.tokens
    return () if prompt is None else prompt_prefixes(partition, prompt, infill=request.suffix is not None)


def _declared(request: InferenceRequest, rights: CacheRights) -> bool:
    """Whether its first message is a declared prompt, to the letter and with nothing beside it.

    Who salts a request wants to share with nobody else, so not with those who use the same prompt either.
    """
    if not rights.shared_prompts or not request.messages or request.cache_salt is not None:
        return False
    first = request.messages[0]
    return first.role == "system" and first.name is None and first.content in rights.shared_prompts
