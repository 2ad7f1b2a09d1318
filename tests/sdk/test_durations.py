"""Durations as people write them become microseconds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from perdure.clock import DAY, HOUR, MINUTE, SECOND
from perdure.durations import Duration, microseconds, optional_microseconds
from perdure.limits import MAX_DURATION


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("250ms", SECOND // 4),
        ("90s", 90 * SECOND),
        ("5m", 5 * MINUTE),
        ("2h", 2 * HOUR),
        ("7d", 7 * DAY),
        ("1w", 7 * DAY),
        ("1h30m", 90 * MINUTE),
        ("1.5h", 90 * MINUTE),
        (" 10us ", 10),
        (0, 0),
        (3, 3 * SECOND),
        (0.25, SECOND // 4),
        (1e-9, 1),
        (timedelta(days=1, microseconds=1), DAY + 1),
        (timedelta(days=365 * 100), MAX_DURATION),
    ],
)
def test_read(duration: Duration, expected: int) -> None:
    assert microseconds(duration) == expected


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        ("", "timeout is '', which is not a duration"),
        ("5", "not a duration"),
        ("5 m", "not a duration"),
        ("-5m", "not a duration"),
        ("5 minutes", "not a duration"),
        ("5m!", "not a duration"),
        (-1, "timeout must not be negative: -1"),
        (timedelta(seconds=-1), "must not be negative"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        ("36501d", "over the limit of 100 years"),
    ],
)
def test_refused_with_the_name_of_the_option(duration: Duration, message: str) -> None:
    with pytest.raises(ValueError, match="timeout") as caught:
        microseconds(duration, "timeout")
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [True, b"5m", [1], None])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="timeout must be a timedelta, a number of seconds"):
        microseconds(value, "timeout")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_none_is_allowed_where_it_says_so() -> None:
    assert optional_microseconds(None, "timeout") is None
    assert optional_microseconds("1s", "timeout") == SECOND
