"""Workflows: their definitions, the deterministic loop they run on, and the matching of replays.

::

    definition.py   what @workflow makes of a function or a class
    api.py          the `workflow` namespace that users import
    context.py      what the API asks of the run that it is called in
    runtime.py      one run: activate(task) → completion
    replay.py       a history, read as workflow tasks
    resolutions.py  how what was asked of others ends
    decorators.py   the types of the decorators
    messages.py     signals, updates and queries, and their handlers
    endings.py      outcomes and bugs, and the tear-down
    ledger.py       what a run has asked for, and what of it is open
    matching.py     commands against the events that record them
    patches.py      workflow.patched: which branch a run takes
    entities.py     workflows that live as long as what they mirror
    attributes.py   what of an entity survives
    plain.py        plain `def` workflows, which wait without `await`
    loop.py         an asyncio event loop without time, I/O or threads
    activation.py   the thread is the workflow's while its code runs
    determinism.py  Python's clocks and random numbers, made to repeat
    guard.py        stops what can't be made to repeat, while the code runs
    scanning.py     refuses what could not be stopped, before it runs
    stuck.py        interrupts what never waits
    dispatchers.py  functions of the standard library that do something else inside workflows
    generators.py   whose an asynchronous generator is
    ordering.py     asyncio's functions on sets of tasks, in a fixed order
    conditions.py   workflow.wait_until
    logs.py         workflow.logger
"""
