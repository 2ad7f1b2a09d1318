"""What a node and a worker say to each other.

The node sends `ToWorker`, the worker sends `FromWorker`; each direction is an ordered stream of messages.
A worker says `WorkerHello` when it attaches, with the slots that it has.

::

    node → WorkflowTask → worker → WorkflowTaskCompletion | WorkflowTaskFailure | HistoryWanted → node
    node → ActivityTask → worker → Heartbeat* → ActivityCompletion | ActivityFailure | ActivityCancellation → node
                                            → ActivityEvicted → node; it is given out again
                                            → ActivityDetached → node; how it ends, a client reports
    node → QueryTask    → worker → QueryAnswer | HistoryWanted → node
                          worker → WorkerServes | WorkerLeaving → node
"""

from __future__ import annotations

from msgspec import Struct

from perdure.model.commands import Command
from perdure.model.events import HistoryEvent
from perdure.model.failures import Failure
from perdure.model.payloads import Payload, Payloads


class RunRef(Struct, frozen=True, array_like=True, gc=False, cache_hash=True):
    """One run of one workflow id."""

    namespace: str
    workflow_id: str
    run_id: str


class Position(Struct, frozen=True, array_like=True, gc=False):
    """How far a history was seen: the last event's id, and the digest of all events up to it."""

    event_id: int
    digest: int


START = Position(0, 0)


class ActivityToken(Struct, frozen=True, array_like=True, gc=False, cache_hash=True):
    """Names one attempt of one activity. What comes back under an old token is refused."""

    run: RunRef
    scheduled_event_id: int
    attempt: int


class WorkerHello(Struct, frozen=True, array_like=True, gc=False):
    """A worker introduces itself.

    instance: unique to this process and start. workflows, activities: the types that it has.
    """

    namespace: str
    instance: str
    task_queues: tuple[str, ...]
    activity_slots: int
    build_id: str = ""
    workflows: tuple[str, ...] = ()
    activities: tuple[str, ...] = ()


# --- Node → worker --------------------------------------------------------------------------------------
class AdmittedUpdate(Struct, frozen=True, array_like=True, gc=False):
    """An update that waits for the workflow's validator."""

    update_id: str
    name: str
    input: Payloads
    header: dict[str, Payload] | None = None


class WorkflowTask(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """News for a workflow's code.

    `events` continue the history after `previous`; from START they are the whole of it. `position` is
    where they end. `time` is the workflow's time during the task. `given` tells it from the same task, given before to
    this or another worker: that one may have had other updates.
    """

    run: RunRef
    attempt: int
    time: int
    previous: Position
    position: Position
    events: tuple[HistoryEvent, ...]
    updates: tuple[AdmittedUpdate, ...] = ()
    history_bytes: int = 0
    given: int = 0


class QueryTask(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A question to a workflow's code, to be answered at exactly `position`.

    `events` is empty where the worker is expected to hold the workflow; else the whole history.
    """

    run: RunRef
    query_id: str
    name: str
    input: Payloads
    position: Position
    time: int
    events: tuple[HistoryEvent, ...] = ()
    header: dict[str, Payload] | None = None


class ActivityTask(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """One attempt of an activity. Durations are microseconds, 0: none."""

    token: ActivityToken
    activity_id: str
    activity_type: str
    workflow_type: str
    task_queue: str
    input: Payloads
    scheduled_at: int
    started_at: int
    start_to_close_timeout: int = 0
    heartbeat_timeout: int = 0
    heartbeat_details: Payloads = ()
    last_failure: Failure | None = None
    header: dict[str, Payload] | None = None


class CancelActivity(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The attempt is not wanted any more. reason: "cancel_requested", "timed_out", "settled" (a person gave
    it its outcome) or "closed"."""

    token: ActivityToken
    reason: str


class EvictWorkflow(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The worker's copy of the run is not to be used again: it was built on what was refused, or closed."""

    run: RunRef


class WorkflowTaskAcknowledged(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """The completion built on `position` is on disk: what waited for that (log lines) may leave now."""

    run: RunRef
    position: Position


class InputStored(Struct, frozen=True, array_like=True, gc=False, tag=20):
    """What a workflow task told is on disk: local activities that it has led to may begin."""

    run: RunRef
    given: int


ToWorker = (
    WorkflowTask | QueryTask | ActivityTask | CancelActivity | EvictWorkflow | WorkflowTaskAcknowledged | InputStored
)


# --- Worker → node --------------------------------------------------------------------------------------
class WorkflowTaskCompletion(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The workflow's code waits again, or has ended. `position` and `given` are those of the task."""

    run: RunRef
    attempt: int
    position: Position
    commands: tuple[Command, ...]
    python: str = ""
    flags: tuple[int, ...] = ()
    exceptions: dict[str, bool] | None = None
    acknowledge: bool = False
    given: int = 0
    more: bool = False  # local activities run on: another task follows at once


class WorkflowTaskFailure(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The task could not be done: the workflow's code has a bug, or does not fit its history."""

    run: RunRef
    attempt: int
    position: Position
    failure: Failure
    given: int = 0


class HistoryWanted(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The worker does not hold the workflow at the task's `previous` position: send all of it.

    query_id is set where the task was a query, `given` where it was not.
    """

    run: RunRef
    query_id: str = ""
    given: int = 0


class QueryAnswer(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Exactly one of `result` and `failure` is set."""

    run: RunRef
    query_id: str
    result: Payload | None
    failure: Failure | None = None


class ActivityCompletion(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The attempt returned."""

    token: ActivityToken
    result: Payload


class ActivityFailure(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """The attempt raised. A `failure` of kind "hold" asks for a person."""

    token: ActivityToken
    failure: Failure


class ActivityCancellation(Struct, frozen=True, array_like=True, gc=False, tag=7):
    """The attempt stopped because it was told to."""

    token: ActivityToken


class ActivityHeartbeat(Struct, frozen=True, array_like=True, gc=False, tag=8):
    """The attempt is alive, and this is how far it came."""

    token: ActivityToken
    details: Payloads


class ActivityEvicted(Struct, frozen=True, array_like=True, gc=False, tag=9):
    """The worker let the attempt go without an outcome, because it is shutting down.

    worker: whose attempt it was, where that may never have come to be: another worker's of that number is not meant.
    begun: whether the activity's code may have run.
    """

    token: ActivityToken
    worker: str = ""
    begun: bool = True


class ActivityDetached(Struct, frozen=True, array_like=True, gc=False, tag=20):
    """The worker let the attempt go, which goes on elsewhere: a client reports how it ends."""

    token: ActivityToken


class InputWanted(Struct, frozen=True, array_like=True, gc=False, tag=21):
    """The workflow's code has asked for local activities, which begin when what the task told it is on disk."""

    run: RunRef
    given: int


class WorkerLeaving(Struct, frozen=True, array_like=True, gc=False, tag=10):
    """The worker is shutting down: it takes no more attempts, and finishes or lets go those that it has."""


class WorkerServes(Struct, frozen=True, array_like=True, gc=False, tag=11):
    """The worker has more workflow and activity types than it said when it attached: more was imported since."""

    workflows: tuple[str, ...]
    activities: tuple[str, ...]


AboutAttempt = (
    ActivityCompletion | ActivityFailure | ActivityCancellation | ActivityHeartbeat | ActivityEvicted | ActivityDetached
)

FromWorker = (
    WorkflowTaskCompletion
    | WorkflowTaskFailure
    | HistoryWanted
    | QueryAnswer
    | AboutAttempt
    | InputWanted
    | WorkerLeaving
    | WorkerServes
)
