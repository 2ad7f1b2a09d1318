"""Schedules in a simulation: they are made, paused, triggered, changed and made up for, and end after a while.

At the end the store is asked what they have started. Every time that was due and every start that a person asked for
is accounted for: started (then there is exactly one workflow of it), missed, or left out by the overlap policy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Final, get_args

from perdure.clock import SECOND
from perdure.engine.core.invariants import check_history, check_state
from perdure.engine.core.timetable import timetable
from perdure.engine.storage.api import ChainKey
from perdure.errors import InvalidRequest, NotFound, PerdureError, Unavailable
from perdure.model import schedules as s
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.requests import (
    ListedWorkflow,
    PauseWorkflow,
    Reply,
    Request,
    ResetWorkflow,
    ResumeWorkflow,
    StartWorkflow,
    Status,
)
from perdure.sdk.client.client import Client
from perdure.sdk.client.schedules import ScheduleDescription
from perdure.sdk.converter import encode
from perdure.testing.simulation.attempts import Step
from perdure.testing.simulation.clients import Wanted
from perdure.testing.simulation.ledger import NAMESPACE, Ledger, at_once
from perdure.testing.simulation.process import EPOCH

LATE: Final = 120.0
"""Seconds by which a schedule may be made later than it was meant to be, at the most: an outage, or another clock."""


@dataclass
class Timed:
    """A schedule that a seed has, and what persons do about it, each after a pause.

    every: seconds between two of its times; times: how many there are. ms: how long what it starts takes.
    """

    schedule_id: str
    every: int
    times: int
    overlap: s.Overlap
    ms: int
    jitter: float
    window: int
    limit: int
    acts: list[tuple[float, str, int]] = field(default_factory=list[tuple[float, str, int]])


@dataclass
class Told:
    """What is known of it outside. made: it is on disk. asked: what persons asked for, and whether it was done. reset:
    what of that it had started is reset."""

    request: s.CreateSchedule | None = None
    made: bool = False
    refused: bool = False
    asked: dict[str, bool] = field(default_factory=dict[str, bool])
    reset: ListedWorkflow | None = None


def make_timed(workflows: list[Wanted], seed: str) -> list[Timed]:
    """The schedules of a seed. They draw from a source of their own, so that the seeds are what they were."""
    random = Random(f"schedules {seed} {workflows!r}")
    schedules = [_timed(random, f"t{number}") for number in range(random.choice((0, 0, 1, 2)))]
    resets = Random(f"resets {seed}")
    for timed in schedules:
        if resets.random() < 0.3:
            pause = resets.random() * timed.every * (timed.times + 1)
            timed.acts.append((pause, "reset", resets.randint(0, 5)))
    return schedules


def _timed(random: Random, schedule_id: str) -> Timed:
    every, times = random.choice((1, 2, 7)), random.randint(2, 12)
    timed = Timed(
        schedule_id,
        every,
        times,
        random.choice(get_args(s.Overlap)),
        random.choice((0, 300, 1_500, 5_000)),
        random.choice((0.0, 0.0, 0.9)),
        random.choice((10, 3_600)),
        random.choice((-1, -1, -1, 3)),
    )
    for n in range(random.choice((0, 0, 1, 2))):
        timed.acts.append((random.random() * every * times, "trigger", n))
    if random.random() < 0.3:
        timed.acts.append((random.random() * every * times, "pause", random.choice((0, 1_000, 8_000))))
    if random.random() < 0.2:
        timed.acts.append((random.random() * every * times, "update", 0))
    if random.random() < 0.2:
        timed.acts.append((random.random() * 5, "backfill", random.randint(1, 6)))
    return timed


class Timekeepers:
    """The clients of schedules. They go on where they were, and send again what was never answered.

    told: what was asked for so far, in this process or an earlier one.
    """

    def __init__(self, client: Client, ledger: Ledger, told: dict[str, Told]) -> None:
        self._client, self._ledger, self._told = client, ledger, told

    async def drive(self, timed: Timed) -> None:
        """All that is done about one schedule, until it has started its last."""
        told = self._told.setdefault(timed.schedule_id, Told())
        if not told.made:
            await self._make(timed, told)
        if told.refused:
            return
        async with asyncio.TaskGroup() as persons:
            for number, (pause, kind, n) in enumerate(timed.acts):
                persons.create_task(self._act(timed, told, f"{kind}-{number}", pause, n))
        await self._wait(timed)

    async def _make(self, timed: Timed, told: Told) -> None:
        if told.request is None:
            told.request = self._request(timed)
        try:
            await self._insist(told.request)
        except InvalidRequest as error:  # it would be over before it is made
            self._ledger.say(f"{timed.schedule_id} not made: {error}")
            told.refused = True
        else:
            self._ledger.say(f"{timed.schedule_id} made")
            told.made = True
            if _stored(self._ledger, timed.schedule_id) is None:
                self._ledger.fail(f"schedule {timed.schedule_id} was acknowledged, but is not on disk")

    def _request(self, timed: Timed) -> s.CreateSchedule:
        now = EPOCH + int(self._ledger.time() * SECOND)
        end = now + int((timed.every * timed.times + LATE) * SECOND)
        begin = now + int(LATE * SECOND)
        interval = s.IntervalSpec(timed.every * SECOND)
        spec = s.ScheduleSpec(
            intervals=(interval,), start_at=begin, end_at=end, jitter=int(timed.jitter * timed.every * SECOND)
        )
        step = encode(Step(5, "act", ms=timed.ms), "step")
        start = StartWorkflow(NAMESPACE, timed.schedule_id, "simulated-errand", "default", (step,), "")
        definition = s.Schedule(spec, start, timed.overlap, timed.window * SECOND, remaining_actions=timed.limit)
        return s.CreateSchedule(NAMESPACE, timed.schedule_id, definition, f"create-{timed.schedule_id}")

    async def _act(self, timed: Timed, told: Told, name: str, pause: float, n: int) -> None:
        if told.asked.get(name):
            return
        await asyncio.sleep(LATE + pause)
        told.asked[name] = False
        id, kind = timed.schedule_id, name.partition("-")[0]
        if kind == "trigger":
            await self._insist(s.TriggerSchedule(NAMESPACE, id, name))
        elif kind == "update":
            assert told.request is not None
            await self._insist(s.UpdateSchedule(NAMESPACE, id, told.request.schedule, name))
        elif kind == "reset":
            await self._reset(timed, told, n)
        elif kind == "backfill":
            await self._insist(self._backfill(timed, told, n))
        else:
            await self._insist(s.PauseSchedule(NAMESPACE, id, name))
            await asyncio.sleep(n / 1000)
            await self._insist(s.UnpauseSchedule(NAMESPACE, id, f"un{name}"))
        told.asked[name] = True
        self._ledger.say(f"{id} {name}")

    def _backfill(self, timed: Timed, told: Told, n: int) -> s.BackfillSchedule:
        """For the first times, which start what has run already, or for the time before, in which there are none."""
        assert told.request is not None
        begin = told.request.schedule.spec.start_at
        end = begin + n * timed.every * SECOND
        now = EPOCH + int(self._ledger.time() * SECOND)
        end = min(end, now - 10 * SECOND)  # whatever clock it is measured by
        return s.BackfillSchedule(NAMESPACE, timed.schedule_id, f"backfill-{n}", min(begin, end), end)

    async def _reset(self, timed: Timed, told: Told, n: int) -> None:
        """One of those that have ended runs again, and is held up for a while, in which it counts as what runs."""
        id, ledger = timed.schedule_id, self._ledger
        ended = [row for row in started_by(ledger, id) if row.status != "Running"]
        told.reset = told.reset or (ended[n % len(ended)] if ended else None)
        if told.reset is None:
            return
        wid = told.reset.workflow_id
        try:
            again = await self._insist(ResetWorkflow(NAMESPACE, wid, told.reset.run_id, f"reset-{id}", to="first"))
        except InvalidRequest as error:  # it was stopped before it had done anything
            ledger.say(f"{wid} not reset: {error}")
            return
        ledger.say(f"{wid} reset: goes on as {again.run_id}")
        await self._hold(PauseWorkflow(NAMESPACE, wid, again.run_id))
        run = await self._look(wid, again.run_id, lambda run: run.counted or not run.open)
        counted = {each.workflow_id for each in run.schedule.running.values()}
        await asyncio.sleep(timed.every)
        begun = {row.workflow_id for row in started_by(ledger, id, "Running")} - counted
        if begun and timed.overlap != "allow_all" and _Again(ledger, wid, again.run_id).open:
            ledger.fail(f"{begun} has begun beside {wid}, which was reset; schedule {id} is {timed.overlap}")
        await self._hold(ResumeWorkflow(NAMESPACE, wid, again.run_id))
        await self._look(wid, again.run_id, lambda run: run.heard and not (run.counted or run.open))

    async def _look(self, workflow_id: str, run_id: str, wanted: Callable[[_Again], bool]) -> _Again:
        while True:
            run = _Again(self._ledger, workflow_id, run_id)
            if wanted(run):
                return run
            await asyncio.sleep(0.1)

    async def _hold(self, request: PauseWorkflow | ResumeWorkflow) -> None:
        try:
            await self._insist(request)
        except NotFound as error:  # it has ended again
            self._ledger.say(f"{request.workflow_id}: {error}")

    async def _wait(self, timed: Timed) -> None:
        """Look every now and then, until all is over."""
        handle = self._client.schedule(timed.schedule_id)
        while True:
            await asyncio.sleep(1)
            try:
                seen = await handle.describe()
            except NotFound:
                self._ledger.fail(f"schedule {timed.schedule_id} is gone")
                return
            self._check_alone(timed)
            if _over(seen):
                self._ledger.say(f"{timed.schedule_id} is over: {seen.started} started")
                return

    def _check_alone(self, timed: Timed) -> None:
        if timed.overlap != "allow_all":
            running = [row.workflow_id for row in started_by(self._ledger, timed.schedule_id, "Running")]
            if len(running) > 1 + sum(kind == "reset" for _, kind, _ in timed.acts):
                self._ledger.fail(f"{running} run at once; schedule {timed.schedule_id} is {timed.overlap}")

    async def _insist(self, request: Request[Reply]) -> Reply:
        while True:
            try:
                return await self._client.service.call(request)
            except Unavailable:
                await asyncio.sleep(0.05)


class _Again:
    """A run that was reset, and what its schedule knows of it: that it was reset (heard), and runs (counted)."""

    def __init__(self, ledger: Ledger, workflow_id: str, run_id: str) -> None:
        run = ledger.run_on_disk(workflow_id, run_id)
        by = run.started.scheduled_by if run is not None else None
        assert run is not None and by is not None
        schedule = _stored(ledger, by.schedule_id)
        assert schedule is not None
        self.schedule, self.open = schedule, run.status == "Running"
        self.heard = schedule.resets.get(by.start_id, 0) == by.reset
        self.counted = self.heard and by.start_id in schedule.running


def _over(seen: ScheduleDescription) -> bool:
    return not (seen.next_times or seen.running_count or seen.buffered or seen.backfills)


def started_by(ledger: Ledger, schedule_id: str, status: Status | None = None) -> list[ListedWorkflow]:
    """What the store knows of that a schedule has started."""
    query = f"ScheduledById = '{schedule_id}'" + (f" AND ExecutionStatus = '{status}'" if status else "")
    rows, _ = at_once(ledger.store.list(NAMESPACE, query, "", 1_000))
    return list(rows)


def _stored(ledger: Ledger, schedule_id: str) -> s.ScheduleState | None:
    run = at_once(ledger.store.load([ChainKey(s.schedules_of(NAMESPACE), schedule_id)]))[0]
    return ledger.state(run).schedule if run is not None else None


# --- The end ----------------------------------------------------------------------------------------------------
def check_schedules(ledger: Ledger, schedules: Iterable[Timed], told: dict[str, Told]) -> None:
    """Everything that was due is accounted for, and nothing was started twice."""
    for timed in schedules:
        known = told[timed.schedule_id]
        if not known.refused:
            try:
                _check(ledger, timed, known)
            except PerdureError as error:
                ledger.fail(f"schedule {timed.schedule_id}: {error!r}")


def _check(ledger: Ledger, timed: Timed, told: Told) -> None:
    id, request = timed.schedule_id, told.request
    run = at_once(ledger.store.load([ChainKey(s.schedules_of(NAMESPACE), id)]))[0]
    assert run is not None
    assert request is not None
    check_state(ledger.state(run))
    schedule = _stored(ledger, id)
    assert schedule is not None
    if schedule.running or schedule.buffer or schedule.backfills:
        ledger.fail(f"schedule {id} is over, but something is left: {schedule}")
    begun: dict[str, tuple[int, int]] = {}  # by the first run, which a reset leaves as it is
    for row in started_by(ledger, id):
        if row.status == "Running":
            ledger.fail(f"{row.workflow_id} runs, but schedule {id} thinks that all has ended")
        state = ledger.run_on_disk(row.workflow_id, row.run_id)
        assert state is not None
        started = state.started
        assert isinstance(started, WorkflowExecutionStarted)
        assert started.scheduled_by is not None
        begun[started.first_run_id] = started.scheduled_by.start_id, started.scheduled_by.time
        for history in ledger.histories(row.workflow_id):
            check_history(history)
    starts = sorted(begun.values())
    numbers = [number for number, _ in starts]
    if len(set(numbers)) != len(numbers) or len(numbers) + schedule.refused != schedule.begun:
        ledger.fail(f"schedule {id} has begun {schedule.begun}, {schedule.refused} were refused; there are {starts}")
    _check_accounts(ledger, timed, schedule, Counter(time for _, time in starts), request.schedule.spec)


def _check_accounts(
    ledger: Ledger, timed: Timed, schedule: s.ScheduleState, started: Counter[int], spec: s.ScheduleSpec
) -> None:
    id, kinds = timed.schedule_id, {kind for _, kind, _ in timed.acts}
    due: list[int] = []
    time = timetable(spec).next(schedule.created)
    while time:
        due.append(time)
        time = timetable(spec).next(time)
    triggers = sum(kind == "trigger" for _, kind, _ in timed.acts)
    strange = [time for time in started if time not in due]
    if len(strange) > triggers:
        ledger.fail(f"schedule {id} has started something for {strange}, which were not due")
    if "backfill" in kinds:
        return
    twice = [time for time, count in started.items() if count > 1]
    if twice:
        ledger.fail(f"schedule {id} has started something twice for {twice}")
    accounted, asked = schedule.begun + schedule.missed + schedule.skipped, len(due) + triggers
    exact = "pause" not in kinds and timed.limit < 0
    if accounted > asked or (exact and accounted != asked):
        ledger.fail(
            f"schedule {id}: {asked} were due, but {schedule.begun} were begun, {schedule.missed} missed, "
            f"{schedule.skipped} skipped"
        )
    if schedule.missed and timed.window > LATE:
        ledger.fail(f"schedule {id} has missed {schedule.missed}, within its catch-up window")
