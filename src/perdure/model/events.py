"""The public history of an execution: what happened, in order.

Events are frozen, in the past tense, and isomorphic to Temporal's, so that a history can be translated
mechanically. `id` is dense from 1; `time` is microseconds since the epoch and never decreases. A field that
ends in `event_id` points at an earlier event. Each docstring says which step of the execution the event is.

::

    WorkflowExecutionStarted → (WorkflowTaskScheduled → Started → Completed → one event a command)*
                             → WorkflowExecution{Completed,Failed,Canceled,TimedOut,Terminated,ContinuedAsNew}

    ActivityTaskScheduled → ActivityTaskStarted → ActivityTask{Completed,Failed,TimedOut,Canceled}
    TimerStarted → TimerFired | TimerCanceled

Started events of activities and of workflow tasks are written together with their outcome: attempts that
are retried leave no events (they are private records, see :mod:`perdure.model.records`).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads
from perdure.model.retry import DEFAULT_RETRY, RetryPolicy

SearchValue = str | int | float | bool | list[str]
ParentClosePolicy = Literal["terminate", "request_cancel", "abandon"]
"""What becomes of a child that its parent's end finds open."""

IdReusePolicy = Literal["allow_duplicate", "allow_duplicate_failed_only", "reject_duplicate"]
"""Whether a workflow id whose last run is closed may be started again."""

RetryState = Literal["", "non_retryable", "maximum_attempts", "timeout", "cancel_requested", "manual", "in_progress"]


class Event(Struct, frozen=True, array_like=True, gc=False):
    """Base of all events."""

    id: int
    time: int


class ParentRef(Struct, frozen=True, array_like=True, gc=False):
    """The execution that a child reports to."""

    namespace: str
    workflow_id: str
    run_id: str
    initiated_event_id: int


class ScheduleRef(Struct, frozen=True, array_like=True, gc=False):
    """What has started a run: a schedule, the first run of its chain, the number of the start, and its nominal time.

    The schedule is in the namespace of the schedules of the run's. reset: the number, in the workflow's chain, of the
    run with which it went on the last time that it was reset after its end; 0: it never was."""

    schedule_id: str
    schedule_run_id: str
    start_id: int
    time: int
    reset: int = 0


# --- The execution --------------------------------------------------------------------------------------
class WorkflowExecutionStarted(Event, frozen=True, array_like=True, gc=False, tag=1):
    """The run begins. Always event 1."""

    workflow_type: str
    task_queue: str
    input: Payloads
    run_id: str
    request_id: str = ""
    identity: str = ""
    first_run_id: str = ""
    continued_run_id: str = ""
    parent: ParentRef | None = None
    execution_deadline: int = 0  # a time; 0: none
    run_timeout: int = 0
    memo: dict[str, Payload] | None = None
    search_attributes: dict[str, SearchValue] | None = None
    attempt: int = 1  # how often the chain was tried, by its retry_policy
    retry_policy: RetryPolicy | None = None
    first_workflow_task_backoff: int = 0  # until the first workflow task; the timeouts begin after it
    workflow_task_timeout: int = 0
    original_run_id: str = ""  # of a run that began as a copy of another: that one's
    continued_failure: Failure | None = None  # of a run that is another attempt: what the last one failed with
    header: dict[str, Payload] | None = None  # what the SDK hands from run to run, beside the input
    scheduled_by: ScheduleRef | None = None
    last_completion_result: Payload | None = None  # what the schedule's last run that has completed returned


class WorkflowExecutionCompleted(Event, frozen=True, array_like=True, gc=False, tag=2):
    """The run ends with a result."""

    result: Payload
    workflow_task_completed_event_id: int
    new_run_id: str = ""


class WorkflowExecutionFailed(Event, frozen=True, array_like=True, gc=False, tag=3):
    """The run ends by its code's decision to fail."""

    failure: Failure
    workflow_task_completed_event_id: int
    new_run_id: str = ""
    retry_state: RetryState = ""


