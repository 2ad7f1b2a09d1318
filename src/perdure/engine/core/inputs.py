"""What can happen to an execution: requests, messages from workers, and the node's own inputs.

Requests and worker messages are the model's structs as they arrive; here are the others.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from perdure.engine.core.deadlines import Stalls
from perdure.model.events import ScheduleRef
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.requests import StartWorkflow, Status


class Start(Struct, frozen=True, gc=False):
    """A start request, with the ids that the node drew for it."""

    request: StartWorkflow
    run_id: str
    run_no: int


class Join(Struct, frozen=True, gc=False):
    """A start request that is answered with the run that is there already, to which its message goes."""

    request: StartWorkflow


class KeepBeats(Struct, frozen=True, gc=False):
    """It is time to journal how far attempts came, as far as only memory knows it."""


class WorkflowTaskLost(Struct, frozen=True, gc=False):
    """The worker that had the workflow task is gone, or didn't answer. Only memory knew that it had it."""


class WorkflowTaskUndecided(Struct, frozen=True, gc=False):
    """Nothing can come of what a worker was given: to decide on its answer has raised, by a bug of the engine; or the
    history that it needs can't be read. It would be so again."""

    worker: str
    failure: Failure


class StartActivity(Struct, frozen=True, gc=False):
    """A worker has a free slot for an attempt. Refused as stale if it isn't waiting any more."""

    scheduled_event_id: int
    attempt: int
    worker: str


class WorkersLost(Struct, frozen=True, gc=False):
    """Workers that attempts were handed to may be gone. alive: whether one is still there (when it is decided) that was
    handed an attempt at some time."""

    alive: Callable[[str, int], bool]


class WakeUp(Struct, frozen=True, gc=False):
    """Look at the clock. `key`: the run (its `storage.RunKey`) that the scan found. `stalls`: intervals in
    which the node itself could not work."""

    key: tuple[str, str, int]
    stalls: Stalls = ()


class RetryWorkflowTask(Struct, frozen=True, gc=False):
    """The code may have been mended: don't wait for the backoff of a failing workflow task."""


class OutboxAnswered(Struct, frozen=True, gc=False):
    """An outbox entry was delivered (error ""), or refused for good (error says why).

    run_id: the run that a start made or found. types: names of the error's class and its bases.
    """

    entry_id: int
    error: str = ""
    run_id: str = ""
    types: tuple[str, ...] = ()


class OutboxUndelivered(Struct, frozen=True, gc=False):
    """An outbox entry could not be delivered now; it is tried again later."""

    entry_id: int
    error: str


class ScheduledRunReported(Struct, frozen=True, gc=False):
    """What a schedule has started has ended, or (status "Running") runs again, by a reset after its end. Idempotent: it
    is recognised by the number of its start, and of the reset.

    run_id: the run that ended, or runs.
    """

    schedule: ScheduleRef
    workflow_id: str
    run_id: str
    status: Status
    result: Payload | None
    failure: Failure | None


class ChildReported(Struct, frozen=True, gc=False):
    """A child has ended; exactly one of `result` and `failure` is set. Idempotent: a child reports once.

    begun_by, initiated_event_id: the run that asked for the child, and the event; it may be another run's by now.
    run_id: the child's run that ended.
    """

    begun_by: str
    initiated_event_id: int
    result: Payload | None
    failure: Failure | None
    run_id: str
