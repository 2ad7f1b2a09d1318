"""What a workflow task asks for. Each command becomes exactly one event, in order."""

from __future__ import annotations

from msgspec import Struct

from perdure.model.events import IdReusePolicy, ParentClosePolicy
from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads
from perdure.model.retry import DEFAULT_RETRY, RetryPolicy


class ScheduleActivity(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """→ ActivityTaskScheduled. Durations are microseconds; 0: none. An empty queue is the workflow's own."""

    activity_id: str
    activity_type: str
    task_queue: str
    input: Payloads
    schedule_to_close_timeout: int = 0
    schedule_to_start_timeout: int = 0
    start_to_close_timeout: int = 0
    heartbeat_timeout: int = 0
    retry_policy: RetryPolicy = DEFAULT_RETRY
    priority: int = 0
    header: dict[str, Payload] | None = None


class RequestCancelActivity(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """→ ActivityTaskCancelRequested. Names the activity by its id, which may be of the same task."""

    activity_id: str


class StartTimer(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """→ TimerStarted, firing `duration` after the workflow task's time."""

    timer_id: str
    duration: int


class CancelTimer(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """→ TimerCanceled."""

    timer_id: str


class CompleteWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """→ WorkflowExecutionCompleted. Last in its task, as are the other three that end a run."""

    result: Payload


class FailWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """→ WorkflowExecutionFailed."""

    failure: Failure


class CancelWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=7):
    """→ WorkflowExecutionCanceled."""


class CarriedSignal(Struct, frozen=True, array_like=True, gc=False):
    """A signal that the run was told of and has not used."""

    signal_name: str
    input: Payloads
    identity: str = ""
    header: dict[str, Payload] | None = None


class ContinueAsNew(Struct, frozen=True, array_like=True, gc=False, tag=8):
    """→ WorkflowExecutionContinuedAsNew, and the next run of the chain.

    signals: what the next run is told of before anything else. header: what the SDK hands to it. keep_children: they
    go on, as if no run had ended. pass_cancel: the code has not heard that the workflow is to stop; the next run will.
    """

    workflow_type: str
    task_queue: str
    input: Payloads
    signals: tuple[CarriedSignal, ...] = ()
    header: dict[str, Payload] | None = None
    keep_children: bool = False
    pass_cancel: bool = False


class AcceptUpdate(Struct, frozen=True, array_like=True, gc=False, tag=9):
    """→ WorkflowExecutionUpdateAccepted."""

    update_id: str


class RejectUpdate(Struct, frozen=True, array_like=True, gc=False, tag=10):
    """→ no event: the caller hears of it, the history does not."""

    update_id: str
    failure: Failure


class CompleteUpdate(Struct, frozen=True, array_like=True, gc=False, tag=11):
    """→ WorkflowExecutionUpdateCompleted; exactly one of `result` and `failure` is set."""

    update_id: str
    result: Payload | None
    failure: Failure | None = None


class StartChildWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=12):
    """→ StartChildWorkflowExecutionInitiated."""

    workflow_id: str
    workflow_type: str
    task_queue: str
    input: Payloads
    parent_close_policy: ParentClosePolicy = "terminate"
    execution_timeout: int = 0
    run_timeout: int = 0
    header: dict[str, Payload] | None = None
    task_timeout: int = 0
    retry_policy: RetryPolicy | None = None
    id_reuse_policy: IdReusePolicy = "allow_duplicate"
    memo: dict[str, Payload] | None = None


class SignalExternalWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=13):
    """→ SignalExternalWorkflowExecutionInitiated."""

    workflow_id: str
    run_id: str
    signal_name: str
    input: Payloads
    header: dict[str, Payload] | None = None


class RequestCancelExternalWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=14):
    """→ RequestCancelExternalWorkflowExecutionInitiated. Of a child, with the event that asked for it: the child is
    meant in whatever run of its chain it is."""

    workflow_id: str
    run_id: str
    child_initiated_event_id: int = 0


class RecordMarker(Struct, frozen=True, array_like=True, gc=False, tag=40):
    """→ MarkerRecorded."""

    marker_name: str
    details: dict[str, Payload]


Command = (
    ScheduleActivity
    | RequestCancelActivity
    | StartTimer
    | CancelTimer
    | CompleteWorkflow
    | FailWorkflow
    | CancelWorkflow
    | ContinueAsNew
    | AcceptUpdate
    | RejectUpdate
    | CompleteUpdate
    | StartChildWorkflow
    | SignalExternalWorkflow
    | RequestCancelExternalWorkflow
    | RecordMarker
)
"""Every command there is."""
