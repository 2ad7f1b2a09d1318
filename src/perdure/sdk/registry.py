"""Which workflows and activities there are, by their names on the wire.

Definitions enter the process-wide registry when they are decorated; a worker serves those unless it is given
others. A module that is imported again replaces what it had registered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from perdure.sdk.activity.definition import ActivityDefinition
from perdure.sdk.names import real_module
from perdure.sdk.workflow.definition import WorkflowDefinition

_Definition = TypeVar("_Definition", ActivityDefinition, WorkflowDefinition)


class Registry:
    """Workflows and activities by name."""

    def __init__(self) -> None:
        self.workflows: dict[str, WorkflowDefinition] = {}
        self.activities: dict[str, ActivityDefinition] = {}
        self.watchers: list[Callable[[], None]] = []
        """Called, in whatever thread, when there is a name more."""

    def add_workflow(self, definition: WorkflowDefinition) -> None:
        """Add a workflow, or replace it by a later version of itself. Raises ValueError if the name is taken."""
        present = self.workflows.get(definition.name)
        _refuse_namesake("workflow", definition.name, present, definition)
        self.workflows[definition.name] = definition
        self._added(present)

    def add_activity(self, definition: ActivityDefinition) -> None:
        """Add an activity, or replace it by a later version of itself. Raises ValueError if the name is taken."""
        present = self.activities.get(definition.name)
        _refuse_namesake("activity", definition.name, present, definition)
        self.activities[definition.name] = definition
        self._added(present)

    def _added(self, present: object) -> None:
        if present is None:
            for watcher in list(self.watchers):
                watcher()


REGISTRY: Final = Registry()
"""What was decorated in this process."""


def _refuse_namesake(kind: str, name: str, present: _Definition | None, new: _Definition) -> None:
    if present is None:
        return
    before, now = _place(present), _place(new)
    # What is defined inside a function exists as often as the function is called; the last one counts.
    if before == now or "<locals>" in before:
        return
    raise ValueError(
        f"two {kind} definitions are named {name!r}: {before} and {now}. Rename one, or give it a name of its own "
        f'for the wire: @{kind}(name="…")'
    )


def _place(definition: ActivityDefinition | WorkflowDefinition) -> str:
    code: Callable[..., object] = (
        definition.function if isinstance(definition, ActivityDefinition) else definition.target
    )
    return f"{real_module(code.__module__)}.{code.__qualname__}"
