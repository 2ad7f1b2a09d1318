"""Runs that a person resets to an earlier workflow task."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Literal, cast

import pytest

from perdure import (
    ApplicationError,
    InvalidRequest,
    NotFound,
    NotRunning,
    RetryPolicy,
    WorkflowHandle,
    WorkflowTerminated,
    activity,
    workflow,
)
from perdure.clock import HOUR
from perdure.model.events import WorkflowExecutionStarted, WorkflowTaskFailed
from perdure.model.requests import ResetWorkflow
from perdure.sdk.client.client import Client
from tests.integration.engines import Engine, Simulation, described, event_names
from tests.integration.work import Gate, echo, wait_at


class World:
    """What goes wrong, and what was done."""

    broken: ClassVar[bool] = False
    done: ClassVar[list[str]] = []


@activity(name="resets.act")
async def act(what: str) -> str:
    World.done.append(what)
    if what == "second" and World.broken:
        raise ApplicationError("no luck", type="NoLuck", non_retryable=True)
    return what


@workflow(name="resets.steps")
async def steps() -> list[str]:
    """Two activities, with a random number before each."""
    before = str(workflow.uuid4())
    first = await act("first")
    between = str(workflow.uuid4())
    second = await act("second")
    return [before, first, between, second]


@workflow(name="resets.by_run")
async def by_run() -> list[str]:
    """Two activities at once, and then one, each with an id that is made of the run's."""
    before = await asyncio.gather(*(act(f"{workflow.info().run_id}/{n}") for n in range(2)))
    await workflow.receive("go", object)
    return [*before, await act(f"{workflow.info().run_id}/2")]


@workflow(name="resets.Collector")
class Collector:
    def __init__(self) -> None:
        self.items: list[str] = []

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: "end" in self.items)
        return self.items

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.update
    async def put(self, item: str) -> int:
        await echo(item)
        self.items.append(item)
        return len(self.items)

    @workflow.query
    def seen(self) -> list[str]:
        return self.items


@workflow(name="resets.child")
async def child(gate: str) -> str:
    return await wait_at(gate)


@workflow(name="resets.parent")
async def parent(gate: str) -> str:
    running = child.options(id=f"child-of-{gate}").start(gate)
    await workflow.receive("go", object)
    return await running


@workflow(name="resets.Mailbox")
class Mailbox:
    """Goes on as a new run when it is told to, and then takes its mail."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.told = False

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: self.told)
        if self.left:
            workflow.continue_as_new(Mailbox(self.left - 1))
        return [await workflow.receive("mail", str), await workflow.receive("mail", str)]

    @workflow.signal
    def go_on(self) -> None:
        self.told = True

    @workflow.query
    def waits(self) -> bool:
        return not self.told


@workflow(name="resets.retried")
async def retried() -> str:
    """The first attempt's child waits at a gate."""
    attempt = workflow.info().attempt
    gate = "reset-attempt-1" if attempt == 1 else "reset-attempt-2"
    running = child.options(id=f"child-of-attempt-{attempt}", parent_close_policy="abandon").start(gate)
    await echo("so that the child exists")
    if attempt == 1 and World.broken:
        raise ApplicationError("no luck")
    return await running


async def completed_tasks(handle: WorkflowHandle[object]) -> list[int]:
    return [event.id async for event in handle.history() if type(event).__name__ == "WorkflowTaskCompleted"]


async def test_a_failed_workflow_goes_on_from_an_earlier_task(engine: Engine) -> None:
    World.broken, World.done = True, []
    async with engine.open() as client:
        handle = await client.start(steps(), id="steps")
        with pytest.raises(ApplicationError, match="no luck"):
            await handle.result()
    World.broken = False
    async with engine.open() as client:
        handle = client.get("steps", steps)
        tasks = [event.id async for event in handle.history() if type(event).__name__ == "WorkflowTaskCompleted"]
        again = await handle.reset(event_id=tasks[1], reason="luck is back")
        result = await again.result()
        assert result[1::2] == ["first", "second"]
        assert World.done == ["first", "second", "second"]
        assert await handle.result() == result
        assert [row.status async for row in client.list("WorkflowId = 'steps'")] == ["Completed", "Failed"]
        events = [event async for event in again.history()]
        assert isinstance(events[0], WorkflowExecutionStarted) and events[0].run_id == again.run_id
        (failed,) = (event for event in events if isinstance(event, WorkflowTaskFailed))
        assert failed.failure.message == "reset to this workflow task: luck is back"
        (done,) = (await again.describe()).interventions
        assert (done.action, done.note, done.identity) == ("reset", "luck is back", client.identity)


