"""Workflows: their definitions, the deterministic loop they run on, and the matching of replays.

::

    definition.py   what @workflow makes of a function or a class
    classes.py      classes as workflows: only the engine builds the object
    handlers.py     methods that take messages
    calls.py        workflows as they are called: a call runs nothing
    api.py          the `workflow` namespace that users import
    context.py      what the API asks of the run that it is called in
    runtime.py      one run: activate(task) → completion
    asking.py       the part of it that asks others for something
    facts.py        what its code may know of it
    replay.py       a history, read as workflow tasks
    resolutions.py  how what was asked of others ends
    decorators.py   the types of the decorators
    messages.py     signals, updates and queries, and their handlers
    sending.py      messages as their senders write them
    queries.py      queries that every workflow answers
    interception.py interceptors inside workflows
    endings.py      outcomes and bugs, and the tear-down
    ledger.py       what a run has asked for, and what of it is open
    futures.py      the live sides of it
    local.py        local activities
    external.py     workflow.external
    children.py     what may be said of a child
    child_ids.py    ids of children that were not given one
    matching.py     commands against the events that record them
    displaced.py    calls whose input has changed
    patches.py      workflow.patched: which branch a run takes
    saga.py         workflow.saga
    shielding.py    workflow.shielded
    entities.py     workflows that live as long as what they mirror
    defaults.py     what a class's body gives each object
    attributes.py   what of an entity survives
    changes.py      what would come back as something else
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
    sameness.py     asyncio's functions that differ between versions of Python, as Python 3.13 has them
    conditions.py   workflow.wait_until
    source.py       where in the user's code something happened
    logs.py         workflow.logger
"""
