"""Private records: what must survive, but is never shown to user code.

A journal row holds events (the history) and these. Both are folded into the state by the same `evolve`.
Each docstring says which step it is. Times are microseconds since the epoch.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.model.events import (
    HistoryEvent,
    IdReusePolicy,
    ParentClosePolicy,
    ParentRef,
    ScheduleRef,
    WorkflowExecutionSignaled,
)
from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads
from perdure.model.requests import Intervention, Status
from perdure.model.retry import RetryPolicy
from perdure.model.schedules import DueStart, Overlap, Schedule, ScheduleState


class Record(Struct, frozen=True, array_like=True, gc=False):
    """Base of all private records."""


class InputBuffered(Record, frozen=True, array_like=True, gc=False, tag=101):
    """Something arrived while a workflow task was open. The event has id 0 until it enters the history."""

    event: HistoryEvent


class BufferFlushed(Record, frozen=True, array_like=True, gc=False, tag=102):
    """The workflow task is over; the buffered events follow in the history, with their ids."""


class ActivityAttemptStarted(Record, frozen=True, array_like=True, gc=False, tag=103):
    """An attempt was handed to a worker (scheduled → started)."""

    scheduled_event_id: int
    attempt: int
    worker: str
    time: int


class ActivityAttemptFailed(Record, frozen=True, array_like=True, gc=False, tag=104):
    """An attempt failed and there is another (started → backing off until next_attempt_at).

    counts: whether the retry policy counts it.
    """

    scheduled_event_id: int
    attempt: int
    failure: Failure
    next_attempt_at: int
    time: int
    counts: bool = True


class ActivityAttemptDue(Record, frozen=True, array_like=True, gc=False, tag=105):
    """The backoff is over (backing off → scheduled)."""

    scheduled_event_id: int
    time: int


class ActivityHeld(Record, frozen=True, array_like=True, gc=False, tag=106):
    """The activity waits for a person (started → held)."""

    scheduled_event_id: int
    reason: str
    failure: Failure
    time: int


class ActivityReleased(Record, frozen=True, array_like=True, gc=False, tag=107):
    """A person let it go on (held or backing off → scheduled), perhaps with other options."""

    scheduled_event_id: int
    note: str
    identity: str
    time: int
    retry_policy: RetryPolicy | None = None
    start_to_close_timeout: int | None = None
    schedule_to_close_timeout: int | None = None
    heartbeat_timeout: int | None = None


class ActivitySettled(Record, frozen=True, array_like=True, gc=False, tag=108):
    """A person gave the activity its outcome; the event follows."""

    scheduled_event_id: int
    how: Literal["completed", "failed"]
    note: str
    identity: str
    time: int


class HeartbeatRecorded(Record, frozen=True, array_like=True, gc=False, tag=109):
    """How far an attempt came."""

    scheduled_event_id: int
    attempt: int
    details: Payloads
    time: int


class WorkflowTaskAttemptFailed(Record, frozen=True, array_like=True, gc=False, tag=110):
    """A workflow task failed: it is tried again at next_attempt_at. Only the first one leaves an event."""

    attempt: int
    failure: Failure
    next_attempt_at: int
    time: int


class UpdateAdmitted(Record, frozen=True, array_like=True, gc=False, tag=111):
    """An update waits for the workflow's validator."""

    update_id: str
    name: str
    input: Payloads
    identity: str
    time: int
    header: dict[str, Payload] | None = None


class UpdateRejected(Record, frozen=True, array_like=True, gc=False, tag=112):
    """The validator refused it. Remembered, so that a repeated request gets the same answer."""

    update_id: str
    failure: Failure


class CloseRefused(Record, frozen=True, array_like=True, gc=False, tag=113):
    """The workflow wanted to close, but there was input that it had not seen."""


class RunHeld(Record, frozen=True, array_like=True, gc=False, tag=114):
    """The run reached a hard limit and waits for a person."""

    reason: str
    time: int


