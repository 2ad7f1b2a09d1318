"""Activities: their definitions, the context of a running attempt, and what runs them.

::

    definition.py   what @activity makes of a function
    api.py          the `activity` namespace that users import
    context.py      one running attempt, as the function sees it
    executor.py     runs attempts: coroutines on the loop, plain functions in threads
    pool.py         the same in processes, for what keeps a processor busy
    child.py        their side of it
    threads.py      threads for plain functions
    pipe.py         what a worker and the processes of its pool say to each other
    spawned.py      whether this process is one of those
    outcomes.py     what an attempt's end means for the node
    tokens.py       the name of an attempt as text, for whoever completes it
    processes.py    activity.run_process
    groups.py       process groups that end with this process
    logs.py         activity.logger
"""
