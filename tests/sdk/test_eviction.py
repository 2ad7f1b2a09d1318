"""Log lines that wait, and taking a run out of memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import ContextVar
from decimal import getcontext, localcontext

import pytest

from perdure import ApplicationError, workflow
from perdure.errors import Evicted
from perdure.model import events as e
from perdure.model.payloads import Payload
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow import stuck
from tests.sdk.harness import (
    REF,
    Scenario,
    check_replay,
    fetch,
    kinds,
    result,
)
from tests.sdk.harness import (
    fresh_registry as fresh_registry,
)


class QuotaExceeded(Exception):
    pass


# --- Logs -----------------------------------------------------------------------------------------------
def test_log_lines_wait_and_are_silent_in_a_replay(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def chatty(name: str) -> None:
        told = [name]
        workflow.logger.info("hello %s", told)
        told.append("later")
        await fetch("a")
        try:
            raise ValueError("odd")
        except ValueError:
            workflow.logger.exception("after %d", 1, extra={"color": "red"})
        workflow.logger.info("a bad %d line", "x")

    with caplog.at_level(logging.INFO):
        scenario = Scenario(chatty, "ann")
        scenario.do()
        assert scenario.tasks[-1][1].acknowledge
        (first,) = scenario.run.take_log_records()
        assert first.getMessage() == "hello ['ann']"
        assert first.funcName == "chatty"
        assert first.pathname == __file__
        facts = vars(first)
        assert (facts["workflow_id"], facts["run_id"], facts["workflow_type"]) == ("flow", REF.run_id, "chatty")
        scenario.complete()
        scenario.live = False
        scenario.do()
        second, third = scenario.run.take_log_records()
        assert second.getMessage() == "after 1"
        assert second.exc_info is not None
        assert vars(second)["color"] == "red"
        assert third.args == ("x",)
        assert scenario.run.take_log_records() == []
        assert caplog.records == []
    check_replay(scenario)


def test_a_task_without_log_lines_needs_no_acknowledgement() -> None:
    @workflow
    async def quiet() -> None:
        workflow.logger.debug("not enabled")

    scenario = Scenario(quiet)
    scenario.do()
    assert not scenario.tasks[-1][1].acknowledge


# --- Eviction -------------------------------------------------------------------------------------------
def test_eviction_runs_finally_blocks_that_can_ask_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def guarded(name: str) -> None:
        try:
            await fetch(name)
        except Exception:
            told.append("caught")
        finally:
            told.append(name)
            try:
                await fetch(f"clean {name}")
            finally:
                told.append(f"clean {name}")

    @workflow
    async def held() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(guarded("a"))
            group.create_task(guarded("b"))
            try:
                await asyncio.sleep(60)
            finally:
                told.append("main")
                with pytest.raises(Evicted):
                    asyncio.get_running_loop().call_later(1, print)
                with pytest.raises(Evicted):
                    workflow.random()
                workflow.logger.warning("not any more")

    scenario = Scenario(held)
    scenario.do()
    scenario.run.evict()
    assert told == ["b", "clean b", "a", "clean a", "main"]
    assert scenario.run.broken
    assert scenario.run.take_log_records() == []
    scenario.run.evict()
    gc.collect()
    assert caplog.records == []
    # Another copy goes on.
    scenario.complete()
    assert kinds(scenario.do()) == ["ScheduleActivity"]


def test_eviction_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    class Marker:
        pass

    markers = [Marker()]
    alive = weakref.ref(markers[0])

    @workflow
    async def held() -> None:
        mine = markers.pop()
        background = asyncio.create_task(fetch("a"))
        failed = fetch.start("b")
        never = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(60)
        del mine, background, failed, never

    scenario = Scenario(held)
    scenario.do()
    scenario.fail(QuotaExceeded("nobody asks"), which=1)
    scenario.do()
    scenario.run.evict()
    del scenario, held
    REGISTRY.workflows.clear()
    gc.collect()
    assert alive() is None
    assert caplog.records == []


def test_what_is_evicted_is_gone_without_the_garbage_collector() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    watcher = stuck.Watcher()

    @workflow
    async def held() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        watcher.look()  # which comes by when it likes
        await fetch("a")
        await asyncio.sleep(60)

    gc.collect()
    gc.disable()
    try:
        scenario = Scenario(held)
        scenario.do()
        scenario.complete()
        scenario.do()
        scenario.run.evict()
        del scenario
        assert loops[0]() is None
    finally:
        gc.enable()


def test_what_has_failed_is_gone_without_the_garbage_collector() -> None:
    """The traceback of what was raised leads to frames, and those may lead back to it."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    def seen() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))

    @workflow(name="fails_together")
    async def together() -> None:
        seen()
        async with asyncio.TaskGroup() as group:
            group.create_task(fetch("a"))

    @workflow(name="catches")
    def catches() -> None:
        seen()
        with suppress(ApplicationError):
            fetch.start("a").result()

    @workflow(name="lets_through")
    def lets_through() -> None:
        seen()
        fetch.start("a").result()

    gc.collect()
    gc.disable()
    try:
        for flow in (together, catches, lets_through):
            scenario = Scenario(flow)
            scenario.do()
            scenario.fail(ApplicationError("no luck"))
            assert kinds(scenario.do()) == ["CompleteWorkflow" if flow is catches else "FailWorkflow"]
            scenario.run.evict()
            del scenario
            assert loops.pop()() is None, flow
    finally:
        gc.enable()


