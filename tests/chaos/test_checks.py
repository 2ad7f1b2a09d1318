"""The checks of the chaos test catch what they should, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.limits import SECOND
from tests.chaos.checks import _check_answers, _check_attempts, _check_recovery
from tests.chaos.clients import Orders, slots_of
from tests.chaos.faults import Fault, Kind, plan
from tests.chaos.runner import Chaos
from tests.chaos.workload import make_order, waits_for_ever
from tests.crash.ledger import AnyLine, Asked, Began, End, Ended, Told

LOST = "WorkerLost: attempt 1 of activity chaos.work (1) was lost: its worker is gone"


def chaos(lines: list[AnyLine], *faults: Fault) -> Chaos:
    """A run that is over, with a grace of three seconds."""
    return Chaos(Path(), 1, 60, 3, faults=list(faults), lines=lines)


def began(number: int, at: float, process: int = 8, failure: str = "") -> Began:
    return Began(
        process=process, at=int(at * SECOND), workflow="w", run="r", activity="1", step=100, attempt=number,
        started=int(at * SECOND), failure=failure,
    )  # fmt: skip


def ended(number: int, at: float, how: End, process: int = 8) -> Ended:
    return Ended(
        process=process, at=int(at * SECOND), workflow="w", run="r", activity="1", step=100, attempt=number, how=how
    )


def fault(kind: Kind, began: float, ended: float, process: int = 8) -> Fault:
    return Fault(kind, process, int(began * SECOND), int(ended * SECOND))


def troubles(lines: list[AnyLine], *faults: Fault) -> int:
    return len(list(_check_attempts(chaos(lines, *faults))))


def test_an_attempt_that_fails_is_followed_by_the_next() -> None:
    lines: list[AnyLine] = [began(1, 1), ended(1, 2, "raised"), began(2, 3, 9, "Flaky: attempt 1 failed")]
    assert not troubles(lines)
    assert troubles([began(1, 1), began(2, 3, 9, "Flaky: attempt 1 failed")])


def test_an_attempt_runs_once() -> None:
    assert troubles([began(1, 1), began(1, 2, 9)]) == 1


@pytest.mark.parametrize("kind", ["kill", "leave", "suspend"])
def test_an_attempt_is_lost_only_by_what_happened_to_its_process(kind: Kind) -> None:
    lines: list[AnyLine] = [began(1, 1), began(2, 6, 9, LOST)]
    assert not troubles(lines, fault(kind, 2, 5))
    assert troubles(lines)
    assert troubles(lines, fault(kind, 2, 5, process=9))
    assert troubles(lines, fault(kind, 7, 12))


def test_neither_a_short_pause_nor_the_database_explains_a_lost_attempt() -> None:
    lines: list[AnyLine] = [began(1, 1), began(2, 6, 9, LOST)]
    assert troubles(lines, fault("suspend", 2, 3))
    assert troubles(lines, fault("fail over", 2, 5, process=0))


def test_what_a_dead_process_did_is_begun_again_in_time() -> None:
    kill = fault("kill", 2, 2)
    assert not list(_check_recovery(chaos([began(1, 1), began(2, 6, 9, LOST)], kill)))
    assert list(_check_recovery(chaos([began(1, 1), began(2, 20, 9, LOST)], kill)))


def test_all_are_told_the_same_and_queries_see_what_was_acknowledged() -> None:
    def told(process: int, value: int) -> Told:
        return Told(process=process, at=1, what="query", workflow="w", about="ann 2", value=value)

    assert not list(_check_answers([told(8, 2), told(9, 2)]))
    assert len(list(_check_answers([told(8, 2), told(9, 1)]))) == 2


def test_a_slot_goes_on_where_its_last_process_was() -> None:
    """What was begun and not told comes first; once it is enough, nothing else."""
    first = next(n for n in range(100) if 0 in slots_of(1, n) and not waits_for_ever(make_order(1, n)))
    id = make_order(1, first).workflow_id
    asked = Asked(process=8, at=1, what="start", workflow=id)
    orders = Orders(1, 0, [asked])
    orders.enough = True
    assert [order.workflow_id for order in orders] == [id]
    assert not list(_enough(Orders(1, 1, [asked])))


def _enough(orders: Orders) -> Orders:
    orders.enough = True
    return orders


def test_a_seed_gives_the_same_faults_and_each_kind_comes_in_its_turn() -> None:
    faults = list(plan(1, 60, 7.5))
    assert faults == list(plan(1, 60, 7.5)) != list(plan(2, 60, 7.5))
    assert len({planned.kind for planned in faults}) == 9
