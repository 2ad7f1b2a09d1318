"""Workflows: their definitions, the deterministic loop they run on, and the matching of replays.

::

    definition.py   what @workflow makes of a function or a class
    api.py          the `workflow` namespace that users import
    context.py      what the API asks of the run that it is called in
    loop.py         an asyncio event loop without time, I/O or threads
    runtime.py      one run: activate(task) → completion
    matching.py     commands against the events that record them
"""
