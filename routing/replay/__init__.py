"""What would another strategy have made of the requests that came? Recorded arrivals, routed again by the router that
gateways use, to simulated models. Pure: no Django, no clock, no I/O.

records.py     what is kept of a request, and how lines become a recording
service.py     how long each model takes, fitted to what was recorded
regression.py  causes that add up to a time
server.py      one simulated model: its lanes, its queue, its cache
trace.py       a recording, made ready
simulation.py  arrivals in, what became of each out, for one strategy
bootstrap.py   how sure a mean is whose requests are not independent
comparison.py  all strategies side by side
verdict.py     what may be concluded, in words
"""