class OutboxStart(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Start a child."""

    workflow_id: str
    workflow_type: str
    task_queue: str
    input: Payloads
    parent: ParentRef
    execution_timeout: int = 0
    run_timeout: int = 0
    header: dict[str, Payload] | None = None
    task_timeout: int = 0
    retry_policy: RetryPolicy | None = None
    id_reuse_policy: IdReusePolicy = "allow_duplicate"
    memo: dict[str, Payload] | None = None


class OutboxSignal(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Signal another execution."""

    workflow_id: str
    run_id: str
    name: str
    input: Payloads
    request_id: str = ""
    header: dict[str, Payload] | None = None


class OutboxCancel(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Ask another execution to stop, or end it (terminate). child_of: only a run of that parent's child, whichever of
    its chain it is."""

    workflow_id: str
    run_id: str
    terminate: bool = False
    child_of: ParentRef | None = None
    request_id: str = ""


class OutboxReport(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Tell a parent how its child ended."""

    parent: ParentRef
    child_run_id: str
    result: Payload | None
    failure: Failure | None


class OutboxScheduledStart(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Start what a schedule starts."""

    start_id: int
    time: int
    workflow_id: str
    request_id: str


class OutboxScheduleReport(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Tell a schedule how what it has started ended, or (status "Running") that it was reset after that, and runs
    again."""

    schedule: ScheduleRef
    run_id: str
    status: Status
    result: Payload | None
    failure: Failure | None


class OutboxAsk(Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Ask what has become of a child: it may have told another run of its parent's chain."""

    workflow_id: str
    parent: ParentRef


Outgoing = (
    OutboxStart | OutboxSignal | OutboxCancel | OutboxReport | OutboxScheduledStart | OutboxScheduleReport | OutboxAsk
)


class OutboxAdded(Record, frozen=True, array_like=True, gc=False, tag=115):
    """Something is to be sent to another execution. `entry_id` is dense within the run. `event_id` is the event
    that asked for it, or 0; with the run that wrote that, it is what the receiver deduplicates by. `time`: when it was
    sent first, which another run of the chain may have done."""

    entry_id: int
    event_id: int
    message: Outgoing
    time: int


class OutboxSettled(Record, frozen=True, array_like=True, gc=False, tag=116):
    """It was delivered, or refused for good."""

    entry_id: int


class OutboxDelayed(Record, frozen=True, array_like=True, gc=False, tag=117):
    """It could not be delivered; it is tried again."""

    entry_id: int
    attempt: int
    next_attempt_at: int
    failure: str


class WorkflowTaskDue(Record, frozen=True, array_like=True, gc=False, tag=118):
    """The backoff of a failing workflow task is over, or somebody did not want to wait for it."""


class RunPaused(Record, frozen=True, array_like=True, gc=False, tag=140):
    """A person stopped the run: its code is given nothing more, and no attempts of its activities are started."""

    reason: str
    identity: str
    time: int


class RunResumed(Record, frozen=True, array_like=True, gc=False, tag=141):
    """A person let a paused run go on."""

    note: str
    identity: str
    time: int


class RunReleased(Record, frozen=True, array_like=True, gc=False, tag=142):
    """A person let a run go on that a hard limit held, with so much more room for its history than the limits give."""

    note: str
    identity: str
    time: int
    events: int
    bytes: int


class ActivityPaused(Record, frozen=True, array_like=True, gc=False, tag=143):
    """A person stopped an activity: no other attempt is started. One that runs goes on."""

    scheduled_event_id: int
    reason: str
    identity: str
    time: int


class ActivityUnpaused(Record, frozen=True, array_like=True, gc=False, tag=144):
    """A person let a paused activity go on."""

    scheduled_event_id: int
    note: str
    identity: str
    time: int


class ActivityReset(Record, frozen=True, array_like=True, gc=False, tag=145):
    """A person let the policy count from 1 again (held or backing off → scheduled). Attempts keep their numbers, since
    what comes late is told apart by them."""

    scheduled_event_id: int
    note: str
    identity: str
    time: int
    keep_heartbeat: bool = False


class ActivityOptionsChanged(Record, frozen=True, array_like=True, gc=False, tag=146):
    """A person gave an activity other options, those that are set."""

    scheduled_event_id: int
    note: str
    identity: str
    time: int
    task_queue: str | None = None
    retry_policy: RetryPolicy | None = None
    start_to_close_timeout: int | None = None
    schedule_to_close_timeout: int | None = None
    schedule_to_start_timeout: int | None = None
    heartbeat_timeout: int | None = None


class UpdateRemembered(Record, frozen=True, array_like=True, gc=False, tag=55):
    """An earlier run of the chain answered an update: a repeated request gets the same answer."""

    update_id: str
    result: Payload | None
    failure: Failure | None
    rejected: bool = False


class ChildInherited(Record, frozen=True, array_like=True, gc=False, tag=56):
    """A child that an earlier run of the chain began goes on; it ends with this run, if its policy says so.

    begun_by, initiated_event_id: the run that asked for it, and the event: what the child knows its parent by.
    """

    workflow_id: str
    begun_by: str
    parent_close_policy: ParentClosePolicy
    initiated_event_id: int = 0


class InheritedChildOver(Record, frozen=True, array_like=True, gc=False, tag=57):
    """An inherited child has ended, or could not be started."""

    begun_by: str
    initiated_event_id: int = 0


class RunForked(Record, frozen=True, array_like=True, gc=False, tag=147):
    """The events up to here are from another run, which a person reset to the workflow task that is open.

    events, bytes: how much longer its history might get than the hard limits, by a person's word.
    """

    base_run_id: str
    reason: str
    identity: str
    time: int
    events: int = 0
    bytes: int = 0


class MessagePostponed(Record, frozen=True, array_like=True, gc=False, tag=148):
    """A message waits until those before it were given, and updates among them answered: a signal, which has the id 0
    until it enters the history, or the id of an update that was admitted."""

    message: WorkflowExecutionSignaled | str


class PostponedGiven(Record, frozen=True, array_like=True, gc=False, tag=149):
    """So many of the first postponed messages wait no longer; the signals among them follow in the history."""

    count: int


class ActivityAttemptDetached(Record, frozen=True, array_like=True, gc=False, tag=160):
    """The worker has let an attempt go that is completed from elsewhere. It goes on (started)."""

    scheduled_event_id: int
    attempt: int
    time: int


# --- Schedules ------------------------------------------------------------------------------------------
class ScheduleDefined(Record, frozen=True, array_like=True, gc=False, tag=170):
    """A person made the schedule, or gave it another definition."""

    schedule: Schedule
    note: str
    identity: str
    time: int


class ScheduleCarried(Record, frozen=True, array_like=True, gc=False, tag=171):
    """The schedule goes on in another run of its chain, as it is, so that no journal grows for ever."""

    schedule: ScheduleState
    interventions: tuple[Intervention, ...]


class ScheduleAdvanced(Record, frozen=True, array_like=True, gc=False, tag=172):
    """All its times were looked at up to one of them; some were due too long ago."""

    until: int
    next_time: int
    next_at: int
    missed: int = 0


class ScheduleActed(Record, frozen=True, array_like=True, gc=False, tag=173):
    """It starts something; the outbox's entry follows. buffered: its place in the buffer, -1: it did not wait."""

    start_id: int
    start: DueStart
    workflow_id: str
    time: int
    buffered: int = -1


class ScheduleBuffered(Record, frozen=True, array_like=True, gc=False, tag=174):
    """A start waits until what runs has ended."""

    start: DueStart


class ScheduleSkipped(Record, frozen=True, array_like=True, gc=False, tag=175):
    """Starts are left out. buffered: the place in the buffer of the one that is, -1: none of them has waited."""

    count: int = 1
    buffered: int = -1


class ScheduledRunAsked(Record, frozen=True, array_like=True, gc=False, tag=181):
    """What was started is to end for another start."""

    start_id: int
    terminate: bool


class ScheduledStartAnswered(Record, frozen=True, array_like=True, gc=False, tag=176):
    """What was started exists."""

    start_id: int
    run_id: str


class ScheduledRunClosed(Record, frozen=True, array_like=True, gc=False, tag=177):
    """What was started has ended; status "": it was refused."""

    start_id: int
    run_id: str
    status: Status | Literal[""]
    error: str = ""
    result: Payload | None = None
    failure: Failure | None = None


class ScheduledRunReset(Record, frozen=True, array_like=True, gc=False, tag=182):
    """What was started had ended, and was reset: it runs again. reset: see `events.ScheduleRef`. nominal: the time of
    the start."""

    start_id: int
    reset: int
    nominal: int
    workflow_id: str
    run_id: str
    time: int


class ScheduleTriggered(Record, frozen=True, array_like=True, gc=False, tag=178):
    """A person wants one start now."""

    note: str
    identity: str
    time: int


class BackfillAdded(Record, frozen=True, array_like=True, gc=False, tag=179):
    """A person wants starts for times of the past."""

    after: int
    end: int
    overlap: Overlap
    note: str
    identity: str
    time: int


class BackfillAdvanced(Record, frozen=True, array_like=True, gc=False, tag=180):
    """The first backfill was looked at up to a time; over: it is done."""

    after: int
    over: bool = False


PrivateRecord = (
    InputBuffered
    | BufferFlushed
    | ActivityAttemptStarted
    | ActivityAttemptFailed
    | ActivityAttemptDue
    | ActivityHeld
    | ActivityReleased
    | ActivitySettled
    | HeartbeatRecorded
    | WorkflowTaskAttemptFailed
    | UpdateAdmitted
    | UpdateRejected
    | CloseRefused
    | RunHeld
    | OutboxAdded
    | OutboxSettled
    | OutboxDelayed
    | WorkflowTaskDue
    | RunPaused
    | RunResumed
    | RunReleased
    | ActivityPaused
    | ActivityUnpaused
    | ActivityReset
    | ActivityOptionsChanged
    | UpdateRemembered
    | ChildInherited
    | InheritedChildOver
    | RunForked
    | MessagePostponed
    | PostponedGiven
    | ActivityAttemptDetached
    | ScheduleDefined
    | ScheduleCarried
    | ScheduleAdvanced
    | ScheduleActed
    | ScheduleBuffered
    | ScheduleSkipped
    | ScheduledRunAsked
    | ScheduledStartAnswered
    | ScheduledRunClosed
    | ScheduledRunReset
    | ScheduleTriggered
    | BackfillAdded
    | BackfillAdvanced
)
"""Every private record there is."""

AnyRecord = HistoryEvent | PrivateRecord
