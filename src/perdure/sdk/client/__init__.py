"""Talking to the engine from outside.

::

    client.py        Client: starts workflows, finds them again, lists them
    handle.py        WorkflowHandle: one workflow, to be waited for, talked to and looked at
    description.py   what a person wants to know of a workflow
    requests.py      sending a request until it is answered
"""