async def test_what_is_drawn_before_the_point_is_the_same_and_later_it_is_new(client: Client) -> None:
    World.broken, World.done = False, []
    handle = await client.start(steps(), id="drawn")
    before = await handle.result()
    tasks = [event.id async for event in handle.history() if type(event).__name__ == "WorkflowTaskCompleted"]
    after = await (await handle.reset(event_id=tasks[1])).result()
    assert (after[0], after[2] != before[2]) == (before[0], True)
    once_more = await (await client.get("drawn", steps).reset(to="last")).result()
    assert once_more == after  # all that it drew is kept
    assert (await (await client.get("drawn", steps).reset(to="first")).result())[0] != before[0]


async def test_each_reset_to_the_same_task_draws_anew(client: Client) -> None:
    World.broken, World.done = False, []
    drawn = [(await client.run(steps(), id="again"))[0]]
    for _ in range(2):
        latest = client.get("again", steps)
        drawn.append((await (await latest.reset(to="first")).result())[0])
    assert len(set(drawn)) == 3


async def test_what_was_made_of_the_run_id_before_the_point_stays(client: Client) -> None:
    World.broken, World.done = False, []
    handle = await client.start(by_run(), id="by-run")
    await described(handle, lambda d: d.workflow_task is None and not d.activities)
    await handle.signal("go")
    first = await handle.result()
    assert first == [f"{handle.run_id}/{n}" for n in range(3)]
    again = handle
    for _ in range(2):  # a reset of a reset, too
        again = await again.reset(event_id=(await completed_tasks(again))[-2])
        assert await again.result() == [*first[:2], f"{again.run_id}/2"]


async def test_messages_that_came_later_are_given_again(client: Client) -> None:
    handle = await client.start(Collector(), id="collector")
    assert await handle.query(Collector.seen) == []
    await handle.signal(Collector.add, "a")
    assert await handle.update(Collector.put, "b") == 2
    again = await handle.reset(to="first", reason="once more")
    await again.signal(Collector.add, "c")
    await described(again, lambda d: not d.activities and d.workflow_task is None and not d.pending_updates)
    assert await again.query(Collector.seen) in (["a", "c", "b"], ["a", "b", "c"])
    without = await again.reset(to="first", reapply=False)
    assert await without.query(Collector.seen) == ["a"]  # which came before the first task that this run completed
    await without.signal(Collector.add, "end")
    assert await handle.result() == ["a", "end"]  # it follows the chain of resets


async def test_a_second_reset_of_the_same_run_gives_nothing_twice(client: Client) -> None:
    handle = await client.start(Collector(), id="twice")
    for item in ("a", "b"):
        await handle.signal(Collector.add, item)
        await handle.query(Collector.seen)
    point = (await completed_tasks(handle))[0]
    for _ in range(2):
        again = await handle.reset(event_id=point)
        assert await again.query(Collector.seen) == ["a", "b"]
    again = await handle.reset(event_id=point)
    await again.signal(Collector.add, "end")
    assert await handle.result() == ["a", "b", "end"]


async def test_messages_that_a_run_has_passed_on_are_given_once(client: Client) -> None:
    handle = await client.start(Mailbox(1), id="mailbox")
    latest = client.get("mailbox", Mailbox)
    assert await handle.query(Mailbox.waits)
    await handle.signal("mail", "first")
    assert await handle.query(Mailbox.waits)
    await handle.signal(Mailbox.go_on)
    first = client.get("mailbox", run_id=handle.run_id)
    await described(first, lambda d: d.status == "ContinuedAsNew")
    await latest.signal("mail", "second")
    await latest.signal(Mailbox.go_on)
    assert await latest.result() == ["first", "second"]
    again = await first.reset(event_id=(await completed_tasks(first))[0])
    assert await again.result() == ["first", "second"]


@workflow(name="resets.Ledger")
class Ledger:
    """Goes on as a new run after each entry."""

    def __init__(self, entries: list[str]) -> None:
        self.entries = entries
        self.had = len(entries)

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: len(self.entries) > self.had)
        if "end" not in self.entries:
            workflow.continue_as_new(Ledger(self.entries))
        return self.entries

    @workflow.update
    def enter(self, entry: str) -> None:
        self.entries.append(entry)

    @workflow.signal
    def note(self, entry: str) -> None:
        self.entries.append(entry)


