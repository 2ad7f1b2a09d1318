"""The simulator: nodes, workers, clients and a failing store in one process, on a simulated clock, from a seed.

::

    loop.py         simulated time, and event loops on it that can die after any step
    network.py      messages that take their time
    store.py        a store that is slow, refuses, fails, and loses its answers
    workers.py      workers that come late, fall silent and die
    process.py      one process: a loop, an engine over the store, and its workers
    script.py       the workflows that are run: small programs made of steps, with a known outcome
    families.py     children that are left behind or called back, and sagas
    pets.py         entities
    schedules.py    schedules
    clients.py      who starts them, sends them messages and waits for them
    switchboard.py  how clients outside reach any process that lives

    ledger.py       what was asked and acknowledged, and what is on disk
    witness.py      every reply, compared with the disk when it leaves the node
    deeds.py        what sagas have done and undone
    attempts.py     every attempt of an activity, as the outside world sees it
    near.py         local activities
    far.py          attempts that are completed from elsewhere
    lives.py        which processes others may take for lost
    watchman.py     nothing that somebody could go on with waits for long
    ending.py       what must be so at the end

    world.py        a seed of one node: processes one after another over one store, until all is done
    fleet.py        a seed of several nodes at once
    __main__.py     python -m perdure.testing.simulation --seeds 1000

A seed decides everything; the same seed gives the same trace, to the last line.
"""
