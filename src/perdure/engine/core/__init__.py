"""What happens: pure and synchronous. No clock, no randomness, no I/O, no asyncio.

::

    decide(execution, input, now) → Transition(records, effects, reply)
    evolve(state, record)            folds a record; shared by the live path and by the rebuild path

A decision refuses (raises) before it adds its first record, so a refusal changes nothing.
"""
