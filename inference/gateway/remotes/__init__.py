"""Versions that are answered elsewhere, by an OpenAI-compatible backend. To the dispatcher they look like workers.

    bounds.py       what a prompt can come to, in tokens of a tokenizer that we don't have
    bodies.py       a worker's request → the body of the backend's
    events.py       bytes → the events of a stream
    chunks.py       what backends write in those; nothing of theirs is believed unseen
    reading.py      such events → a worker's messages
    vectors.py      a backend's embeddings → a worker's message
    refusals.py     its errors → what our client is told, and what our operator
    exchange.py     one request to a backend, from its first byte to its last
    pool.py         the backends that there are, and a request's way to one

The first seven are pure.
"""
