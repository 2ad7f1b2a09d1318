"""The bounds of `perdure.limits` that workers, clients and workflow code keep: each is reached here, and something
stops at it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest

from perdure import RetryPolicy, Schedule, activity, embedded, workflow
from perdure.clock import SECOND
from perdure.errors import ScheduleChanged
from perdure.ids import SeededIds
from perdure.limits import (
    BLOCKED_WORKFLOW,
    DEFAULT_CACHED_WORKFLOWS,
    DEFAULT_CATCHUP_WINDOW,
    DEFAULT_CONCURRENT_ACTIVITIES,
    EVICTION_REFUSALS,
    EVICTION_THROWS,
    HEARTBEAT_INTERVAL_MINIMUM,
    MAX_ATTEMPTS,
    MAX_CACHED_WORKFLOWS,
    MAX_CONCURRENT_ACTIVITIES,
    MAX_PRIORITY,
    MAX_THREADS,
    RESTLESS_WORKFLOW,
    SHUTDOWN_GRACE,
    UPDATE_TRIES,
)
from perdure.model import schedules as s
from perdure.model.payloads import Payload
from perdure.model.requests import Done, StartWorkflow
from perdure.model.tasks import ActivityCompletion, ActivityEvicted, ActivityHeartbeat, FromWorker, WorkflowTaskFailure
from perdure.sdk.client.client import Client
from perdure.sdk.worker.worker import Worker
from perdure.sdk.worker.workflows import WorkflowTasks
from perdure.sdk.workflow import facts, stuck
from perdure.sdk.workflow.calls import definition_of
from perdure.sdk.workflow.loop import DeterministicLoop
from perdure.testing.simulation.loop import SimulatedLoop
from tests.sdk.attempts import Bench, context
from tests.sdk.fake_service import ScriptedService
from tests.sdk.harness import Scenario, fetch, result
from tests.sdk.harness import fresh_registry as fresh_registry
from tests.sdk.test_worker import Run

T = TypeVar("T")


def simulate(body: Callable[[], Awaitable[T]]) -> T:
    """Run something in simulated time."""
    loop = SimulatedLoop()

    async def life() -> T:
        return await body()

    try:
        return loop.run_until_complete(life())
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


# --- Options --------------------------------------------------------------------------------------------
def test_numbers_that_an_activity_may_be_given() -> None:
    async def work() -> None: ...

    activity(name="at.most", priority=MAX_PRIORITY)(work)
    activity(name="at.least", priority=-MAX_PRIORITY)(work)
    for priority in (MAX_PRIORITY + 1, -MAX_PRIORITY - 1):
        with pytest.raises(ValueError, match=f"priority must be between -{MAX_PRIORITY} and {MAX_PRIORITY}, not"):
            activity(name="beyond", priority=priority)(work)
    RetryPolicy(maximum_attempts=MAX_ATTEMPTS)
    with pytest.raises(ValueError, match=f"maximum_attempts must be between 0 and {MAX_ATTEMPTS}, not"):
        RetryPolicy(maximum_attempts=MAX_ATTEMPTS + 1)


async def test_activities_that_a_worker_runs_at_once() -> None:
    service = ScriptedService()
    async with Worker(service), Worker(service, max_concurrent_activities=MAX_CONCURRENT_ACTIVITIES):
        slots = [worker.hello.activity_slots for worker in service.workers]
    assert slots == [DEFAULT_CONCURRENT_ACTIVITIES, MAX_CONCURRENT_ACTIVITIES]
    with pytest.raises(ValueError, match=f"between 1 and {MAX_CONCURRENT_ACTIVITIES}"):
        Worker(service, max_concurrent_activities=MAX_CONCURRENT_ACTIVITIES + 1)


# --- Schedules ------------------------------------------------------------------------------------------
DESCRIPTION = s.ScheduleDescription(
    "s", s.Schedule(s.ScheduleSpec(), StartWorkflow("default", "w", "t", "q", (), "")), 1, 0,
    (), (), 0, (), (), 0, 0, 0, 0, 0, -1,
)  # fmt: skip


@pytest.mark.parametrize("in_the_way", [UPDATE_TRIES - 1, UPDATE_TRIES])
async def test_how_often_a_schedule_is_changed_again_that_others_change(in_the_way: int) -> None:
    service = ScriptedService()
    for _ in range(in_the_way):
        service.replies += [DESCRIPTION, ScheduleChanged("it is at another revision")]
    service.replies += [DESCRIPTION, Done()]
    handle = Client(service, ids=SeededIds(1)).schedule("s")
    if in_the_way < UPDATE_TRIES:
        await handle.update(Schedule(every="1h"))
        assert not service.replies
    else:
        with pytest.raises(ScheduleChanged):
            await handle.update(Schedule(every="1h"))
        assert len(service.requests) == 2 * UPDATE_TRIES
    update = service.requests[-1]
    assert isinstance(update, s.UpdateSchedule)
    assert update.schedule.catchup_window == DEFAULT_CATCHUP_WINDOW, "nothing else was said"


# --- Activities -----------------------------------------------------------------------------------------
def test_heartbeats_are_sent_no_more_often_however_short_their_timeout_is() -> None:
    sent: list[float] = []

    async def beats() -> None:
        while now() < 1:
            context().heartbeat()
            await asyncio.sleep(0.001)  # simulated time

    def heard(message: FromWorker) -> None:
        if isinstance(message, ActivityHeartbeat):
            sent.append(now())

    async def body() -> None:
        bench = Bench()
        bench.executor.send = heard
        bench.executor.start(bench.task(beats, heartbeat_timeout=1))
        await asyncio.sleep(2)  # simulated time
        await bench.executor.stop()

    simulate(body)
    pauses = [after - before for before, after in pairwise(sent)]
    assert pauses and min(pauses) == pytest.approx(HEARTBEAT_INTERVAL_MINIMUM / SECOND)


@pytest.mark.parametrize(
    ("takes", "outcome"), [(SHUTDOWN_GRACE - 0.1, ActivityCompletion), (SHUTDOWN_GRACE + 0.1, ActivityEvicted)]
)
def test_how_long_attempts_may_take_to_end_when_the_worker_stops(takes: float, outcome: type[FromWorker]) -> None:
    async def cleans_up() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(takes)  # simulated time

    async def body() -> tuple[float, list[FromWorker]]:
        bench = Bench()
        bench.start(cleans_up)
        await asyncio.sleep(0)
        await bench.executor.stop()
        return now(), bench.node.messages

    took, messages = simulate(body)
    assert [type(message) for message in messages] == [outcome]
    assert took == pytest.approx(min(takes, SHUTDOWN_GRACE))


async def test_threads_are_bounded_however_many_slots_there_are() -> None:
    bench, gate = Bench(slots=MAX_THREADS + 10), threading.Event()
    before = set(threading.enumerate())

    def waits() -> None:
        gate.wait()

    for _ in range(MAX_THREADS + 10):
        bench.start(waits)
    begun = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("perdure-activity")]
    gate.set()
    await bench.node.count(MAX_THREADS + 10)
    await bench.executor.stop()
    assert len(begun) == MAX_THREADS > DEFAULT_CONCURRENT_ACTIVITIES, "nobody waits for a thread who asks for nothing"


# --- Workflow code --------------------------------------------------------------------------------------
def test_workflows_that_a_worker_keeps_in_memory() -> None:
    gone: list[int] = []

    @workflow
    async def waits(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(number)

    tasks = WorkflowTasks({"waits": definition_of(waits)}, lambda _: None)
    runs = [
        Run("waits", Payload(str(number).encode()), id=str(number)) for number in range(DEFAULT_CACHED_WORKFLOWS + 1)
    ]
    for run in runs[:-1]:
        tasks.activate(run.task())
    assert gone == []
    tasks.activate(runs[-1].task())
    assert gone == [0]
    tasks.stop()


def test_how_many_suspended_workflows_a_worker_may_be_told_to_keep() -> None:
    for wrong in (0, MAX_CACHED_WORKFLOWS + 1):
        with pytest.raises(ValueError, match="max_cached_workflows must be between 1 and"):
            embedded(":memory:", max_cached_workflows=wrong)
    for right in (1, MAX_CACHED_WORKFLOWS):
        assert embedded(":memory:", max_cached_workflows=right).worker._cached == right
    assert embedded(":memory:").worker._cached == DEFAULT_CACHED_WORKFLOWS


@pytest.mark.parametrize(
    ("name", "limit"), [("SUGGEST_CONTINUE_AS_NEW_EVENTS", 20), ("SUGGEST_CONTINUE_AS_NEW_BYTES", 1_000)]
)
def test_when_it_is_time_to_continue_as_new(monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    monkeypatch.setattr(facts, name, limit)
    seen: list[tuple[int, bool]] = []

    @workflow
    class Grows:
        async def run(self) -> None:
            await asyncio.Event().wait()

        @workflow.signal
        def look(self) -> None:
            info = workflow.info()
            size = info.history_length if name.endswith("EVENTS") else info.history_bytes
            seen.append((size, info.continue_as_new_suggested))

    scenario = Scenario(Grows)
    while not seen or seen[-1][0] < 2 * limit:
        scenario.signal("look")
        scenario.do()
    assert [suggested for _, suggested in seen] == [size >= limit for size, _ in seen]
    assert seen[0][0] < limit


@pytest.mark.parametrize(("looks", "is_stuck"), [(stuck.LOOKS, False), (stuck.LOOKS + 1, True)])
def test_how_long_one_step_of_workflow_code_may_take(looks: int, is_stuck: bool) -> None:
    assert time_of(stuck.Watcher(), looks=stuck.LOOKS) == pytest.approx(BLOCKED_WORKFLOW / SECOND)
    watcher = stuck.Watcher()
    assert time_of(watcher, looks=2, at_work=False) == pytest.approx(BLOCKED_WORKFLOW / SECOND)

    @workflow
    async def computes() -> str:
        for _ in range(looks):
            watcher.look()
        return "done"

    assert is_struck(Scenario(computes)) is is_stuck


LOOKS_OF_A_RESTLESS_ONE = stuck.LOOKS * RESTLESS_WORKFLOW // BLOCKED_WORKFLOW


@pytest.mark.parametrize(("looks", "is_stuck"), [(LOOKS_OF_A_RESTLESS_ONE, False), (LOOKS_OF_A_RESTLESS_ONE + 1, True)])
def test_how_long_workflow_code_may_go_on_without_waiting(looks: int, is_stuck: bool) -> None:
    watcher = stuck.Watcher()
    assert time_of(stuck.Watcher(), looks=LOOKS_OF_A_RESTLESS_ONE) == pytest.approx(RESTLESS_WORKFLOW / SECOND)

    @workflow
    async def restless() -> str:
        for _ in range(looks):
            watcher.look()
            await asyncio.sleep(0)
        return "done"

    assert is_struck(Scenario(restless)) is is_stuck


def time_of(watcher: stuck.Watcher, looks: int, *, at_work: bool = True) -> float:
    """The seconds that a watcher lets pass in so many looks, at a thread that is at work or at none."""
    waits: list[float] = []
    if at_work:
        loop = DeterministicLoop.__new__(DeterministicLoop)
        loop.steps = loop.rounds = 0
        watcher._seen = {0: stuck._Seen(weakref.ref(loop), 0, 0)}
        watcher.look = lambda: None

    class Stopped(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return len(waits) > looks

    watcher._stopped = Stopped()
    watcher._run()
    return sum(waits[:looks])


def is_struck(scenario: Scenario) -> bool:
    """Whether the next task fails since its code is taken for stuck."""
    outcome = scenario.step()
    if isinstance(outcome, WorkflowTaskFailure):
        return outcome.failure.types[0].endswith(".GuardError")
    assert result(scenario) == "done"
    return False


def test_code_that_will_not_be_evicted_is_refused_and_thrown_at_so_often() -> None:
    told: list[str] = []

    @workflow
    async def immortal() -> None:
        while True:
            try:
                await fetch("a")
            except BaseException as error:
                told.append("refused" if "can't be" in str(error) else "thrown at")

    scenario = Scenario(immortal)
    scenario.do()
    scenario.run.evict()
    assert told.count("refused") == EVICTION_REFUSALS
    assert told.count("thrown at") == EVICTION_THROWS
