"""Asynchronous generators of workflows belong to their workflow's loop, those of the program around it to its own.

Python has one pair of hooks a thread, and to set them costs more than it seems (every audit hook hears of it). So they
are not exchanged around each activation: one pair stays, and tells the generators apart.
"""

from __future__ import annotations

import sys
import threading
from asyncio import events
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from perdure.sdk.workflow.loop import DeterministicLoop

_Hook = Callable[[AsyncGenerator[Any, Any]], object]

_owners: Final[WeakValueDictionary[int, DeterministicLoop]] = WeakValueDictionary()
"""Whose a generator is that was begun in a workflow, by its id."""


class _Outer(threading.local):
    """The hooks of the loop that runs in this thread."""

    begun: _Hook | None = None
    dropped: _Hook | None = None


_outer: Final = _Outer()


def adopt() -> None:
    """See to the generators of this thread, until its loop ends and takes its hooks away."""
    hooks = sys.get_asyncgen_hooks()
    _outer.begun, _outer.dropped = hooks.firstiter, hooks.finalizer
    sys.set_asyncgen_hooks(begun, _dropped)


def begun(generator: AsyncGenerator[object, object]) -> None:
    """The hook for what begins; while it is this one, nothing has to be done."""
    loop = events._get_running_loop()
    if isinstance(loop, DeterministicLoop):
        _owners[id(generator)] = loop
    else:
        _owners.pop(id(generator), None)  # of one that has gone, at the same address
        if _outer.begun is not None:
            _outer.begun(generator)


def _dropped(generator: AsyncGenerator[Any, Any]) -> None:
    """Nobody has it any more, and it is in its middle."""
    loop = _owners.pop(id(generator), None)
    if loop is not None:
        loop.generator_dropped(generator)
    elif _outer.dropped is not None:
        _outer.dropped(generator)
