"""Looks at a workflow's code, before it runs, for what nothing could stop when it does.

`datetime.now()` is a method of a type that can't be changed; `from time import time` took the function itself, before
there was a dispatcher in its place; and who waits for a thread's lock can't be interrupted. All three are seen in the
names that the code refers to, and in the functions of the same program that it calls.
"""

from __future__ import annotations

import datetime
import dis
import queue
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Final, cast
from weakref import WeakSet

from perdure.sdk.workflow import dispatchers
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.guard import refusal
from perdure.sdk.workflow.source import is_library, is_ours

_NOW: Final = "Use workflow.now(), which is the workflow's time"
_LOCK: Final = "Use asyncio's Lock, Event, Condition, Semaphore or Queue"

_METHODS: Final = {
    (datetime.datetime, "now"): _NOW,
    (datetime.datetime, "utcnow"): _NOW,
    (datetime.datetime, "today"): _NOW,
    (datetime.date, "today"): "Use workflow.now().date(), which is the workflow's day",
}
"""Methods of types that can't be changed, and what to use instead."""

_LOCKS: Final[tuple[object, ...]] = (
    threading.Lock, threading.RLock, threading.Event, threading.Condition, threading.Semaphore,
    threading.BoundedSemaphore, threading.Barrier, queue.Queue, queue.SimpleQueue, queue.LifoQueue,
    queue.PriorityQueue,
)  # fmt: skip
"""What threads wait with. Locks made elsewhere are known by their types."""

_LOCK_TYPES: Final = (type(threading.Lock()), type(threading.RLock()))

_checked: Final[WeakSet[object]] = WeakSet()


def check(definition: WorkflowDefinition) -> None:
    """Raises GuardError where a workflow's code refers to what can't be repeated; it names the line."""
    if definition.target in _checked:
        return
    scan = _Scan(definition.target.__module__)
    for function in _functions(definition):
        scan.look_at(function)
    _checked.add(definition.target)


def _functions(definition: WorkflowDefinition) -> Iterator[FunctionType]:
    """What of a definition is run: a function, or a class's own methods and those of its bases."""
    if not definition.is_class:
        yield cast("FunctionType", definition.target)
        return
    for cls in cast("type[object]", definition.target).__mro__:
        for member in vars(cls).values():
            for name in ("__wrapped__", "fget", "fset", "func"):  # of handlers, properties and cached ones
                if isinstance(inner := getattr(member, name, None), FunctionType):
                    yield inner
            if isinstance(member, FunctionType):
                yield member


class _Scan:
    """One walk through the functions that a definition reaches. root: the module that it is defined in."""

    def __init__(self, root: str) -> None:
        self._package = root.partition(".")[0]
        self._seen: set[CodeType] = set()

    def look_at(self, function: FunctionType) -> None:
        """Look at a function, and at those of the same program that it refers to."""
        names = dict(zip(function.__code__.co_freevars, _cells(function), strict=True))
        self._look(function.__code__, function, names)

    def _look(self, code: CodeType, function: FunctionType, free: dict[str, object]) -> None:
        if code in self._seen:
            return
        self._seen.add(code)
        for line, chain in _references(code):
            value = self._follow(chain, function, free, f"{code.co_filename}:{line}")
            if isinstance(value, FunctionType) and self._is_ours(value):
                self.look_at(value)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._look(inner, function, free)

    def _follow(self, chain: list[str], function: FunctionType, free: dict[str, object], place: str) -> object:
        """What a chain of names stands for, as far as that can be told without running code."""
        first, *attributes = chain
        value = free.get(first, function.__globals__.get(first))
        _judge(value, None, first, place)
        for count, name in enumerate(attributes, 2):
            if not isinstance(value, (ModuleType, type)):
                return None
            owner, value = value, cast("object", getattr(value, name, None))
            _judge(value, owner, ".".join(chain[:count]), place)
        return value

    def _is_ours(self, function: FunctionType) -> bool:
        """Whether a function belongs to the program, rather than to a library."""
        code, package = function.__code__, (function.__module__ or "").partition(".")[0]
        return package == self._package or not (is_ours(code) or package in sys.stdlib_module_names or is_library(code))


def _references(code: CodeType) -> Iterator[tuple[int, list[str]]]:
    """The names that code refers to, with the attributes that are taken of them, and their lines."""
    line, chain = code.co_firstlineno, list[str]()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain.append(instruction.argval)
            continue
        if chain:
            yield line, chain
        line = instruction.positions.lineno if instruction.positions and instruction.positions.lineno else line
        chain = [instruction.argval] if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF") else []
    if chain:
        yield line, chain


def _judge(value: object, owner: object, name: str, place: str) -> None:
    if isinstance(owner, type):
        for (cls, method), instead in _METHODS.items():
            if issubclass(owner, cls) and name.rpartition(".")[2] == method and _inherits(owner, cls, method):
                raise refusal(place, f"{name}()", instead)
    for known, original in dispatchers.originals.items():
        if value is original:
            module = known.rpartition(".")[0]
            raise refusal(
                place, name, f"It was imported before Perdure could see to it: import {module}, and call {known}"
            )
    if any(value is each for each in _LOCKS) or isinstance(value, _LOCK_TYPES):
        raise refusal(place, f"waiting with {name}", _LOCK)


def _inherits(owner: type[object], cls: type[object], method: str) -> bool:
    """Whether a class has a method from another, rather than one of its own."""
    return next((base for base in owner.__mro__ if method in vars(base)), None) in cls.__mro__


def _cells(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            yield None
