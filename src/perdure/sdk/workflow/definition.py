"""What `@workflow` makes of a function or a class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Literal, cast

from perdure.sdk.signatures import Signature
from perdure.sdk.workflow.attributes import Attributes

HandlerKind = Literal["signal", "query", "update", "alarm"]


@dataclass(slots=True)
class HandlerDefinition:
    """A method that takes messages. `function` and `validator` are unbound."""

    kind: HandlerKind
    name: str
    function: Callable[..., object]
    is_async: bool
    signature: Signature
    validator: Callable[..., object] | None = None


@dataclass(frozen=True, slots=True)
class WorkflowDefinition:
    """One workflow type: its name on the wire, and the code that runs.

    target: the function, or the class. signature: of the function, or of the class's `__init__`; its
    `result_type` is what the function or `run` returns. make: for a class, builds the live object from
    decoded arguments (the class's own call only records them); for a function it is the function.
    failure_exceptions: classes that fail the workflow when its code raises them, beside ApplicationError.
    """

    name: str
    target: Callable[..., object]
    is_class: bool
    is_async: bool
    signature: Signature
    make: Callable[..., object]
    task_queue: str = ""
    failure_exceptions: tuple[type[BaseException], ...] = ()
    handlers: dict[tuple[HandlerKind, str], HandlerDefinition] = field(
        default_factory=dict[tuple[HandlerKind, str], HandlerDefinition]
    )
    """Signals, queries, updates and alarms by kind and name, those of base classes included."""
    attributes: Attributes | None = None
    """Of an entity: what of it survives."""

    @property
    def code(self) -> CodeType:
        """Of the function, or of the class's `run`."""
        run = cast("Any", self.target).run if self.is_class else self.target
        return cast("CodeType", inspect.unwrap(run).__code__)
