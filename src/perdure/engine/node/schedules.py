"""Schedules at work: where their chains are, what makes one, what can be told of them, and what they send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from perdure.engine.core.decisions.schedules import begin_schedule, check_create, gone
from perdure.engine.core.execution import Execution
from perdure.engine.core.inputs import ScheduledRunReported
from perdure.engine.core.scheduling import of
from perdure.engine.core.timetable import upcoming
from perdure.engine.node.chains import begin
from perdure.engine.node.live import Live, Work
from perdure.engine.storage import filter as list_filter
from perdure.engine.storage.api import ChainKey, Store
from perdure.engine.storage.fields import sortable_time
from perdure.errors import NotFound, PerdureError
from perdure.limits import LIST_PAGE, SHOWN_ACTIVITIES, SHOWN_TIMES
from perdure.model import records as r
from perdure.model import schedules as s
from perdure.model.events import ScheduleRef
from perdure.model.requests import ListPage, Request, StartWorkflow

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving

BY_ID: Final = "ScheduledById"
BY_TIME: Final = "ScheduledStartTime"
"""Search attributes of what schedules start: the schedule's id, and the nominal time (`sortable_time`)."""

REMEMBERED: Final[frozenset[type[Any]]] = frozenset((
    s.UpdateSchedule, s.PauseSchedule, s.UnpauseSchedule, s.TriggerSchedule, s.BackfillSchedule, s.DeleteSchedule,
))  # fmt: skip
"""Requests whose ids are rows of the store, from the commit that carries them."""

OF_SCHEDULES: Final = REMEMBERED | {s.CreateSchedule, s.DescribeSchedule}


def chain_of(request: Request[object]) -> ChainKey:
    """The chain that a request is about."""
    if type(request) in OF_SCHEDULES:
        return ChainKey(s.schedules_of(request.namespace), request.workflow_id)
    return ChainKey(request.namespace, request.workflow_id)


def create(serving: Serving, live: Live, work: Work) -> None:
    """Make a schedule, or tell that there is one."""
    request, now = work.input, serving.clock.now()
    assert isinstance(request, s.CreateSchedule)
    try:
        known = check_create(live.execution, request, now)
    except PerdureError as error:
        serving.reply(live, work, error)
        return
    if known is not None:
        serving.reply(live, work, known)
    elif live.pending is not None:
        live.parked += (work,)  # until the end of the last one is on disk
    else:
        run_id, run_no = serving.ids.new_id(), live.key.run_no + 1
        started = begin_schedule(request, run_id, run_no, now, serving.retention)
        new = begin(serving, live, started)
        new.next_row().works.append(work)
        serving.reply(new, work, started.reply)


# --- Telling --------------------------------------------------------------------------------------------
def tell_schedule(serving: Serving, live: Live, work: Work) -> None:
    """How it stands."""
    if live.run.open:
        serving.reply(live, work, describe(live.run, serving.clock.now()))
    else:
        serving.reply(live, work, NotFound(gone(live.chain.workflow_id)))


def describe(execution: Execution, now: int) -> s.ScheduleDescription:
    """All that is known of a schedule."""
    state = execution.state
    schedule = of(state)
    spec = schedule.schedule.spec
    # Those that are due and were not looked at yet are among the next ones; in a pause, none is made up for.
    since = now if state.paused is not None or not schedule.next_time else schedule.next_time - 1
    count = SHOWN_TIMES if schedule.remaining < 0 else min(SHOWN_TIMES, schedule.remaining)
    times = tuple(upcoming(spec, state.workflow_id, since, count))
    return s.ScheduleDescription(
        state.workflow_id,
        schedule.schedule,
        schedule.revision,
        schedule.created,
        times,
        tuple(list(schedule.running.values())[:SHOWN_ACTIVITIES]),
        len(schedule.running),
        tuple(schedule.recent),
        tuple(schedule.buffer),
        len(schedule.backfills),
        schedule.begun - schedule.refused - sum(not run.status for run in schedule.running.values()),
        schedule.missed,
        schedule.skipped,
        schedule.refused,
        schedule.remaining,
        state.paused,
        tuple(state.interventions),
        schedule.last_failure,
        schedule.last_refusal,
    )


async def list_schedules(store: Store, request: s.ListSchedules) -> ListPage:
    """A page of those that are not deleted."""
    running = "ExecutionStatus = 'Running'"
    if list_filter.parse(request.query, "schedules") is not None:  # so that an error speaks of what was asked
        running = f"{running} AND ({request.query})"
    limit = min(request.limit or LIST_PAGE, LIST_PAGE)
    rows, following = await store.list(s.schedules_of(request.namespace), running, request.page, limit)
    return ListPage(tuple(rows), following)


# --- Sending --------------------------------------------------------------------------------------------
def start_of(schedule: Execution, message: r.OutboxScheduledStart) -> StartWorkflow:
    """The request that starts what is due. A schedule that was changed meanwhile starts what it says now."""
    state = schedule.state
    kept = of(state)
    template = kept.schedule.start
    first_run_id = state.started.first_run_id
    return replace(
        template,
        namespace=s.namespace_of(state.namespace),
        workflow_id=message.workflow_id,
        request_id=message.request_id,
        identity=f"schedule {state.workflow_id}",
        id_conflict_policy="fail",
        id_reuse_policy="allow_duplicate",
        search_attributes={
            **(template.search_attributes or {}),
            BY_ID: state.workflow_id,
            BY_TIME: sortable_time(message.time),
        },
        scheduled_by=ScheduleRef(state.workflow_id, first_run_id, message.start_id, message.time),
        last_completion_result=kept.last_result,
    )


def report_of(started: Execution, message: r.OutboxScheduleReport) -> tuple[ChainKey, ScheduledRunReported]:
    """Where a report of what was started goes, and what it is there."""
    by, ref = message.schedule, started.ref
    return ChainKey(s.schedules_of(ref.namespace), by.schedule_id), ScheduledRunReported(
        by, ref.workflow_id, message.run_id, message.status, message.result, message.failure
    )
