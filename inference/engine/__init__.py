"""One model in one process: continuous batching over llama.cpp.

__main__.py   one process: its arguments, its log, its status lines; loads the model, then serves it
server.py     asyncio: the worker protocol on a Unix socket
prompts.py    a request's prompt → tokens (chat template, tokenizer, context check)
engine.py     the one thread that owns llama.cpp: receive → schedule → decode → emit
scheduler.py  pure: which tokens of which sequences go into the next step, in which pool of KV cells
sampling.py   pure: logits → token
text.py       pure: token bytes → text that may be sent (whole characters, no stop string)
template.py   chat templates in Jinja2's sandbox
embedding_inputs.py    a request for embeddings → tokens of each input
embeddings.py          inputs → vectors, in a context of their own, on the engine's thread
embedding_batches.py   pure: which tokens of which inputs are embedded in the next turn
memory.py              what may still be taken of it
embedding_engine.py    the engine's thread of a model that embeds and writes no text
llama.py      the only file that imports llama_cpp
"""
