"""A workflow's code gets the thread, and the program around it gets it back as it was.

An activation runs synchronously, usually inside a step of a task of the outer program's loop. Meanwhile the
thread's running loop and current task are the workflow's, asynchronous generators belong to the workflow, the
garbage collector rests (what it finalises would run at a random time), and `context.current()` is the run.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import events
from collections.abc import Callable
from typing import Any, Final

from perdure.sdk.workflow import generators, stuck
from perdure.sdk.workflow.context import WorkflowContext, enter, thread
from perdure.sdk.workflow.guard import tell_hidden
from perdure.sdk.workflow.loop import DeterministicLoop

# From Python 3.14 on a thread has one current task, not one a loop.
# 3.12 has the function, too, but there a loop's current task can be left as it is.
_swap: Final[Callable[[Any, Any], Any] | None] = getattr(asyncio.tasks, "_swap_current_task", None)
_swap_current_task: Final = _swap if sys.version_info >= (3, 14) else None


class Activation:
    """Use as `with Activation(run, loop): …` around all that executes the workflow's code."""

    __slots__ = ("_collecting", "_context", "_hooks", "_loop", "_outer", "_task")

    def __init__(self, context: WorkflowContext, loop: DeterministicLoop) -> None:
        self._context: WorkflowContext | None = context
        self._loop = loop

    def __enter__(self) -> None:
        loop = self._loop
        self._collecting = gc.isenabled()
        gc.disable()
        self._outer = outer = events._get_running_loop()
        if outer is not None and _swap_current_task is not None:
            self._task = _swap_current_task(outer, None)
        events._set_running_loop(loop)
        if outer is None:
            self._hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(loop.generator_begins, loop.generator_dropped)
        elif sys.get_asyncgen_hooks().firstiter is not generators.begun:
            generators.adopt()
        self._context = enter(self._context)
        loop.running = True
        stuck.begin(loop)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            stuck.end(self._loop, error)
        finally:  # it may have been interrupted, even just here
            self._loop.running = False
            enter(self._context)
            outer = self._outer
            events._set_running_loop(outer)
            if outer is None:
                sys.set_asyncgen_hooks(*self._hooks)
            elif _swap_current_task is not None:
                _swap_current_task(outer, self._task)
            if self._collecting:
                gc.enable()
            if thread.stopped:
                tell_hidden(error)
