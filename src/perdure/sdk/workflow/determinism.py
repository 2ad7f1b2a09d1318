"""Python's own clocks, random numbers and sets of tasks, made to repeat exactly inside workflows.

`install` puts dispatchers in place of some functions of the standard library. A dispatcher asks whether this
thread is executing a workflow: if so, the answer comes from the run; if not, from the original.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from perdure.clock import SECOND
from perdure.sdk.workflow import ordering
from perdure.sdk.workflow.context import WorkflowContext, current

_Function = Callable[..., Any]

_RANDOM: Final = [
    "betavariate",
    "binomialvariate",
    "choice",
    "choices",
    "expovariate",
    "gammavariate",
    "gauss",
    "getrandbits",
    "getstate",
    "lognormvariate",
    "normalvariate",
    "paretovariate",
    "randbytes",
    "randint",
    "random",
    "randrange",
    "sample",
    "seed",
    "setstate",
    "shuffle",
    "triangular",
    "uniform",
    "vonmisesvariate",
    "weibullvariate",
]

originals: Final[dict[str, _Function]] = {}
"""What was replaced, by "module.name"."""


def install() -> None:
    """Put the dispatchers in place, in this process. A second call does nothing."""
    if originals:
        return
    _replace(time, "time", _clock(time.time, lambda run: run.time()))
    _replace(time, "time_ns", _clock(time.time_ns, lambda run: _microseconds(run) * 1_000))
    # A workflow's only clock is that of its events, which never goes back.
    _replace(time, "monotonic", _clock(time.monotonic, lambda run: run.time()))
    _replace(time, "monotonic_ns", _clock(time.monotonic_ns, lambda run: _microseconds(run) * 1_000))
    _replace(uuid, "uuid4", _clock(uuid.uuid4, lambda run: run.uuid4()))
    for name in _RANDOM:
        if hasattr(random, name):
            _replace(random, name, _random(name))
    for name in ("wait", "as_completed", "wait_for"):
        dispatcher = _dispatcher(getattr(asyncio, name), getattr(ordering, name))
        _replace(asyncio, name, dispatcher)
        _replace(asyncio.tasks, name, dispatcher)
    enter = _dispatcher(asyncio.TaskGroup.__aenter__, ordering.enter_task_group)
    _replace(asyncio.TaskGroup, "__aenter__", enter)


def _replace(owner: object, name: str, dispatcher: _Function) -> None:
    originals[f"{getattr(owner, '__name__', owner)}.{name}"] = getattr(owner, name)
    setattr(owner, name, dispatcher)


def _microseconds(run: WorkflowContext) -> int:
    return round(run.time() * SECOND)


def _clock(original: _Function, answer: Callable[[WorkflowContext], object]) -> _Function:
    """For functions without arguments."""

    @functools.wraps(original)
    def dispatch() -> object:
        run = current()
        return original() if run is None else answer(run)

    return dispatch


def _dispatcher(original: _Function, instead: _Function) -> _Function:
    """For functions that have another form inside workflows."""

    @functools.wraps(original)
    def dispatch(*args: object, **kwargs: object) -> object:
        return (original if current() is None else instead)(*args, **kwargs)

    return dispatch


def _random(name: str) -> _Function:
    """For functions that are methods of a hidden generator: inside workflows, of the run's."""
    original = getattr(random, name)

    @functools.wraps(original)
    def dispatch(*args: object, **kwargs: object) -> object:
        run = current()
        if run is None:
            return original(*args, **kwargs)
        if name == "seed" and not args and not kwargs:
            raise TypeError("random.seed() without a seed would make the workflow random: give it one")
        return getattr(run.random(), name)(*args, **kwargs)

    return dispatch
