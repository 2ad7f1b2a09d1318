"""Bugs of workflow code don't fail a workflow: it waits for code without them, and goes on."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from perdure import ApplicationError, NotFound, RetryPolicy, WorkflowHandle, activity, workflow
from perdure.limits import MAX_PAYLOAD
from perdure.sdk.client.client import Client
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow.calls import WorkflowCall, WorkflowFunction
from tests.integration.engines import Engine, Simulation, described, event_names, failing_task
from tests.integration.work import Gate, echo, wait_at


class Expected(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


async def test_a_bug_is_told_with_its_line_and_mended(engine: Engine) -> None:
    def define(*, mended: bool) -> None:
        @workflow(name="bugs.buggy")
        async def buggy() -> int:
            text = await echo("7")
            return int(text) if mended else int(text + "x")

        globals()["buggy_line"] = inspect.getsourcelines(define)[1] + 4

    define(mended=False)
    async with engine.open() as client:
        handle = await client.start(registered("bugs.buggy"), id="buggy")
        failure, location, traceback = await failing_task(handle)
        assert failure == "ValueError: invalid literal for int() with base 10: '7x'"
        assert location == f"{__file__}:{globals()['buggy_line']}"
        assert "buggy\n" in traceback
        description = await handle.describe()
        assert description.status == "Running"
        assert description.workflow_task is not None and description.workflow_task.next_attempt_time is not None
    define(mended=True)
    async with engine.open() as client:
        assert await client.get("buggy").result() == 7


def registered(name: str) -> WorkflowCall[object]:
    """A call of the workflow that is registered under a name now."""
    return WorkflowFunction[..., object](REGISTRY.workflows[name])()


def test_a_bug_is_retried_with_backoff_and_leaves_few_events(simulation: Simulation) -> None:
    times: list[float] = []

    @workflow(name="bugs.retried")
    async def retried() -> int:
        times.append(asyncio.get_running_loop().time())
        seen.append(1)
        if len(seen) < 9:
            raise KeyError("a bug")
        return len(seen)

    seen: list[int] = []

    async def body(client: Client) -> tuple[int, float, list[str]]:
        handle = await client.start(retried())
        result = await handle.result()
        return result, asyncio.get_running_loop().time(), await event_names(handle)

    result, seconds, events = simulation.run(body)
    assert result == 9
    assert 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 <= seconds <= 200
    assert events.count("WorkflowTaskFailed") == 1


async def test_outcomes_fail_a_workflow(client: Client) -> None:
    @workflow(name="bugs.application")
    async def application() -> None:
        raise ApplicationError("no", {"why": 1}, type="Refused")

    @workflow(name="bugs.listed", failure_exceptions=(Expected,))
    async def listed() -> None:
        raise Expected(4)

    @workflow(name="bugs.grouped", failure_exceptions=(Expected,))
    async def grouped() -> None:
        async def fails() -> None:
            raise Expected(6)

        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    with pytest.raises(ApplicationError, match="no") as refused:
        await client.run(application())
    assert (refused.value.type, refused.value.details) == ("Refused", ({"why": 1},))
    with pytest.raises(Expected) as expected:
        await client.run(listed())
    assert expected.value.code == 4
    with pytest.raises(Exception, match=r"unhandled errors|code 6") as group:
        await client.run(grouped())
    assert not isinstance(group.value, TimeoutError)


async def test_changed_code_is_told_with_both_sides_and_its_line(engine: Engine) -> None:
    gate = Gate.named("changed")

    @workflow(name="bugs.changed")
    async def first() -> str:
        await echo("a")
        return await wait_at("changed")

    async with engine.open() as client:
        handle: WorkflowHandle[object] = await client.start(first(), id="changed")
        await gate.reached.wait()

    @workflow(name="bugs.changed")
    async def second() -> str:
        await asyncio.sleep(10)
        return await wait_at("changed")

    line = inspect.getsourcelines(inspect.unwrap(second.definition.target))[1] + 2
    gate.open()
    async with engine.open() as client:
        handle = client.get("changed")
        failure, _, _ = await failing_task(handle)
        assert "NondeterminismError" in failure
        assert "work.echo" in failure
        assert "timer" in failure.lower()
        assert f"{__file__}:{line}" in failure
        assert (await handle.describe()).status == "Running"

    @workflow(name="bugs.changed")
    async def mended() -> str:
        await echo("a")
        return await wait_at("changed")

    async with engine.open() as client:
        assert await client.get("changed", mended).result() == "changed"


async def test_an_unknown_workflow_waits_for_a_deploy_that_has_it(engine: Engine) -> None:
    @workflow(name="bugs.vanishing")
    async def vanishing() -> str:
        return await echo("here")

    definition = REGISTRY.workflows.pop("bugs.vanishing")
    async with engine.open() as client:
        handle = await client.start(vanishing(), id="vanishing")
        found = await described(handle, lambda d: bool(d.unserved))
        assert found.unserved == ("no worker here on the task queue 'default' has the workflow 'bugs.vanishing'",)
        with pytest.raises(NotFound):
            await client.get("vanished").describe()
    REGISTRY.workflows["bugs.vanishing"] = definition
    async with engine.open() as client:
        assert await client.get("vanishing", vanishing).result() == "here"


async def test_an_unknown_activity_waits_costs_no_attempt_and_is_named(client: Client) -> None:
    @activity(name="bugs.unknown_activity")
    async def unknown() -> str:
        return "found"

    definition = REGISTRY.activities.pop("bugs.unknown_activity")

    @workflow(name="bugs.calls_unknown")
    async def calls_unknown() -> str:
        return await unknown()

    handle = await client.start(calls_unknown())
    found = await described(handle, lambda d: bool(d.unserved))
    assert found.unserved == ("no worker here on the task queue 'default' has the activity 'bugs.unknown_activity'",)
    assert (found.activities[0].status, found.activities[0].attempt) == ("scheduled", 1)
    REGISTRY.add_activity(definition)
    assert await handle.result() == "found"
    del REGISTRY.activities["bugs.unknown_activity"]  # the next engine must not know it either


async def test_a_result_that_cannot_be_encoded_is_a_bug(engine: Engine) -> None:
    @workflow(name="bugs.result")
    async def bad_result() -> object:
        return object()

    async with engine.open() as client:
        handle = await client.start(bad_result(), id="bad-result")
        failure, _, _ = await failing_task(handle)
        assert "EncodeError" in failure and "object" in failure

    @workflow(name="bugs.result")
    async def good_result() -> object:
        return "text"

    async with engine.open() as client:
        assert await client.get("bad-result", good_result).result() == "text"


async def test_wrong_input_is_told(engine: Engine) -> None:
    """The workflow's parameters have changed since it was started."""

    @workflow(name="bugs.input")
    async def before(n: int) -> int:
        return n

    call_before = before(3)

    @workflow(name="bugs.input")
    async def after(n: dict[str, int]) -> int:
        return n["a"]

    async with engine.open() as client:
        handle = await client.start(call_before, id="input")
        failure, _, _ = await failing_task(handle)
        assert "DecodeError" in failure and "'n'" in failure
    assert after.name == "bugs.input"

    @workflow(name="bugs.input")
    async def mended(n: int) -> int:
        return n + 1

    async with engine.open() as client:
        assert await client.get("input", mended).result() == 4


