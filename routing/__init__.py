"""Which model and which version answers a request. Pure, but for what keeps its configuration: no clock, no I/O.

config.py      what operators set, and how a partial change becomes the next configuration
ask.py         what a request brings to be routed by
targets.py     who can be chosen, and how they are doing: the telemetry
table.py       who may answer what, prepared when the registry, the configuration or a replica changes
strategies.py  how one of several candidates is chosen: eight ways, on a ranking, an urn and sessions' pins
router.py      all together: a request in, a decision out, and who is asked next when that one can't answer
decision.py    the record of a choice
experiments/   A/B tests: who gets which variant, what was counted, what that tells, and roll-outs
replay/        recorded requests, routed again by each strategy to simulated models

Beside them, what keeps these in SQL: services.py and selectors.py for the configuration, rollout_services.py for what
is counted of A/B tests and how far their roll-outs have come.
"""
