"""Talking to the engine from outside.

::

    client.py        Client: starts workflows, finds them again, lists them
    handle.py        WorkflowHandle: one workflow, to be waited for, talked to and looked at
    starts.py        the options of a start, and starts with a message
    interventions.py pauses, resets and other options of what runs
    elsewhere.py     attempts that are completed from elsewhere
    schedules.py     schedules: made, looked at, changed
    timing.py        when one starts its workflow, as users write it
    description.py   what a person wants to know of a workflow
    requests.py      sending a request until it is answered
"""
