"""Options that make no sense are refused at the decorator, or at the call that gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from perdure import ApplicationError, RetryPolicy, activity, workflow
from perdure.limits import MAX_ID_LENGTH


async def work() -> int:
    return 1


def as_activity(**options: Any) -> object:
    return activity(**options)(work)


def as_workflow(**options: Any) -> object:
    decorator: Any = workflow(**options)
    return decorator(work)


class Handlers:
    def handle(self) -> None: ...


def as_signal(**options: Any) -> object:
    return workflow.signal(**options)(Handlers.handle)


def as_query(**options: Any) -> object:
    return workflow.query(**options)(Handlers.handle)


def as_update(**options: Any) -> object:
    return workflow.update(**options)(Handlers.handle)


@pytest.mark.parametrize("decorated", [as_activity, as_workflow, as_signal, as_query, as_update])
@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        (5, TypeError, "name must be text, not int"),
        ("", ValueError, "name must have between 1 and"),
        (" ", ValueError, "name must neither begin nor end with white space, as ' ' does"),
        ("eu\n", ValueError, "name must neither begin nor end with white space"),
        ("x" * (MAX_ID_LENGTH + 1), ValueError, "name must have between 1 and"),
        ("\ud800", ValueError, "name is no valid text"),
    ],
)
def test_a_name_that_is_none(decorated: Callable[..., object], name: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        decorated(name=name)


@pytest.mark.parametrize("decorated", [as_activity, as_workflow, activity(name="options.base")(work).options])
@pytest.mark.parametrize("queue", [5, ""])
def test_a_queue_that_is_none(decorated: Callable[..., object], queue: object) -> None:
    with pytest.raises((TypeError, ValueError), match="task_queue must"):
        decorated(task_queue=queue)


@pytest.mark.parametrize("decorated", [as_activity, activity(name="options.base")(work).options])
@pytest.mark.parametrize("priority", ["x", 1.5, True, 10**30, -(10**30)])
def test_a_priority_that_is_none(decorated: Callable[..., object], priority: object) -> None:
    with pytest.raises((TypeError, ValueError), match="priority must be"):
        decorated(priority=priority)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"maximum_attempts": 10**30}, "maximum_attempts must be between 0 and"),
        ({"backoff_coefficient": "2"}, "backoff_coefficient must be a number, not str"),
        ({"on_exhausted": "give up"}, 'on_exhausted must be "fail" or "hold"'),
        ({"on_exhausted": []}, 'on_exhausted must be "fail" or "hold"'),
    ],
)
def test_a_policy_that_is_none(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        RetryPolicy(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"next_retry_delay": "5x"}, "next_retry_delay is '5x'"),
        ({"next_retry_delay": -1}, "next_retry_delay must not be negative"),
        ({"type": 5}, "type must be text, not int"),
    ],
)
def test_an_application_error_that_is_none(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        ApplicationError("no", **options)


def test_a_workflow_is_no_activity() -> None:
    with pytest.raises(TypeError, match="work is a workflow"):
        activity(cast(Any, workflow(name="options.workflow")(work)))


def validated(validator: Callable[..., None]) -> None:
    def resize(self: object, seats: int, *, why: str, note: str = "") -> int: ...

    workflow.update(resize).validator(validator)


def test_a_validator_takes_what_its_update_takes() -> None:
    def same(self: object, seats: int, *, why: str, note: str = "") -> None: ...
    def any_of_it(self: object, *args: object, **kwargs: object) -> None: ...
    def fewer(self: object, *, why: str, note: str = "") -> None: ...
    def more(self: object, seats: int, floor: int, *, why: str, note: str = "") -> None: ...
    def required(self: object, seats: int, *, why: str, note: str) -> None: ...

    for fitting in (same, any_of_it):
        validated(fitting)
    for other in (fewer, more, required):
        with pytest.raises(TypeError, match="its validator must take the same parameters"):
            validated(other)
