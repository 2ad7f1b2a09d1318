"""The checks of the crash tests catch what they should, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from tests.crash import disk
from tests.crash.attempts import check_attempts
from tests.crash.checks import check_disk, check_end
from tests.crash.ledger import AnyLine, Asked, Began, End, Ended, Mark, Told
from tests.crash.runner import Round
from tests.crash.victim import DATABASE
from tests.crash.workload import LIMIT, Order, Step

SECOND = 1_000_000
RAISED, HELD = "tests.crash.workload.Flaky: attempt {} failed", "Hold: attempt {} wants somebody to look"
LOST = "WorkerLost: attempt {} of work (1) was lost"
STOPPED = "WorkerLost: its worker stopped"
TIMEOUT = "ActivityTimedOut: activity stuck (1), attempt {}: start_to_close timeout"


def attempt(
    number: int, at: float, end: End | None = None, failure: str = "", process: int = 0, beat: int = 0
) -> Iterator[AnyLine]:
    """An attempt that takes a tenth of a second. `at` is in seconds."""
    began = Began(
        process=process,
        at=int(at * SECOND),
        workflow="w",
        run="r",
        activity="1",
        step=100,
        attempt=number,
        started=int(at * SECOND),
        failure=failure.format(number - 1),
        beat=beat,
    )
    yield began
    if end is not None:
        ended_at = int((at + 0.1) * SECOND)
        yield Ended(
            process=process, at=ended_at, workflow="w", run="r", activity="1", step=100, attempt=number, how=end
        )


def release(at: float) -> Asked:
    return Asked(process=0, at=int(at * SECOND), what="release", workflow="w", about="r 1 1")


def clean_end(process: int) -> Mark:
    return Mark(process=process, at=0, kind="closed")


ORDER = Order("w", [Step(100, "hopeless")])

GOOD: dict[str, list[AnyLine]] = {
    "returned": [*attempt(1, 1, "returned")],
    "retried after its backoff": [*attempt(1, 1, "raised"), *attempt(2, 2, "returned", RAISED, beat=1)],
    "lost in a kill": [*attempt(1, 1), *attempt(2, 2, "returned", LOST, process=1)],
    "its result lost in a kill": [*attempt(1, 1, "returned"), *attempt(2, 2, "returned", LOST, process=1)],
    "its failure lost in a kill": [*attempt(1, 1, "raised"), *attempt(2, 1.1, "returned", LOST, process=1)],
    "killed before it began": [*attempt(1, 1), *attempt(3, 2, "returned", LOST, process=2)],
    "released": [*attempt(1, 1, "held"), release(1.5), *attempt(2, 2, "returned", HELD)],
    "timed out": [*attempt(1, 1, "hung"), *attempt(2, 2, "returned", TIMEOUT)],
    "evicted before it began, after a kill": [
        *attempt(1, 1, "returned"), clean_end(1), *attempt(3, 2, "returned", STOPPED, process=2)
    ],
    "evicted while it hung, which is no step of the backoff": [
        *attempt(1, 1, "hung"), clean_end(0), *attempt(2, 1.2, "hung", STOPPED, process=1),
        *attempt(3, 1.54, "returned", TIMEOUT, process=1),
    ],
    "evicted": [*attempt(1, 1, "cancelled"), clean_end(0), *attempt(2, 1.2, "returned", STOPPED, process=1)],
}  # fmt: skip
BAD: dict[str, list[AnyLine]] = {
    "follows attempt 1": [*attempt(1, 1), *attempt(1, 2, failure=LOST, process=1)],
    "follows attempt 2": [*attempt(2, 1, "raised", LOST, process=1), *attempt(1, 2, process=2)],
    "its first attempt has the number 3": [*attempt(3, 1, failure=LOST, process=1)],
    "was told of no failure": [*attempt(1, 1), *attempt(2, 2, process=1)],
    "although nobody was killed": [*attempt(1, 1), *attempt(2, 2, failure=LOST)],
    "repeats what had returned": [*attempt(1, 1, "returned"), *attempt(2, 2, failure=RAISED, beat=1, process=1)],
    "in process 1 after lost, repeats what had returned": [
        *attempt(1, 1, "returned"), clean_end(0), *attempt(2, 2, failure=LOST, process=1)
    ],
    "began 0.010 s after the failure": [*attempt(1, 1, "raised"), *attempt(2, 1.11, failure=RAISED, beat=1)],
    "its backoff is 64000 µs": [
        *attempt(1, 1, "raised"), *attempt(2, 2, "raised", RAISED, beat=1),
        *attempt(3, 2.15, failure=RAISED, beat=2, process=1),
    ],
    "was told of heartbeat 0": [*attempt(1, 1, "raised"), *attempt(2, 2, failure=RAISED)],
    "was not released by anybody": [*attempt(1, 1, "held"), *attempt(2, 2, failure=HELD)],
    "began -0.100 s after the failure": [*attempt(1, 1, "hung"), *attempt(2, 1.2, failure=TIMEOUT)],
    "its policy gives it 3": [
        line for n in range(1, LIMIT + 2) for line in attempt(n, n, failure=LOST if n > 1 else "", process=n)
    ],
}  # fmt: skip


@pytest.mark.parametrize("lines", GOOD.values(), ids=GOOD)
def test_attempts_that_are_allowed(lines: list[AnyLine]) -> None:
    assert check_attempts(lines, [ORDER]) == []


@pytest.mark.parametrize(("text", "lines"), BAD.items(), ids=BAD)
def test_attempts_that_are_not(text: str, lines: list[AnyLine]) -> None:
    found = check_attempts(lines, [ORDER])
    assert any(text in str(finding) for finding in found)


# --- The disk -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round without a kill."""
    round = Round(tmp_path_factory.mktemp("crash") / "round", "checks", 0)
    round.run()
    return round


