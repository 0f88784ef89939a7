"""What a model can do, as far as its GGUF says."""

from registry.gguf.header import GgufHeader

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""Architectures that read text and write none.

The engine has the same set of its own, and a test sees to it that they stay alike. It is not told by us: a worker goes
by the file in its hands, not by what SQL says of it, where a mistake would give wrong numbers and no error.
"""

NOT_AUTOREGRESSIVE = frozenset({"clip", "dream", "llada", "llada-moe", "rnd1", "t5", "wavtokenizer-dec"})
"""Diffusion, encoder-decoder and audio models: they don't continue a text token by token, which is all that we do."""


def capabilities(header: GgufHeader) -> tuple[str, ...]:
    """Of ``chat``, ``completion``, ``embedding``, ``tools``, sorted; nothing for what we can't serve.

    1. An encoder, or a decoder that names how its tokens are pooled (converters write that for embedding models
       only), gives embeddings and nothing else; one that is pooled into a rank, or an encoder that names no pooling
       by ``none``, has no vector of a text and gives none either.
    2. Another decoder with a tokenizer completes text; with a chat template it also chats, and it uses tools if the
       template knows what to do with them.
    """
    if header.architecture in NOT_AUTOREGRESSIVE or not header.tokenizer_model:
        return ()
    if header.pooling == "rank":
        return ()
    if header.architecture in ENCODERS or not header.causal:
        return () if header.pooling == "none" else ("embedding",)
    if header.pooling in ("mean", "cls", "last"):
        return ("embedding",)
    if not header.has_chat_template:
        return ("completion",)
    return ("chat", "completion", "tools") if header.mentions_tools else ("chat", "completion")
