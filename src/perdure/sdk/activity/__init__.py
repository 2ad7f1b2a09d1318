"""Activities: their definitions, the context of a running attempt, and what runs them.

::

    definition.py   what @activity makes of a function
    api.py          the `activity` namespace that users import
    context.py      one running attempt, as the function sees it
    executor.py     runs attempts: coroutines on the loop, plain functions in threads
    pool.py         the same in processes, for what keeps a processor busy; child.py is their side
"""