async def test_a_bug_behind_a_task_group_is_told_with_its_line(client: Client) -> None:
    async def part() -> None:
        raise LookupError("in a part")

    @workflow(name="bugs.task_group")
    async def task_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(part())

    failure, location, traceback = await failing_task(await client.start(task_group()))
    assert failure.endswith("[LookupError: in a part]")
    assert location == f"{__file__}:{inspect.getsourcelines(part)[1] + 1}"
    assert "LookupError: in a part" in traceback


@pytest.mark.parametrize("result", [lambda: 1, "x" * (MAX_PAYLOAD + 1)])
async def test_a_bug_that_no_line_raises_is_told_with_the_workflow_s_line(client: Client, result: object) -> None:
    @workflow(name="bugs.unstorable")
    async def unstorable() -> object:
        return result

    _, location, _ = await failing_task(await client.start(unstorable()))
    assert location == f"{__file__}:{inspect.getsourcelines(unstorable.definition.target)[1]}"


def test_failures_are_logged_when_they_are_news_now_and_then_and_at_the_end(
    simulation: Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[str] = []

    @activity(name="bugs.flaky", retry_policy=RetryPolicy(maximum_attempts=5))
    async def flaky() -> None:
        attempts.append("flaky")
        raise LookupError("down" if len(attempts) < 4 else "still down")

    @workflow(name="bugs.logged")
    async def logged() -> str:
        attempts.append("workflow") if "failed" in attempts else None
        if attempts.count("workflow") in (1, 2):
            raise KeyError("a bug")
        try:
            await flaky()
        except LookupError:
            attempts.append("failed")
        return await logged_later()

    @activity(name="bugs.logged_later")
    async def logged_later() -> str:
        return "done"

    async def body(client: Client) -> str:
        return await client.run(logged(), id="logged")

    assert simulation.run(body) == "done"
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    line = inspect.getsourcelines(flaky.definition.function)[1] + 3
    first, again, other, last = told
    assert first.startswith("workflow 'logged': attempt 1 of activity bugs.flaky (1) failed: LookupError: down at ")
    assert f"{__file__}:{line}; tried again in " in first
    assert "attempt 2 of activity bugs.flaky (1) failed: LookupError: down" in again
    assert "attempt 4 of activity bugs.flaky (1) failed: LookupError: still down" in other
    assert "attempt 5 of activity bugs.flaky (1) failed: LookupError: still down" in last
    assert last.endswith("not tried again (maximum attempts)")


def test_a_bug_is_logged_now_and_then(simulation: Simulation, caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    @workflow(name="bugs.logged_bug")
    async def buggy() -> int:
        tries.append(1)
        if len(tries) < 4:
            raise KeyError("a bug")
        return len(tries)

    async def body(client: Client) -> int:
        return await client.run(buggy(), id="buggy")

    assert simulation.run(body) == 4
    first, second = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert first.startswith("workflow 'buggy': attempt 1 of its code (bugs.logged_bug) failed: KeyError: 'a bug' at ")
    assert first.endswith("tried again in 1 s")
    assert second.startswith("workflow 'buggy': attempt 2 of its code (bugs.logged_bug) failed: KeyError: 'a bug' at ")
    assert second.endswith("tried again in 2 s")


async def test_a_forgotten_task_s_exception_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    async def forgotten() -> None:
        raise LookupError("nobody asks")

    @workflow(name="bugs.forgets")
    async def forgets() -> str:
        asyncio.create_task(forgotten(), name="background")  # noqa: RUF006
        first = await echo("first")
        return first + await echo("second")

    assert await client.run(forgets(), id="forgets") == "firstsecond"
    (record,) = [record for record in caplog.records if "never retrieved" in record.getMessage()]
    assert record.getMessage() == "Task exception was never retrieved (background), in workflow 'forgets'"
    assert record.exc_info is not None and "nobody asks" in str(record.exc_info[1])
