"""What stands between a caller and its resource: a rate limit, slowness and faults."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Fault = Literal["none", "before", "after"]


class TokenBucket:
    """Lets `burst` calls through at once, and `rate` a second in the long run.

    Args:
        rate: tokens that come back in a second.
        burst: tokens that the full bucket holds.
        now: the time at which it is full, in seconds.
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float) -> float:
        """Take a token. Returns 0 if there was one, else the seconds until there will be."""
        earned = max(0.0, now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + earned)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


@dataclass(frozen=True, slots=True)
class Weather:
    """How one call will fare: which fault strikes it, and how long it takes."""

    fault: Fault
    seconds: float


def weather(seed: int, key: str, attempt: int, *, fault_rate: float, latency: float) -> Weather:
    """The weather for a call, the same for the same arguments, in whatever order calls arrive.

    Args:
        seed: of the whole cloud.
        key: the call's idempotency key.
        attempt: how often this key was seen before.
        fault_rate: the share of calls that fail; half of them after their work is done.
        latency: seconds that a call takes on average.
    """
    dice = random.Random(f"{seed}/{key}/{attempt}")
    roll = dice.random()
    fault: Fault = "before" if roll < fault_rate / 2 else "after" if roll < fault_rate else "none"
    return Weather(fault, latency * dice.uniform(0.5, 1.5))
