"""The engine at work: one node serves executions from a store.

::

    node.py          the Service protocol; what arrives is put into the inbox of its execution
    inbound.py       what a request must be like
    hearing.py       what a worker says
    answers.py       what is answered without a decision
    serving.py       one turn: every ready execution takes its inputs, decides, and offers what it has to do
    resting.py       the garbage collector rests meanwhile
    chains.py        one run follows another
    resets.py        a run begins with a part of another one's history
    updates.py       updates for one certain run, wherever they were left
    schedules.py     schedules at work
    live.py          an execution in memory: its state, its inbox, and what of it is not on disk yet
    committer.py     group commit: what is ready goes to the store in one transaction
    performing.py    what leaves the engine, once it is on disk
    waiting.py       callers who wait for the end of a run, or of an update
    offers.py        tasks and the workers that take them
    dispatch.py      workers, their slots, and the backlog of what found none
    queries.py       questions to workflow code
    beats.py         how far attempts came, on disk in time
    wakeups.py       executions whose time has come
    peers.py         who else is there: nobody, or
    cluster/         the other nodes of the store
    loader.py        executions from the store
    places.py        where a run's rows are
    reading.py       histories and listings
    blobs.py         large payloads beside the journals
    delivery.py      what one execution sends to another
    housekeeping.py  what is tidied up now and then
    patience.py      reading from a store that may be down
    stalls.py        when the node itself could not work, and
    watchdog.py      how it is noticed that the event loop is blocked

    input ─▶ inbox ─▶ decide ─▶ row (in memory) ─▶ group ─▶ commit ─▶ replies, tasks, messages
                        ▲  │
                        └──┘ workflow task: the code runs before its input is on disk (DESIGN 4.5)
"""