class WorkflowExecutionTimedOut(Event, frozen=True, array_like=True, gc=False, tag=4):
    """The run ends because its time is over."""

    new_run_id: str = ""
    retry_state: RetryState = ""


class WorkflowExecutionCanceled(Event, frozen=True, array_like=True, gc=False, tag=5):
    """The run ends by giving in to a cancel request."""

    workflow_task_completed_event_id: int


class WorkflowExecutionTerminated(Event, frozen=True, array_like=True, gc=False, tag=6):
    """The run is ended by a person; its code has no say.

    new_run_id: of the run that goes on in its place, where it was reset.
    """

    reason: str
    identity: str = ""
    new_run_id: str = ""


class WorkflowExecutionContinuedAsNew(Event, frozen=True, array_like=True, gc=False, tag=7):
    """The run ends, and the next one of the chain goes on with fresh input and an empty history."""

    new_run_id: str
    workflow_type: str
    task_queue: str
    input: Payloads
    workflow_task_completed_event_id: int
    header: dict[str, Payload] | None = None
    passed_on: int = 0  # signals of this history that the next one begins with, since nobody has received them


class WorkflowExecutionSignaled(Event, frozen=True, array_like=True, gc=False, tag=8):
    """A message arrived.

    again: a reset has given it to the run, or to one that has passed it on; the run that was reset had it before.
    """

    signal_name: str
    input: Payloads
    identity: str = ""
    header: dict[str, Payload] | None = None
    again: bool = False


class WorkflowExecutionCancelRequested(Event, frozen=True, array_like=True, gc=False, tag=9):
    """Somebody asked the workflow to stop; its main task sees `CancelledError`."""

    reason: str = ""
    identity: str = ""


# --- The workflow task ----------------------------------------------------------------------------------
class WorkflowTaskScheduled(Event, frozen=True, array_like=True, gc=False, tag=10):
    """There is news for the workflow's code."""

    task_queue: str
    attempt: int = 1


class WorkflowTaskStarted(Event, frozen=True, array_like=True, gc=False, tag=11):
    """A worker took the news. `time` is the workflow's time during this task.

    history_bytes: the history's size that the code was told: it can't be seen from outside, where payloads are decoded.
    """

    scheduled_event_id: int
    identity: str = ""
    history_bytes: int = 0


class WorkflowTaskCompleted(Event, frozen=True, array_like=True, gc=False, tag=12):
    """The code ran until it waits again. What it asked for follows, one event a command.

    python: "3.11", the version that ran it. flags: behaviours of the SDK in force (model.flags).
    exceptions: for each failure's class met in this task for the first time, whether it was found among
    the imported modules (True) or stood in for by ApplicationError (False); a replay does the same.
    """

    scheduled_event_id: int
    started_event_id: int
    identity: str = ""
    build_id: str = ""
    python: str = ""
    flags: tuple[int, ...] = ()
    exceptions: dict[str, bool] | None = None


class WorkflowTaskFailed(Event, frozen=True, array_like=True, gc=False, tag=13):
    """The first attempt of a task failed by a bug, or was refused. It is tried again.

    new_run_id, base_run_id: of the task that a run was reset to. The run that this event is of, and the one that the
    events before it are from.
    """

    scheduled_event_id: int
    started_event_id: int
    failure: Failure
    identity: str = ""
    base_run_id: str = ""
    new_run_id: str = ""


class WorkflowTaskTimedOut(Event, frozen=True, array_like=True, gc=False, tag=14):
    """The first attempt of a task was not answered. It is tried again."""

    scheduled_event_id: int
    started_event_id: int


# --- Activities -----------------------------------------------------------------------------------------
class ActivityTaskScheduled(Event, frozen=True, array_like=True, gc=False, tag=15):
    """The workflow asked for an activity. Timeouts are microseconds; 0: none."""

    activity_id: str
    activity_type: str
    task_queue: str
    input: Payloads
    workflow_task_completed_event_id: int
    schedule_to_close_timeout: int = 0
    schedule_to_start_timeout: int = 0
    start_to_close_timeout: int = 0
    heartbeat_timeout: int = 0
    retry_policy: RetryPolicy = DEFAULT_RETRY
    priority: int = 0
    header: dict[str, Payload] | None = None


