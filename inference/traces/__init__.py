"""Traces of requests, in OpenTelemetry's form.

A request that nobody traces costs a look at its headers. Whether one is traced is decided when it comes
(:mod:`.sampling`); its spans are made when it has ended, of times that are known anyway, and leave in batches
(:mod:`.export`). Workers send their times along with their last message, so they need neither a collector nor
OpenTelemetry's packages.
"""
