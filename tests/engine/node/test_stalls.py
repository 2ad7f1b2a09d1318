"""Intervals in which a node could not work."""

from __future__ import annotations

from perdure.engine.node.stalls import Stalls
from perdure.errors import Unavailable
from perdure.limits import SECOND, SLOW_COMMIT


class HandedClock:
    """Shows what it is told to."""

    time = 100 * SECOND

    def now(self) -> int:
        return self.time


def test_a_commit_that_takes_long_is_a_stall_while_it_takes_and_afterwards() -> None:
    clock = HandedClock()
    stalls = Stalls(clock)
    stalls.commit_sent()
    clock.time += SLOW_COMMIT
    assert not stalls.known()
    clock.time += SECOND
    interval = (100 * SECOND, clock.time)
    assert stalls.known() == (interval,)
    stalls.store_works()
    clock.time += SECOND
    assert stalls.known() == (interval,)


def test_commits_that_fail_are_one_stall_until_one_is_taken() -> None:
    clock = HandedClock()
    stalls = Stalls(clock)
    for _ in range(3):
        stalls.commit_sent()
        stalls.store_failed(Unavailable("the store is down"))
        clock.time += SECOND
    stalls.commit_sent()
    stalls.store_works()
    assert stalls.known() == ((100 * SECOND, 103 * SECOND),)


def test_quick_commits_are_none() -> None:
    stalls = Stalls(HandedClock())
    stalls.commit_sent()
    stalls.store_works()
    assert not stalls.known()