class ActivityTaskStarted(Event, frozen=True, array_like=True, gc=False, tag=16):
    """The attempt that gave the outcome began at `started_at`; written with the outcome."""

    scheduled_event_id: int
    attempt: int
    identity: str
    started_at: int
    last_failure: Failure | None = None


class ActivityTaskCompleted(Event, frozen=True, array_like=True, gc=False, tag=17):
    """The activity returned."""

    scheduled_event_id: int
    started_event_id: int
    result: Payload
    identity: str = ""


class ActivityTaskFailed(Event, frozen=True, array_like=True, gc=False, tag=18):
    """The activity failed, and its policy gives it no other attempt."""

    scheduled_event_id: int
    started_event_id: int
    failure: Failure
    retry_state: RetryState = ""
    identity: str = ""


class ActivityTaskTimedOut(Event, frozen=True, array_like=True, gc=False, tag=19):
    """The activity took too long, and its policy gives it no other attempt."""

    scheduled_event_id: int
    started_event_id: int
    failure: Failure
    retry_state: RetryState = ""


class ActivityTaskCancelRequested(Event, frozen=True, array_like=True, gc=False, tag=20):
    """The workflow no longer wants the activity."""

    scheduled_event_id: int
    workflow_task_completed_event_id: int


class ActivityTaskCanceled(Event, frozen=True, array_like=True, gc=False, tag=21):
    """The activity stopped because it was asked to; started_event_id is 0 if it never began."""

    scheduled_event_id: int
    started_event_id: int
    identity: str = ""


# --- Timers ---------------------------------------------------------------------------------------------
class TimerStarted(Event, frozen=True, array_like=True, gc=False, tag=22):
    """The workflow sleeps until `fire_at`."""

    timer_id: str
    fire_at: int
    workflow_task_completed_event_id: int


class TimerFired(Event, frozen=True, array_like=True, gc=False, tag=23):
    """The time came."""

    timer_id: str
    started_event_id: int


class TimerCanceled(Event, frozen=True, array_like=True, gc=False, tag=24):
    """The workflow no longer waits."""

    timer_id: str
    started_event_id: int
    workflow_task_completed_event_id: int


# --- Updates --------------------------------------------------------------------------------------------
class WorkflowExecutionUpdateAccepted(Event, frozen=True, array_like=True, gc=False, tag=25):
    """The workflow's validator let an update through, and its handler began in this workflow task."""

    update_id: str
    name: str
    input: Payloads
    identity: str
    workflow_task_completed_event_id: int
    header: dict[str, Payload] | None = None


class WorkflowExecutionUpdateCompleted(Event, frozen=True, array_like=True, gc=False, tag=26):
    """The update's handler returned or raised; exactly one of `result` and `failure` is set."""

    update_id: str
    accepted_event_id: int
    result: Payload | None
    failure: Failure | None
    workflow_task_completed_event_id: int


# --- Children -------------------------------------------------------------------------------------------
class StartChildWorkflowExecutionInitiated(Event, frozen=True, array_like=True, gc=False, tag=27):
    """The workflow asked for a child."""

    workflow_id: str
    workflow_type: str
    task_queue: str
    input: Payloads
    workflow_task_completed_event_id: int
    parent_close_policy: ParentClosePolicy = "terminate"
    execution_timeout: int = 0
    run_timeout: int = 0
    header: dict[str, Payload] | None = None
    task_timeout: int = 0
    retry_policy: RetryPolicy | None = None
    id_reuse_policy: IdReusePolicy = "allow_duplicate"
    memo: dict[str, Payload] | None = None


class ChildWorkflowExecutionStarted(Event, frozen=True, array_like=True, gc=False, tag=28):
    """The child exists."""

    initiated_event_id: int
    workflow_id: str
    run_id: str


