"""Class workflows: calling the class records its arguments, and only the engine builds the object.

`Onboarding(request)` must not run user code where the workflow doesn't run, and yet be an `Onboarding` for the type
checker. So `__init__` is wrapped: for the object that `WorkflowDefinition.make` is building it is the user's; for
any other it records the arguments and turns the object into a hidden subclass, which has nothing else to offer.

::

    Onboarding(request)      → a call, for client.start or workflow.run
    definition.make(request) → an Onboarding whose __init__ has run
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, NoReturn, cast

from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.attributes import Attributes
from perdure.sdk.workflow.context import current
from perdure.sdk.workflow.defaults import own_defaults
from perdure.sdk.workflow.definition import WorkflowDefinition
from perdure.sdk.workflow.handlers import handlers_of

_DEFINITION: Final = "__perdure_workflow__"  # in the class
_CALL_CLASS: Final = "__perdure_call_class__"  # in the class: its hidden subclass
_RECORD: Final = "__perdure_call__"  # in a call's __dict__
_FIELDS: Final = "__dataclass_fields__"  # in a dataclass

_building: ContextVar[object] = ContextVar("perdure_building", default=None)
"""The object whose `__init__` is to run. An identity and no flag: that `__init__` may make calls itself."""


class CallRecord:
    """The arguments of a class's call."""

    __slots__ = ("args", "definition", "fresh", "kwargs")

    def __init__(self, definition: WorkflowDefinition, args: Sequence[object], kwargs: dict[str, object]) -> None:
        self.definition = definition
        self.args = args
        self.kwargs = kwargs
        self.fresh = current() is not None
        """Made inside a workflow, and not used yet."""


def class_definition(cls: type[object]) -> WorkflowDefinition | None:
    """The definition of a class that is itself decorated; that a base is, doesn't count."""
    return cast("WorkflowDefinition | None", vars(cls).get(_DEFINITION))


def call_record(call: object) -> CallRecord | None:
    """What the call of a workflow class records; None for anything else."""
    if _CALL_CLASS not in vars(type(call).__base__ or object):
        return None
    record = vars_of(call).get(_RECORD)
    return record if isinstance(record, CallRecord) else None


def vars_of(call: object) -> dict[str, object]:
    """The attributes of an object, whatever its class makes of attribute access."""
    return cast("dict[str, object]", object.__getattribute__(call, "__dict__"))


def define_class(
    cls: type[object],
    name: str,
    task_queue: str,
    failure_exceptions: tuple[type[BaseException], ...],
    unused: Callable[[WorkflowDefinition], None],
    *,
    entity: bool = False,
) -> WorkflowDefinition:
    """Make a class a workflow.

    Args:
        unused: called when a call that a workflow made dies unused.

    Raises:
        TypeError: the class can't be one; the message says why.
    """
    run = _checked_run(cls)
    if _DEFINITION in vars(cls):
        raise TypeError(f"{cls.__qualname__} is decorated with @workflow twice")
    if cls.__dictoffset__ == 0:
        raise TypeError(
            f"workflow class {cls.__qualname__} can't have __slots__ (nor slots=True): calls are kept in it"
        )
    handlers = handlers_of(cls)
    alarms = [key for key in handlers if key[0] == "alarm"]
    if alarms and not entity:
        raise TypeError(f"{cls.__qualname__} handles the alarm {alarms[0][1]!r}: only entities have alarms")
    original = _no_init if cls.__init__ is object.__init__ else cls.__init__
    definition = WorkflowDefinition(
        name=name,
        target=cls,
        is_class=True,
        is_async=inspect.iscoroutinefunction(run),
        signature=Signature(original, f"workflow {name}", skip_first=True, result_of=run),
        make=functools.partial(_build, cls),
        task_queue=task_queue,
        failure_exceptions=failure_exceptions,
        handlers=handlers,
        attributes=Attributes(cls) if entity else None,
    )
    setattr(cls, _CALL_CLASS, None)  # not the base's, while our own is being made
    call_class = _call_class(cls, definition, unused)
    setattr(cls, _CALL_CLASS, call_class)
    setattr(cls, _DEFINITION, definition)
    setattr(cls, "__init__", _recording(cls, original))  # noqa: B010  (a plain assignment doesn't type)
    return definition


def _checked_run(cls: type[object]) -> Callable[..., object]:
    run = getattr(cls, "run", None)
    if not inspect.isfunction(run) or inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run):
        raise TypeError(f"workflow class {cls.__qualname__} needs a method `async def run(self)`, without a decorator")
    parameters = [*inspect.signature(run).parameters.values()][1:]
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(f"{cls.__qualname__}.run takes no arguments: a workflow's input goes to __init__")
    return run


def _no_init(self: object) -> None:
    """What a class without an `__init__` does."""


def _build(cls: type[object], /, *args: object, **kwargs: object) -> object:
    new = cast("Callable[..., object]", cls.__new__)
    instance = object.__new__(cls) if new is object.__new__ else new(cls, *args, **kwargs)
    own_defaults(instance)
    token = _building.set(instance)
    try:
        cast("Callable[..., None]", type(instance).__init__)(instance, *args, **kwargs)
    finally:
        _building.reset(token)
    return instance


def _recording(cls: type[object], original: Callable[..., object]) -> Callable[..., None]:
    """The class's new `__init__`."""
    fields = vars(cls).get(_FIELDS)

    @functools.wraps(original)
    def __init__(self: object, /, *args: object, **kwargs: object) -> None:
        if _building.get() is self:
            original(self, *args, **kwargs)
            return
        kind = type(self)
        call_class = cast("type[object] | None", vars(kind).get(_CALL_CLASS))
        definition = class_definition(kind)
        if call_class is None or definition is None:
            raise TypeError(
                f"{kind.__name__} inherits from the workflow {cls.__name__} but isn't one itself: decorate it with "
                f"@workflow"
            )
        if vars(cls).get(_FIELDS) is not fields:
            raise TypeError(f"{cls.__name__}: put @workflow above @dataclass, which made no __init__ for it")
        vars_of(self)[_RECORD] = CallRecord(definition, args, kwargs)
        self.__class__ = call_class

    return __init__


def _call_class(
    cls: type[object], definition: WorkflowDefinition, unused: Callable[[WorkflowDefinition], None]
) -> type[object]:
    """The hidden subclass of which calls are."""

    def refuse(name: str) -> NoReturn:
        raise AttributeError(
            f"{cls.__name__}(…) here is a call that was not run yet: .{name} is there only inside the workflow"
        )

    def get(self: object, name: str) -> object:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        return refuse(name)

    def set_(self: object, name: str, value: object) -> None:
        if not name.startswith("__"):
            refuse(name)
        object.__setattr__(self, name, value)

    def show(self: object) -> str:
        return f"<call of workflow {definition.name}>"

    def die(self: object) -> None:
        record = call_record(self)
        if record is not None and record.fresh:
            unused(definition)

    namespace: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__getattribute__": get,
        "__setattr__": set_,
        "__repr__": show,
        "__eq__": object.__eq__,
        "__hash__": object.__hash__,
        "__del__": die,
    }
    metaclass = cast("Callable[..., type[object]]", type(cls))
    return metaclass(cls.__name__, (cls,), namespace)
