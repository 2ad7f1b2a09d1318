"""The Service protocol: what clients ask of the engine, and how workers attach to it.

Each request is a struct that names the type of its reply, so that a transport is one function. Errors are
raised as `perdure.errors`. Every request that changes something is idempotent: by its `request_id`, by the
update's id, or by nature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from perdure.model.events import HistoryEvent, IdReusePolicy, ParentRef, ScheduleRef, SearchValue
from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads
from perdure.model.retry import RetryPolicy
from perdure.model.tasks import FromWorker, ToWorker, WorkerHello

Reply = TypeVar("Reply", covariant=True)

IdConflictPolicy = Literal["fail", "use_existing", "terminate_existing"]
"""What a start does where a run with the id is open."""

Status = Literal["Running", "Completed", "Failed", "Canceled", "Terminated", "ContinuedAsNew", "TimedOut"]
UpdateStage = Literal["accepted", "completed"]
ResetPoint = Literal["", "first", "last"]
"""The first or the last workflow task that was completed."""


class Request(Struct, Generic[Reply], frozen=True, gc=False):
    """Base of all requests. An empty run_id means the latest run of the workflow id."""

    namespace: str
    workflow_id: str


# --- Replies --------------------------------------------------------------------------------------------
class Done(Struct, frozen=True, gc=False):
    """The request was carried out, or had been before."""


class Started(Struct, frozen=True, gc=False):
    """The run exists, on disk. existing: it did before this request."""

    run_id: str
    existing: bool = False


class Outcome(Struct, frozen=True, gc=False):
    """How a run ended; status "Running" where it has not."""

    run_id: str
    status: Status
    result: Payload | None = None
    failure: Failure | None = None
    new_run_id: str = ""


class UpdateOutcome(Struct, frozen=True, gc=False):
    """What became of an update. stage "accepted": neither result nor failure is set yet."""

    update_id: str
    stage: Literal["accepted", "completed", "rejected"]
    result: Payload | None = None
    failure: Failure | None = None


class QueryResult(Struct, frozen=True, gc=False):
    """Exactly one of the two is set."""

    result: Payload | None
    failure: Failure | None = None


class HistoryPage(Struct, frozen=True, gc=False):
    """Events in order. `next` is the token of the next page; 0 where there is none yet."""

    run_id: str
    events: tuple[HistoryEvent, ...]
    next: int = 0


class Pause(Struct, frozen=True, array_like=True, gc=False):
    """Since when, by whom and why something is paused."""

    time: int
    identity: str
    reason: str


ActivityStatus = Literal["scheduled", "started", "backing_off", "held"]


class PendingActivityInfo(Struct, frozen=True, gc=False):
    """An activity that has no outcome yet. Times are 0 where they don't apply."""

    activity_id: str
    activity_type: str
    status: ActivityStatus
    attempt: int
    scheduled_at: int
    started_at: int = 0
    next_attempt_at: int = 0
    maximum_attempts: int = 0
    last_failure: Failure | None = None
    hold_reason: str = ""
    held_at: int = 0
    heartbeat_details: Payloads = ()
    worker: str = ""
    cancel_requested: bool = False
    paused: Pause | None = None
    detached: bool = False


Action = Literal["released", "completed", "failed", "paused", "resumed", "reset", "changed", "triggered", "backfilled"]
"""What a person may do about an activity; the run itself is paused, resumed or (from a hard limit) released. A schedule
is paused, resumed, changed, triggered or backfilled."""


class Intervention(Struct, frozen=True, array_like=True, gc=False):
    """What a person did about an activity (activity_id "": about the run itself), and why."""

    time: int
    identity: str
    activity_id: str
    action: Action
    note: str


class WorkflowTaskInfo(Struct, frozen=True, gc=False):
    """The open workflow task: news that the code hasn't taken yet, or that it fails on."""

    attempt: int
    scheduled_at: int
    failure: Failure | None = None
    next_attempt_at: int = 0


class PendingUpdate(Struct, frozen=True, gc=False):
    """An update that waits for the workflow's code, or (accepted) whose handler runs."""

    update_id: str
    name: str
    accepted: bool = False


