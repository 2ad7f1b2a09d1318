"""Messages that are given to a run later, in the order in which they came: a reset gives some again.

::

    State.postponed:   update, update, signal, update, signal, …      what arrives meanwhile joins the end
                       └─── given ───┘ └─ when those are answered ─▶

In one workflow task signals come before updates. So a signal that came after an update stays out of the history, and
the updates behind it wait, until a task has answered the updates before it. (They stand in `State.admitted`, too.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from msgspec.structs import replace

from perdure.engine.core.transition import Transition
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.state import State


def receive(tx: Transition, signal: e.WorkflowExecutionSignaled) -> None:
    """A signal, which was made for this call, with the id 0: behind what is to be given before it."""
    if tx.state.postponed:
        tx.note(r.MessagePostponed(signal))
    else:
        tx.arrive(signal)


def give(tx: Transition, *, everything: bool = False) -> bool:
    """Let the signals whose turn it is enter the history; whether there were any.

    everything: do so with all of them, and let no update wait longer: the run ends, or wants to.
    """
    queue = tx.state.postponed
    if not queue:
        return False
    first = list(queue) if everything else list(takewhile(_is_signal, queue))
    if first:
        tx.note(r.PostponedGiven(len(first)))
    signals = [message for message in first if not isinstance(message, str)]
    for signal in signals:
        tx.add(replace(signal, id=tx.next_id, time=tx.now))
    return bool(signals)


def updates_given(state: State) -> Sequence[r.UpdateAdmitted]:
    """The updates for a workflow task that is taken now."""
    if not state.postponed:
        return list(state.admitted.values())
    updates: list[r.UpdateAdmitted] = []
    for message in state.postponed:
        if not isinstance(message, str):
            break
        updates.append(state.admitted[message])
    return updates


def _is_signal(message: object) -> bool:
    return not isinstance(message, str)
