"""A small local cloud to try things on: its own process, with its own durable state.

It behaves as clouds do. It limits the rate of calls, is slow, has quotas, and fails at random: sometimes
before it has done what was asked, sometimes after, so that only the answer is lost. A create that is
repeated with the same `Idempotency-Key` gets the first one's resource; with a new key it makes a new one,
even under the same name. So whoever is careless makes duplicates and orphans here as anywhere.

::

    limits.py     the token bucket of the rate limit, and the faults
    store.py      resources, quotas and a log of every call, in one SQLite file
    service.py    what each call does
    server.py     HTTP on the loopback interface
    __main__.py   python -m examples.cloud
"""
