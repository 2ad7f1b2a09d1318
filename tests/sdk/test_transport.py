"""The in-process transport: what is sent arrives the same, in order, later."""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import Unavailable, WorkflowAlreadyStarted
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.failures import Failure
from perdure.model.payloads import Payload
from perdure.model.requests import (
    DescribeWorkflow,
    Description,
    Done,
    GetHistory,
    HistoryPage,
    PendingActivityInfo,
    SignalWorkflow,
    Started,
    StartWorkflow,
)
from perdure.model.tasks import (
    START,
    ActivityCompletion,
    ActivityEvicted,
    ActivityToken,
    EvictWorkflow,
    HistoryWanted,
    Position,
    RunRef,
    ToWorker,
    WorkerHello,
    WorkflowTask,
)
from perdure.testing.transport import InProcessTransport
from tests.sdk.fake_service import ScriptedService

RUN = RunRef("default", "wf", "run-1")
STARTED = WorkflowExecutionStarted(1, 5, "flow", "default", (Payload(b"1", {"encoding": "x"}),), "run-1")
SIGNAL = SignalWorkflow("default", "wf", "", "go", (Payload(b'"x"'),), "r1")


async def test_requests_and_replies_arrive_equal_but_are_copies() -> None:
    start = StartWorkflow("default", "wf", "flow", "q", (Payload(b"\x00\xff"),), "r1", memo={"a": Payload(b"1")})
    description = Description(
        "wf", "run-1", "flow", "q", "Running", 1, 0, 3, 99,
        activities=(PendingActivityInfo("a1", "act", "held", 2, 1, last_failure=Failure("no", ("x.Y",))),),
        search_attributes={"n": 1, "tags": ["a", "b"]},
    )  # fmt: skip
    page = HistoryPage("run-1", (STARTED,), 7)
    service = ScriptedService(Started("run-1", existing=True), description, page, Done())
    transport = InProcessTransport(service)
    assert await transport.call(start) == Started("run-1", existing=True)
    described = await transport.call(DescribeWorkflow("default", "wf", ""))
    assert described == description
    assert described is not description
    assert await transport.call(GetHistory("default", "wf", "", 0)) == page
    assert await transport.call(SIGNAL) == Done()
    assert service.requests[0] == start
    assert service.requests[0] is not start


async def test_errors_arrive_as_themselves_with_their_fields() -> None:
    service = ScriptedService(WorkflowAlreadyStarted("the id is taken", run_id="run-0"), Unavailable("not now"))
    transport = InProcessTransport(service)
    with pytest.raises(WorkflowAlreadyStarted, match="the id is taken") as caught:
        await transport.call(SIGNAL)
    assert caught.value.run_id == "run-0"
    with pytest.raises(Unavailable, match="not now"):
        await transport.call(SIGNAL)


async def test_a_bug_of_the_service_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await InProcessTransport(ScriptedService(ZeroDivisionError())).call(SIGNAL)


async def test_what_cannot_be_encoded_fails_where_it_is_sent() -> None:
    class Odd:
        pass

    with pytest.raises(TypeError, match="Odd"):
        await InProcessTransport(ScriptedService(Started(Odd()))).call(SIGNAL)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_worker_messages_arrive_in_order_in_a_later_turn() -> None:
    service = ScriptedService()
    received: list[ToWorker] = []
    hello = WorkerHello("default", "w1", ("q",), 10, "b", ("flow",), ("act",))
    link = await InProcessTransport(service).attach(hello, received.append)
    worker = service.workers[0]
    assert worker.hello == hello
    task = WorkflowTask(RUN, 1, 5, START, Position(1, 1), (STARTED,))
    worker.receive(task)
    worker.receive(EvictWorkflow(RUN))
    assert received == []
    await asyncio.sleep(0)
    assert received == [task, EvictWorkflow(RUN)]
    assert received[0] is not task

    answers = [HistoryWanted(RUN), ActivityCompletion(ActivityToken(RUN, 5, 1), Payload(b"1"))]
    for answer in answers:
        link.send(answer)
    assert worker.messages == []
    worker.receive(EvictWorkflow(RUN))
    await link.detach()
    assert worker.messages == answers  # what was sent before the detachment arrives
    assert len(received) == 3  # in either direction
    assert worker.detached
    link.send(HistoryWanted(RUN))
    worker.receive(EvictWorkflow(RUN))
    await asyncio.sleep(0)
    assert len(received) == 3  # what comes after it does not
    assert len(worker.messages) == 2


async def test_a_worker_that_leaves_can_still_answer_what_was_on_its_way() -> None:
    service = ScriptedService()
    refused = ActivityEvicted(ActivityToken(RUN, 5, 1), begun=False)
    link = await InProcessTransport(service).attach(
        WorkerHello("default", "w1", ("q",), 10), lambda _: link.send(refused)
    )
    worker = service.workers[0]
    worker.receive(EvictWorkflow(RUN))
    await link.detach()
    assert worker.messages == [refused]
