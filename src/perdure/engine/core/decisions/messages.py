"""What people and other programs send to a run: signals, cancel and terminate requests, updates."""

from __future__ import annotations

from perdure.engine.core.decisions.closing import close
from perdure.engine.core.decisions.postponing import give, receive
from perdure.engine.core.effects import EvictCopy
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import Join
from perdure.engine.core.queries import update_outcome
from perdure.engine.core.refusals import in_words
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest, LimitExceeded, NotRunning, Unavailable
from perdure.limits import (
    CLOSE_REFUSALS,
    MAX_BUFFERED_INPUTS,
    MAX_HISTORY_BYTES,
    MAX_HISTORY_EVENTS,
    MAX_PENDING_UPDATES,
)
from perdure.model import events as e
from perdure.model import records as r
from perdure.model.payloads import Payload, Payloads
from perdure.model.requests import (
    CancelWorkflowRequest,
    Done,
    SignalWorkflow,
    Started,
    StartSignal,
    TerminateWorkflow,
    UpdateWorkflow,
)
from perdure.model.state import State

DONE = Done()


def require_open(execution: Execution) -> None:
    """Raises NotRunning where the run has ended."""
    if not execution.open:
        state = execution.state
        raise NotRunning(
            f"workflow {state.workflow_id!r} is not running: its run {execution.ref.run_id} is {in_words(state.status)}"
        )


def history_full(state: State) -> bool:
    """Whether the history has reached a hard limit, with what a person has allowed beyond."""
    return (
        state.last_event_id >= MAX_HISTORY_EVENTS + state.released_events
        or state.history_bytes >= MAX_HISTORY_BYTES + state.released_bytes
    )


def require_child(execution: Execution, parent: e.ParentRef | None) -> None:
    """Raises NotRunning where the run is not of the child that a parent means: that one's chain has ended."""
    if parent is not None and execution.state.started.parent != parent:
        raise NotRunning(
            f"the child {execution.state.workflow_id!r} of workflow {parent.workflow_id!r} is not running: its id is "
            f"another run's by now"
        )


def require_room(execution: Execution) -> None:
    """Raises Unavailable where the run takes no more messages for now, LimitExceeded where its history is full."""
    state = execution.state
    if history_full(state):
        raise LimitExceeded(
            f"workflow {state.workflow_id!r} takes no more messages: its history has {state.last_event_id} events "
            f"and {state.history_bytes} bytes (limits.MAX_HISTORY_EVENTS, limits.MAX_HISTORY_BYTES)"
        )
    if len(state.buffered) + len(state.postponed) >= MAX_BUFFERED_INPUTS:
        raise Unavailable(
            f"{MAX_BUFFERED_INPUTS} messages wait for the open workflow task of {state.workflow_id!r} "
            "(limits.MAX_BUFFERED_INPUTS); try again"
        )
    if state.close_refusals >= CLOSE_REFUSALS and execution.taken is not None:
        raise Unavailable(f"workflow {state.workflow_id!r} is about to close; try again")


def signal(tx: Transition, request: SignalWorkflow) -> None:
    """A message: into the history, or into the buffer."""
    if not request.request_id:
        raise InvalidRequest("a signal needs a request_id, so that a retry is recognised")
    _signal(tx, request.name, request.input, request.identity, request.header)
    tx.remember(request)
    tx.schedule_task()
    tx.reply = DONE


def _signal(tx: Transition, name: str, input: Payloads, identity: str, header: dict[str, Payload] | None) -> None:
    require_open(tx.execution)
    require_room(tx.execution)
    receive(tx, e.WorkflowExecutionSignaled(0, tx.now, name, input, identity, header))


def cancel(tx: Transition, request: CancelWorkflowRequest) -> None:
    """The workflow is asked to stop; asking again changes nothing."""
    require_child(tx.execution, request.child_of)
    require_open(tx.execution)
    if not tx.state.cancel_requested:
        tx.arrive(e.WorkflowExecutionCancelRequested(0, tx.now, request.reason, request.identity))
        tx.remember(request)  # a repetition is not for the run that follows
        tx.schedule_task(at_once=True)  # who wants it to stop need not wait for its start
    tx.reply = DONE


def terminate(tx: Transition, request: TerminateWorkflow) -> None:
    """The run ends here, whatever it was doing."""
    require_child(tx.execution, request.child_of)
    require_open(tx.execution)
    tx.flush()
    give(tx, everything=True)
    close(tx, e.WorkflowExecutionTerminated(0, tx.now, request.reason, request.identity))
    tx.effects.append(EvictCopy())
    tx.reply = DONE


def update(tx: Transition, request: UpdateWorkflow) -> None:
    """Admit an update, or tell how far it is. The reply is None until its validator has run."""
    state = tx.state
    if not request.update_id:
        raise InvalidRequest("an update needs an update_id, so that a retry is recognised")
    known = update_outcome(state, request.update_id)
    if known is None and request.update_id not in state.admitted:
        require_open(tx.execution)
        require_room(tx.execution)
        if len(state.admitted) + len(state.accepted) >= MAX_PENDING_UPDATES:
            raise Unavailable(
                f"{MAX_PENDING_UPDATES} updates of {state.workflow_id!r} are pending "
                "(limits.MAX_PENDING_UPDATES); try again"
            )
        tx.note(
            r.UpdateAdmitted(request.update_id, request.name, request.input, request.identity, tx.now, request.header)
        )
        if state.postponed:
            tx.note(r.MessagePostponed(request.update_id))
        tx.remember(request)  # a repetition is not for the next run of this id
        tx.schedule_task()
    tx.reply = known


def join(tx: Transition, input: Join) -> None:
    """A start found a run that is open: its message is for that, and ends the delay of its start."""
    request, message = input.request, input.request.message
    chain = request.namespace, request.workflow_id
    if isinstance(message, StartSignal):
        _signal(tx, message.name, message.input, request.identity, message.header)
    elif message is not None:
        sent = message.update_id, message.name, message.input, request.identity
        update(tx, UpdateWorkflow(*chain, "", *sent, header=message.header))
    if tx.changed:
        tx.schedule_task(at_once=True)
    if tx.changed or message is None:
        tx.remember(request)  # or a repetition would start a run, once this one is closed
    tx.reply = Started(tx.execution.ref.run_id, existing=True)
