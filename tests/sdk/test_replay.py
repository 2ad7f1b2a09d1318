"""Rebuilding a run from its history: whole, in pieces, after failed tasks, and for queries."""

from __future__ import annotations

import asyncio
import random
import sys
from itertools import pairwise
from types import ModuleType

import msgspec
import pytest

from perdure import workflow
from perdure.model import events as e
from perdure.model.commands import CompleteWorkflow
from perdure.model.failures import Failure
from perdure.model.journal import encode_event
from perdure.model.tasks import START, QueryTask, WorkflowTaskCompletion, WorkflowTaskFailure
from perdure.sdk.workflow.replay import NEWS, HistoryReader
from perdure.sdk.workflow.resolutions import RESOLVE
from perdure.sdk.workflow.runtime import WorkflowRun
from tests.sdk.harness import (
    REF,
    Scenario,
    check_replay,
    fetch,
    kinds,
    payloads,
    replay,
    value,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


@workflow(name="sdk_busy")
class Busy:
    """A bit of everything."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.told: list[str] = []

    async def run(self) -> list[str]:
        for n in range(self.rounds):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.look(n))
                group.create_task(asyncio.sleep(n + 1))
            self.told.append(f"{workflow.random().randint(0, 10**9)}")
        await workflow.wait_until(lambda: "stop" in self.told)
        return self.told

    async def look(self, n: int) -> None:
        try:
            self.told.append(await asyncio.wait_for(fetch(f"{n}"), n + 0.5))
        except (TimeoutError, ValueError) as error:
            self.told.append(type(error).__name__)

    @workflow.signal
    async def tell(self, what: str) -> None:
        try:
            self.told.append(await fetch(what))
        except ValueError:
            self.told.append("failed")

    @workflow.signal
    def stop(self) -> None:
        self.told.append("stop")

    @workflow.update
    async def add(self, what: str) -> int:
        self.told.append(await fetch(f"update {what}"))
        return len(self.told)

    @add.validator
    def _(self, what: str) -> None:
        if what == "bad":
            raise ValueError("bad")

    @workflow.query
    def so_far(self) -> list[str]:
        return self.told


def drive(scenario: Scenario, seed: int) -> None:
    """Let random things happen until the workflow ends."""
    chance = random.Random(seed)
    updates = 0
    outcome = scenario.do()
    while not any(isinstance(command, CompleteWorkflow) for command in outcome):
        before = len(scenario.history)
        activities = scenario.open(e.ActivityTaskScheduled)
        timers = scenario.open(e.TimerStarted)
        if chance.random() < 0.3:
            scenario.schedule_task()  # what comes now comes after it, and before it is taken
        for _ in range(chance.randint(1, 4)):
            match chance.randint(0, 6):
                case 0 | 1 if activities:
                    scenario.complete(f"{len(scenario.history)}", which=chance.randrange(len(activities)))
                    activities.pop()
                case 2 if activities:
                    scenario.fail(ValueError("no"), which=chance.randrange(len(activities)))
                    activities.pop()
                case 3 if timers:
                    scenario.fire()
                    timers.pop()
                case 4:
                    scenario.signal("tell", f"{len(scenario.history)}")
                case 5:
                    updates += 1
                    scenario.update(f"{updates}", "add", chance.choice(["good", "bad", 7]))
                case 6 if len(scenario.history) > 100:
                    scenario.signal("stop")
                case _:
                    pass
        if len(scenario.history) > before or scenario.updates:
            outcome = scenario.do()


@pytest.mark.parametrize("seed", range(30))
def test_a_replay_at_every_prefix_asks_for_the_same(seed: int) -> None:
    scenario = Scenario(Busy, 4)
    drive(scenario, seed)
    check_replay(scenario)
    told = scenario.ask("so_far")
    assert scenario.ask_replayed("so_far") == told
    assert isinstance(told, list)
    assert len(told) > 5  # pyright: ignore[reportUnknownArgumentType]


@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_is_replayed_for_each_task_goes_the_same_way(seed: int) -> None:
    live, replayed = Scenario(Busy, 4), Scenario(Busy, 4, live=False)
    drive(live, seed)
    drive(replayed, seed)
    assert [event for event in live.history if not isinstance(event, e.WorkflowTaskCompleted)] == [
        event for event in replayed.history if not isinstance(event, e.WorkflowTaskCompleted)
    ]


def test_failed_tasks_are_no_boundary() -> None:
    broken = True

    @workflow
    class Buggy:
        def __init__(self) -> None:
            self.told: list[str] = []

        async def run(self) -> list[str]:
            self.told.append(await fetch("a"))
            if broken:
                raise KeyError("a bug")
            await asyncio.sleep(1)
            return self.told

        @workflow.signal
        def tell(self, what: str) -> None:
            self.told.append(what)

    scenario = Scenario(Buggy)
    scenario.do()
    scenario.complete("A")
    assert scenario.broken().types[0] == "builtins.KeyError"
    scenario.signal("tell", "between attempts")
    assert scenario.broken().types[0] == "builtins.KeyError"
    scenario.signal("tell", "and again")
    broken = False
    assert kinds(scenario.do()) == ["StartTimer"]
    tasks = [event for event in scenario.history if isinstance(event, e.WorkflowTaskScheduled)]
    assert [task.attempt for task in tasks] == [1, 1, 3]
    scenario.signal("tell", "later")
    assert scenario.do() == []
    scenario.fire()
    (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == ["A", "between attempts", "and again", "later"]
    check_replay(scenario)


def test_info_is_the_same_in_a_replay() -> None:
    @workflow
    async def measured() -> list[list[int]]:
        sizes: list[list[int]] = []
        for n in range(4):
            info = workflow.info()
            sizes.append([info.history_length, info.history_bytes])
            await fetch(f"{n}")
        return sizes

    scenario = Scenario(measured)
    for _ in range(4):
        scenario.do()
        scenario.complete()
    scenario.do()
    check_replay(scenario)
    command = scenario.tasks[-1][1].commands[0]
    assert isinstance(command, CompleteWorkflow)
    positions = [task.position.event_id for task, _ in scenario.tasks[:4]]
    sizes = [sum(len(encode_event(event)) for event in scenario.history[:position]) for position in positions]
    assert value(command.result) == [list(pair) for pair in zip(positions, sizes, strict=True)]


def test_what_was_read_for_a_query_is_not_read_again() -> None:
    scenario = Scenario(Busy, 1)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    scenario.signal("tell", "B")
    # A new copy is made for a query, at the position of the last task; the signal is in its history already.
    scenario.run.evict()
    scenario.run = run = WorkflowRun(REF, scenario.definitions)
    answer = run.query(QueryTask(REF, "q", "so_far", (), scenario.seen, scenario.now, tuple(scenario.history)))
    assert value(answer.result) == ["A"]
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    assert scenario.run is run
    check_replay(scenario)


def test_a_closed_run_answers_queries_but_takes_no_tasks() -> None:
    scenario = Scenario(Busy, 0)
    scenario.do()
    scenario.signal("stop")
    task = scenario.next_task()
    assert isinstance(scenario.run.activate(task), WorkflowTaskCompletion)
    assert scenario.run.closed
    assert scenario.ask("so_far") == ["stop"]
    with pytest.raises(RuntimeError, match="can't take this task"):
        scenario.run.activate(task)


def test_a_terminated_run_answers_queries() -> None:
    scenario = Scenario(Busy, 1)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    scenario.add(e.WorkflowExecutionTerminated(scenario.next_id, scenario.now, "enough"))
    assert scenario.ask_replayed("so_far") == ["A"]


def test_a_query_on_a_run_that_has_not_begun() -> None:
    scenario = Scenario(Busy, 1)
    scenario.schedule_task()
    run = WorkflowRun(REF, scenario.definitions)
    answer = run.query(QueryTask(REF, "q", "so_far", (), scenario.positions[-1], scenario.now, tuple(scenario.history)))
    assert answer.failure is not None
    assert "has not begun" in answer.failure.message


def test_a_history_with_a_gap_is_refused() -> None:
    scenario = Scenario(Busy, 1)
    scenario.do()
    scenario.complete("A")
    task = scenario.next_task()
    outcome = scenario.run.activate(msgspec.structs.replace(task, events=task.events[3:]))
    assert isinstance(outcome, WorkflowTaskFailure)
    assert "the events begin at" in outcome.failure.message


def test_a_copy_elsewhere_refuses_a_task() -> None:
    scenario = Scenario(Busy, 1)
    scenario.do()
    scenario.complete("A")
    scenario.do()
    task = scenario.tasks[-1][0]
    with pytest.raises(RuntimeError, match="elsewhere"):
        WorkflowRun(REF, scenario.definitions).activate(task)
    assert task.previous != START


def test_the_reader_knows_what_the_code_is_told() -> None:
    told = NEWS | {e.WorkflowTaskFailed}  # which is news where the run was reset to it
    assert set(WorkflowRun._apply) | set(RESOLVE) == told


def test_the_reader_takes_a_history_in_any_pieces() -> None:
    scenario = Scenario(Busy, 2)
    drive(scenario, 3)
    events = tuple(scenario.history)
    whole = list(HistoryReader().read(events))
    assert [task.history_length for task in whole] == [task.position.event_id for task, _ in scenario.tasks]
    # Cut only where the engine does: a workflow task's end and its commands are written together.
    cuts = [0, *(task.position.event_id for task, _ in scenario.tasks), len(events)]
    reader = HistoryReader()
    pieces = [task for a, b in pairwise(cuts) for task in reader.read(events[max(a - 3, 0) : b])]
    assert pieces == whole


# --- Exceptions -----------------------------------------------------------------------------------------
@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """An exception of a module that a process may have imported or not."""
    module = ModuleType("app_errors")
    error = type("QuotaExceeded", (Exception,), {"__module__": "app_errors"})
    setattr(module, "QuotaExceeded", error)  # noqa: B010
    monkeypatch.setitem(sys.modules, "app_errors", module)
    return error


def failed(type: str) -> Failure:
    return Failure("the quota is used up", (type, "builtins.Exception"), args=payloads(["the quota is used up"])[0])


def test_which_exceptions_were_known_is_recorded_and_enforced(
    app: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow
    async def careful() -> str:
        caught = ""
        try:
            await fetch("a")
        except Exception as error:
            caught = type(error).__name__
        await fetch("b")
        return caught

    scenario = Scenario(careful)
    scenario.do()
    scenario.fail(failed("app_errors.QuotaExceeded"))
    scenario.do()
    assert scenario.tasks[-1][1].exceptions == {"app_errors.QuotaExceeded": True}
    scenario.complete()
    check_replay(scenario)

    monkeypatch.delitem(sys.modules, "app_errors")
    scenario.live = False
    failure = scenario.broken()
    assert "import app_errors" in failure.message

    monkeypatch.setitem(sys.modules, "app_errors", ModuleType("app_errors"))
    setattr(sys.modules["app_errors"], "QuotaExceeded", app)  # noqa: B010
    (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == "QuotaExceeded"
    # What a replay met again is no news.
    assert scenario.tasks[-1][1].exceptions is None


def test_an_exception_that_was_not_known_stays_unknown(app: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    @workflow
    async def careful() -> str:
        caught = ""
        try:
            await fetch("a")
        except Exception as error:
            caught = type(error).__name__
        await fetch("b")
        return caught

    monkeypatch.delitem(sys.modules, "app_errors")
    scenario = Scenario(careful, live=False)
    scenario.do()
    scenario.fail(failed("app_errors.QuotaExceeded"))
    scenario.do()
    assert scenario.tasks[-1][1].exceptions == {"app_errors.QuotaExceeded": False}
    monkeypatch.setitem(sys.modules, "app_errors", ModuleType("app_errors"))
    setattr(sys.modules["app_errors"], "QuotaExceeded", app)  # noqa: B010
    scenario.complete()
    (command,) = scenario.do()
    assert isinstance(command, CompleteWorkflow)
    assert value(command.result) == "ApplicationError"
    check_replay(scenario)


def test_replays_of_a_long_history_are_the_same_from_any_point() -> None:
    @workflow
    async def long() -> int:
        total = 0
        for n in range(200):
            total += len(await fetch(f"{n}"))
        return total

    scenario = Scenario(long)
    for _ in range(200):
        scenario.do()
        scenario.complete("x")
    scenario.do()
    assert len(replay(scenario)) == 201
    check_replay(scenario)
