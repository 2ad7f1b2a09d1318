"""Looks at a workflow's code, and interceptors' around it, before it runs, for what nothing could stop when it does.

`datetime.now()` is a method of a type that can't be changed; `from time import time` took the function itself, before
there was a dispatcher in its place; and who waits for a thread's lock can be interrupted only late, and not in every
thread. All three are seen in the names that the code refers to, and in the functions of the same program that it calls.
Whether a method or a default of a class is reached can't be known for certain: of those that may be, a warning is
logged.
"""

from __future__ import annotations

import datetime
import dis
import functools
import logging
import queue
import sys
import threading
from collections.abc import Container, Iterable, Iterator
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast
from weakref import WeakSet

from perdure.errors import GuardError
from perdure.sdk.workflow import dispatchers
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.guard import LOCK, refusal, stopped
from perdure.sdk.workflow.source import is_library, is_ours

_log: Final = logging.getLogger("perdure.workflow")

_NOW: Final = "Use workflow.now(), which is the workflow's time"

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

_CACHED: Final = type(functools.cache(len))

_FIELDS: Final = ("__dataclass_fields__", "__pydantic_fields__", "__struct_defaults__")

_checked: Final[WeakSet[object]] = WeakSet()


def check(definition: WorkflowDefinition) -> None:
    """Raises GuardError where a workflow's code refers to what can't be repeated; it names the line."""
    if definition.target in _checked:
        return
    scan = _Scan(definition.target.__module__, plain=not definition.is_async)
    for function in _functions(definition):
        scan.look_at(function)
    scan.warn(f"workflow {definition.name}")
    _checked.add(definition.target)


def check_interceptor(cls: type[object], hooks: Iterable[object]) -> None:
    """The same for an interceptor's class, of which the hooks are run in workflows. What else it has may do anything,
    unless they call it."""
    if cls in _checked:
        return
    scan = _Scan(cls.__module__, plain=False)
    for hook in map(_called, hooks):
        if isinstance(hook, FunctionType):
            scan.look_at(hook)
    scan.has_object_of(cls)
    scan.warn(f"interceptor {cls.__qualname__}")
    _checked.add(cls)


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
    """One walk through the functions that a definition reaches. root: the module that it is defined in. plain: whether
    its code waits without `await`."""

    def __init__(self, root: str, *, plain: bool) -> None:
        self._package = root.partition(".")[0]
        self._plain = plain
        self._seen: set[CodeType] = set()
        self._classes: dict[type[object], bool] = {}  # and whether it may make objects of them
        self._attributes: set[str] = set()

    def look_at(self, function: FunctionType) -> None:
        """Look at a function, and at those of the same program that it refers to."""
        names = dict(zip(function.__code__.co_freevars, _cells(function), strict=True))
        self._look(function.__code__, function, names)

    def has_object_of(self, cls: type[object]) -> None:
        """The functions have an object of a class, which was made before."""
        self._classes.setdefault(cls, False)

    def warn(self, who: str) -> None:
        """Look at the classes, and tell what is wrong in them."""
        for cls, error in self._look_at_classes():
            _log.warning("%s uses %s, in which is, if it is reached: %s", who, cls.__qualname__, error)

    def _look_at_classes(self) -> Iterator[tuple[type[object], GuardError]]:
        """Look at what of the program's classes the functions may reach: the classes, and what is wrong in them."""
        looked: set[object] = set()
        while used := [(cls, each) for cls in [*self._classes] for each in self._used(cls) if each not in looked]:
            for cls, each in used:
                looked.add(each)
                try:
                    if isinstance(each, FunctionType):
                        self.look_at(each)
                    else:
                        self._judge(each, None, getattr(each, "__qualname__", ""), f"a default in {cls.__qualname__}")
                except GuardError as error:
                    yield cls, error

    def _used(self, cls: type[object]) -> Iterator[object]:
        """The methods of a class whose names the functions use, or Python; and what makes its defaults."""
        made = self._classes[cls]
        for base in cls.__mro__:
            for name, member in vars(base).items():
                function = _called(getattr(member, "__func__", getattr(member, "fget", member)))
                if isinstance(function, FunctionType) and (
                    name in self._attributes or (made and name.startswith("__"))
                ):
                    generated = function.__code__.co_filename.startswith("<")  # by `dataclass`
                    yield from () if generated or not self._is_ours(function) else (function,)
        for factory in _factories(cls) if made else ():
            if isinstance(factory, BuiltinMethodType) or (isinstance(factory, FunctionType) and self._is_ours(factory)):
                yield factory

    def _look(self, code: CodeType, function: FunctionType, free: dict[str, object]) -> None:
        if code in self._seen:
            return
        self._seen.add(code)
        self._attributes.update(code.co_names)
        free = free | _imported(code)
        for line, chain in _references(code, free):
            place = f"{code.co_filename}:{line}"
            value = self._follow(chain, function, free, place)
            cls = value if isinstance(value, type) else type(value)
            if cls not in self._classes and self._has(cls):
                self._classes[cls] = True
            called = _called(value)
            if called is not value:
                self._judge(called, None, ".".join(chain), place)
            if isinstance(called, FunctionType) and self._is_ours(called):
                self.look_at(called)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._look(inner, function, free)

    def _follow(self, chain: list[str], function: FunctionType, free: dict[str, object], place: str) -> object:
        """What a chain of names stands for, or the object in it that alone could tell, without running code."""
        first, *attributes = chain
        value = free.get(first, function.__globals__.get(first))
        self._judge(value, None, first, place)
        for count, name in enumerate(attributes, 2):
            if not isinstance(value, (ModuleType, type)):
                break
            owner, value = value, cast("object", getattr(value, name, None))
            self._judge(value, owner, ".".join(chain[:count]), place)
        return value

    def _judge(self, value: object, owner: object, name: str, place: str) -> None:
        """Raises GuardError where a value, which an owner has by a name, can't be used in a workflow."""
        if isinstance(value, BuiltinMethodType) and value.__self__ is not owner and isinstance(value.__self__, type):
            owner, name = value.__self__, value.__qualname__  # a method that has been given another name
        if isinstance(owner, type):
            for (cls, method), instead in _METHODS.items():
                if issubclass(owner, cls) and name.rpartition(".")[2] == method and _inherits(owner, cls, method):
                    raise refusal(place, f"{name}()", instead, plain=self._plain)
        for known, original in dispatchers.originals.items():
            if value is original:
                module = known.rpartition(".")[0]
                imported = f"It was imported before Perdure could see to it: import {module}, and call {known}"
                raise refusal(place, name, stopped.get(known, imported), plain=self._plain)
        if any(value is each for each in _LOCKS) or isinstance(value, _LOCK_TYPES):
            raise refusal(place, f"waiting with {name}", LOCK, plain=self._plain)

    def _is_ours(self, function: FunctionType) -> bool:
        """Whether a function belongs to the program, rather than to a library."""
        code = function.__code__
        return self._belongs(function.__module__) or not (
            is_ours(code)
            or is_library(code)
            or (function.__module__ or "").partition(".")[0] in sys.stdlib_module_names
        )

    def _has(self, cls: type[object]) -> bool:
        """Whether a class is of the program."""
        methods = (each for each in vars(cls).values() if isinstance(each, FunctionType))
        return self._belongs(cls.__module__) or any(map(self._is_ours, methods))

    def _belongs(self, module: str | None) -> bool:
        return (module or "").partition(".")[0] == self._package


