"""What must be so when all clients have their answers."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.engine.core.invariants import check_history, check_state
from perdure.model.events import ActivityTaskCompleted
from perdure.testing.simulation.clients import Wanted
from perdure.testing.simulation.families import BECOMES
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.script import STOPPED, Report, expected


def check_end(ledger: Ledger, workflows: Iterable[Wanted]) -> None:
    """Every result is what it should be, every acknowledged message was seen once, every history is well-formed."""
    if ledger.errors:
        ledger.fail(f"the engine had errors: {ledger.errors[0]}")
    for wanted in workflows:
        _check_report(ledger, wanted)
        state = ledger.on_disk(wanted.workflow_id, "the end")
        runs = 1 + sum(step.n if step.kind == "retry" else step.kind == "again" for step in wanted.plan)
        fewest, most = runs, runs + wanted.resets * runs
        if wanted.resets or ledger.asked[wanted.workflow_id].cancelled:
            fewest = 1
        if not fewest <= state.run_no <= most and not wanted.entity:
            ledger.fail(f"{wanted.workflow_id} has {state.run_no} runs")
        for child in ledger.clerks(wanted.workflow_id):
            _check_child(ledger, wanted.workflow_id, child)
        check_state(state)
        for history in ledger.histories(wanted.workflow_id):
            check_history(history)
            ledger.attempts.check_history(wanted.workflow_id, history)
            ledger.nears.check_history(wanted.workflow_id, history)
    ledger.attempts.check_end()
    ledger.elsewhere.check_end()


def _check_child(ledger: Ledger, wid: str, child: str) -> None:
    """It has ended as it should, by how it was begun; and it has tidied up, if it was asked to stop."""
    asked, state, how = ledger.asked[wid], ledger.on_disk(child, "the end"), child.split("/")[1]
    may = BECOMES[how]
    if how.startswith("recall") and (asked.cancelled or asked.reset):
        may |= {"Terminated"}  # its parent may not have come to that
    if state.status not in may:
        ledger.fail(f"{child} is {state.status.lower()}, and may be {' or '.join(sorted(may)).lower()}")
    tidied = sum(isinstance(event, ActivityTaskCompleted) for event in ledger.history(child))
    if state.status == "Canceled" and tidied != 1:
        ledger.fail(f"{child} was cancelled, and tidied up {tidied} times")


def _stopped(results: list[int], expected: list[int]) -> bool:
    """Whether a script has done its first steps, and has been stopped; perhaps in a child, which said so, and then at
    the next step that waits. (If it was reset to before that, it goes on with what the child said.)"""
    done = zip(results, expected, strict=False)
    over = results[-1:] == [STOPPED] or len(results) == len(expected)
    return over and all(one in (other, STOPPED) for one, other in done)


def _check_report(ledger: Ledger, wanted: Wanted) -> None:
    wid, asked = wanted.workflow_id, ledger.asked[wanted.workflow_id]
    report = asked.result
    if not isinstance(report, Report):
        ledger.fail(f"{wid} gave {report!r}")
        return
    results = [1] if wanted.entity else [expected(step) for step in wanted.plan]
    if report.results != results and not (asked.cancelled and _stopped(report.results, results)):
        ledger.fail(f"{wid} gave {report.results}, not {results}")
    taken = [n for n, how in asked.notes.items() if how == "taken"]
    if sorted(report.noted) != sorted(set(report.noted)) or not set(taken) <= set(report.noted):
        ledger.fail(f"{wid} saw the signals {report.noted}; acknowledged were {taken}")
    if any(how == "refused" and n in report.noted for n, how in asked.notes.items()):
        ledger.fail(f"{wid} saw a refused signal: {report.noted}, {asked.notes}")
    completed = [n for n, how in asked.updates.items() if how == "completed"]
    if asked.reset:  # what had come to nothing was given again
        completed += asked.updates
    if len(report.added) != len(set(report.added)) or not set(completed) >= set(report.added):
        ledger.fail(f"{wid} carried out the updates {report.added}; completed were {completed}")
    _check_order(ledger, wid, report.heard)


def _check_order(ledger: Ledger, wid: str, heard: list[int]) -> None:
    """What was sent after the answer to something else has come after it, however often the run was reset."""
    course, answered = ledger.asked[wid].course, set[int]()
    before: dict[int, set[int]] = {}
    for what, n in course:
        if what == "sent":
            before[n] = answered & {*heard}
        else:
            answered.add(n)
    for place, n in enumerate(heard):
        if too_late := before[n] - {*heard[:place]}:
            ledger.fail(f"{wid} heard {n} before {too_late}: {heard}; its clients said and heard {course}")