class Description(Struct, frozen=True, gc=False):
    """What can be told of a run without running its code.

    activities, timers: cut where there are many; pending_activities and pending_timers say how many there are.
    start_at: when a delayed start begins, until it has.

    unserved: why tasks that wait are not begun, where that is for want of a worker. failure: why it has not completed.
    """

    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: Status
    start_time: int
    close_time: int
    history_events: int
    history_bytes: int
    activities: tuple[PendingActivityInfo, ...] = ()
    timers: tuple[int, ...] = ()
    workflow_task: WorkflowTaskInfo | None = None
    pending_updates: tuple[PendingUpdate, ...] = ()
    buffered: int = 0
    held: str = ""
    parent: ParentRef | None = None
    memo: dict[str, Payload] | None = None
    search_attributes: dict[str, SearchValue] | None = None
    interventions: tuple[Intervention, ...] = ()
    unserved: tuple[str, ...] = ()
    pending_activities: int = 0
    pending_timers: int = 0
    paused: Pause | None = None
    attempt: int = 1
    start_at: int = 0
    scheduled_by: ScheduleRef | None = None
    failure: Failure | None = None


class ListedWorkflow(Struct, frozen=True, gc=False):
    """One row of a listing."""

    workflow_id: str
    run_id: str
    workflow_type: str
    status: Status
    start_time: int
    close_time: int


class ListPage(Struct, frozen=True, gc=False):
    """Rows of a listing. `next` is the token of the next page; "" where there is none."""

    rows: tuple[ListedWorkflow, ...]
    next: str = ""


class AttemptState(Struct, frozen=True, gc=False):
    """What somebody who works on an attempt should know: it is not wanted any more (cancel_requested); no other one is
    to follow for now (paused); or the policy has begun to count with it (reset)."""

    cancel_requested: bool = False
    paused: bool = False
    reset: bool = False


class Blob(Struct, frozen=True, gc=False):
    """What is stored under a digest; None: nothing is."""

    data: bytes | None


# --- Requests -------------------------------------------------------------------------------------------
class StartSignal(Struct, frozen=True, gc=False, tag="signal"):
    """A signal that is sent together with a start, by one commit."""

    name: str
    input: Payloads
    header: dict[str, Payload] | None = None


class StartUpdate(Struct, frozen=True, gc=False, tag="update"):
    """An update that is admitted together with a start, by one commit. How it goes on is asked by `UpdateWorkflow`."""

    update_id: str
    name: str
    input: Payloads
    header: dict[str, Payload] | None = None


class StartWorkflow(Request[Started], frozen=True, gc=False, tag="start"):
    """Start a run. Timeouts are microseconds, 0: none.

    message: goes to the run that is started; or, with "use_existing", to the one that is there.
    """

    workflow_type: str
    task_queue: str
    input: Payloads
    request_id: str
    identity: str = ""
    execution_timeout: int = 0
    run_timeout: int = 0
    id_reuse_policy: IdReusePolicy = "allow_duplicate"
    id_conflict_policy: IdConflictPolicy = "fail"
    memo: dict[str, Payload] | None = None
    search_attributes: dict[str, SearchValue] | None = None
    parent: ParentRef | None = None
    start_delay: int = 0
    task_timeout: int = 0
    retry_policy: RetryPolicy | None = None
    message: StartSignal | StartUpdate | None = None
    header: dict[str, Payload] | None = None
    scheduled_by: ScheduleRef | None = None
    last_completion_result: Payload | None = None


class SignalWorkflow(Request[Done], frozen=True, gc=False, tag="signal"):
    """Send a message. The request_id must not be empty: a repeat is recognised by it."""

    run_id: str
    name: str
    input: Payloads
    request_id: str
    identity: str = ""
    header: dict[str, Payload] | None = None


class QueryWorkflow(Request[QueryResult], frozen=True, gc=False, tag="query"):
    """Ask the workflow's code something; it changes nothing."""

    run_id: str
    name: str
    input: Payloads
    header: dict[str, Payload] | None = None