def _called(value: object) -> object:
    """What is called in the end where a method, a partial or a cached function is."""
    while True:
        if isinstance(value, MethodType):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = cast("functools.partial[object]", value).func
        elif isinstance(value, _CACHED):
            value = value.__wrapped__
        else:
            return value


def _references(code: CodeType, local: Container[str]) -> Iterator[tuple[int, list[str]]]:
    """The names that code refers to, with the attributes that are taken of them, and their lines; of its own variables
    only those in `local`."""
    line, chain = code.co_firstlineno, list[str]()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain.append(instruction.argval)
            continue
        if chain:
            yield line, chain
        line = instruction.positions.lineno if instruction.positions and instruction.positions.lineno else line
        chain = []
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            chain = [instruction.argval]
        elif "LOAD_FAST" in instruction.opname:  # later versions load two variables at once; the second is on top
            name = _variables(instruction)[-1]
            chain = [name] if name in local else []
    if chain:
        yield line, chain


def _variables(instruction: dis.Instruction) -> tuple[str, ...]:
    """Whose value is loaded or stored, in this order."""
    named = cast("str | tuple[str, ...]", instruction.argval)
    return named if isinstance(named, tuple) else (named,)


def _imported(code: CodeType) -> dict[str, object]:
    """What the code itself imports into variables of its own, as far as that is imported already."""
    found: dict[str, object] = {}
    module: object = None
    value: object = None
    before = [*dis.get_instructions(code)]
    for place, instruction in enumerate(before):
        match instruction.opname:
            case "IMPORT_NAME" if before[place - 2].argval == 0:  # not relative
                whole = before[place - 1].argval is not None  # from … import
                module = value = sys.modules.get(instruction.argval if whole else instruction.argval.partition(".")[0])
            case "IMPORT_FROM":
                value = getattr(module, instruction.argval, None)
            case name if name.startswith("STORE_") and value is not None:
                found[_variables(instruction)[0]] = value
                value = None
            case _:
                pass
    return found


def _factories(cls: type[object]) -> Iterator[object]:
    """What makes the defaults of a dataclass's attributes, or of a msgspec struct's or a pydantic model's."""
    members: dict[str, Any] = {name: getattr(cls, name, None) for name in _FIELDS}
    for fields in (members["__dataclass_fields__"], members["__pydantic_fields__"]):
        if isinstance(fields, dict):
            yield from (field.default_factory for field in cast("dict[str, Any]", fields).values())
    for default in members["__struct_defaults__"] or ():
        yield getattr(default, "factory", None)


def _inherits(owner: type[object], cls: type[object], method: str) -> bool:
    """Whether a class has a method from another, rather than one of its own."""
    return next((base for base in owner.__mro__ if method in vars(base)), None) in cls.__mro__


def _cells(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            yield None