def test_what_is_told_must_be_on_disk(done: Round) -> None:
    signal = next(line for line in done.lines if isinstance(line, Told) and line.what == "signal")
    update = next(line for line in done.lines if isinstance(line, Told) and line.what == "update")
    result = next(line for line in done.lines if isinstance(line, Told) and line.what == "result")
    began = next(line for line in done.lines if isinstance(line, Began))
    for line, text in (
        (changed(signal, workflow="nobody"), "it isn't on disk"),
        (changed(signal, about="ann 99"), "signal 'ann 99' was acknowledged and isn't on disk"),
        (changed(update, about="99", value=99), "update 99 was acknowledged and isn't on disk"),
        (changed(result, value={"results": [99]}), "its result was told; on disk it is Completed"),
        (changed(began, attempt=99), "the attempt began, but wasn't started on disk"),
        (changed(began, run="nobody"), "its run isn't on disk"),
    ):
        found = check_disk([*done.lines, line], done.disk)
        assert [text in str(finding) for finding in found] == [True]


def test_what_is_missing_at_the_end_is_found(done: Round) -> None:
    lines, orders = done.lines, done.orders
    assert check_end(lines, done.disk, orders) == []
    untold = [line for line in lines if not (isinstance(line, Told) and line.what == "result")]
    assert len(check_end(untold, done.disk, orders)) == len(orders)
    more = [*orders, Order("nobody", [])]
    assert "nobody: no result was told" in map(str, check_end(lines, done.disk, more))
    other = [replace(order, plan=[*order.plan, Step(7)]) for order in orders]
    assert sum("its steps gave" in str(finding) for finding in check_end(lines, done.disk, other)) == len(orders)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("DELETE FROM execution WHERE run = 1", "it isn't on disk"),
        (
            "DELETE FROM journal WHERE (run, version) = (SELECT run, max(version) FROM journal WHERE run = 1)",
            "its journal Running",
        ),
        ("UPDATE execution SET status = 0 WHERE run = 1", "its row says Running"),
        ("UPDATE execution SET running = 1 WHERE run = 1", "its row says that 1 tasks run; it is 0"),
        ("UPDATE execution SET wake_at = 0 WHERE run = 1", "but its row wakes at 0"),
    ],
)
def test_a_file_that_contradicts_itself_is_found(done: Round, tmp_path: Path, damage: str, text: str) -> None:
    original = done.folder / DATABASE
    file = tmp_path / DATABASE
    file.write_bytes(original.read_bytes())
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(damage).rowcount == 1
    found = check_disk(done.lines, disk.read(file))
    assert any(text in str(finding) for finding in found)
