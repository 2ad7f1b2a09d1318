"""The engine at work: one node serves executions from a store.

::

    node.py        the Service protocol; what arrives is put into the inbox of its execution
    serving.py     one turn: every ready execution takes its inputs, decides, and offers what it has to do
    live.py        an execution in memory: its state, its inbox, and what of it is not on disk yet
    committer.py   group commit: what is ready goes to the store in one transaction, then leaves the engine
    dispatch.py    workers, their slots, and the backlog of what found none
    wakeups.py     executions whose time has come
    loader.py      executions from the store
    delivery.py    what one execution sends to another
    readers.py     histories, results and listings

    input ─▶ inbox ─▶ decide ─▶ row (in memory) ─▶ group ─▶ commit ─▶ replies, tasks, messages
                        ▲  │
                        └──┘ workflow task: the code runs before its input is on disk (DESIGN 4.5)
"""
