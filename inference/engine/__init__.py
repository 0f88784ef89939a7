"""One model in one process: continuous batching over llama.cpp.

__main__.py   one process: its arguments, its log, its status lines; loads the model, then serves it
server.py     asyncio: the worker protocol on a Unix socket
prompts.py    a request's prompt → tokens (chat template, tokenizer, context check)
answers.py    what it wants of its answer → a grammar for its tokens, and how they are read
jobs.py       what the engine works on: requests, their choices, and the events that reach it
engine.py     the one thread that owns llama.cpp: receive → schedule → restore → decode → emit → save
beginnings.py, answering.py   its parts: how a choice begins; what its tokens become, and how it ends
decoding.py, reporting.py     a batch → logits; what every gateway is told beside answers
scheduler.py  pure: who holds KV cells, and which tokens of which sequences go into the next step
sequences.py, turns.py        what it moves about; whose turn it is
speculation.py                pure: which tokens will probably come next, and whether to compute them
contexts.py   the two pools of cells; a sequence's KV on its way in, out and between them
kv.py         the one door to the pools and to what is kept beyond them
cache/        what is kept: blocks in RAM and on SSD
tuning.py, measuring.py       while nobody asks for anything: how is it computed fastest here?
sampling.py   pure: logits → token
constraints.py, schemas.py   grammars by llguidance: which tokens may come next; JSON schemas, bounded
logprobs.py   pure: logits → log probabilities
output.py     pure: one choice's tokens → text, thoughts, calls, log probabilities; when it ends
text.py, thinking.py, tools/   its parts: whole characters and stop strings; thoughts; tool calls of each family
template.py, bounded_jinja.py, growth.py  chat templates in Jinja2's sandbox, with an end
input_checks.py        what prompts and inputs of embeddings are held to: a known vocabulary, a text that may fit
embedding_inputs.py    a request for embeddings → tokens of each input
embeddings.py          inputs → vectors, in a context of their own, on the engine's thread
embedding_batches.py   pure: which tokens of which inputs are embedded in the next turn
memory.py              what may still be taken of it
held.py       which beginnings of prompts are held, as gateways name them
counting.py   what leaves, counted
news.py       what the supervisor is told again and again
embedding_engine.py    the engine's thread of a model that embeds and writes no text
llama/        the only package that imports llama_cpp
"""
