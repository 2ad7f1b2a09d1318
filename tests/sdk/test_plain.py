"""Plain `def` workflows: the same without `await`."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, cast

import pytest
from greenlet import greenlet

from perdure import ApplicationError, activity, workflow
from perdure.clock import SECOND
from perdure.errors import Evicted
from perdure.model import commands as c
from perdure.model import events as e
from perdure.sdk.workflow.context import thread
from tests.sdk.harness import Scenario, check_replay, failure, fetch, kinds, result
from tests.sdk.harness import fresh_registry as fresh_registry


class Refused(Exception): ...


@activity(name="sdk_render")
def render(name: str) -> str:
    return name


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert thread.context is None
    assert not thread.plain


def test_steps_sleeps_and_results() -> None:
    @workflow(name="flow")
    def flow(name: str) -> list[str]:
        first = render(name)
        time.sleep(60)
        handle = render.start(first)
        return [first, handle.result(), handle.result(), f"{time.time() - workflow.now().timestamp()}"]

    scenario = Scenario(flow, "a")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("b")
    assert scenario.do() == [c.StartTimer("1", 60 * SECOND)]
    scenario.fire()
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("c")
    scenario.do()
    assert result(scenario) == ["b", "c", "c", "0.0"]
    check_replay(scenario)


def test_handles_and_map_give_concurrency() -> None:
    @workflow(name="flow")
    def flow() -> list[str]:
        one, two = render.start("one"), fetch.start("two")
        rest = render.map(["x", "y", "z"], concurrency=2)
        return [two.result(), one.result(), *rest.result(), *render.map(["u", "v"])]

    scenario = Scenario(flow)
    assert kinds(scenario.do()) == ["ScheduleActivity"] * 2
    scenario.complete("1")
    scenario.complete("2")
    assert kinds(scenario.do()) == ["ScheduleActivity"] * 2
    scenario.complete("X")
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("Y")
    scenario.complete("Z")
    assert kinds(scenario.do()) == ["ScheduleActivity"] * 2
    scenario.complete("V", which=1)
    assert scenario.do() == []
    scenario.complete("U")
    scenario.do()
    assert result(scenario) == ["2", "1", "X", "Y", "Z", "U", "V"]
    check_replay(scenario)


def test_a_map_over_items_that_are_waited_for() -> None:
    @workflow(name="flow")
    def flow() -> list[str]:
        return [
            *render.map((render(name) for name in "ab"), concurrency=1),
            *render.map(render(x) for x in "c").result(),
        ]

    scenario = Scenario(flow)
    for kind in ("ab", "a!", "b", "b!", "c"):
        assert kinds(scenario.do()) == ["ScheduleActivity"]
        scenario.complete(kind)
    assert kinds(scenario.do()) == ["ScheduleActivity"]
    scenario.complete("c!")
    scenario.do()
    assert result(scenario) == ["a!", "b!", "c!"]
    check_replay(scenario)


def test_a_map_that_fails_cancels_the_others() -> None:
    @workflow(name="flow")
    def one_by_one() -> str:
        try:
            return next(iter(render.map("abc")))
        except Refused:
            return "refused"

    @workflow(name="flow2")
    def together() -> list[str]:
        try:
            return render.map("abc").result()
        except Refused:
            return ["refused"]

    for target in (one_by_one, together):
        scenario = Scenario(target)
        scenario.do()
        scenario.fail(Refused("no"))
        assert kinds(scenario.do()) == ["RequestCancelActivity"] * 2 + ["CompleteWorkflow"]
        check_replay(scenario)


def test_a_map_that_is_cancelled_waits_for_what_goes_on() -> None:
    @workflow(name="flow")
    def flow() -> list[str]:
        return render.options(cancellation_type="wait").map("ab").result()

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert len(scenario.do()) == 2
    scenario.complete("a!")
    assert scenario.do() == []
    scenario.cancel_activity()
    assert kinds(scenario.do()) == ["CancelWorkflow"]


def test_a_map_in_an_async_workflow_is_awaited() -> None:
    @workflow(name="flow")
    async def flow() -> None:
        render.map("ab").result()

    @workflow(name="flow2")
    async def loops() -> None:
        list(render.map("ab"))

    for target in (flow, loops):
        assert "only a plain `def` workflow" in Scenario(target).broken().message


def test_exceptions_are_raised_where_the_code_waits() -> None:
    @workflow(name="flow")
    def flow() -> str:
        try:
            return render("a")
        except Refused as error:
            return f"caught {error}"

    scenario = Scenario(flow)
    scenario.do()
    scenario.fail(Refused("no"))
    scenario.do()
    assert result(scenario) == "caught no"
    check_replay(scenario)


def test_outcomes_and_bugs_are_what_they_are_elsewhere() -> None:
    @workflow(name="flow")
    def fails() -> None:
        render("a")
        raise ApplicationError("over")

    @workflow(name="buggy")
    def buggy() -> None:
        time.sleep(1)
        raise LookupError("a bug")

    scenario = Scenario(fails)
    scenario.do()
    scenario.complete("a")
    scenario.do()
    assert failure(scenario).message == "over"
    scenario = Scenario(buggy)
    scenario.do()
    scenario.fire()
    assert f'File "{__file__}"' in scenario.broken().traceback


def test_a_child_and_a_sleep_of_nothing() -> None:
    @workflow(name="child")
    def child(n: int) -> int:
        return n

    @workflow(name="flow")
    def flow() -> int:
        time.sleep(0)
        return child.start(1).result() + workflow.start(child(2), id="c").result()

    scenario = Scenario(flow)
    assert kinds(scenario.do()) == ["StartChildWorkflow"]
    scenario.child_started()
    scenario.child_completed(10)
    assert kinds(scenario.do()) == ["StartChildWorkflow"]
    scenario.child_started()
    scenario.child_completed(20)
    scenario.do()
    assert result(scenario) == 30
    check_replay(scenario)


def test_block_waits_for_whatever_can_be_awaited() -> None:
    @workflow(name="flow")
    def flow() -> list[object]:
        text = workflow.block(workflow.receive("text", str))
        both = workflow.block(asyncio.gather(fetch.start("a"), render.start("b")))
        try:
            workflow.block(workflow.wait_until(lambda: False, timeout=1))
        except TimeoutError:
            return [text, *both, "late"]
        return []

    scenario = Scenario(flow)
    scenario.do()
    scenario.signal("text", "hello")
    assert kinds(scenario.do()) == ["ScheduleActivity"] * 2
    scenario.complete("A", "sdk_fetch")
    scenario.complete("B")
    scenario.do()
    scenario.fire()
    scenario.do()
    assert result(scenario) == ["hello", "A", "B", "late"]
    check_replay(scenario)


@workflow(name="sdk_plain_office")
class Office:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.over = False

    def run(self) -> list[str]:
        workflow.block(workflow.wait_until(lambda: self.over))
        return self.log

    @workflow.signal
    def note(self, text: str) -> None:
        self.log.append(render(text))

    @workflow.signal
    async def note_later(self, text: str) -> None:
        self.log.append(await fetch(text))

    @workflow.signal
    def end(self) -> None:
        self.over = True

    @workflow.update
    def ask(self, text: str) -> str:
        time.sleep(5)
        return text.upper()

    @ask.validator
    def _(self, text: str) -> None:
        if not text:
            raise ValueError("nothing")
        if text == "blocks":
            render(text)

    @workflow.query
    def so_far(self) -> list[str]:
        return self.log

    @workflow.query
    def blocks(self) -> str:
        return render("x")


def test_handlers_may_wait_beside_run() -> None:
    scenario = Scenario(Office)
    scenario.do()
    scenario.signal("note", "a")
    scenario.signal("note_later", "b")
    scenario.update("u", "ask", "text")
    scenario.update("none", "ask", "")
    assert sorted(kinds(scenario.do())) == sorted(
        ["ScheduleActivity", "ScheduleActivity", "AcceptUpdate", "StartTimer", "RejectUpdate"]
    )
    scenario.complete("B", "sdk_fetch")
    scenario.complete("A", "sdk_render")
    scenario.do()
    assert scenario.ask("so_far") == scenario.ask_replayed("so_far") == ["B", "A"]
    scenario.fire()
    assert kinds(scenario.do()) == ["CompleteUpdate"]
    scenario.signal("end")
    scenario.do()
    assert result(scenario) == ["B", "A"]
    check_replay(scenario)


def test_what_only_reads_cant_wait() -> None:
    scenario = Scenario(Office)
    scenario.do()
    answer = scenario.query("blocks")
    assert answer.failure is not None
    scenario.update("u", "ask", "blocks")
    scenario.do()
    (rejected,) = scenario.answers
    assert rejected.update_id == "u"


def test_cancellation_reaches_the_code_where_it_waits() -> None:
    @workflow(name="flow")
    def flow() -> str:
        try:
            render("a")
        except asyncio.CancelledError:
            return render("cleaned up")
        return ""

    scenario = Scenario(flow)
    scenario.do()
    scenario.cancel()
    assert kinds(scenario.do()) == ["RequestCancelActivity", "ScheduleActivity"]
    scenario.complete("done", which=-1)
    scenario.do()
    assert result(scenario) == "done"
    check_replay(scenario)


# --- What is refused ------------------------------------------------------------------------------------
def test_blocking_on_anything_foreign_is_refused() -> None:
    foreign: Future[int] = Future()
    lock = threading.Condition()

    @workflow(name="waits")
    def waits() -> None:
        foreign.result()

    @workflow(name="locks")
    def locks() -> None:
        time.sleep(1)
        with lock:
            lock.wait()

    assert "waiting for another thread" in Scenario(waits).broken().message
    scenario = Scenario(locks)
    scenario.do()
    scenario.fire()
    message = scenario.broken().message
    assert "waiting for another thread" in message
    assert __file__ in message


def test_the_guard_is_there_as_elsewhere() -> None:
    @workflow(name="flow")
    def flow() -> None:
        time.sleep(1)
        open("/etc/hostname").close()

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    assert f"{__file__}:" in scenario.broken().message


def test_an_async_activity_has_no_plain_call() -> None:
    @workflow(name="flow")
    def flow() -> None:
        fetch("a")  # pyright: ignore[reportUnusedCoroutine]

    assert "write `sdk_fetch.start(" not in Scenario(flow).broken().message
    assert "write `fetch.start(…).result()`" in Scenario(flow).broken().message


def test_an_undo_has_no_plain_call_either() -> None:
    def remove(made: str) -> str:
        return render(made)

    @workflow(name="flow")
    def flow() -> None:
        with workflow.saga() as saga:
            workflow.block(saga.do(fetch.start("a"), undo=cast("Any", remove)))  # type checkers refuse it, too
            raise ApplicationError("x")

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("A")
    message = scenario.broken().message
    assert "the undo of a saga is render itself, or a lambda that returns `render.start(…)`" in message


def test_an_async_workflow_still_awaits() -> None:
    @workflow(name="flow")
    async def calls() -> None:
        render("a")

    @workflow(name="sleeps")
    async def sleeps() -> None:
        time.sleep(1)  # noqa: ASYNC251

    @workflow(name="blocks")
    async def blocks() -> None:
        workflow.block(fetch("a"))

    assert "await render.start(…)" in Scenario(calls).broken().message
    assert "sleeping in real time" in Scenario(sleeps).broken().message
    assert "only a plain `def` workflow" in Scenario(blocks).broken().message


@pytest.mark.parametrize(("awaitable", "says"), [(3, "3 can't be waited for"), (None, "None can't be waited for")])
def test_what_cant_be_awaited(awaitable: object, says: str) -> None:
    @workflow(name="flow")
    def flow() -> None:
        workflow.block(cast("asyncio.Future[int]", awaitable))

    assert says in Scenario(flow).broken().message


def test_a_negative_sleep_and_outside() -> None:
    @workflow(name="flow")
    def flow() -> None:
        time.sleep(-1)

    assert "must be non-negative" in Scenario(flow).broken().message
    with pytest.raises(RuntimeError, match="only a plain `def` workflow"):
        workflow.block(asyncio.sleep(0))


def test_a_greenlet_that_somebody_else_made_cant_wait() -> None:
    @workflow(name="flow")
    def flow() -> None:
        greenlet(lambda: render("a")).switch()

    assert "only a plain `def` workflow" in Scenario(flow).broken().message


# --- Its life -------------------------------------------------------------------------------------------
def test_eviction_is_thrown_into_it_on_its_thread() -> None:
    ended: list[object] = []

    @workflow(name="flow")
    def flow() -> None:
        try:
            render("a")
        except BaseException as error:
            ended.append((type(error), threading.get_ident()))
            try:
                render("b")
            except BaseException as again:
                ended.append(type(again))
            raise
        finally:
            ended.append("finally")

    scenario = Scenario(flow)
    scenario.do()
    scenario.run.evict()
    assert ended == [(Evicted, threading.get_ident()), Evicted, "finally"]


def test_eviction_of_code_that_never_ran_and_of_handlers() -> None:
    scenario = Scenario(Office)
    scenario.signal("note", "a")
    scenario.do()
    assert len(scenario.open(e.ActivityTaskScheduled)) == 1
    scenario.run.evict()
    scenario.live = False
    scenario.complete("A")
    assert scenario.do() == []
    assert scenario.ask("so_far") == ["A"]


def test_nothing_is_left_to_the_garbage_collector() -> None:
    class Local: ...

    seen: list[weakref.ref[Local]] = []

    @workflow(name="flow")
    def flow() -> None:
        local = Local()
        seen.append(weakref.ref(local))
        render("a")
        render("b")

    gc.collect()
    gc.disable()
    try:
        scenario = Scenario(flow)
        scenario.do()
        scenario.complete("a")
        scenario.do()
        scenario.run.evict()
        assert seen[0]() is None
        scenario = Scenario(flow)
        scenario.do()
        scenario.complete("a")
        scenario.do()
        scenario.complete("b")
        scenario.do()
        scenario.run.evict()
        assert seen[1]() is None
    finally:
        gc.enable()


def test_the_stack_trace_shows_where_it_waits() -> None:
    def inner() -> str:
        return render("a")

    @workflow(name="flow")
    def flow() -> str:
        return inner()

    scenario = Scenario(flow)
    scenario.do()
    text = scenario.ask("__stack_trace")
    assert isinstance(text, str)
    outer, deeper = text.index("in test_the_stack_trace_shows_where_it_waits.<locals>.flow"), text.index("inner")
    assert outer < deeper


def test_it_runs_where_the_program_around_it_is_in_a_greenlet_itself() -> None:
    @workflow(name="flow")
    def flow() -> list[str]:
        return [render("a"), render("b")]

    scenario = Scenario(flow)
    scenario.do()
    scenario.complete("a")
    greenlet(scenario.do).switch()
    scenario.complete("b")
    greenlet(scenario.do).switch()
    assert result(scenario) == ["a", "b"]


def test_chance_and_context_are_those_of_the_run() -> None:
    @workflow(name="flow")
    def flow() -> list[float]:
        before = random.random()
        time.sleep(1)
        return [before, random.random()]

    scenario = Scenario(flow)
    scenario.do()
    scenario.fire()
    scenario.do()
    check_replay(scenario)


def test_context_variables_are_shared_with_what_is_waited_for() -> None:
    variable = ContextVar("variable", default="unset")

    async def told() -> str:
        before = variable.get()
        variable.set("told")
        return before

    @workflow(name="flow")
    def flow() -> list[str]:
        variable.set("set")
        return [workflow.block(told()), *workflow.block(asyncio.gather(told())), variable.get()]

    scenario = Scenario(flow)
    scenario.do()
    assert result(scenario) == ["set", "told", "told"]
    assert variable.get() == "unset"


def test_an_entity_may_be_plain() -> None:
    @workflow(name="entity", entity=True)
    class Entity:
        count: int = 0

        def run(self) -> int:
            while self.count < 2:
                workflow.block(workflow.idle())
            return self.count

        @workflow.signal
        def add(self) -> None:
            time.sleep(1)
            self.count += 1

    scenario = Scenario(Entity)
    scenario.do()
    for _ in range(2):
        scenario.signal("add")
        scenario.do()
        scenario.fire()
        scenario.do()
    assert result(scenario) == 2
    check_replay(scenario)