async def test_an_update_of_an_earlier_run_that_was_reset_is_not_given_to_a_later_one(client: Client) -> None:
    handle = await client.start(Ledger([]), id="ledger")
    latest = client.get("ledger", Ledger)
    await latest.update(Ledger.enter, "a")
    second = (await described(latest, lambda d: d.run_id != handle.run_id and d.workflow_task is None)).run_id
    first = client.get("ledger", Ledger, run_id=handle.run_id)
    again = await first.reset(to="first")  # "a" is entered once more
    await described(client.get("ledger", run_id=again.run_id), lambda d: d.status == "ContinuedAsNew")
    await latest.update(Ledger.enter, "b")
    await client.get("ledger", Ledger, run_id=second).reset(to="first")
    await latest.update(Ledger.enter, "end")
    entries = await latest.result()
    assert sorted(entries) == ["a", "b", "end"]


@workflow(name="resets.Order")
class Order:
    """Its end is a signal."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.closed = False

    async def run(self) -> list[str]:
        await workflow.wait_until(lambda: self.closed)
        return self.items

    @workflow.update
    def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @workflow.signal
    def close(self) -> None:
        self.closed = True


async def test_a_signal_by_which_the_workflow_ended_comes_after_the_updates_before_it(client: Client) -> None:
    handle = await client.start(Order(), id="order")
    await described(handle, lambda d: d.workflow_task is None)
    for n, item in enumerate(("tea", "milk"), 1):
        assert await handle.update(Order.add, item) == n
    await handle.signal(Order.close)
    assert await handle.result() == ["tea", "milk"]
    for _ in range(2):
        assert await (await handle.reset(to="first")).result() == ["tea", "milk"]
        handle = client.get("order", Order)


async def test_messages_stay_in_order_through_runs_that_continue_as_new(client: Client) -> None:
    """Each of them is given once, whichever run of the chain is reset."""
    first = await client.start(Ledger([]), id="diary")
    latest = client.get("diary", Ledger)
    await described(latest, lambda d: d.workflow_task is None)
    for line in ("a", "b", "c", "d"):
        await latest.update(Ledger.enter, f"update {line}")
        await latest.signal(Ledger.note, f"signal {line}")
    await latest.update(Ledger.enter, "end")
    lines = await latest.result()
    assert lines == [*(f"{how} {line}" for line in "abcd" for how in ("update", "signal")), "end"]
    again = await client.get("diary", Ledger, run_id=first.run_id).reset(to="first")
    assert await latest.result() == lines
    for run_id in (first.run_id, again.run_id, again.run_id, first.run_id):
        await client.get("diary", Ledger, run_id=run_id).reset(to="first")
        assert await latest.result() == lines


async def test_a_child_of_another_attempt_is_not_taken_for_its_own(client: Client) -> None:
    World.broken = True
    first, second = Gate.named("reset-attempt-1"), Gate.named("reset-attempt-2")
    retry = RetryPolicy(initial_interval=0.001, maximum_attempts=2)
    handle = await client.start(retried(), id="retried", retry_policy=retry)
    await first.reached.wait()
    second.open()
    assert await client.get("retried").result() == "reset-attempt-2"
    World.broken = False
    again = await client.get("retried", run_id=handle.run_id).reset(to="last")
    await described(again, lambda d: d.workflow_task is None and not d.activities)
    assert (await again.describe()).status == "Running"
    first.open()
    assert await again.result() == "reset-attempt-1"


async def test_a_repeated_request_resets_once(client: Client) -> None:
    handle = await client.start(Collector(), id="repeated")
    assert await handle.query(Collector.seen) == []
    await handle.pause("so that the new run completes no task")
    request = ResetWorkflow("default", "repeated", "", "once", 0, "first")
    assert await client.service.call(request) == await client.service.call(request)
    assert len([row async for row in client.list("WorkflowId = 'repeated'")]) == 2


async def test_the_parent_of_a_run_that_another_start_replaces_hears_of_it(client: Client) -> None:
    gate = Gate.named("reset-foreign")
    gate.open()
    early = await client.start(child("reset-foreign"), id="child-of-reset-foreign-parent")
    await early.result()
    gate = Gate.named("reset-foreign-parent")
    handle = await client.start(parent("reset-foreign-parent"), id="foreign-parent")
    await gate.reached.wait()
    await handle.signal("go")
    await client.get(early.id, run_id=early.run_id).reset(to="first")
    with pytest.raises(WorkflowTerminated, match="reset"):
        await handle.result()


async def test_an_open_workflow_is_terminated_by_its_reset(client: Client) -> None:
    gate = Gate.named("reset-open")

    @workflow(name="resets.waits_at")
    async def waits_at(name: str) -> str:
        await workflow.receive("begin", object)
        return await wait_at(name)

    handle = await client.start(waits_at("reset-open"), id="open")
    await handle.signal("begin")
    await gate.reached.wait()
    again = await handle.reset(to="last")
    await gate.cancelled.wait()
    old = await client.get("open", run_id=handle.run_id).describe()
    assert old.status == "Terminated" and old.run_id != again.run_id
    gate.open()
    assert await again.result() == "reset-open"
    assert (await event_names(client.get("open", run_id=handle.run_id)))[-1] == "WorkflowExecutionTerminated"
    assert "ActivityTaskScheduled" in await event_names(again)


async def begun(client: Client, name: str, *, id: str) -> tuple[Gate, WorkflowHandle[str]]:
    """A parent whose child waits at the gate of that name, and that has had a signal since."""
    gate = Gate.named(name)
    handle = await client.start(parent(name), id=id)
    await gate.reached.wait()
    await described(handle, lambda d: d.workflow_task is None)
    await handle.signal("go")
    await described(handle, lambda d: d.workflow_task is None)
    return gate, handle


async def test_a_child_goes_on_as_the_new_runs(client: Client) -> None:
    gate, handle = await begun(client, "reset-parent", id="parent")
    again = await handle.reset(to="last")
    assert (await client.get("child-of-reset-parent").describe()).status == "Running"
    gate.open()
    assert await again.result() == "reset-parent"
    assert gate.arrived == 1


async def test_a_child_ends_with_the_run_that_has_it_now(client: Client) -> None:
    _, handle = await begun(client, "reset-twice", id="ended-parent")
    again = await (await handle.reset(to="last")).reset(to="last")
    await described(again, lambda d: d.workflow_task is None)
    running = client.get("child-of-reset-twice")
    assert (await running.describe()).status == "Running"
    await again.terminate("enough")
    assert (await described(running, lambda d: d.status != "Running")).status == "Terminated"


def test_a_child_reports_when_the_run_that_asked_for_it_is_not_kept_any_more(simulation: Simulation) -> None:
    async def waits(client: Client) -> str:
        gate, handle = await begun(client, "reset-kept", id="patient")
        again = await handle.reset(to="last")
        await asyncio.sleep(2 * 3_600)  # simulated time
        with pytest.raises(NotFound):
            await client.get("patient", run_id=handle.run_id).describe()
        gate.open()
        return await again.result()

    assert simulation.run(waits, retention=HOUR) == "reset-kept"


@workflow(name="resets.Doorman")
class Doorman:
    async def run(self) -> None:
        await workflow.receive("end", object)

    @workflow.update
    async def enter(self, gate: str) -> str:
        return await wait_at(gate)


async def test_callers_who_wait_for_an_update_hear_from_the_new_run(client: Client) -> None:
    gate = Gate.named("reset-door")
    handle = await client.start(Doorman(), id="doorman")
    await described(handle, lambda d: d.workflow_task is None)
    waiting = asyncio.create_task(handle.update(Doorman.enter, "reset-door"))
    await gate.reached.wait()
    again = await handle.reset(to="first")
    await gate.cancelled.wait()
    gate.open()
    assert await waiting == "reset-door"
    assert "WorkflowExecutionUpdateCompleted" in await event_names(again)


async def test_callers_whose_update_is_left_out_are_told_so(client: Client) -> None:
    gate = Gate.named("reset-shut")
    handle = await client.start(Doorman(), id="shut")
    await described(handle, lambda d: d.workflow_task is None)
    waiting = asyncio.create_task(handle.update(Doorman.enter, "reset-shut"))
    await gate.reached.wait()
    again = await handle.reset(to="first", reapply=False)
    with pytest.raises(NotRunning, match="closed"):
        await waiting
    assert not (await again.describe()).pending_updates


@workflow(name="resets.guardian")
async def guardian() -> list[str]:
    policies: dict[str, Literal["abandon", "request_cancel", "terminate"]] = {
        "left": "abandon", "asked": "request_cancel", "ended": "terminate",
    }  # fmt: skip
    children = [
        stubborn.options(id=f"guarded-{name}", parent_close_policy=policy).start(f"reset-{name}")
        for name, policy in policies.items()
    ]
    await workflow.receive("go", object)
    return [
        each if isinstance(each, str) else repr(each)
        for each in await asyncio.gather(*children, return_exceptions=True)
    ]


@workflow(name="resets.stubborn")
async def stubborn(gate: str) -> str:
    """Goes on when it is asked to stop."""
    return await workflow.shielded(wait_at(gate))


async def test_what_became_of_the_children_of_a_closed_run_is_told_as_it_was(client: Client) -> None:
    gates = [Gate.named(f"reset-{name}") for name in ("left", "asked", "ended")]
    handle = await client.start(guardian(), id="guardian")
    for gate in gates:
        await gate.reached.wait()
    await described(handle, lambda d: d.workflow_task is None)
    await handle.terminate("by mistake")
    await gates[2].cancelled.wait()
    gates[0].open()
    assert await client.get("guarded-left").result() == "reset-left"  # nobody is there to hear of it
    again = await handle.reset(to="last")
    await again.signal("go")
    gates[1].open()
    left, asked, ended = await again.result()
    assert (left, asked) == ("reset-left", "reset-asked")
    assert "terminated" in ended


async def test_a_repeated_reset_begins_one_run(client: Client) -> None:
    handle = await client.start(Collector(), id="once")
    assert await handle.query(Collector.seen) == []
    resets = [handle.options(request_id="once").reset(to="first") for _ in range(5)]
    assert len({again.run_id for again in await asyncio.gather(*resets)}) == 1
    await handle.signal(Collector.add, "end")
    again = await handle.options(request_id="once").reset(to="first")
    assert await again.result() == ["end"]
    assert len([row async for row in client.list("WorkflowId = 'once'")]) == 2


async def test_wrong_resets_are_refused(client: Client) -> None:
    handle = await client.start(Collector(), id="wrong")
    assert await handle.query(Collector.seen) == []
    with pytest.raises(InvalidRequest, match=r"event 1 is a WorkflowExecutionStarted; .*were completed by: 4"):
        await handle.reset(event_id=1)
    with pytest.raises(InvalidRequest, match="event 77 is none of its 4 events"):
        await handle.reset(event_id=77)
    with pytest.raises(TypeError, match="either event_id"):
        await handle.reset()
    with pytest.raises(TypeError, match="either event_id"):
        await handle.reset(event_id=4, to="last")
    with pytest.raises(ValueError, match='to must be "first" or "last"'):
        await handle.reset(to=cast(Literal["last"], "middle"))
    with pytest.raises(ValueError, match="event_id must be between"):
        await handle.reset(event_id=0)
    with pytest.raises(NotFound):
        await client.get("no-such-workflow").reset(to="last")
    with pytest.raises(NotFound, match="no-such-run"):
        await client.get("wrong", run_id="no-such-run").reset(to="last")
    with pytest.raises(InvalidRequest, match="request_id"):
        await client.service.call(ResetWorkflow("default", "wrong", "", "", 0, "last"))
    paused = await client.start(Collector(), id="not-begun", start_delay="1h")
    with pytest.raises(InvalidRequest, match="none was completed yet"):
        await paused.reset(to="first")
    assert (await handle.describe()).status == "Running"
    assert len([row async for row in client.list("WorkflowId = 'wrong'")]) == 1


async def test_messages_to_later_runs_of_the_chain_are_given_to_the_run_that_is_reset(client: Client) -> None:
    @workflow(name="resets.chained")
    async def chained(n: int) -> list[str]:
        items = [await workflow.receive("item", str)]
        if n and items != ["end"]:
            workflow.continue_as_new(chained(n - 1))
        return items

    handle = await client.start(chained(5), id="chained")
    await handle.signal("item", "a")
    await described(client.get("chained"), lambda d: d.run_id != handle.run_id)
    await client.get("chained").signal("item", "b")
    await described(client.get("chained"), lambda d: d.run_id != handle.run_id and d.workflow_task is None)
    first = client.get("chained", chained, run_id=handle.run_id)
    again = await first.reset(to="first")
    assert [row.status async for row in client.list("WorkflowId = 'chained'")].count("Running") == 1
    await client.get("chained").signal("item", "end")
    assert await again.result() == ["end"]
