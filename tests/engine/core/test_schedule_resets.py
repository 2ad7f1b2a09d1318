"""What a schedule has started is reset after its end: then it counts as what runs, whenever that is heard."""

from __future__ import annotations

import pytest

from perdure.clock import HOUR, MINUTE
from perdure.engine.core.decisions import schedules
from perdure.model import schedules as s
from tests.engine.core.harness import FAILURE
from tests.engine.core.timed import FIRST, TARGET, Timed, definition, sent


def runs(run: Timed) -> list[str]:
    return [each.run_id for each in run.kept.running.values()]


def ends(run: Timed) -> list[tuple[str, str]]:
    return [(each.run_id, each.status) for each in run.kept.recent]


def test_what_is_reset_after_its_end_runs_again() -> None:
    run = Timed()
    run.due()
    run.answer_all()
    run.report(1)
    run.now += MINUTE
    for _ in range(2):  # it is told at least once
        run.report(1, "Running", reset=2)
        assert run.kept.running == {
            1: s.ScheduledRun(FIRST, run.now, "hourly-2023-11-14T23:00:00Z", True, "run-2-of-1", "Running")
        }
    run.due()
    run.report(1)  # what an earlier run tells once more
    assert (run.counts, runs(run)) == ((1, 0, 1, 0), ["run-2-of-1"])
    run.crash()
    for _ in range(2):
        run.report(1, "Failed", FAILURE, reset=2)
        assert ends(run) == [("run-of-1", "Completed"), ("run-2-of-1", "Failed")]
    for reset in (0, 2):
        run.report(1, "Running" if reset else "Completed", reset=reset)
        assert not run.kept.running
    run.report(1, "Running", reset=3)
    assert runs(run) == ["run-3-of-1"]


def test_a_reset_may_be_heard_of_before_the_end_that_it_follows() -> None:
    run = Timed()
    run.due()
    run.report(1, "Running", reset=2)
    run.answer_all()  # that the first run began
    run.report(1)
    assert (runs(run), ends(run)) == (["run-2-of-1"], [])
    run.report(1, reset=2)
    assert (runs(run), ends(run)) == ([], [("run-2-of-1", "Completed")])


@pytest.mark.parametrize("told", [True, False])
def test_a_reset_may_be_heard_of_after_the_end_that_follows_it(told: bool) -> None:
    run = Timed(definition(overlap="buffer_one"))
    run.due()
    run.answer_all()
    if told:
        run.report(1)
    run.due()
    run.report(1, reset=2)
    assert ends(run)[int(told) :] == [("run-2-of-1", "Completed")]
    before = runs(run)
    run.report(1, "Running", reset=2)
    run.report(1, reset=2)
    run.report(1)
    assert runs(run) == before  # what has waited
    assert (run.counts, len(run.kept.recent)) == ((2, 0, 0, 0), 1 + told)


def test_what_has_begun_before_a_reset_goes_on_beside_it() -> None:
    run = Timed(definition(overlap="buffer_all"))
    run.catch_up(FIRST + 2 * HOUR)
    run.report(1)
    run.answer_all()
    run.report(1, "Running", reset=2)
    assert (list(run.kept.running), len(run.kept.buffer)) == ([2, 1], 1)
    run.report(2)
    assert (list(run.kept.running), len(run.kept.buffer)) == ([1], 1)
    run.report(1, reset=2)
    assert (list(run.kept.running), run.kept.buffer) == ([3], [])


def test_what_was_reset_is_asked_to_end_for_the_next() -> None:
    run = Timed(definition(overlap="cancel_other"))
    run.due()
    run.answer_all()
    run.report(1)
    run.report(1, "Running", reset=2)
    assert sent(run.due()) == ["cancel hourly-2023-11-14T23:00:00Z"]


def test_a_reset_is_nothing_to_a_schedule_that_was_deleted() -> None:
    run = Timed()
    run.due()
    run.answer_all()
    run.report(1)
    run.decide(s.DeleteSchedule(*TARGET, "delete"))
    before = len(run.rows)
    run.report(1, "Running", reset=2)
    run.report(1, reset=2)
    assert len(run.rows) == before and not run.kept.running


def test_only_so_many_resets_are_remembered_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.core.scheduling.MAX_SCHEDULE_RESETS", 2)
    monkeypatch.setattr(schedules, "MAX_SCHEDULED_RUNS", 3)
    run = Timed(definition(overlap="allow_all"))
    for start_id in range(1, 5):
        run.due()
        run.answer_all()
        run.report(start_id)
    for start_id, reset in ((1, 2), (2, 2), (1, 3), (3, 2), (4, 2)):
        run.report(start_id, "Running", reset=reset)
    assert list(run.kept.running) == [1, 2, 3]
    assert run.kept.resets == {1: 3, 3: 2}
    for start_id, reset in ((1, 3), (2, 2), (3, 2), (4, 2)):
        run.report(start_id, reset=reset)
    assert ends(run)[4:] == [(f"run-{reset}-of-{id}", "Completed") for id, reset in ((1, 3), (2, 2), (3, 2), (4, 2))]
