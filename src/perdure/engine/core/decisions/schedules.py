"""What a schedule does: which of its times are due, what is started for them, and what persons ask of it.

A schedule is a run without code. Its next time is a deadline like any other; its starts go out through the outbox, and
what they have started reports its end. Each start has a number, by which it is recognised wherever it comes twice.

::

    a time is due → started | buffered → started | skipped (by the overlap policy) | missed (too long ago)
    started → answered (the run exists) → closed          or → refused
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from perdure.calendars import iso
from perdure.engine.core.deadlines import Key, buffer_has_room, schedule_has_room
from perdure.engine.core.decisions.chains import next_run_id
from perdure.engine.core.decisions.closing import close, send
from perdure.engine.core.decisions.messages import DONE
from perdure.engine.core.decisions.starts import check_options, first_event
from perdure.engine.core.effects import ContinueRun
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import OutboxAnswered, ScheduledRunReported
from perdure.engine.core.scheduling import of
from perdure.engine.core.timetable import check_schedule, check_time, timetable, with_jitter
from perdure.engine.core.transition import Transition
from perdure.errors import InvalidRequest, LimitExceeded, NotRunning, ScheduleChanged, ScheduleExists
from perdure.limits import (
    MAX_BACKFILL_TIMES,
    MAX_BACKFILLS,
    MAX_ID_LENGTH,
    MAX_SCHEDULED_RUNS,
    SCHEDULE_BATCH,
    SCHEDULE_ROLL_OVER,
)
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import schedules as s
from perdure.model.requests import Done, Request, Started

TIME_LENGTH: Final = len("-9999-12-31T23:59:59.999999Z")
"""Characters that a nominal time adds to an id."""

_FAILED: Final = ("Failed", "TimedOut")


# --- The life of a schedule -----------------------------------------------------------------------------
def begin_schedule(request: s.CreateSchedule, run_id: str, run_no: int, now: int, retention: int) -> Transition:
    """A new schedule. `check_create` has allowed it."""
    start = request.schedule.start
    event = e.WorkflowExecutionStarted(
        1, now, start.workflow_type, start.task_queue, (), run_id, request.request_id, request.identity, run_id
    )
    tx = first_event(s.schedules_of(request.namespace), request.workflow_id, run_no, event, retention)
    tx.note(r.ScheduleDefined(request.schedule, request.note, request.identity, tx.now))
    if request.paused:
        tx.note(r.RunPaused(request.note, request.identity, tx.now))
    _go_on_from(tx, tx.now)
    tx.reply = Started(run_id)
    return tx


def check_create(execution: Execution | None, request: s.CreateSchedule, now: int) -> Started | None:
    """The reply, if there is the schedule already that this request made; None if it may be made.

    Raises:
        InvalidRequest: it makes no sense, or could never start anything.
        ScheduleExists: its id is taken.
    """
    _check_request_id(request.request_id)
    if execution is not None and execution.state.started.request_id == request.request_id:
        return Started(execution.state.started.first_run_id, existing=True)  # though it may be over since
    _check(request.schedule, request.request_id, now)
    if request.schedule.remaining_actions == 0:  # which an update may say: then it has started what it should
        raise InvalidRequest(
            "the schedule can never fire: remaining_actions is 0; leave it out for no end, and create the schedule "
            "paused where only persons are to start something"
        )
    if execution is not None and execution.open:
        raise ScheduleExists(
            f"there is a schedule with the id {request.workflow_id!r} already; update it, or use another id"
        )
    return None


def _check(schedule: s.Schedule, request_id: str, now: int, before: s.ScheduleSpec | None = None) -> None:
    check_schedule(schedule, now, before)
    start = schedule.start
    if start.message is not None or start.start_delay:
        raise InvalidRequest("what a schedule starts can't have a start_delay or a message")
    if len(start.workflow_id) > MAX_ID_LENGTH - TIME_LENGTH:
        raise InvalidRequest(
            f"the id {start.workflow_id[:40]!r}… has {len(start.workflow_id)} characters; with the nominal time "
            f"after it, it would have more than {MAX_ID_LENGTH} (limits.MAX_ID_LENGTH)"
        )
    check_options(replace(start, request_id=request_id))


def _check_request_id(request_id: str) -> None:
    if not request_id:
        raise InvalidRequest("a request about a schedule needs a request_id, so that a retry is recognised")


def _require_open(tx: Transition, request_id: str) -> None:
    _check_request_id(request_id)
    if not tx.execution.open:
        raise NotRunning(gone(tx.state.workflow_id))


def gone(schedule_id: str) -> str:
    """The message of an error about a schedule that isn't there."""
    return f"there is no schedule with the id {schedule_id!r}"


