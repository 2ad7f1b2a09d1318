"""Serving workflows and activities.

::

    worker.py      Worker: attaches to a Service, and hands its messages out
    workflows.py   workflow tasks and queries, and the cache of live workflows
"""
