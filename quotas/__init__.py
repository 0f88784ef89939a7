"""Who may, and how much.

Decided without Django, for the gateway's memory and for SQL alike:

    callers.py         who calls: keys, roles, partitions of the cache
    limits.py          a model's limits; caller_limits.py: a key's and a tenant's. Both come to accounts and permits
    windows.py         minutes, hours, days and months; where they begin
    ledger.py          what a process was granted of each account's window, and has spent and promised of it
    modes.py           how a model degrades on the way to its limit
    queueing.py        who is next of those who wait, between tenants

What keeps it:

    journal.py         what a process has charged to its leases, in a file that outlives it
    treasury.py        the windows in SQL: leased in parts, told of, reclaimed of the dead
    partitions.py, sealing.py    each tenant's part of the cache, and how its key is kept
    models.py          the tables; services.py and selectors.py: writes and reads of models' limits
    access/            tenants and API keys
    usage/             what was used
"""