def update(tx: Transition, request: s.UpdateSchedule) -> None:
    """Another definition. Where its times are others, they count from now on."""
    _require_open(tx, request.request_id)
    before, schedule = of(tx.state), request.schedule
    if request.keep_start:
        schedule = replace(schedule, start=before.schedule.start)
    _check(schedule, request.request_id, tx.now, before.schedule.spec)
    if request.revision and request.revision != before.revision:
        raise ScheduleChanged(
            f"schedule {tx.state.workflow_id!r} is at revision {before.revision}, not {request.revision}: it was "
            f"changed meanwhile"
        )
    same_times = schedule.spec == before.schedule.spec
    tx.note(r.ScheduleDefined(schedule, request.note, request.identity, tx.now))
    if not same_times:
        _go_on_from(tx, tx.now)
    _done(tx, request)
    tx.listed = True


def pause(tx: Transition, request: s.PauseSchedule) -> None:
    """Nothing more is started, but what a person asks for; what is due and was not looked at yet, neither."""
    _require_open(tx, request.request_id)
    if tx.state.paused is None:
        tx.note(r.RunPaused(request.note, request.identity, tx.now))
        tx.listed = True
    _done(tx, request)


def unpause(tx: Transition, request: s.UnpauseSchedule) -> None:
    """Go on with the times from now on, and with what was buffered."""
    _require_open(tx, request.request_id)
    if tx.state.paused is not None:
        tx.note(r.RunResumed(request.note, request.identity, tx.now))
        tx.listed = True
        _go_on_from(tx, tx.now)
        _drain(tx)
    _done(tx, request)


def trigger(tx: Transition, request: s.TriggerSchedule) -> None:
    """One start now. Its nominal time is now."""
    _require_open(tx, request.request_id)
    tx.note(r.ScheduleTriggered(request.note, request.identity, tx.now))
    schedule = of(tx.state)
    # Ids are made of nominal times: two of them never have the same.
    taken = {run.time for run in (*schedule.running.values(), *schedule.recent)} | {x.time for x in schedule.buffer}
    time = tx.now
    while time in taken:
        time += 1
    if not _take(tx, s.DueStart(time, request.overlap or schedule.schedule.overlap, manual=True)):
        _skip(tx, 1)
    _done(tx, request)


def backfill(tx: Transition, request: s.BackfillSchedule) -> None:
    """Starts for times of the past, batch by batch."""
    _require_open(tx, request.request_id)
    schedule = of(tx.state)
    check_time(request.start, "start")
    if request.end < request.start:
        raise InvalidRequest(f"the backfill ends at {iso(request.end)}, before it starts at {iso(request.start)}")
    if request.end > tx.now:
        raise InvalidRequest(f"a backfill is for the past: it can't end at {iso(request.end)}, it is {iso(tx.now)}")
    times = timetable(schedule.schedule.spec).most(request.start, request.end, MAX_BACKFILL_TIMES)
    if times > MAX_BACKFILL_TIMES:
        raise LimitExceeded(
            f"a backfill may have {MAX_BACKFILL_TIMES} times (limits.MAX_BACKFILL_TIMES); from {iso(request.start)} to "
            f"{iso(request.end)} there may be more: ask for a part of it, and for the next one when that is done"
        )
    if len(schedule.backfills) >= MAX_BACKFILLS:
        raise LimitExceeded(f"{MAX_BACKFILLS} backfills are under way (limits.MAX_BACKFILLS)")
    overlap = request.overlap or schedule.schedule.overlap
    after = request.start - 1
    tx.note(r.BackfillAdded(after, request.end, overlap, request.note, request.identity, tx.now))
    _done(tx, request)


