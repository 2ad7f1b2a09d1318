"""The engine and the SDK, broken on purpose where a workflow is more than one run: children, sagas, entities, chains.

See `mutations.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from perdure.engine.core import effects as fx
from perdure.engine.core.decisions import carrying, closing, commands, resets, sending
from perdure.engine.core.transition import Transition
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.records import ChildInherited
from perdure.model.state import State
from perdure.sdk.workflow.entities import Entity
from perdure.sdk.workflow.saga import Saga
from tests.simulation.mutations import Mutation, Patch


def none_of_them(state: State) -> tuple[ChildInherited, ...]:
    """Takes the place of a run's children."""
    return ()


def leave_children(patch: Patch) -> None:
    patch.setattr(closing, "children_of", none_of_them)


def forget_earlier_children(patch: Patch) -> None:
    patch.setattr(carrying, "children_of", none_of_them)


def carry_signals(patch: Patch, times: int) -> None:
    carry = carrying.carry

    def carried(state: State, command: c.ContinueAsNew) -> fx.ContinueRun:
        left = carry(state, command)
        return fx.ContinueRun(left.messages * times, left.records, left.starts, left.postponed)

    patch.setattr(commands, "carry", carried)


def carry_no_signals(patch: Patch) -> None:
    carry_signals(patch, 0)


def carry_signals_twice(patch: Patch) -> None:
    carry_signals(patch, 2)


def give_no_signals_again(patch: Patch) -> None:
    patch.delitem(resets.AGAIN, e.WorkflowExecutionSignaled)


def cancel_children_at_once(patch: Patch) -> None:
    """They are ended, not asked to stop."""
    send = closing.send

    def ending(tx: Transition, event_id: int, message: object, since: int = 0) -> None:
        if isinstance(message, sending.r.OutboxCancel):
            message = sending.r.OutboxCancel(message.workflow_id, message.run_id, True, message.child_of)
        send(tx, event_id, message, since)  # pyright: ignore[reportArgumentType]

    patch.setattr(closing, "send", ending)
    patch.setattr(sending, "send", ending)


def undo_from_the_front(patch: Patch) -> None:
    run = Saga.do

    async def do(self: Saga, step: Awaitable[object], /, *, undo: Callable[[object], object]) -> object:
        result = await run(self, step, undo=undo)  # pyright: ignore[reportUnknownVariableType, reportCallIssue, reportArgumentType]
        self._undos.insert(0, self._undos.pop())
        return result  # pyright: ignore[reportUnknownVariableType]

    patch.setattr(Saga, "do", do)


def undo_too_little(patch: Patch) -> None:
    run = Saga.do

    async def do(self: Saga, step: Awaitable[object], /, *, undo: Callable[[object], object]) -> object:
        result = await run(self, step, undo=undo)  # pyright: ignore[reportUnknownVariableType, reportCallIssue, reportArgumentType]
        del self._undos[:-1]
        return result  # pyright: ignore[reportUnknownVariableType]

    patch.setattr(Saga, "do", do)


def lose_alarms(patch: Patch) -> None:
    def none(self: Entity) -> dict[str, int]:
        return {}

    patch.setattr(Entity, "alarms", none)


FAMILY_MUTATIONS = [
    Mutation("leave children when their parent ends", "5: a child ends with its parent", leave_children),
    Mutation("forget the children of earlier runs", "5: a child ends with its parent", forget_earlier_children),
    Mutation("end children instead of asking them to stop", "5: a child may tidy up", cancel_children_at_once),
    Mutation("carry no signals over", "1: an acknowledged signal is seen", carry_no_signals),
    Mutation("carry signals over twice", "2: a signal is seen once", carry_signals_twice),
    Mutation("give no signals again at a reset", "1: an acknowledged signal is seen", give_no_signals_again),
    Mutation("undo a saga from its front", "2: the last step is undone first", undo_from_the_front),
    Mutation("undo the last step of a saga only", "2: what was done is undone", undo_too_little),
    Mutation("lose the alarms at a roll-over", "3: a timer survives", lose_alarms),
]
