"""What `@activity` makes of functions, and what calling those does inside and outside a workflow."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Any, cast

import pytest

from perdure import ApplicationError, Hold, RetryPolicy, activity
from perdure.clock import HOUR, MINUTE, SECOND
from perdure.model.retry import RetryPolicy as EnginePolicy
from perdure.sdk.activity.api import definition_of as activity_definition
from perdure.sdk.activity.definition import ActivityOptions
from perdure.sdk.calls import AsyncActivity, PlainActivity
from perdure.sdk.registry import REGISTRY
from tests.sdk.immediate import inside


class Kind(StrEnum):
    QUOTA = "app.Quota"


class QuotaExceeded(Exception):
    pass


class BadCredentials(Exception):
    pass


@activity
async def double_number(n: int) -> int:
    """Twice as much."""
    return 2 * n


@activity(
    name="test.create",
    task_queue="eu",
    start_to_close_timeout="1h",
    schedule_to_close_timeout=7200,
    schedule_to_start_timeout=timedelta(minutes=5),
    heartbeat_timeout="30s",
    retry_policy=RetryPolicy(
        initial_interval="2s",
        maximum_interval="5m",
        maximum_attempts=7,
        non_retryable=(BadCredentials, "Forbidden"),
        hold_on=[QuotaExceeded],
        on_exhausted="hold",
    ),
    priority=3,
)
def create(region: str, *, size: int = 1) -> str:
    return f"{region}-{size}"


# --- Activities -----------------------------------------------------------------------------------------
def test_an_activity_keeps_what_is_said_of_its_function() -> None:
    assert isinstance(double_number, AsyncActivity)
    assert isinstance(create, PlainActivity)
    assert (double_number.__name__, double_number.__doc__, double_number.name) == (
        "double_number",
        "Twice as much.",
        "double_number",
    )
    assert double_number.__wrapped__ is double_number.definition.function
    assert str(inspect.signature(double_number)) == "(n: 'int') -> 'int'"
    assert repr(create) == "<activity test.create>"


def test_options_of_an_activity() -> None:
    definition = activity_definition(create)
    assert (definition.name, definition.is_async) == ("test.create", False)
    assert definition.options == ActivityOptions(
        task_queue="eu",
        start_to_close_timeout=HOUR,
        schedule_to_close_timeout=2 * HOUR,
        schedule_to_start_timeout=5 * MINUTE,
        heartbeat_timeout=30 * SECOND,
        retry_policy=EnginePolicy(
            initial_interval=2 * SECOND,
            maximum_interval=5 * MINUTE,
            maximum_attempts=7,
            non_retryable=(f"{__name__}.BadCredentials", "Forbidden"),
            hold_on=(f"{__name__}.QuotaExceeded",),
            on_exhausted="hold",
        ),
        priority=3,
    )
    assert REGISTRY.activities["test.create"] is definition


async def test_outside_a_workflow_an_activity_is_its_function() -> None:
    assert await double_number(4) == 8
    assert create("eu", size=2) == "eu-2"
    assert create.options(task_queue="us")("eu") == "eu-1"
    with pytest.raises(RuntimeError, match=r"create\.start\(\) can only be used inside a workflow"):
        create.start("eu")
    with pytest.raises(RuntimeError, match=r"map\(\) can only be used inside a workflow"):
        double_number.map([1])


async def test_inside_a_workflow_a_call_schedules() -> None:
    with inside() as run:
        call = double_number(4)
        assert run.activities == []  # as a coroutine, it does nothing before it is awaited
        assert await call == 8
        assert await create.start("eu", size=2) == "eu-2"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(double_number(1))
        assert task.result() == 2
    assert [(d.name, o, a, k) for d, o, a, k in run.activities] == [
        ("double_number", ActivityOptions(), (4,), {}),
        ("test.create", create.definition.options, ("eu",), {"size": 2}),
        ("double_number", ActivityOptions(), (1,), {}),
    ]


async def test_a_plain_activity_is_not_called_directly_in_a_workflow() -> None:
    with inside(), pytest.raises(TypeError, match=r"create is a plain function, .*`await create\.start\(…\)`"):
        create("eu")


async def test_options_of_a_call() -> None:
    with inside() as run:
        await double_number.options(task_queue="q", start_to_close_timeout="2h", retry_policy=RetryPolicy())(1)
        await create.options(heartbeat_timeout=0).options(priority=1).start("eu")
    assert run.activities[0][1] == ActivityOptions(task_queue="q", start_to_close_timeout=2 * HOUR)
    changed = run.activities[1][1]
    assert (changed.heartbeat_timeout, changed.priority, changed.start_to_close_timeout) == (0, 1, HOUR)
    assert create.definition.options.priority == 3


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="start_to_close_timeout is 'soon', which is not a duration"):
        double_number.options(start_to_close_timeout="soon")
    with pytest.raises(TypeError, match=r"retry_policy must be a perdure\.RetryPolicy, not dict"):
        double_number.options(retry_policy={})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_an_unawaited_call_is_named_in_pythons_warning() -> None:
    with inside(), pytest.warns(RuntimeWarning, match="coroutine 'double_number' was never awaited"):
        _ = double_number(4)
        del _
        gc.collect()


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(
        TypeError, match=r"a lambda has no name to be found by: use `def`, or name it, @activity\(name="
    ):
        activity(lambda: 1)
    assert activity(name="sdk_lambda")(lambda: 1)() == 1


def test_what_can_not_be_an_activity() -> None:
    for target in (3, QuotaExceeded, double_number):
        with pytest.raises(TypeError, match="@activity is for functions"):
            activity(cast("Callable[[], object]", target))

    async def stream() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="activity stream: a generator"):
        activity(stream)
    with pytest.raises(TypeError, match="3 is not an activity"):
        activity_definition(3)


def test_a_method_can_not_be_an_activity() -> None:
    with pytest.raises((TypeError, RuntimeError)) as caught:  # Python 3.11 wraps what __set_name__ raises

        class Infra:
            @activity
            async def create(self) -> None: ...

        assert Infra

    assert "a method can't be an activity" in str(caught.value.__cause__ or caught.value)


def test_an_activity_may_be_an_attribute_of_a_class() -> None:
    class Steps:
        create = create

    assert Steps().create("eu") == "eu-1"


# --- map ------------------------------------------------------------------------------------------------
async def test_map_gives_all_results_in_order() -> None:
    with inside() as run:
        assert await double_number.map([3, 1, 2]) == [6, 2, 4]
        assert await double_number.map(iter(range(100)), concurrency=7) == [2 * n for n in range(100)]
        assert await double_number.map([], concurrency=1) == []
        assert [n async for n in create.map("ab", concurrency=1)] == ["a-1", "b-1"]
    assert len(run.activities) == 105


async def test_map_runs_as_many_at_once_as_it_may() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(5):
            taken.append(n)
            yield n

    with inside() as run:
        run.gated = True
        mapped = asyncio.ensure_future(double_number.map(items(), concurrency=2))
        await _idle()
        assert taken == [0, 1]
        run.gates[1].set_result("b")
        await _idle()
        assert taken == [0, 1, 2]
        for n, gate in ((0, "a"), (2, "c")):
            run.gates[n].set_result(gate)
        await _idle()
        assert taken == [0, 1, 2, 3, 4]
        run.gates[3].set_result("d")
        run.gates[4].set_result("e")
        assert await mapped == ["a", "b", "c", "d", "e"]


async def test_map_iterated_keeps_a_window() -> None:
    with inside() as run:
        run.gated = True
        results = aiter(double_number.map(range(3), concurrency=2))
        first = asyncio.ensure_future(anext(results))
        await _idle()
        run.gates[1].set_result("b")
        await _idle()
        assert len(run.gates) == 2  # the first one isn't taken yet
        run.gates[0].set_result("a")
        assert await first == "a"
        assert await anext(results) == "b"
        run.gates[2].set_result("c")
        assert await anext(results) == "c"
        with pytest.raises(StopAsyncIteration):
            await anext(results)


@pytest.mark.parametrize("concurrency", [2, None])
async def test_a_failure_in_map_cancels_the_others(concurrency: int | None) -> None:
    with inside() as run:
        run.gated = True
        mapped = asyncio.ensure_future(double_number.map(range(3), concurrency=concurrency))
        await _idle()
        run.gates[1].set_exception(QuotaExceeded("x"))
        with pytest.raises(QuotaExceeded):
            await mapped
        assert [gate.cancelled() for gate in run.gates] == [True, False, True][: len(run.gates)]
        assert len(run.gates) == (concurrency or 3)


async def test_cancelling_map_cancels_what_runs() -> None:
    with inside() as run:
        run.gated = True
        mapped = asyncio.ensure_future(double_number.map(range(3), concurrency=2))
        await _idle()
        mapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapped
        assert [gate.cancelled() for gate in run.gates] == [True, True]
        results = aiter(double_number.map(range(3)))
        first = asyncio.ensure_future(anext(results))
        await _idle()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert [gate.cancelled() for gate in run.gates] == [True] * 5


async def test_map_without_room() -> None:
    with inside(), pytest.raises(ValueError, match="concurrency must be between 1"):
        double_number.map([1], concurrency=0)


async def _idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_outside_an_activity() -> None:
    for ask in (activity.info, activity.heartbeat, activity.is_cancelled, lambda: activity.heartbeat_details(int)):
        with pytest.raises(RuntimeError, match=r"activity\.\w+\(\) can only be used inside a running activity"):
            ask()
    assert activity.Hold is Hold


# --- Retry policies -------------------------------------------------------------------------------------
def test_a_policy_by_default() -> None:
    assert RetryPolicy().for_engine == EnginePolicy()
    assert RetryPolicy(non_retryable=(ApplicationError,)).for_engine.non_retryable == (
        "perdure.errors.ApplicationError",
    )


def test_a_name_in_a_policy_is_plain_text() -> None:
    (name,) = RetryPolicy(hold_on=(Kind.QUOTA,)).for_engine.hold_on
    assert (name, type(name)) == ("app.Quota", str)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_interval": 0}, "initial_interval must be longer than 0"),
        ({"initial_interval": "x"}, "initial_interval is 'x', which is not a duration"),
        ({"initial_interval": "5s", "maximum_interval": "1s"}, "maximum_interval '1s' is shorter than"),
        ({"backoff_coefficient": 0.5}, "backoff_coefficient must be at least 1"),
        ({"backoff_coefficient": float("nan")}, "backoff_coefficient must be at least 1"),
        ({"maximum_attempts": -1}, "maximum_attempts must be between 0 and"),
        ({"maximum_attempts": 1.5}, "maximum_attempts must be a whole number"),
        ({"on_exhausted": "panic"}, 'on_exhausted must be "fail" or "hold"'),
        ({"hold_on": QuotaExceeded}, "hold_on must be a tuple of exception classes"),
        ({"hold_on": "QuotaExceeded"}, "hold_on must be a tuple of exception classes"),
        ({"non_retryable": (3,)}, "non_retryable must hold exception classes or their names, not 3"),
        ({"non_retryable": (KeyboardInterrupt,)}, "non_retryable must hold exception classes"),
        ({"non_retryable": ("",)}, "a name in non_retryable must have between 1 and 1000 characters"),
        ({"hold_on": ("x" * 1_001,)}, "a name in hold_on must have between 1 and 1000 characters"),
        ({"hold_on": ("\ud800",)}, "a name in hold_on is no valid text"),
    ],
)
def test_policies_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        RetryPolicy(**options)
    assert message in str(caught.value)
