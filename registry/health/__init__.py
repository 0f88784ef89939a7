"""How models are doing, and who says so.

    gateways ──counts of requests──► supervisor ──vitals, every few seconds──► SQL ┐
                                                                                   ├─ health_check, every 30 s
    files on disk ─────────────────────────────────────────────────────────────────┘    │
                                                                                        ▼
    gateways' snapshots ◄──announced, when a health changes── versions; their history by a trigger

:mod:`.report` is what a check has found, :mod:`.vitals` what nodes tell, :mod:`.judgement` decides; all three are pure.
A check asks no worker anything that counts as use: nothing is loaded for it, nobody is charged, nothing is kept warm.
"""
