"""Schedules, broken on purpose: each mutation must be caught by the simulator (see `mutations`)."""

from __future__ import annotations

from itertools import count

from msgspec.structs import replace

from perdure.engine.core import evolve
from perdure.engine.core.decisions import closing, resets, schedules
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.engine.node import delivery
from perdure.model import records as r
from perdure.model import schedules as s
from perdure.model.requests import StartWorkflow
from perdure.model.state import State
from tests.simulation.mutations import Mutation, Patch, nothing


def start_again_when_sent_again(patch: Patch) -> None:
    original, numbers = delivery.start_of, count()

    def start_of(schedule: Execution, message: r.OutboxScheduledStart) -> StartWorkflow:
        request, n = original(schedule, message), next(numbers)
        return replace(request, request_id=f"{request.request_id}-{n}", workflow_id=f"{request.workflow_id}-{n}")

    patch.setattr(delivery, "start_of", start_of)


def pass_over_what_is_due(patch: Patch) -> None:
    original = evolve.RECORDS[r.ScheduleAdvanced]

    def advanced(state: State, record: r.ScheduleAdvanced) -> None:
        every = record.next_time - record.until  # as all times of one schedule are, but for the first
        late = record.next_time and state.schedule is not None and state.schedule.begun == 1
        original(state, replace(record, next_time=record.next_time + every) if late else record)

    patch.setitem(evolve.RECORDS, r.ScheduleAdvanced, advanced)


def report_nothing(patch: Patch) -> None:
    send = closing.send

    def unreported(tx: Transition, event_id: int, message: r.Outgoing) -> None:
        if not isinstance(message, r.OutboxScheduleReport):
            send(tx, event_id, message)

    patch.setattr(closing, "send", unreported)


def tell_of_no_reset(patch: Patch) -> None:
    patch.setattr(resets, "report_to_schedule", nothing)


def never_look_what_runs(patch: Patch) -> None:
    def take(tx: Transition, start: s.DueStart) -> bool:
        schedules._act(tx, start)
        return True

    patch.setattr(schedules, "_take", take)


def forget_what_waits(patch: Patch) -> None:
    def drain(tx: Transition) -> None:
        """Nothing is begun."""

    patch.setattr(schedules, "_drain", drain)


def count_nothing(patch: Patch) -> None:
    patch.setattr(schedules, "_skip", lambda tx, count: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


SCHEDULE_MUTATIONS = [
    Mutation("start again what is sent again", "2: a time is started once", start_again_when_sent_again),
    Mutation("pass over times", "3: a time is kept", pass_over_what_is_due),
    Mutation("never report to a schedule", "5: what waits goes on", report_nothing),
    Mutation("tell a schedule of no reset", "2: overlap policies hold", tell_of_no_reset, seed=6),
    Mutation("never look what a schedule runs", "2: overlap policies hold", never_look_what_runs),
    Mutation("forget what a schedule has buffered", "4: what waits goes on", forget_what_waits),
    Mutation("don't count what is skipped", "3: a time is accounted for", count_nothing),
]