class UpdateWorkflow(Request[UpdateOutcome], frozen=True, gc=False, tag="update"):
    """Send an update, or ask again for one that was sent: `update_id` names it."""

    run_id: str
    update_id: str
    name: str
    input: Payloads
    identity: str = ""
    wait_for: UpdateStage = "completed"
    header: dict[str, Payload] | None = None


class CancelWorkflowRequest(Request[Done], frozen=True, gc=False, tag="cancel"):
    """Ask the workflow to stop; it decides how. Asking again changes nothing. child_of: only that parent's child."""

    run_id: str
    reason: str = ""
    identity: str = ""
    request_id: str = ""
    child_of: ParentRef | None = None


class TerminateWorkflow(Request[Done], frozen=True, gc=False, tag="terminate"):
    """End the run at once; its code has no say. child_of: only that parent's child."""

    run_id: str
    reason: str = ""
    identity: str = ""
    child_of: ParentRef | None = None


class GetResult(Request[Outcome], frozen=True, gc=False, tag="result"):
    """How the run ended. wait: answer only when it has."""

    run_id: str
    wait: bool = True


class DescribeWorkflow(Request[Description], frozen=True, gc=False, tag="describe"):
    """Tell what can be told without running the workflow's code."""

    run_id: str


class GetHistory(Request[HistoryPage], frozen=True, gc=False, tag="history"):
    """One page of a history; `token` is the last page's `next`, 0 for the first."""

    run_id: str
    token: int = 0


class ReleaseActivity(Request[Done], frozen=True, gc=False, tag="release"):
    """Let held activities go on: one by its id, or all where it is empty, and the run itself, if a hard limit
    holds it. The options replace the activity's own from then on, where they are given (microseconds)."""

    run_id: str
    activity_id: str = ""
    note: str = ""
    identity: str = ""
    retry_policy: RetryPolicy | None = None
    start_to_close_timeout: int | None = None
    schedule_to_close_timeout: int | None = None
    heartbeat_timeout: int | None = None


class CompleteActivity(Request[Done], frozen=True, gc=False, tag="complete_activity"):
    """Give an activity its result, in place of whatever it is doing."""

    run_id: str
    activity_id: str
    result: Payload
    note: str = ""
    identity: str = ""


class FailActivity(Request[Done], frozen=True, gc=False, tag="fail_activity"):
    """Fail an activity for good, in place of whatever it is doing."""

    run_id: str
    activity_id: str
    failure: Failure
    note: str = ""
    identity: str = ""


class SettleAttempt(Request[Done], frozen=True, gc=False, tag="settle_attempt"):
    """How an attempt has ended that is completed from elsewhere: its result, or its failure, which its policy judges;
    with neither, it has stopped as it was told to.

    Which attempt: the scheduled event and the number, or (activity_id) the one that is running.
    """

    run_id: str
    request_id: str
    result: Payload | None = None
    failure: Failure | None = None
    activity_id: str = ""
    scheduled_event_id: int = 0
    attempt: int = 0
    identity: str = ""


class HeartbeatAttempt(Request[AttemptState], frozen=True, gc=False, tag="heartbeat_attempt"):
    """An attempt that is completed from elsewhere is alive, and this is how far it came; without details, as far as was
    told last. Named as by SettleAttempt."""

    run_id: str
    details: Payloads
    activity_id: str = ""
    scheduled_event_id: int = 0
    attempt: int = 0


# What persons do is remembered by its request_id, where there is one: a network may repeat a pause after it was over.
class PauseWorkflow(Request[Done], frozen=True, gc=False, tag="pause"):
    """Give the run's code nothing more, and start no attempts of its activities. Repeated, it changes nothing."""

    run_id: str
    reason: str = ""
    identity: str = ""
    request_id: str = ""


class ResumeWorkflow(Request[Done], frozen=True, gc=False, tag="resume"):
    """Let a paused run go on. Where it isn't paused, nothing changes."""

    run_id: str
    note: str = ""
    identity: str = ""
    request_id: str = ""


class PauseActivity(Request[Done], frozen=True, gc=False, tag="pause_activity"):
    """Start no more attempts of an activity. Repeated, it changes nothing."""

    run_id: str
    activity_id: str
    reason: str = ""
    identity: str = ""
    request_id: str = ""