def test_a_task_that_will_not_end_does_not_hold_up_eviction(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def poll() -> None:
        while True:
            try:
                await fetch("a")
                await asyncio.sleep(60)  # simulated time
            except BaseException as error:
                told.append(type(error).__name__)

    @workflow
    async def immortal() -> None:
        task = asyncio.create_task(poll())
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException:
                told.append("main")
        assert task

    scenario = Scenario(immortal)
    scenario.do()
    scenario.run.evict()
    assert set(told) == {"Evicted", "main"}
    assert "task immortal doesn't end" in caplog.text
    # Nor does it run for ever when the copy is collected.
    count = len(told)
    del scenario
    gc.collect()
    assert len(told) == count


def test_locks_and_groups_are_left_when_evicted() -> None:
    lock_free: list[bool] = []

    @workflow
    async def held() -> None:
        lock = asyncio.Lock()
        try:
            async with lock, asyncio.timeout(10):
                await asyncio.shield(asyncio.gather(fetch("a"), fetch("b")))
        finally:
            lock_free.append(not lock.locked())

    scenario = Scenario(held)
    scenario.do()
    scenario.run.evict()
    assert lock_free == [True]


def test_a_workflow_that_swallows_what_it_should_not_still_replays() -> None:
    @workflow
    async def greedy() -> str:
        try:
            await asyncio.wait_for(fetch("a"), 1)
        except BaseException as error:
            return type(error).__name__
        return ""

    scenario = Scenario(greedy)
    scenario.do()
    scenario.cancel()
    scenario.do()
    assert result(scenario) == "CancelledError"
    check_replay(scenario)


def test_payloads_that_are_not_json_are_decode_errors() -> None:
    @workflow
    async def careful() -> str:
        try:
            return await fetch("a")
        except Exception as error:
            return type(error).__name__

    scenario = Scenario(careful)
    scenario.do()
    id = scenario.open(e.ActivityTaskScheduled)[0]
    scenario.add(e.ActivityTaskStarted(scenario.next_id, scenario.now, id, 1, "worker", scenario.now))
    broken = Payload(b"{not json")
    scenario.add(e.ActivityTaskCompleted(scenario.next_id, scenario.now, id, scenario.next_id - 1, broken))
    scenario.do()
    assert result(scenario) == "DecodeError"
    check_replay(scenario)


def test_a_generator_that_is_dropped_by_eviction_starts_nothing(recwarn: pytest.WarningsRecorder) -> None:
    told: list[str] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            while True:
                yield 1
        finally:
            told.append("closed")

    @workflow
    async def held() -> None:
        generator = numbers()
        await anext(generator)
        await fetch("a")

    scenario = Scenario(held)
    scenario.do()
    scenario.run.evict()
    del scenario
    gc.collect()
    assert told == []
    assert list(recwarn) == []


def test_clean_up_that_is_cut_off_by_eviction_leaves_no_coroutine_behind(recwarn: pytest.WarningsRecorder) -> None:
    """Python would warn of one that nobody has awaited."""
    told: list[str] = []

    async def clean_up() -> None:
        told.append("cleaned up")

    @workflow(name="begins_tasks")
    async def begins_tasks() -> None:
        try:
            await asyncio.create_task(fetch("a"))
        finally:
            await asyncio.gather(clean_up(), clean_up())

    @workflow(name="is_in_a_hurry")
    async def is_in_a_hurry() -> None:
        try:
            await fetch("a")
        finally:
            await asyncio.wait_for(clean_up(), 5)

    for flow in (begins_tasks, is_in_a_hurry):
        scenario = Scenario(flow)
        scenario.do()
        scenario.run.evict()
        del scenario
    gc.collect()
    assert told == []
    assert list(recwarn) == []


def test_code_that_is_evicted_sees_no_exception_whatever_it_is_in() -> None:
    """Timeouts, groups and sagas ask in which task they are: in none, they would raise errors of their own."""
    told: list[str] = []

    async def clean_up(how: AbstractAsyncContextManager[object]) -> None:
        try:
            try:
                await fetch("b")
            finally:
                async with how:
                    await fetch("c")
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
        except BaseException as error:
            told.append(type(error).__name__)

    @workflow
    async def held() -> None:
        for how in (asyncio.timeout(5), asyncio.TaskGroup(), workflow.saga()):
            asyncio.create_task(clean_up(how))  # noqa: RUF006  # the loop keeps it
        try:
            async with workflow.saga():
                await fetch("a")
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")

    scenario = Scenario(held)
    scenario.do()
    scenario.run.evict()
    assert told == ["Evicted", "BaseExceptionGroup", "Evicted"]


def test_clean_up_at_an_eviction_changes_no_context_but_its_own() -> None:
    who = ContextVar("who", default="nobody")
    told: list[str] = []

    async def flow() -> None:
        token = who.set("the workflow")
        try:
            with localcontext(prec=3):
                await fetch("a")
        finally:
            told.append(who.get())
            who.reset(token)
            told.append(who.get())
            who.set("the clean-up")

    precision = getcontext().prec
    token = who.set("the program")
    try:
        scenario = Scenario(workflow(flow))
        scenario.do()
        scenario.run.evict()
        assert (told, who.get()) == (["the workflow", "nobody"], "the program")
        assert getcontext().prec == precision
    finally:
        who.reset(token)
