"""Durations as people write them."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias

from perdure.clock import DAY, HOUR, MICROSECOND, MILLISECOND, MINUTE, SECOND
from perdure.limits import MAX_DURATION

Duration: TypeAlias = timedelta | float | str
"""A timedelta, a number of seconds, or text such as "250ms" "90s" "5m" "2h" "7d" "1h30m"."""

_UNITS = {"us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_PART = r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)"
_PARTS, _TEXT = re.compile(_PART), re.compile(rf"(?:{_PART})+")


def microseconds(duration: Duration, what: str = "the duration") -> int:
    """A duration as an int of microseconds.

    Args:
        duration: what the user wrote. A positive one never becomes 0.
        what: its name, for the error.

    Raises:
        TypeError: it is not a duration.
        ValueError: it can't be read, is negative, or is longer than `limits.MAX_DURATION`.
    """
    value = _read(duration, what)
    if value < 0:
        raise ValueError(f"{what} must not be negative: {duration!r}")
    if value > MAX_DURATION:
        raise ValueError(f"{what} is {duration!r}, over the limit of {MAX_DURATION // (365 * DAY)} years")
    return value


def optional_microseconds(duration: Duration | None, what: str) -> int | None:
    """The same, where no duration is allowed too."""
    return None if duration is None else microseconds(duration, what)


def _read(duration: object, what: str) -> int:
    if isinstance(duration, str):
        value = _parse(duration)
        if value is None:
            raise ValueError(
                f'{what} is {duration!r}, which is not a duration: write it as "250ms", "90s", "5m", "2h", "7d" '
                f'or "1h30m", or give a timedelta or a number of seconds'
            )
        return value
    if isinstance(duration, timedelta):
        return (duration.days * 86_400 + duration.seconds) * SECOND + duration.microseconds
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        if not math.isfinite(duration):
            raise ValueError(f"{what} must be a finite number of seconds, not {duration!r}")
        return _whole(duration * SECOND)
    raise TypeError(
        f'{what} must be a timedelta, a number of seconds, or text such as "5m", not {type(duration).__name__}'
    )


@lru_cache(maxsize=1024)
def _parse(text: str) -> int | None:
    text = text.strip()
    if not _TEXT.fullmatch(text):
        return None
    return _whole(sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(text)))


def _whole(value: float) -> int:
    # Rounding a positive duration down to 0 would turn it into "none".
    return max(round(value), 1) if value > 0 else round(value)
