"""How records about schedules change the state. A part of `evolve`."""

from __future__ import annotations

import copy

from perdure.engine.core.interventions import keep
from perdure.limits import MAX_SCHEDULE_RESETS, RECENT_ACTIONS
from perdure.model import records as r
from perdure.model.requests import Action, Intervention
from perdure.model.schedules import Backfill, ScheduledRun, ScheduleState
from perdure.model.state import State


def of(state: State) -> ScheduleState:
    """What a run that is a schedule's is about. Only where it is one's."""
    assert state.schedule is not None
    return state.schedule


def defined(state: State, record: r.ScheduleDefined) -> None:
    if state.schedule is None:
        state.schedule = ScheduleState(record.schedule, record.time, until=record.time)
    else:
        state.schedule.schedule = record.schedule
        state.schedule.revision += 1
        _intervened(state, record, "changed")
    state.schedule.remaining = record.schedule.remaining_actions
    state.schedule.steps += 1


def carried(state: State, record: r.ScheduleCarried) -> None:
    state.schedule = copy.deepcopy(record.schedule)  # which is to be stored as it is now
    state.schedule.steps = 0
    state.interventions = list(record.interventions)


def advanced(state: State, record: r.ScheduleAdvanced) -> None:
    schedule = of(state)
    schedule.until, schedule.next_time, schedule.next_at = record.until, record.next_time, record.next_at
    schedule.missed += record.missed
    schedule.steps += 1


def acted(state: State, record: r.ScheduleActed) -> None:
    schedule, start = of(state), record.start
    if record.buffered >= 0:
        del schedule.buffer[record.buffered]
    schedule.running[record.start_id] = ScheduledRun(start.time, record.time, record.workflow_id, start.manual)
    schedule.next_start_id = record.start_id + 1
    schedule.begun += 1
    if schedule.remaining > 0 and not start.manual:
        schedule.remaining -= 1
    schedule.steps += 1


def buffered(state: State, record: r.ScheduleBuffered) -> None:
    of(state).buffer.append(record.start)
    of(state).steps += 1


def skipped(state: State, record: r.ScheduleSkipped) -> None:
    schedule = of(state)
    schedule.skipped += record.count
    if record.buffered >= 0:
        del schedule.buffer[record.buffered]
    schedule.steps += 1


def asked(state: State, record: r.ScheduledRunAsked) -> None:
    of(state).running[record.start_id].asked = "terminate" if record.terminate else "cancel"
    of(state).steps += 1


def answered(state: State, record: r.ScheduledStartAnswered) -> None:
    run = of(state).running[record.start_id]
    run.run_id, run.status = record.run_id, "Running"
    of(state).steps += 1


def closed(state: State, record: r.ScheduledRunClosed) -> None:
    schedule = of(state)
    run = schedule.running.pop(record.start_id)
    run.run_id, run.status, run.error = record.run_id or run.run_id, record.status, record.error
    schedule.recent.append(run)
    del schedule.recent[:-RECENT_ACTIONS]
    if record.status == "Completed":
        schedule.last_result = record.result
    if record.status:
        schedule.last_failure = record.failure
    else:
        schedule.refused += 1
        schedule.last_refusal = f"{run.workflow_id}: {record.error}"
    schedule.steps += 1


def run_again(state: State, record: r.ScheduledRunReset) -> None:
    schedule, id = of(state), record.start_id
    schedule.running[id] = ScheduledRun(
        record.nominal, record.time, record.workflow_id, manual=True, run_id=record.run_id, status="Running"
    )
    schedule.resets.pop(id, None)  # the latest is the last
    schedule.resets[id] = record.reset
    if len(schedule.resets) > MAX_SCHEDULE_RESETS:
        del schedule.resets[next(iter(schedule.resets))]
    schedule.steps += 1


def triggered(state: State, record: r.ScheduleTriggered) -> None:
    _intervened(state, record, "triggered")
    of(state).steps += 1


def backfill_added(state: State, record: r.BackfillAdded) -> None:
    of(state).backfills.append(Backfill(record.after, record.end, record.overlap, record.time))
    _intervened(state, record, "backfilled")
    of(state).steps += 1


def backfill_advanced(state: State, record: r.BackfillAdvanced) -> None:
    schedule = of(state)
    schedule.backfills[0].after = record.after
    if record.over:
        del schedule.backfills[0]
    schedule.steps += 1


def _intervened(
    state: State, record: r.ScheduleDefined | r.ScheduleTriggered | r.BackfillAdded, action: Action
) -> None:
    keep(state, Intervention(record.time, record.identity, "", action, record.note))
