"""The state of one run: what folding its journal gives. Mutable; changed only by `engine.core.evolve`.

All of it is encoded as a snapshot. What can be computed from it (deadlines) is not in it.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.model.events import (
    ActivityTaskScheduled,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionInitiated,
    StartChildWorkflowExecutionInitiated,
    TimerStarted,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
)
from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads
from perdure.model.records import ChildInherited, OutboxAdded, UpdateAdmitted
from perdure.model.requests import ActivityStatus, Intervention, Pause, Status
from perdure.model.retry import RetryPolicy
from perdure.model.schedules import ScheduleState
from perdure.model.tasks import START, Position


class PendingActivity(Struct, array_like=True):
    """An activity without an outcome.

    ::

        scheduled → started → (outcome) | backing_off → scheduled | held → scheduled
    """

    event: ActivityTaskScheduled
    status: ActivityStatus = "scheduled"
    attempt: int = 1
    attempts_before: int = 0  # those made before the last release; the policy doesn't count them
    worker: str = ""  # of the last attempt that was started
    started_at: int = 0
    next_attempt_at: int = 0
    queued_at: int = 0
    last_failure: Failure | None = None
    hold_reason: str = ""
    held_at: int = 0
    held_for: int = 0  # time spent held; doesn't count against schedule_to_close
    heartbeat: Payloads = ()
    heartbeat_at: int = 0
    cancel_requested: bool = False
    retry_policy: RetryPolicy | None = None  # set by a release, instead of the event's
    start_to_close_timeout: int | None = None
    schedule_to_close_timeout: int | None = None
    heartbeat_timeout: int | None = None
    paused: Pause | None = None
    schedule_to_start_timeout: int | None = None
    task_queue: str = ""  # set by a person, instead of the event's
    detached: bool = False  # no worker has the attempt that is started: it is completed from elsewhere
    was_reset: bool = False  # a person has reset it while this attempt ran


class OpenTask(Struct, array_like=True):
    """The open workflow task.

    scheduled_event_id is 0 for attempts after the first, whose events are written with the outcome. began: how
    far the history had gone when the attempt began; set when its events are written.
    """

    scheduled_event_id: int
    attempt: int
    scheduled_at: int
    next_attempt_at: int = 0
    failure: Failure | None = None
    began: Position = START


class AcceptedUpdate(Struct, array_like=True):
    """An update whose handler runs."""

    accepted_event_id: int
    name: str


class FinishedUpdate(Struct, array_like=True):
    """How an update ended, so that a repeated request is answered; kept for the life of the run."""

    result: Payload | None
    failure: Failure | None
    rejected: bool = False


class PendingChild(Struct, array_like=True):
    """A child without an outcome; started_event_id is 0 until it exists."""

    event: StartChildWorkflowExecutionInitiated
    started_event_id: int = 0
    run_id: str = ""
    begun_by: str = ""  # the run that asked for it, where that is one whose history this one was reset from


class OutboxEntry(Struct, array_like=True):
    """Something on its way to another execution."""

    added: OutboxAdded
    attempt: int = 1
    next_attempt_at: int = 0
    failure: str = ""


class State(Struct):
    """One run, folded."""

    namespace: str
    workflow_id: str
    run_no: int
    started: WorkflowExecutionStarted
    status: Status = "Running"
    close_time: int = 0
    result: Payload | None = None
    failure: Failure | None = None
    new_run_id: str = ""

    last_event_id: int = 0
    last_time: int = 0
    history_bytes: int = 0
    digest: int = 0
    seen: Position = START  # how far the history had gone when the last completed workflow task began

    task: OpenTask | None = None
    buffered: list[HistoryEvent] = []
    close_refusals: int = 0
    held: str = ""
    cancel_requested: bool = False

    activities: dict[int, PendingActivity] = {}
    activity_ids: dict[str, int] = {}
    ended_ids: dict[str, int] = {}  # as activity_ids, of those whose outcome is in the buffer
    timers: dict[str, TimerStarted] = {}
    ended_timers: dict[str, int] = {}  # timers whose firing is in the buffer, and the events that started them
    children: dict[int, PendingChild] = {}
    inherited: dict[tuple[str, int], ChildInherited] = {}  # by the run of the chain that asked for it, and the event
    signals_sent: dict[int, SignalExternalWorkflowExecutionInitiated] = {}
    cancels_sent: dict[int, RequestCancelExternalWorkflowExecutionInitiated] = {}
    admitted: dict[str, UpdateAdmitted] = {}
    accepted: dict[str, AcceptedUpdate] = {}
    finished: dict[str, FinishedUpdate] = {}
    outbox: dict[int, OutboxEntry] = {}
    next_entry_id: int = 1
    interventions: list[Intervention] = []  # the latest, what persons did; kept when the run closes
    running: int = 0  # activities in status "started" that a worker has
    cancel_reason: str = ""
    paused: Pause | None = None
    released_events: int = 0  # how much longer the history may get than the hard limits, by a person's word
    released_bytes: int = 0
    forked_at: int = 0  # when it began as a copy of another run's first part; timeouts begin there
    start_at: int = 0  # when the first workflow task may be scheduled; 0: it was, or at once
    schedule: ScheduleState | None = None  # of a run that is a schedule's, and has no code
    postponed: list[WorkflowExecutionSignaled | str] = []  # in order; the ids of updates, see `decisions.postponing`