class StartChildWorkflowExecutionFailed(Event, frozen=True, array_like=True, gc=False, tag=29):
    """The child could not be started, for example because its id is taken."""

    initiated_event_id: int
    workflow_id: str
    failure: Failure


class ChildWorkflowExecutionCompleted(Event, frozen=True, array_like=True, gc=False, tag=30):
    """The child returned."""

    initiated_event_id: int
    started_event_id: int
    result: Payload


class ChildWorkflowExecutionFailed(Event, frozen=True, array_like=True, gc=False, tag=31):
    """The child ended otherwise; `failure.kind` says how (application, cancelled, timeout, terminated)."""

    initiated_event_id: int
    started_event_id: int
    failure: Failure


# --- Other executions -----------------------------------------------------------------------------------
class SignalExternalWorkflowExecutionInitiated(Event, frozen=True, array_like=True, gc=False, tag=35):
    """The workflow sends a signal to another execution."""

    workflow_id: str
    run_id: str
    signal_name: str
    input: Payloads
    workflow_task_completed_event_id: int
    header: dict[str, Payload] | None = None


class ExternalWorkflowExecutionSignaled(Event, frozen=True, array_like=True, gc=False, tag=36):
    """The other execution has the signal."""

    initiated_event_id: int


class SignalExternalWorkflowExecutionFailed(Event, frozen=True, array_like=True, gc=False, tag=37):
    """The other execution could not take the signal."""

    initiated_event_id: int
    failure: Failure


class RequestCancelExternalWorkflowExecutionInitiated(Event, frozen=True, array_like=True, gc=False, tag=38):
    """The workflow asks another execution to stop."""

    workflow_id: str
    run_id: str
    workflow_task_completed_event_id: int
    child_initiated_event_id: int = 0


class ExternalWorkflowExecutionCancelRequested(Event, frozen=True, array_like=True, gc=False, tag=39):
    """The other execution has the request."""

    initiated_event_id: int


class RequestCancelExternalWorkflowExecutionFailed(Event, frozen=True, array_like=True, gc=False, tag=40):
    """The other execution could not be asked."""

    initiated_event_id: int
    failure: Failure


class MarkerRecorded(Event, frozen=True, array_like=True, gc=False, tag=50):
    """The workflow's code left a note to its own replays, such as which branch of a patch it took.

    marker_name, details: as Temporal's SDKs write them; for a patch "core_patch", with "patch-data".
    """

    marker_name: str
    details: dict[str, Payload]
    workflow_task_completed_event_id: int


HistoryEvent = (
    WorkflowExecutionStarted
    | WorkflowExecutionCompleted
    | WorkflowExecutionFailed
    | WorkflowExecutionTimedOut
    | WorkflowExecutionCanceled
    | WorkflowExecutionTerminated
    | WorkflowExecutionContinuedAsNew
    | WorkflowExecutionSignaled
    | WorkflowExecutionCancelRequested
    | WorkflowTaskScheduled
    | WorkflowTaskStarted
    | WorkflowTaskCompleted
    | WorkflowTaskFailed
    | WorkflowTaskTimedOut
    | ActivityTaskScheduled
    | ActivityTaskStarted
    | ActivityTaskCompleted
    | ActivityTaskFailed
    | ActivityTaskTimedOut
    | ActivityTaskCancelRequested
    | ActivityTaskCanceled
    | TimerStarted
    | TimerFired
    | TimerCanceled
    | WorkflowExecutionUpdateAccepted
    | WorkflowExecutionUpdateCompleted
    | StartChildWorkflowExecutionInitiated
    | ChildWorkflowExecutionStarted
    | StartChildWorkflowExecutionFailed
    | ChildWorkflowExecutionCompleted
    | ChildWorkflowExecutionFailed
    | SignalExternalWorkflowExecutionInitiated
    | ExternalWorkflowExecutionSignaled
    | SignalExternalWorkflowExecutionFailed
    | RequestCancelExternalWorkflowExecutionInitiated
    | ExternalWorkflowExecutionCancelRequested
    | RequestCancelExternalWorkflowExecutionFailed
    | MarkerRecorded
)
"""Every event there is."""
