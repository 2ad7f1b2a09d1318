"""Starts that wait, that carry a message, and that are tried again."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from perdure import (
    ApplicationError,
    InvalidRequest,
    NotFound,
    NotTaken,
    RetryPolicy,
    WorkflowAlreadyStarted,
    WorkflowTimedOut,
    activity,
    workflow,
)
from perdure.model.events import (
    IdReusePolicy,
    WorkflowExecutionFailed,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
)
from perdure.model.requests import StartSignal, StartWorkflow
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, Simulation, described, event_names


@workflow(name="starts.Basket")
class Basket:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.items: list[str] = []
        self.paid = False

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: self.paid)
        return [self.owner, *self.items]

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.update
    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @put.validator
    def _(self, item: str) -> None:
        if not item:
            raise ValueError("an item needs a name")

    @workflow.update
    def pay(self) -> list[str]:
        self.paid = True
        return self.items


@workflow(name="starts.Other")
class Other:
    async def run(self) -> None: ...

    @workflow.signal
    def add(self, item: str) -> None: ...


@workflow(name="starts.fails_until")
async def fails_until(attempt: int) -> int:
    info = workflow.info()
    if info.attempt < attempt:
        raise ApplicationError(f"attempt {info.attempt}", type="TooEarly")
    return info.attempt


async def test_a_signal_starts_what_is_not_running(client: Client) -> None:
    first = await client.with_start(Basket("ann"), id="basket").signal(Basket.add, "tea")
    second = await client.with_start(Basket("bob"), id="basket").signal(Basket.add, "milk")
    assert first.run_id == second.run_id
    assert await client.get("basket", Basket).update(Basket.pay) == ["tea", "milk"]
    assert await first.result() == ["ann", "tea", "milk"]
    assert (await event_names(first))[:3] == [
        "WorkflowExecutionStarted", "WorkflowExecutionSignaled", "WorkflowTaskScheduled",
    ]  # fmt: skip
    third = await client.with_start(Basket("cat"), id="basket").signal("add", "jam")
    assert third.run_id != first.run_id
    with pytest.raises(WorkflowAlreadyStarted, match="forbids another"):
        await third.terminate()
        await client.with_start(Basket("d"), id="basket", id_reuse_policy="reject_duplicate").signal(Basket.add, "x")


async def test_many_that_signal_with_start_share_one_run(client: Client) -> None:
    start = client.with_start(Basket("ann"), id="shared")
    runs = await asyncio.gather(*(start.signal(Basket.add, str(n)) for n in range(20)))
    assert len({run.run_id for run in runs}) == 1
    assert sorted(await start.handle.update(Basket.pay), key=int) == [str(n) for n in range(20)]


async def test_a_repeated_signal_with_start_counts_once(engine: Engine) -> None:
    async with engine.open() as client:
        start = client.with_start(Basket("ann"), id="repeated", request_id="once")
        first = await start.signal(Basket.add, "tea")
        assert (await start.signal(Basket.add, "tea")).run_id == first.run_id
        await client.with_start(Basket("ann"), id="repeated", request_id="twice").signal(Basket.add, "milk")
    async with engine.open() as client:
        for request_id in ("once", "twice"):
            again = client.with_start(Basket("ann"), id="repeated", request_id=request_id)
            assert (await again.signal(Basket.add, "again")).run_id == first.run_id
        assert await client.get("repeated", Basket).update(Basket.pay) == ["tea", "milk"]
        await client.get("repeated").result()
        for request_id in ("once", "twice"):  # nor is another run started
            again = client.with_start(Basket("ann"), id="repeated", request_id=request_id)
            assert (await again.signal(Basket.add, "again")).run_id == first.run_id
        rejected = client.with_start(
            Basket("ann"), id="repeated", request_id="twice", id_reuse_policy="reject_duplicate"
        )
        assert (await rejected.signal(Basket.add, "again")).run_id == first.run_id


@pytest.mark.parametrize("reuse", ["allow_duplicate", "reject_duplicate"])
async def test_a_repeated_start_that_has_joined_a_run_starts_no_other(engine: Engine, reuse: IdReusePolicy) -> None:
    async def hook(client: Client) -> str | None:
        """A delivery of what may be delivered twice."""
        start = client.start(
            Basket("bob"), id="joined", request_id="hook", id_conflict_policy="use_existing", id_reuse_policy=reuse
        )
        return (await start).run_id

    async with engine.open() as client:
        first = await client.start(Basket("ann"), id="joined")
        assert [await hook(client), await hook(client)] == [first.run_id] * 2
    async with engine.open() as client:
        assert await asyncio.gather(hook(client), hook(client)) == [first.run_id] * 2
        await client.get("joined", Basket).update(Basket.pay)
        assert await client.get("joined", Basket).result() == ["ann"]
        assert await hook(client) == first.run_id
        assert len([run async for run in client.list("WorkflowId = 'joined'")]) == 1


async def test_an_update_starts_what_is_not_running_and_is_answered(client: Client) -> None:
    start = client.with_start(Basket("ann"), id="updated")
    assert await start.update(Basket.put, "tea") == 1
    assert await start.update(Basket.put, "milk") == 2
    with pytest.raises(ValueError, match="needs a name"):
        await start.update(Basket.put, "")
    with pytest.raises(WorkflowAlreadyStarted):
        await client.with_start(Basket("bob"), id="updated", id_conflict_policy="fail").update(Basket.put, "jam")
    other = client.with_start(Basket("bob"), id="updated", id_conflict_policy="terminate_existing")
    assert await other.update(Basket.put, "jam") == 1
    assert await other.update(Basket.pay) == []


async def test_a_repeated_update_with_start_counts_once(client: Client) -> None:
    start = client.with_start(Basket("ann"), id="paid", request_id="once")
    assert await asyncio.gather(*(start.update(Basket.put, "tea") for _ in range(5))) == [1] * 5
    second = client.with_start(Basket("ann"), id="paid", request_id="twice")
    assert [await second.update(Basket.put, "milk") for _ in range(2)] == [2, 2]
    await start.handle.update(Basket.pay)
    assert await start.handle.result() == ["ann", "tea", "milk"]
    assert await start.update(Basket.put, "tea") == 1
    assert await second.update(Basket.put, "milk") == 2
    assert await start.handle.result() == ["ann", "tea", "milk"]


async def test_an_update_that_meets_the_end_of_a_workflow_starts_it_again(client: Client) -> None:
    @workflow(name="starts.Till")
    class Till:
        def __init__(self, owner: str) -> None:
            self.owner = owner

        async def run(self) -> str:
            return await workflow.receive("close", str)

        @workflow.update
        def of(self) -> str:
            return self.owner

    last = await client.start(Till("ann"), id="till")
    await last.pause("so that both come at once")
    await last.signal("close", "for today")
    start = client.with_start(Till("bob"), id="till", request_id="twice")
    asking = asyncio.ensure_future(start.update(Till.of))
    await described(last, lambda it: bool(it.pending_updates))
    await last.resume()
    assert await last.result() == "for today"
    assert await asking == await start.update(Till.of) == "bob"
    await start.handle.signal("close", "for good")
    assert await start.handle.result() == "for good"
    assert await start.update(Till.of) == "bob", "its run has closed since, and no other is started"
    assert await start.handle.result() == "for good"


async def test_what_an_update_raises_itself_starts_nothing(client: Client) -> None:
    @activity(name="starts.elsewhere", retry_policy=RetryPolicy(maximum_attempts=1))
    async def elsewhere() -> None:
        raise NotTaken("another workflow has ended")

    @workflow(name="starts.Relay")
    class Relay:
        def __init__(self) -> None:
            self.asked = 0

        async def run(self) -> None:
            await workflow.receive("never", object)

        @workflow.update
        async def put(self) -> None:
            self.asked += 1
            await elsewhere()

        @workflow.query
        def times(self) -> int:
            return self.asked

    handle = await client.start(Relay(), id="relay")
    with pytest.raises(NotTaken, match="another workflow"):
        await client.with_start(Relay(), id="relay").update(Relay.put)
    assert await handle.query(Relay.times) == 1


async def test_an_update_of_what_waits_for_nothing_is_not_taken(client: Client) -> None:
    @workflow(name="starts.Hasty")
    class Hasty:
        async def run(self) -> None: ...

        @workflow.update
        def put(self) -> None: ...

    start = client.with_start(Hasty(), id="hasty", request_id="once")
    for _ in range(2):
        with pytest.raises(NotTaken):
            await start.update(Hasty.put)
    history = [event async for event in start.handle.history()]
    assert isinstance(history[0], WorkflowExecutionStarted) and history[0].request_id == "once"


async def test_a_wrong_start_with_a_message_is_refused(client: Client) -> None:
    start = client.with_start(Basket("ann"), id="wrong")
    with pytest.raises(TypeError, match="of another class"):
        await start.signal(Other.add, "x")
    with pytest.raises(TypeError, match="is an update, not a signal"):
        await start.signal(cast("str", Basket.put), "x")
    with pytest.raises(ValueError, match="use_existing"):
        await client.with_start(Basket("ann"), id="wrong", id_conflict_policy="fail").signal(Basket.add, "x")
    with pytest.raises(ValueError, match="start_delay"):
        await client.with_start(Basket("ann"), id="wrong", start_delay="1h").update(Basket.put, "x")
    with pytest.raises(InvalidRequest, match="name must not be empty"):
        await start.signal("", "x")
    with pytest.raises(TypeError, match=r"retry_policy must be a perdure\.RetryPolicy, not int"):
        await client.start(Basket("ann"), retry_policy=cast(RetryPolicy, 3))
    with pytest.raises(ValueError, match="for activities"):
        await client.start(Basket("ann"), retry_policy=RetryPolicy(on_exhausted="hold"))
    with pytest.raises(ValueError, match="task_timeout must be at most 120 s"):
        await client.start(Basket("ann"), task_timeout="3m")
    with pytest.raises(TypeError, match="no option 'idd'; it has id, "):
        await client.start(Basket("ann"), idd="x")  # pyright: ignore[reportCallIssue]
    message = StartSignal("add", ())
    with pytest.raises(InvalidRequest, match="not 'fail'"):
        await client.service.call(StartWorkflow("default", "wrong", "t", "q", (), "r", message=message))
    with pytest.raises(InvalidRequest, match="MAX_WORKFLOW_TASK_TIMEOUT"):
        await client.service.call(StartWorkflow("default", "wrong", "t", "q", (), "r", task_timeout=10**9))
    with pytest.raises(NotFound):
        await start.handle.describe()


async def test_a_failed_workflow_is_tried_again(client: Client) -> None:
    policy = RetryPolicy(initial_interval=0.001, maximum_attempts=5)
    handle = await client.start(fails_until(3), id="retried", retry_policy=policy)
    assert await handle.result() == 3
    assert [row.status async for row in client.list("WorkflowId = 'retried'")] == ["Completed", "Failed", "Failed"]
    events = [event async for event in handle.history()]
    first = events[0]
    assert isinstance(first, WorkflowExecutionStarted) and first.attempt == 1
    assert isinstance(events[-1], WorkflowExecutionFailed) and events[-1].new_run_id
    last, *_ = [event async for event in client.get("retried").history()]
    assert isinstance(last, WorkflowExecutionStarted)
    assert (last.attempt, last.first_run_id) == (3, handle.run_id)
    assert last.continued_failure is not None and last.continued_failure.message == "attempt 2"


async def test_attempts_of_a_workflow_end(client: Client) -> None:
    policy = RetryPolicy(initial_interval=0.001, maximum_attempts=2)
    with pytest.raises(ApplicationError, match="attempt 2"):
        await client.run(fails_until(9), retry_policy=policy)
    policy = RetryPolicy(initial_interval=0.001, non_retryable=("TooEarly",))
    with pytest.raises(ApplicationError, match="attempt 1"):
        await client.run(fails_until(9), retry_policy=policy)


def test_a_delayed_start_waits_across_processes(simulation: Simulation) -> None:
    async def begin(client: Client) -> None:
        await client.start(fails_until(1), id="delayed", start_delay="1d")
        await client.get("delayed").signal("early")
        assert await event_names(client.get("delayed")) == ["WorkflowExecutionStarted", "WorkflowExecutionSignaled"]

    async def end(client: Client) -> None:
        assert await client.get("delayed", fails_until).result() == 1
        description = await client.get("delayed").describe()
        assert description.close_time is not None
        assert (description.close_time - description.start_time).total_seconds() >= 24 * 3600

    simulation.run(begin)
    simulation.pass_time(3600)
    simulation.run(end)


def test_a_signal_with_another_start_ends_the_delay(simulation: Simulation) -> None:
    async def body(client: Client) -> None:
        start = client.with_start(Basket("ann"), id="delayed", start_delay="1d")
        first = await start.signal(Basket.add, "tea")
        assert (await first.describe()).workflow_task is None
        await start.signal(Basket.add, "milk")
        assert await first.update(Basket.pay) == ["tea", "milk"]
        signals = [event async for event in first.history() if isinstance(event, WorkflowExecutionSignaled)]
        assert [event.id for event in signals] == [2, 3]
        description = await first.describe()
        assert description.close_time is not None
        assert (description.close_time - description.start_time).total_seconds() < 60

    simulation.run(body)


def test_a_workflow_that_takes_too_long_is_tried_again(simulation: Simulation) -> None:
    @workflow(name="starts.slow_at_first")
    async def slow_at_first() -> int:
        if workflow.info().attempt < 3:
            await asyncio.sleep(3600)
        return workflow.info().attempt

    async def body(client: Client) -> None:
        options = RetryPolicy(initial_interval="10m")
        assert await client.run(slow_at_first(), run_timeout="1m", retry_policy=options) == 3
        with pytest.raises(WorkflowTimedOut):
            await client.run(slow_at_first(), run_timeout="1m", execution_timeout="5m", retry_policy=options)

    simulation.run(body)


@workflow(name="starts.fails_to_clean_up")
async def fails_to_clean_up() -> None:
    try:
        await workflow.receive("nothing", str)
    finally:
        raise ApplicationError("could not clean up")


async def test_a_cancelled_workflow_that_fails_is_not_tried_again(client: Client) -> None:
    handle = await client.start(fails_to_clean_up(), retry_policy=RetryPolicy(initial_interval="10ms"))
    await handle.cancel()
    with pytest.raises(ApplicationError, match="could not clean up"):
        await handle.result()
