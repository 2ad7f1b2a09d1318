"""What a run has done so far, told from its history and its description."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from examples.provision.spec import Specification
from perdure.model.events import ActivityTaskCompleted, ActivityTaskFailed, ActivityTaskScheduled, ActivityTaskStarted
from perdure.model.events import HistoryEvent as Event
from perdure.sdk.client.description import ActivityDescription, WorkflowDescription

State = Literal["planned", "queued", "running", "retrying", "held", "done", "failed"]

KINDS = {
    "create_network": "network",
    "create_subnet": "subnet",
    "create_database": "database",
    "create_record": "record",
    "invite_member": "member",
}
"""What each activity makes."""


class Step(msgspec.Struct, frozen=True):
    """One activity of the run, and what it makes.

    attempt: counted from 1. problem: why it is tried again, is held or has failed; empty where nothing is wrong.
    finished_at: seconds since the epoch; 0 while it isn't done.
    """

    kind: str
    name: str
    activity_id: str = ""
    state: State = "planned"
    attempt: int = 0
    problem: str = ""
    finished_at: float = 0


def planned(spec: Specification) -> list[Step]:
    """The steps that a specification will take, before any was begun."""
    database = spec.database.name
    return [
        Step("network", spec.network.name),
        *(Step("subnet", subnet.name) for subnet in spec.subnets),
        Step("database", database),
        *(Step("database", f"{database}-replica-{number}") for number in range(1, spec.database.replicas + 1)),
        *(Step("member", member.email) for member in spec.members),
        *(Step("record", record.name) for record in spec.dns),
    ]


def begun(events: Iterable[Event], description: WorkflowDescription) -> list[Step]:
    """The steps of a run that were begun, in order.

    Args:
        events: its history. It has each activity's beginning, and its outcome with the attempt that gave it.
        description: of the same run. It has the activities that have no outcome yet.
    """
    steps: dict[int, Step] = {}
    for event in events:
        match event:
            case ActivityTaskScheduled(activity_type=activity):
                kind = KINDS[activity.rpartition(".")[2]]
                steps[event.id] = Step(kind, _name(event), event.activity_id, "queued", attempt=1)
            case ActivityTaskStarted(scheduled_event_id=id):
                steps[id] = msgspec.structs.replace(steps[id], attempt=event.attempt)
            case ActivityTaskCompleted(scheduled_event_id=id):
                steps[id] = msgspec.structs.replace(steps[id], state="done", finished_at=event.time / 1e6)
            case ActivityTaskFailed(scheduled_event_id=id):
                steps[id] = msgspec.structs.replace(steps[id], state="failed", problem=event.failure.message)
            case _:
                pass
    pending = {info.activity_id: info for info in description.activities}
    return [_with_pending(step, pending.get(step.activity_id)) for step in steps.values()]


def _name(event: ActivityTaskScheduled) -> str:
    """What an activity makes: the name in its first argument."""
    first = msgspec.json.decode(event.input[0].data, type=str | dict[str, object])
    return first if isinstance(first, str) else str(first.get("name") or first.get("email"))


def _with_pending(step: Step, info: ActivityDescription | None) -> Step:
    if info is None or step.state in ("done", "failed"):
        return step
    states: dict[str, State] = {"scheduled": "queued", "started": "running", "backing_off": "retrying", "held": "held"}
    problem = info.hold_reason or _brief(info.last_failure or "")
    return msgspec.structs.replace(step, state=states[info.status], attempt=info.attempt, problem=problem)


def _brief(failure: str) -> str:
    """ "app.errors.Throttled: too many calls" as "Throttled: too many calls"."""
    type, colon, message = failure.partition(": ")
    return type.rpartition(".")[2] + colon + message
