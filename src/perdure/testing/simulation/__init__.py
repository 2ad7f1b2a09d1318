"""The simulator: nodes, workers, clients and a failing store in one process, on a simulated clock, from a seed.

::

    loop.py      an event loop whose time is simulated, and that can die after any step
    store.py     a store that is slow, refuses, fails, and loses its answers
    workers.py   workers that come late, fall silent and die
    script.py    the workflows that are run: small programs made of steps, with a known outcome
    ledger.py    what was asked, acknowledged and done, and the guarantees checked against it
    world.py     one seed: processes that come and go over one store, until all is done
    __main__.py  python -m perdure.testing.simulation --seeds 1000

A seed decides everything; the same seed gives the same trace, to the last line.
"""
