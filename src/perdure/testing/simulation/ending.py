"""What must be so when all clients have their answers."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.engine.core.invariants import check_history, check_state
from perdure.testing.simulation.clients import Wanted
from perdure.testing.simulation.ledger import Ledger
from perdure.testing.simulation.script import Report, expected


def check_end(ledger: Ledger, workflows: Iterable[Wanted]) -> None:
    """Every result is what it should be, every acknowledged message was seen once, every history is well-formed."""
    if ledger.errors:
        ledger.fail(f"the engine had errors: {ledger.errors[0]}")
    for wanted in workflows:
        _check_report(ledger, wanted)
        state = ledger.on_disk(wanted.workflow_id, "the end")
        runs = 1 + sum(step.n if step.kind == "retry" else step.kind == "again" for step in wanted.plan)
        fewest, most = (1, runs + wanted.resets * runs) if wanted.resets else (runs, runs)
        if not fewest <= state.run_no <= most:
            ledger.fail(f"{wanted.workflow_id} has {state.run_no} runs")
        check_state(state)
        for history in ledger.histories(wanted.workflow_id):
            check_history(history)
            ledger.attempts.check_history(wanted.workflow_id, history)
    ledger.attempts.check_end()


def _check_report(ledger: Ledger, wanted: Wanted) -> None:
    wid, asked = wanted.workflow_id, ledger.asked[wanted.workflow_id]
    report = asked.result
    if not isinstance(report, Report):
        ledger.fail(f"{wid} gave {report!r}")
        return
    results = [expected(step) for step in wanted.plan]
    if report.results != results:
        ledger.fail(f"{wid} gave {report.results}, not {results}")
    taken = [n for n, how in asked.notes.items() if how == "taken"]
    if sorted(report.noted) != sorted(set(report.noted)) or not set(taken) <= set(report.noted):
        ledger.fail(f"{wid} saw the signals {report.noted}; acknowledged were {taken}")
    if any(how == "refused" and n in report.noted for n, how in asked.notes.items()):
        ledger.fail(f"{wid} saw a refused signal: {report.noted}, {asked.notes}")
    completed = [n for n, how in asked.updates.items() if how == "completed"]
    if len(report.added) != len(set(report.added)) or not set(completed) >= set(report.added):
        ledger.fail(f"{wid} carried out the updates {report.added}; completed were {completed}")