class UnpauseActivity(Request[Done], frozen=True, gc=False, tag="unpause_activity"):
    """Let a paused activity go on. Where it isn't paused, nothing changes."""

    run_id: str
    activity_id: str
    note: str = ""
    identity: str = ""
    request_id: str = ""


class ResetActivity(Request[Done], frozen=True, gc=False, tag="reset_activity"):
    """Let the policy count an activity's attempts from 1 again; one that waits is tried at once."""

    run_id: str
    activity_id: str
    keep_heartbeat: bool = False
    note: str = ""
    identity: str = ""
    request_id: str = ""


class UpdateActivityOptions(Request[Done], frozen=True, gc=False, tag="update_activity_options"):
    """Replace options of an activity, those that are given (microseconds, 0: none)."""

    run_id: str
    activity_id: str
    note: str = ""
    identity: str = ""
    task_queue: str | None = None
    retry_policy: RetryPolicy | None = None
    start_to_close_timeout: int | None = None
    schedule_to_close_timeout: int | None = None
    schedule_to_start_timeout: int | None = None
    heartbeat_timeout: int | None = None
    request_id: str = ""


class ResetWorkflow(Request[Started], frozen=True, gc=False, tag="reset"):
    """Begin another run of the chain, with the history up to a workflow task, which is run again. What runs of the
    workflow id is terminated.

    event_id: of the workflow task's started, completed, failed or timed out event; or 0, and `to` says which task.
    reapply: whether signals and accepted updates that came later are given to the new run.
    """

    run_id: str
    request_id: str
    event_id: int = 0
    to: ResetPoint = ""
    reason: str = ""
    identity: str = ""
    reapply: bool = True


class ListWorkflows(Request[ListPage], frozen=True, gc=False, tag="list"):
    """A page of executions, the latest started first. `workflow_id` is unused.

    query: such as "WorkflowType = 'provision' AND ExecutionStatus = 'Running'"; empty: all.
    """

    query: str = ""
    page: str = ""
    limit: int = 0


class PutBlob(Request[Done], frozen=True, gc=False, tag="put_blob"):
    """Store bytes under their SHA-256 digest (hexadecimal): they are durable when this is answered. `workflow_id` is
    unused.

    They are kept for as long as any stored run names them, and for `limits.BLOB_GRACE` after they were put last.
    """

    digest: str
    data: bytes


class GetBlob(Request[Blob], frozen=True, gc=False, tag="get_blob"):
    """Read what is stored under a digest. `workflow_id` is unused."""

    digest: str


AnyRequest = (
    StartWorkflow
    | SignalWorkflow
    | QueryWorkflow
    | UpdateWorkflow
    | CancelWorkflowRequest
    | TerminateWorkflow
    | GetResult
    | DescribeWorkflow
    | GetHistory
    | ReleaseActivity
    | CompleteActivity
    | FailActivity
    | SettleAttempt
    | HeartbeatAttempt
    | PauseWorkflow
    | ResumeWorkflow
    | PauseActivity
    | UnpauseActivity
    | ResetActivity
    | UpdateActivityOptions
    | ResetWorkflow
    | ListWorkflows
    | PutBlob
    | GetBlob
)
"""Every request there is; its tags are the names on the wire."""


class WorkerLink(Protocol):
    """The node's end of an attached worker."""

    def send(self, message: FromWorker, /) -> None:
        """Hand a message to the node. It is taken at once and acted on in order."""
        ...

    async def detach(self) -> None:
        """Leave: what is on its way to the worker arrives, and so do its answers; then no more tasks come, and what
        it still holds counts as let go."""
        ...


class Service(Protocol):
    """The engine, as clients and workers see it; a node, or something that stands for a distant one."""

    async def call(self, request: Request[Reply], /) -> Reply:
        """Carry out a request. Raises one of `perdure.errors`; then nothing was changed, unless the error
        is `Unavailable`: then the same request, sent again, tells."""
        ...

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
        """Attach a worker. `receive` is called with each message for it, in order; it must not raise."""
        ...
