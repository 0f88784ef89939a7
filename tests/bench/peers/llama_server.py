"""llama.cpp's own C++ server, from the xllamacpp wheel. Runs in an environment of its own.

``python llama_server.py MODEL PORT THREADS SLOTS CONTEXT_TOKENS``; prints ``ready`` once it serves.
"""

import signal
import sys

import xllamacpp

model, port, threads, slots, context_tokens = sys.argv[1], *map(int, sys.argv[2:6])
parameters = xllamacpp.CommonParams()
parameters.model.path = model
parameters.hostnames = ["127.0.0.1"]
parameters.port = port
parameters.cpuparams.n_threads = threads
parameters.cpuparams_batch.n_threads = threads
parameters.n_parallel = slots
parameters.n_ctx = context_tokens
parameters.n_gpu_layers = 0
# Prompts of one round must not be answered from the cache of the round before: cold work is compared here.
parameters.cache_prompt = False
parameters.cache_ram_mib = 0
parameters.verbosity = 0
server = xllamacpp.Server(parameters)
print("ready", server.listening_address, flush=True)
signal.pause()
