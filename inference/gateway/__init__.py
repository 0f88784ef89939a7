"""The hot path: what a client's request meets first, and all that an inference request meets but the engine.

A request's life, in the order of the files:

    app.py             the ASGI application: which handler serves which path; errors become answers here
    handlers.py        an inference request's life in six lines
    auth.py            API key → caller
    parse.py, fields.py, messages.py, tools.py, inputs.py    body → one frozen request, or an error that names the field
    origin.py          whose turn it takes, whose cached blocks it may see, how its beginnings are named
    (routing)          model name → decision
    admission.py       may it be served, by whom, with how much: at once, or after a wait
    admitted.py        what it then really uses, settled once
    dispatch.py        decision → a worker's stream whose first message is in hand; cold starts, retries
    workers.py         one multiplexed connection to each engine worker, and what they tell: load, cache, held prompts
    remotes/           backends elsewhere, which to the dispatcher look like workers
    replicas.py        what the supervisor says of this node's replicas; demand
    joint.py           several prompts of one completion as one stream
    openai_shapes.py   a worker's messages → OpenAI's objects and events (gathered.py, logprob_shapes.py: its parts)
    embeddings_api.py  a worker's vectors → OpenAI's list

What admission asks:

    terms.py           what a caller's requests to a model are held to, prepared when the configuration changes
    estimates.py       how many tokens a request is promised at first
    promises.py        the ledger of this process; leases.py: the thread in which it speaks to SQL
    permits.py         places among the requests that may run at once, as the supervisor hands them out
    standings.py       how models stand with their soft limits
    turnstile.py       where requests wait for a model's pace, or for what its limit has left

Beside it:

    state.py           what the event loop knows, each piece immutable and replaced as a whole
    snapshot.py        the thread that keeps the registry's part of it fresh from PostgreSQL
    models_api.py, health_api.py, cache_api.py, quotas_api.py        reads served from memory
    cache_report.py, quota_report.py    what is known of this node's caches, and of limits → what operators see
    counting.py        what becomes of requests, counted until the supervisor is told
    usage.py           what callers use, counted until usage_thread.py, a thread, writes it to SQL
    arrivals.py        what is recorded of requests where the operator wants it; arrivals_thread.py: its files
    metrics_api.py     /metrics; metrics.py: which there are; exposition.py: Prometheus' text format
    proxy.py           everything else goes to the web process
    asgi.py, call.py   bodies, one request's identity, and whether its client is still there
    http_protocol.py   what we change of uvicorn's HTTP

Everything here runs in one event loop but the threads of :mod:`snapshot`, :mod:`leases` and :mod:`usage_thread`, the
only places that touch SQL, and that of :mod:`arrivals_thread`.
"""
