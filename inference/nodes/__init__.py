"""Nodes that reach each other over TCP: who they are to each other, the door that each has, and the way through it.

Within a machine processes speak over Unix sockets, which the kernel guards. Between machines the same bytes go through
a node's :mod:`.door`, with TLS on both sides.
"""
