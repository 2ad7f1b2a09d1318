"""The worker, with real workflows and activities, against a node that only says what the test wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from perdure.model import events as e
from perdure.model.commands import CompleteWorkflow, ScheduleActivity
from perdure.model.payloads import Payload
from perdure.model.requests import WorkerLink
from perdure.model.tasks import (
    START,
    ActivityCompletion,
    ActivityEvicted,
    ActivityTask,
    ActivityToken,
    CancelActivity,
    EvictWorkflow,
    FromWorker,
    HistoryWanted,
    Position,
    QueryAnswer,
    QueryTask,
    RunRef,
    ToWorker,
    WorkerHello,
    WorkflowTask,
    WorkflowTaskAcknowledged,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from perdure.sdk.activity.api import activity
from perdure.sdk.worker.worker import Worker
from perdure.sdk.worker.workflows import WorkflowTasks
from perdure.sdk.workflow.api import workflow
from perdure.sdk.workflow.calls import definition_of
from perdure.testing.transport import InProcessTransport
from tests.sdk.fake_service import AttachedWorker, ScriptedService

torn_down: list[str] = []


@activity(name="worker.shout")
async def shout(text: str) -> str:
    return text.upper()


@activity(name="worker.wait_for_ever")
async def wait_for_ever() -> None:
    await asyncio.Event().wait()


@workflow(name="worker.greet")
async def greet(name: str) -> str:
    try:
        workflow.logger.info("greeting %s", name)
        return "hello " + await shout(name)
    finally:
        torn_down.append(name)


@workflow(name="worker.Counter")
class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    async def run(self) -> int:
        await workflow.wait_until(lambda: self.count > 100)
        return self.count

    @workflow.signal
    def add(self, by: int) -> None:
        self.count += by

    @workflow.query
    def value(self) -> int:
        return self.count


class Run:
    """The history of a run that its test writes, and the tasks that a node would make of it."""

    def __init__(self, workflow_type: str, *input: Payload, id: str = "run-1") -> None:
        self.ref = RunRef("default", f"wf-{id}", id)
        self.events: list[e.HistoryEvent] = []
        self.previous = START
        self.add(e.WorkflowExecutionStarted(1, 0, workflow_type, "default", input, id))
        self.add(e.WorkflowTaskScheduled(2, 0, "default"))

    @property
    def next_id(self) -> int:
        return len(self.events) + 1

    @property
    def position(self) -> Position:
        return Position(len(self.events), len(self.events))

    def add(self, event: e.HistoryEvent) -> None:
        self.events.append(event)

    def task(self) -> WorkflowTask:
        """The news since the last completion."""
        new = tuple(self.events[self.previous.event_id :])
        return WorkflowTask(self.ref, 1, 0, self.previous, self.position, new)

    def whole(self) -> WorkflowTask:
        """The same with the whole history."""
        return WorkflowTask(self.ref, 1, 0, START, self.position, tuple(self.events))

    def completed(self) -> None:
        """The task is completed; it asked for nothing, or what the test adds next."""
        self.previous = self.position
        self.add(e.WorkflowTaskStarted(self.next_id, 0, self.next_id - 1))
        self.add(e.WorkflowTaskCompleted(self.next_id, 0, self.next_id - 2, self.next_id - 1))

    def shouted(self, text: str, result: str) -> None:
        """The workflow called `shout`, and it has returned."""
        self.completed()
        done, now = len(self.events), 0
        scheduled = self.next_id
        input = (Payload(f'"{text}"'.encode()),)
        self.add(e.ActivityTaskScheduled(scheduled, now, "1", "worker.shout", "default", input, done))
        self.add(e.ActivityTaskStarted(self.next_id, now, scheduled, 1, "w", now))
        self.add(e.ActivityTaskCompleted(self.next_id, now, scheduled, self.next_id - 1, Payload(result.encode())))
        self.add(e.WorkflowTaskScheduled(self.next_id, now, "default"))

    def signalled(self, name: str, *input: Payload) -> None:
        """A signal has arrived."""
        self.completed()
        self.add(e.WorkflowExecutionSignaled(self.next_id, 0, name, input))
        self.add(e.WorkflowTaskScheduled(self.next_id, 0, "default"))

    def query(self, name: str, *, whole: bool = False) -> QueryTask:
        """A question at the position of the last completed task."""
        events = tuple(self.events) if whole else ()
        return QueryTask(self.ref, "q1", name, (), self.previous, 0, events)


ANN = Payload(b'"ann"')


@pytest.fixture
async def node() -> AsyncIterator[AttachedWorker]:
    service = ScriptedService()
    worker = Worker(service, workflows=[greet, Counter], activities=[shout, wait_for_ever], build_id="b7")
    torn_down.clear()
    async with worker:
        yield service.workers[0]


def commands(message: FromWorker) -> tuple[object, ...]:
    assert isinstance(message, WorkflowTaskCompletion), message
    return message.commands


# --- Workflow tasks -------------------------------------------------------------------------------------
async def test_the_hello_says_what_is_served(node: AttachedWorker) -> None:
    hello = node.hello
    assert (hello.namespace, hello.task_queues, hello.activity_slots, hello.build_id) == (
        "default",
        ("default",),
        100,
        "b7",
    )
    assert (hello.workflows, hello.activities) == (
        ("worker.greet", "worker.Counter"),
        ("worker.shout", "worker.wait_for_ever"),
    )
    assert "@" in hello.instance


async def test_a_workflow_runs_task_by_task_each_answered_at_once(node: AttachedWorker) -> None:
    run = Run("worker.greet", ANN)
    node.receive(run.task())
    (asked,) = commands(node.messages[0])
    assert isinstance(asked, ScheduleActivity)
    assert (asked.activity_type, asked.input) == ("worker.shout", (ANN,))
    run.shouted("ann", '"ANN"')
    node.receive(run.task())
    assert commands(node.messages[1]) == (CompleteWorkflow(Payload(b'"hello ANN"')),)
    # It has ended, so it is not kept.
    run.completed()
    node.receive(run.task())
    assert node.messages[2] == HistoryWanted(run.ref)


async def test_a_workflow_that_is_not_here_or_elsewhere_is_asked_for(node: AttachedWorker) -> None:
    run = Run("worker.greet", ANN)
    run.shouted("ann", '"ANN"')
    node.receive(run.task())
    assert node.messages == [HistoryWanted(run.ref)]
    node.receive(run.whole())
    assert commands(node.messages[1]) == (CompleteWorkflow(Payload(b'"hello ANN"')),)

    other = Run("worker.greet", ANN, id="run-2")
    node.receive(other.task())
    other.shouted("ann", '"ANN"')
    task = other.task()
    elsewhere = WorkflowTask(task.run, 1, 0, Position(2, 1), task.position, task.events)
    node.receive(elsewhere)
    assert node.messages[3] == HistoryWanted(other.ref)
    assert torn_down == ["ann", "ann"]  # the copy that was wrong is gone


async def test_from_the_start_again_replaces_the_copy(node: AttachedWorker) -> None:
    run = Run("worker.greet", ANN)
    node.receive(run.task())
    node.receive(run.task())
    assert commands(node.messages[0]) == commands(node.messages[1])
    assert torn_down == ["ann"]


async def test_an_unknown_workflow_says_what_there_is(node: AttachedWorker) -> None:
    node.receive(Run("worker.Counterr").task())
    message = node.messages[0]
    assert isinstance(message, WorkflowTaskFailure)
    assert (
        message.failure.message == "this worker has no workflow 'worker.Counterr'; it has: worker.Counter, worker.greet"
    )
    assert message.failure.type == "perdure.errors.NotFound"


async def test_a_bug_is_answered_and_the_copy_is_dropped(node: AttachedWorker) -> None:
    run = Run("worker.greet", Payload(b"3"))
    node.receive(run.task())
    message = node.messages[0]
    assert isinstance(message, WorkflowTaskFailure)
    assert "argument 'name' of workflow worker.greet" in message.failure.message
    other = Run("worker.greet", ANN, id="run-2")
    node.receive(other.task())
    other.shouted("ann", '{"not": "text"}')
    node.receive(other.task())
    assert isinstance(node.messages[2], WorkflowTaskFailure)
    node.receive(other.task())
    assert node.messages[3] == HistoryWanted(other.ref)


async def test_an_evicted_workflow_is_torn_down(node: AttachedWorker) -> None:
    run = Run("worker.greet", ANN)
    node.receive(run.task())
    node.receive(EvictWorkflow(run.ref))
    assert torn_down == ["ann"]
    run.shouted("ann", '"ANN"')
    node.receive(run.task())
    assert node.messages[1] == HistoryWanted(run.ref)


async def test_a_task_that_is_open_when_its_workflow_is_evicted_begins_anew() -> None:
    """The eviction may be for an earlier task; nobody else would answer this one."""

    @workflow(name="worker.shouts_here")
    async def shouts_here(name: str) -> str:
        return await shout.local(name)

    run, sent = Run("worker.shouts_here", ANN), list[FromWorker]()
    tasks = WorkflowTasks({"worker.shouts_here": definition_of(shouts_here)}, sent.append)
    tasks.activate(run.task())
    assert sent == []  # its local activity waits for what it was told to be on disk
    tasks.evict(EvictWorkflow(run.ref))
    assert sent == [HistoryWanted(run.ref)]
    tasks.evict(EvictWorkflow(run.ref))
    assert len(sent) == 1


def test_the_least_recently_used_workflow_makes_room() -> None:
    torn_down.clear()
    sent: list[FromWorker] = []
    definitions = {each.name: each for each in (definition_of(greet), definition_of(Counter))}
    tasks = WorkflowTasks(definitions, sent.append, cached=2)
    counter = Run("worker.Counter", Payload(b"5"))
    greetings = {name: Run("worker.greet", Payload(f'"{name}"'.encode()), id=name) for name in ("ann", "bob")}
    tasks.activate(counter.task())
    tasks.activate(greetings["ann"].task())
    counter.signalled("add", Payload(b"3"))
    tasks.activate(counter.task())
    tasks.activate(greetings["bob"].task())
    assert torn_down == ["ann"]
    counter.completed()
    tasks.query(counter.query("value"))
    assert sent[-1] == QueryAnswer(counter.ref, "q1", Payload(b"8"))
    tasks.stop()
    assert torn_down == ["ann", "bob"]


async def test_the_node_may_send_the_next_task_before_send_returns() -> None:
    """A node in the same process answers in its own turn: the worker must have settled everything by then."""
    torn_down.clear()
    run = Run("worker.greet", ANN)
    sent: list[FromWorker] = []

    def send(message: FromWorker) -> None:
        sent.append(message)
        if len(sent) == 1:
            run.shouted("ann", '"ANN"')
            tasks.activate(run.task())

    tasks = WorkflowTasks({"worker.greet": definition_of(greet)}, send)
    tasks.activate(run.task())
    assert commands(sent[1]) == (CompleteWorkflow(Payload(b'"hello ANN"')),)


# --- Log lines ------------------------------------------------------------------------------------------
async def test_log_lines_wait_until_their_task_is_on_disk(
    node: AttachedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "perdure.workflow")
    run = Run("worker.greet", ANN)
    task = run.task()
    node.receive(task)
    message = node.messages[0]
    assert isinstance(message, WorkflowTaskCompletion)
    assert message.acknowledge
    assert caplog.messages == []
    node.receive(WorkflowTaskAcknowledged(run.ref, Position(0, 0)))
    assert caplog.messages == []  # of an earlier task
    node.receive(WorkflowTaskAcknowledged(run.ref, task.position))
    assert caplog.messages == ["greeting ann"]
    node.receive(WorkflowTaskAcknowledged(run.ref, task.position))
    assert caplog.messages == ["greeting ann"]


async def test_log_lines_of_a_refused_task_are_not_written(
    node: AttachedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "perdure.workflow")
    run = Run("worker.greet", ANN)
    task = run.task()
    node.receive(task)
    node.receive(EvictWorkflow(run.ref))
    node.receive(WorkflowTaskAcknowledged(run.ref, task.position))
    assert caplog.messages == []


# --- Queries --------------------------------------------------------------------------------------------
async def test_a_query_is_answered_by_the_live_workflow(node: AttachedWorker) -> None:
    run = Run("worker.Counter", Payload(b"5"))
    node.receive(run.task())
    run.signalled("add", Payload(b"3"))
    node.receive(run.task())
    run.previous = run.position
    node.receive(run.query("value"))
    assert node.messages[-1] == QueryAnswer(run.ref, "q1", Payload(b"8"))


async def test_a_query_of_a_workflow_that_is_not_here_is_answered_from_its_history(node: AttachedWorker) -> None:
    run = Run("worker.Counter", Payload(b"5"))
    run.signalled("add", Payload(b"3"))
    run.completed()
    node.receive(run.query("value"))
    assert node.messages == [HistoryWanted(run.ref, "q1")]
    node.receive(run.query("value", whole=True))
    assert node.messages[1] == QueryAnswer(run.ref, "q1", Payload(b"8"))
    # The copy that answered is not kept.
    node.receive(run.query("value"))
    assert node.messages[2] == HistoryWanted(run.ref, "q1")


async def test_a_query_of_an_unknown_workflow_or_name_is_answered_with_a_failure(node: AttachedWorker) -> None:
    unknown = Run("worker.Countess")
    unknown.completed()
    node.receive(unknown.query("value", whole=True))
    answer = node.messages[0]
    assert isinstance(answer, QueryAnswer)
    assert answer.failure is not None
    assert "no workflow 'worker.Countess'" in answer.failure.message

    run = Run("worker.Counter", Payload(b"5"), id="run-2")
    node.receive(run.task())
    run.completed()
    node.receive(run.query("valeu"))
    answer = node.messages[-1]
    assert isinstance(answer, QueryAnswer)
    assert answer.failure is not None
    assert "valeu" in answer.failure.message


# --- Activities, start and stop -------------------------------------------------------------------------
def attempt(name: str, event_id: int = 5, *input: Payload) -> ActivityTask:
    run = RunRef("default", "wf", "run-1")
    return ActivityTask(ActivityToken(run, event_id, 1), "1", name, "worker.greet", "default", input, 0, 0)


async def test_activities_run_and_are_cancelled(node: AttachedWorker) -> None:
    task = attempt("worker.shout", 5, ANN)
    node.receive(task)
    assert await node.message(ActivityCompletion) == ActivityCompletion(task.token, Payload(b'"ANN"'))
    waiting = attempt("worker.wait_for_ever", 6)
    node.receive(waiting)
    node.receive(CancelActivity(waiting.token, "timed_out"))
    assert await node.message(ActivityEvicted) == ActivityEvicted(waiting.token, begun=False)


async def test_stop_lets_go_of_everything_and_detaches() -> None:
    torn_down.clear()
    service = ScriptedService()
    worker = Worker(service, workflows=[greet], activities=[wait_for_ever])
    await worker.start()
    node = service.workers[0]
    waiting, run = attempt("worker.wait_for_ever"), Run("worker.greet", ANN)
    node.receive(waiting)
    node.receive(run.task())
    await worker.stop()
    assert node.detached
    assert node.messages[-1] == ActivityEvicted(waiting.token, begun=False)
    assert torn_down == ["ann"]
    count = len(node.messages)
    node.receive(run.task())  # was on its way
    await worker.stop()
    assert len(node.messages) == count
    with pytest.raises(RuntimeError, match="started already"):
        await worker.start()


async def test_work_that_comes_before_attach_returns_is_answered_after() -> None:
    service = ScriptedService()
    run = Run("worker.greet", ANN)
    service.at_once.append(run.task())
    async with Worker(service, workflows=[greet], activities=[]):
        assert len(commands(service.workers[0].messages[0])) == 1


async def test_a_worker_that_could_not_attach_can_try_again() -> None:
    class Flaky(ScriptedService):
        fails = True

        async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> WorkerLink:
            if self.fails:
                raise ConnectionError("nobody there")
            return await super().attach(hello, receive)

    service = Flaky()
    worker = Worker(service, workflows=[greet], activities=[])
    with pytest.raises(ConnectionError):
        await worker.start()
    service.fails = False
    async with worker:
        assert service.workers[0].hello.workflows == ("worker.greet",)


async def test_everything_imported_is_served_by_default_also_later() -> None:
    service = ScriptedService()
    async with Worker(service):
        assert "worker.greet" in service.workers[0].hello.workflows

        @activity
        async def defined_later() -> int:
            return 7

        service.workers[0].receive(attempt(defined_later.name))
        completion = await service.workers[0].message(ActivityCompletion)
        assert completion.result == Payload(b"7")


def test_what_is_not_decorated_is_refused() -> None:
    async def plain() -> None: ...

    with pytest.raises(TypeError, match=r"plain.* is not a workflow: decorate it with @workflow"):
        Worker(ScriptedService(), workflows=[plain])
    with pytest.raises(TypeError, match="is not an activity"):
        Worker(ScriptedService(), activities=[greet])
    with pytest.raises(TypeError, match=r"workflows must be a list: \[greet\]"):
        Worker(ScriptedService(), workflows=cast("list[object]", greet))
    with pytest.raises(TypeError, match=r"activities must be a list: \[int\(…\)\]"):
        Worker(ScriptedService(), activities=cast("list[object]", 5))
    with pytest.raises(ValueError, match="max_concurrent_activities must be between 1"):
        Worker(ScriptedService(), max_concurrent_activities=0)


async def test_the_same_over_a_transport() -> None:
    service = ScriptedService()
    async with Worker(InProcessTransport(service), workflows=[greet], activities=[shout]):
        node = service.workers[0]
        run = Run("worker.greet", ANN)
        node.receive(run.task())
        (asked,) = commands(await node.message(WorkflowTaskCompletion))
        assert isinstance(asked, ScheduleActivity)
        node.receive(attempt("worker.shout", 5, *asked.input))
        assert (await node.message(ActivityCompletion)).result == Payload(b'"ANN"')
    assert node.detached
