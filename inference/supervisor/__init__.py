"""The supervisor: one process a node, the one owner of its engine processes.

    gateways ──Demand, InUse──► server ──events──┐                  ┌──Start, Stop──► worker ──► engine process
             ◄────Replicas─────        ◄─Publish─┤                  │                   │ status lines, load, exit
    PostgreSQL ◄──observations── store ◄─Record──┼── supervisor ────┤                   │
               ──wishes────────►       ──events──┘   (post: one     └──◄────events──────┘
    models directories ──changes──► discovery         event at a time)
                                    (scans into SQL)

What to do is decided in pure functions: :mod:`.reconcile` (the tree), :mod:`.noting` (what an event says),
:mod:`.transitions` (the steps of a replica's life), :mod:`.seating` (who is loaded, by :mod:`.fit`, what it takes, and
:mod:`.swapping`, who makes room for whom), on the values of :mod:`.replica` and :mod:`.events`. Everything
else here carries out, and reports back. Only :mod:`.store`, :mod:`.discovery` and the modules named after SQL know it;
they work in threads of their own, so a model is loaded on demand whether PostgreSQL answers, is away or stands
still.

What versions would take is found out by :mod:`.weighing`, from their headers and from what :mod:`.footprints` has seen
their workers take.

What the workers' KV caches may take has an owner of its own, :mod:`.caching`: it hears of starts, reports and exits
and tells budgets, by the pure rounds of :mod:`.cache_budgets`. What gateways and workers count is summed in
:mod:`.metering`; what they count of A/B tests goes on to SQL, by :mod:`.experiments`, where roll-outs are decided right
after. How many requests run at once, over all gateways, is decided in :mod:`.permits`, which is pure, and
carried out by :mod:`.permitting`; :mod:`.pressure` tells gateways that the node's memory is nearly used up.
"""
