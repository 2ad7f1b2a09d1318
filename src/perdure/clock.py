"""Where time comes from.

Every time in Perdure is an ``int``: microseconds since the Unix epoch; every duration is an ``int`` of
microseconds. Nothing reads the machine's clock except :class:`SystemClock`, which is made at the outermost
layer and handed inwards, so that a simulation can hand in another.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

MICROSECOND = 1
MILLISECOND = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(microseconds: int) -> datetime:
    """A time as people handle it, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def from_datetime(moment: datetime) -> int:
    """The microseconds since the epoch of a time that knows its zone."""
    return (moment - _EPOCH) // timedelta(microseconds=MICROSECOND)


class Clock(Protocol):
    """A source of wall-clock time."""

    def now(self) -> int:
        """The time now, in microseconds since the epoch."""
        ...


class SystemClock:
    """The machine's clock."""

    # Bound at import, because the workflow guard replaces `time.time_ns` for workflow code.
    _time_ns = staticmethod(time.time_ns)

    def now(self) -> int:
        return self._time_ns() // 1_000
