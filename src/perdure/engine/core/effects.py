"""What a transition asks the node to do. Values, performed after the decision.

Those of the first group concern only memory and may happen before the commit; those of the second leave the
engine, and wait until the transition is on disk.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.model.events import HistoryEvent, WorkflowExecutionSignaled
from perdure.model.failures import Failure
from perdure.model.records import OutboxAdded, Outgoing, PrivateRecord
from perdure.model.requests import UpdateOutcome
from perdure.model.tasks import ActivityTask, ActivityToken, Position


# --- At once --------------------------------------------------------------------------------------------
class OfferWorkflowTask(Struct, frozen=True, gc=False):
    """There is an open workflow task that no worker has."""


class ActivityOffer(Struct, frozen=True, gc=False):
    """An attempt may start (see `Transition.offers`)."""

    scheduled_event_id: int
    attempt: int
    task_queue: str
    priority: int


# --- After the commit -----------------------------------------------------------------------------------
class HandOver(Struct, frozen=True, gc=False):
    """Give an attempt to the worker that it was started for."""

    worker: str
    task: ActivityTask


class CancelAttempt(Struct, frozen=True, gc=False):
    """Tell a worker that an attempt is not wanted any more."""

    worker: str
    token: ActivityToken
    reason: str


class UpdateProgressed(Struct, frozen=True, gc=False):
    """Callers who wait for this stage of an update hear of it."""

    outcome: UpdateOutcome


class SendHistory(Struct, frozen=True, gc=False):
    """The worker that has the workflow task wants the whole history."""

    given: int  # which giving of the task is meant: it may be at another worker when this is done


class WakeServed(Struct, frozen=True, gc=False):
    """A wake-up of this run (its `storage.RunKey`) was acted on."""

    key: tuple[str, str, int]


class Acknowledge(Struct, frozen=True, gc=False):
    """Tell a worker that its workflow task's completion is on disk."""

    worker: str
    position: Position


class TellStored(Struct, frozen=True, gc=False):
    """Tell a worker that what its workflow task told is on disk."""

    worker: str
    given: int


class RunClosed(Struct, frozen=True, gc=False):
    """The run has ended; callers who wait for its result hear of it."""


class Tell(Struct, frozen=True, gc=False):
    """Something failed in another way than before: a person may want to know.

    usual: nothing is wrong with it; it is what happens where a process ends.
    """

    what: str
    failure: Failure
    then: str
    usual: bool = False


class Send(Struct, frozen=True, gc=False):
    """Deliver an outbox entry to another execution."""

    entry_id: int
    message: Outgoing


class ContinueRun(Struct, frozen=True, gc=False):
    """The next run of the chain begins, in the same commit as the end of this one.

    messages: the events with which it begins, after its first. records: what else goes over to it. starts: those of
    its children that are on their way still. postponed: messages that it is given later (see `State.postponed`).
    """

    messages: tuple[HistoryEvent, ...] = ()
    records: tuple[PrivateRecord, ...] = ()
    starts: tuple[OutboxAdded, ...] = ()
    postponed: tuple[WorkflowExecutionSignaled | str, ...] = ()


class KeepSoon(Struct, frozen=True, gc=False):
    """How far an attempt came is news that only memory has: `KeepBeats` is to come in time."""


class EvictCopy(Struct, frozen=True, gc=False):
    """The worker's copy of the run can't be used again."""


class DeleteRun(Struct, frozen=True, gc=False):
    """The run's retention is over."""


Effect = (
    OfferWorkflowTask
    | HandOver
    | CancelAttempt
    | UpdateProgressed
    | RunClosed
    | Send
    | Tell
    | SendHistory
    | WakeServed
    | Acknowledge
    | TellStored
    | ContinueRun
    | KeepSoon
    | EvictCopy
    | DeleteRun
)
