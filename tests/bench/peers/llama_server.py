"""llama.cpp's own C++ server, from the xllamacpp wheel. Runs in an environment of its own.

``python llama_server.py MODEL PORT THREADS SLOTS CONTEXT_TOKENS CACHE_MB``; prints ``imported`` when
it begins, and ``ready`` once it serves.
"""

import signal
import sys

import xllamacpp

print("imported", flush=True)
model, port, threads, slots, context_tokens, cache_mb = sys.argv[1], *map(int, sys.argv[2:7])
parameters = xllamacpp.CommonParams()
parameters.model.path = model
parameters.hostnames = ["127.0.0.1"]
parameters.port = port
parameters.cpuparams.n_threads = threads
parameters.cpuparams_batch.n_threads = threads
parameters.n_parallel = slots
parameters.n_ctx = context_tokens
parameters.n_gpu_layers = 0
# Without a cache, prompts of one round must not be answered from the round before: cold work is compared then.
parameters.cache_prompt = cache_mb > 0
parameters.cache_ram_mib = cache_mb
parameters.verbosity = 0
server = xllamacpp.Server(parameters)
print("ready", server.listening_address, flush=True)
signal.pause()