def delete(tx: Transition, request: s.DeleteSchedule) -> None:
    """It ends; what it has started goes on, also what is on its way."""
    _require_open(tx, request.request_id)
    close(tx, e.WorkflowExecutionTerminated(0, tx.now, request.note, request.identity))
    _done(tx, request)


def _done(tx: Transition, request: Request[Done]) -> None:
    tx.remember(request)
    tx.reply = DONE


# --- Times ----------------------------------------------------------------------------------------------
def due(tx: Transition, _: Key) -> None:
    """Its next time has come, or a backfill goes on."""
    if tx.state.schedule is None or not tx.execution.open:
        return
    if tx.state.paused is None:
        _take_due(tx)
    _take_backfill(tx)
    roll_over(tx)


def _go_on_from(tx: Transition, time: int) -> None:
    """The next time is the first after this one, and after all that was looked at by a clock that was ahead."""
    schedule = of(tx.state)
    time = max(time, schedule.until)
    _advance(tx, time, timetable(schedule.schedule.spec).next(time))


def _advance(tx: Transition, until: int, following: int, missed: int = 0) -> None:
    spec = of(tx.state).schedule.spec
    tx.note(r.ScheduleAdvanced(until, following, with_jitter(spec, tx.state.workflow_id, following), missed))


def _take_due(tx: Transition) -> None:
    schedule = of(tx.state)
    definition = schedule.schedule
    table, too_late = timetable(definition.spec), tx.now - definition.catchup_window
    until, time, at, missed, skipped = schedule.until, schedule.next_time, schedule.next_at, 0, 0
    for _ in range(SCHEDULE_BATCH):
        if not time or at > tx.now or schedule.remaining == 0 or not schedule_has_room(tx.state):
            break
        if at < too_late:
            missed += 1
        elif not _take(tx, s.DueStart(time, definition.overlap)):
            skipped += 1
        until, time = time, table.next(time)
        at = with_jitter(definition.spec, tx.state.workflow_id, time)
    _skip(tx, skipped)
    if until != schedule.until:
        _advance(tx, until, time, missed)


def _take_backfill(tx: Transition) -> None:
    schedule = of(tx.state)
    if not schedule.backfills:
        return
    table, under_way = timetable(schedule.schedule.spec), schedule.backfills[0]
    after, skipped = under_way.after, 0
    time = table.next(after)
    for _ in range(SCHEDULE_BATCH):
        if not time or time > under_way.end or not schedule_has_room(tx.state) or not buffer_has_room(schedule):
            break
        skipped += not _take(tx, s.DueStart(time, under_way.overlap, manual=True))
        after, time = time, table.next(time)
    _skip(tx, skipped)
    over = not time or time > under_way.end
    if over or after != under_way.after:
        tx.note(r.BackfillAdvanced(after, over))


# --- Starts ---------------------------------------------------------------------------------------------
def _take(tx: Transition, start: s.DueStart) -> bool:
    """A start that is due: begin it, or let it wait; False where the overlap policy leaves it out."""
    schedule, policy = of(tx.state), start.overlap
    if policy == "allow_all":
        free = len(schedule.running) < MAX_SCHEDULED_RUNS
    else:
        free = not (schedule.running or schedule.buffer)
    if free:
        _act(tx, start)
    elif policy == "buffer_all" or (policy == "buffer_one" and not schedule.buffer):
        if not buffer_has_room(schedule):
            return False
        tx.note(r.ScheduleBuffered(start))
    elif policy in ("cancel_other", "terminate_other"):
        while schedule.buffer:  # this one would stop them as soon as they began
            tx.note(r.ScheduleSkipped(buffered=len(schedule.buffer) - 1))
        tx.note(r.ScheduleBuffered(start))
        for start_id in schedule.running:
            _stop(tx, start_id, start)
    else:
        return False
    return True


def _skip(tx: Transition, count: int) -> None:
    if count:
        tx.note(r.ScheduleSkipped(count))


def _act(tx: Transition, start: s.DueStart, buffered: int = -1) -> None:
    schedule = of(tx.state)
    start_id = schedule.next_start_id
    workflow_id = f"{schedule.schedule.start.workflow_id}-{iso(start.time)}"
    tx.note(r.ScheduleActed(start_id, start, workflow_id, tx.now, buffered))
    request_id = f"{tx.state.started.first_run_id}:{start_id}"
    send(tx, 0, r.OutboxScheduledStart(start_id, start.time, workflow_id, request_id))


