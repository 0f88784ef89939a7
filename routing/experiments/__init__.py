"""A/B tests between two models: who answers which request, and what can be said of the two so far. Pure: no Django, no
clock, no I/O.

assignment.py  which variant a session, or a request without one, belongs to
results.py     what is counted of a variant, in sums that can be merged over processes
sequential.py  statistics that may be looked at any time
verdict.py     both variants' sums in, plain words and outcomes out
rollout.py     B's share grows in steps, as long as B does well
standing.py    how far a roll-out has come, in words
"""
