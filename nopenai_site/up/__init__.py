"""How the installation starts, runs and stops: the parent of all processes.

``command`` is the entry, ``installation`` the order, ``child`` one process, ``plan`` the commands; the rest is one
concern a module. Nothing here imports Django: the parent is up before the database is, and stays small.
"""
