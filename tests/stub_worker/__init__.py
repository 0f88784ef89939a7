"""An engine worker without a model: ``python -m tests.stub_worker`` takes the engine's arguments and answers at once.

It speaks the worker protocol exactly, so supervisor, gateway and benchmark can be tested without weights. A prompt has
as many tokens as words (or as the list of tokens that was sent); an answer is "stub says hello", three tokens, repeated
up to ``max_tokens`` with ``ignore_eos``; an embedding is ``vector_of`` its text. Prompts that it has seen in their
partition are cached, all but their last token, at ``BYTES_PER_TOKEN`` in RAM within the budget that it is told on
standard input; their beginnings are told, and forgotten when anything is evicted. Told to measure, it finds two threads
the fastest. What should go wrong is told by arguments of its own or, for one request, by a word in its prompt:
``stub:crash-after-2``, ``stub:hang-after-0``, ``stub:fail-after-1`` (tokens).

Gates are named pipes (``mkfifo``): the worker goes on when somebody opens one for writing. A test opens it when it has
seen what it wanted to see, so that nothing waits on time. ``{model}`` in a path stands for the model's id.

__main__.py    its arguments, its life
worker.py      what all its connections share: what it tells everybody, and what hangs
connection.py  one peer, and its requests from the first token to the last
cache.py       the prompts that it has seen
supervisor.py  what it tells its supervisor
faults.py      what should go wrong, and when it goes on
"""
