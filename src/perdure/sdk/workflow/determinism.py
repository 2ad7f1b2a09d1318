"""Python's own clocks, random numbers and sets of tasks, made to repeat exactly inside workflows.

`install` puts dispatchers in place of some functions of the standard library (see `dispatchers`); what can't be made
to repeat, the guard stops.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, Final, cast

from perdure.clock import SECOND
from perdure.sdk.workflow import guard, ordering, sameness, stuck
from perdure.sdk.workflow.context import WorkflowContext, current
from perdure.sdk.workflow.dispatchers import dispatcher, originals, replace

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


def install() -> None:
    """Put the dispatchers in place, in this process. A second call does nothing."""
    if originals:
        return
    guard.install()
    stuck.Watcher().start()
    replace(time, "time", _clock(time.time, lambda run: run.time()))
    replace(time, "time_ns", _clock(time.time_ns, lambda run: _microseconds(run) * 1_000))
    # A workflow's only clock is that of its events, which never goes back.
    for name in ("monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime"):
        if not hasattr(time, name):  # the last is Unix's
            continue
        replace(time, name, _clock(getattr(time, name), lambda run: run.time()))
        replace(time, f"{name}_ns", _clock(getattr(time, f"{name}_ns"), lambda run: _microseconds(run) * 1_000))
    for name in ("gmtime", "localtime", "ctime"):
        replace(time, name, _of_now(getattr(time, name)))
    replace(time, "asctime", _of_fields(time.asctime))
    replace(time, "strftime", _of_fields(time.strftime, 1))
    replace(uuid, "uuid4", _clock(uuid.uuid4, lambda run: run.uuid4()))
    for name in _RANDOM:
        if hasattr(random, name):
            replace(random, name, _random(name))
    replace(random.Random, "seed", _seeded(random.Random.seed))
    for name in ("wait", "as_completed", "wait_for", "all_tasks"):
        ordered = dispatcher(getattr(asyncio, name), getattr(ordering, name))
        replace(asyncio, name, ordered)
        replace(asyncio.tasks, name, ordered)
    # Not one of `originals`: code may have taken it by its name. There it is the same, but for a turn of the loop on
    # old Pythons, where what it is given has ended.
    asyncio.gather = asyncio.tasks.gather = cast(Any, dispatcher(asyncio.gather, sameness.gather))
    for owner, name, instead in (
        (asyncio.TaskGroup, "__aenter__", sameness.enter_task_group),
        (asyncio.TaskGroup, "__aexit__", sameness.exit_task_group),
        (asyncio.Condition, "wait", sameness.wait_on_condition),
        (asyncio.Semaphore, "acquire", sameness.acquire_semaphore),
    ):
        replace(owner, name, dispatcher(getattr(owner, name), instead))


def _microseconds(run: WorkflowContext) -> int:
    return round(run.time() * SECOND)


def _clock(original: _Function, answer: Callable[[WorkflowContext], object]) -> _Function:
    """For functions whose arguments, where there are any, are nothing to a workflow."""

    @functools.wraps(original)
    def dispatch(*args: object) -> object:
        run = current()
        return original(*args) if run is None else answer(run)

    return dispatch


def _of_now(original: _Function) -> _Function:
    """For functions of a time, by default the present one."""

    @functools.wraps(original)
    def dispatch(secs: float | None = None) -> object:
        run = current()
        return original(run.time() if secs is None and run is not None else secs)

    return dispatch


def _of_fields(original: _Function, before: int = 0) -> _Function:
    """For functions of a time's fields, by default the present ones, after so many other arguments."""

    @functools.wraps(original)
    def dispatch(*args: object) -> object:
        run = current()
        present = () if run is None or len(args) > before else (time.localtime(),)
        return original(*args, *present)

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


def _seeded(original: _Function) -> _Function:
    """`Random()` without a seed takes it from the machine: inside workflows, from the run."""

    @functools.wraps(original)
    def dispatch(self: random.Random, a: Any = None, version: int = 2) -> None:
        run = current()
        original(self, run.random().getrandbits(64) if a is None and run is not None else a, version)

    return dispatch