def _stop(tx: Transition, start_id: int, instead: s.DueStart) -> None:
    """Ask what runs to end for another start, once; what does not exist yet is asked when it does."""
    run, terminate = of(tx.state).running[start_id], instead.overlap == "terminate_other"
    if run.status == "Running" and (not run.asked or (terminate and run.asked == "cancel")):
        tx.note(r.ScheduledRunAsked(start_id, terminate))
        send(tx, 0, r.OutboxCancel(run.workflow_id, "", terminate))


def _drain(tx: Transition) -> None:
    """Begin what has waited, as far as it may."""
    schedule = of(tx.state)
    if schedule.running or not tx.execution.open:
        return
    place = 0
    while place < len(schedule.buffer):
        start = schedule.buffer[place]
        if not start.manual and schedule.remaining == 0:
            tx.note(r.ScheduleSkipped(buffered=place))
        elif start.manual or tx.state.paused is None:
            _act(tx, start, place)
            return
        else:
            place += 1


def start_answered(tx: Transition, message: r.OutboxScheduledStart, answer: OutboxAnswered) -> None:
    """What was started exists, or its start was refused."""
    schedule = of(tx.state)
    run = schedule.running.get(message.start_id)
    if run is None or run.status:
        return  # it has reported its end already, and may have been reset since
    if answer.error:
        tx.note(r.ScheduledRunClosed(message.start_id, "", "", answer.error))
        _drain(tx)
        return
    tx.note(r.ScheduledStartAnswered(message.start_id, answer.run_id))
    if schedule.buffer and schedule.buffer[-1].overlap in ("cancel_other", "terminate_other") and tx.execution.open:
        _stop(tx, message.start_id, schedule.buffer[-1])


def reported(tx: Transition, report: ScheduledRunReported) -> None:
    """What was started has ended, or runs again. Reports of what a schedule of the same id has started before count for
    nothing.

    A workflow may be reset before its end was heard of, and end again before it was heard that it runs: what is known
    of a later reset goes before all that an earlier one has to tell.
    """
    tx.reply = DONE
    schedule, by = tx.state.schedule, report.schedule
    if schedule is None or tx.state.started.first_run_id != by.schedule_run_id or not tx.execution.open:
        return
    known, ended = schedule.resets.get(by.start_id, 0), report.status != "Running"
    if by.reset > known and (ended or len(schedule.running) < MAX_SCHEDULED_RUNS):
        tx.note(r.ScheduledRunReset(by.start_id, by.reset, by.time, report.workflow_id, report.run_id, tx.now))
    elif by.reset < known or by.start_id not in schedule.running:
        return
    if ended:
        _ended(tx, report)
    roll_over(tx)


def _ended(tx: Transition, report: ScheduledRunReported) -> None:
    failure, status = report.failure, report.status
    text = failure.text if failure is not None else ""
    tx.note(r.ScheduledRunClosed(report.schedule.start_id, report.run_id, status, text, report.result, failure))
    if status in _FAILED and of(tx.state).schedule.pause_on_failure and tx.state.paused is None:
        why = f"{report.workflow_id} {'took too long' if status == 'TimedOut' else 'failed'}: {text}"
        tx.note(r.RunPaused(why.removesuffix(": ")[:500], "pause_on_failure", tx.now))
        tx.listed = True
    _drain(tx)


# --- The chain ------------------------------------------------------------------------------------------
def roll_over(tx: Transition) -> None:
    """Go on in another run, when the journal is long enough and nothing is on its way."""
    schedule, state = of(tx.state), tx.state
    if not tx.execution.open or schedule.steps < SCHEDULE_ROLL_OVER or state.outbox:
        return
    carried = r.ScheduleCarried(schedule, tuple(state.interventions))
    run_id, started = next_run_id(tx.execution.ref.run_id, tx.next_id), state.started
    close(tx, e.WorkflowExecutionContinuedAsNew(0, tx.now, run_id, started.workflow_type, started.task_queue, (), 0))
    tx.effects.append(ContinueRun((), (carried,)))
