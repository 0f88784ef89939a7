"""Which model and which version answers a request. Pure: no Django, no clock, no I/O.

table.py       what can be prepared when the registry or a replica changes: who may answer what
strategies.py  how one of several candidates is chosen
decision.py    the record of a choice, shared by the answer's headers, the log and (later) the explanation
router.py      the two together: a name from a request in, a decision out
"""
