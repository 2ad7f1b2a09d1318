"""The guarantees, held against the log and the database, now that everything has come to its end.

What the crash tests check of a file is checked of the database, too; here is what several processes add to it. An
attempt that began for another reason than the failure of the one before it must be explained by a fault of the
process that had that one: nothing that happened to the database explains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from perdure.limits import SECOND
from tests.chaos.faults import Fault
from tests.chaos.recovery import retried
from tests.chaos.runner import Chaos
from tests.chaos.workload import make_order, waits_for_ever
from tests.crash.checks import Finding, check_disk, check_end
from tests.crash.disk import Run
from tests.crash.ledger import AnyLine, Asked, Began, End, Ended, Told
from tests.crash.workload import Order

ERRORS = ("ERROR", "CRITICAL", "Traceback")
"""What no process may write: all that goes wrong here is to be expected."""

DECIDED = ("failed", "wants somebody to look")
"""What an attempt says that fails by its own decision, after its number."""

SLACK = 10.0
"""Seconds that a busy machine may take for what should happen at once."""

ActivityKey = tuple[str, str, str]
"""(workflow id, run id, activity id)"""


def check(chaos: Chaos) -> list[Finding]:
    """All that is not as it should be."""
    orders = orders_of(chaos)
    finite = [order for order in orders if not waits_for_ever(order)]
    endless = {order.workflow_id for order in orders} - {order.workflow_id for order in finite}
    finite_runs = {id: chain for id, chain in chaos.disk.runs.items() if id not in endless}
    return [
        *check_disk(chaos.lines, chaos.disk),
        *check_end(chaos.lines, replace(chaos.disk, runs=finite_runs), finite),
        *_check_answers(chaos.lines),
        *_check_waiters([order for order in orders if waits_for_ever(order)], chaos),
        *_check_attempts(chaos),
        *_check_recovery(chaos),
        *_check_errors(chaos),
    ]


def orders_of(chaos: Chaos) -> list[Order]:
    """What clients have asked for."""
    asked = {line.workflow for line in chaos.lines if isinstance(line, Asked) and line.what == "start"}
    return [make_order(chaos.seed, int(id.rpartition("-")[2])) for id in sorted(asked)]


def _check_answers(lines: list[AnyLine]) -> Iterator[Finding]:
    """Whoever asks for the same is told the same; and a query sees what was acknowledged before."""
    told: dict[tuple[str, str, str], object] = {}
    for line in lines:
        if not isinstance(line, Told):
            continue
        value = told.setdefault((line.what, line.workflow, line.about), line.value)
        if value != line.value:
            yield Finding(line.workflow, f"{line.what} {line.about}: one was told {value}, another {line.value}")
        if line.what == "query" and line.value != int(line.about.split()[1]):
            yield Finding(line.workflow, f"a query saw {line.value} notes; acknowledged were {line.about}")


def _check_waiters(orders: list[Order], chaos: Chaos) -> Iterator[Finding]:
    """What waits for ever waits for the right thing."""
    for order in orders:
        [run] = chaos.disk.runs[order.workflow_id]
        if run.state.status != "Running" or not _waits_rightly(order, run):
            yield Finding(order.workflow_id, f"it does not wait as it should: {run.state}")


def _waits_rightly(order: Order, run: Run) -> bool:
    if order.plan[-1].kind == "sleep":
        return len(run.state.timers) == 1 and not run.state.activities
    return [activity.status for activity in run.state.activities.values()] == ["held"]


# --- Attempts -------------------------------------------------------------------------------------------
@dataclass
class Attempt:
    """An attempt, as it was seen outside. `end` is "" where none was written down."""

    began: Began
    end: End | str = ""
    ended_at: int = 0


def _check_attempts(chaos: Chaos) -> Iterator[Finding]:
    activities: dict[ActivityKey, dict[int, Attempt]] = {}
    for line in chaos.lines:
        if isinstance(line, Began | Ended):
            attempts = activities.setdefault((line.workflow, line.run, line.activity), {})
            if isinstance(line, Ended):
                attempts[line.attempt].end, attempts[line.attempt].ended_at = line.how, line.at
            elif line.attempt in attempts:
                yield Finding(line.workflow, f"attempt {line.attempt} of activity {line.activity} began twice")
            else:
                attempts[line.attempt] = Attempt(line)
    for (workflow_id, _, activity_id), attempts in activities.items():
        numbers = sorted(attempts)
        for last, number in pairwise(numbers):
            trouble = _trouble(attempts[last], attempts[number], chaos)
            if trouble:
                yield Finding(workflow_id, f"attempt {number} of activity {activity_id} began after {trouble}")


def _trouble(last: Attempt, attempt: Attempt, chaos: Chaos) -> str:
    """Why an attempt should not have begun, after the last one that did; "" if it was right."""
    gap = attempt.began.attempt - last.began.attempt > 1  # one was lost before it was seen
    decided = tuple(f"attempt {last.began.attempt} {how}" for how in DECIDED)
    if not gap and attempt.began.failure.endswith(decided):
        right = last.end in ("raised", "held") and attempt.began.at >= last.ended_at
        return "" if right else f"attempt {last.began.attempt} was told to have failed, but {last.end or 'did not end'}"
    faults = [f for f in chaos.faults if f.process == last.began.process and _loses(f, chaos.grace)]
    heard = chaos.grace / 2 * SECOND  # after a while others have heard that it lives again
    if gap or any(f.began <= attempt.began.at and f.ended + heard >= last.began.at for f in faults):
        return ""
    end = last.end or "never ended"
    return f"attempt {last.began.attempt} of process {last.began.process} {end}: {attempt.began.failure!r}"


def _loses(fault: Fault, grace: float) -> bool:
    """Whether a process may be given up for this. It may have said that it lives some time before."""
    return fault.kind != "suspend" or fault.ended - fault.began > grace / 2 * SECOND


def _check_recovery(chaos: Chaos) -> Iterator[Finding]:
    """What the dead were doing is begun again, not long after the grace."""
    for fault, seconds, workflow_id in retried(chaos):
        until = fault.began + int(seconds * SECOND)
        others = (each for each in chaos.faults if each is not fault and each.kind != "kill")
        excused = sum(max(0, min(each.ended, until) - max(each.began, fault.began)) for each in others) / SECOND
        if seconds > chaos.grace + SLACK + 2 * excused:
            yield Finding(workflow_id, f"what process {fault.process} was doing was begun again after {seconds:.1f} s")


def _check_errors(chaos: Chaos) -> Iterator[Finding]:
    for file in sorted(chaos.folder.glob("errors-*")):
        text = file.read_text()
        places = [place for place in map(text.find, ERRORS) if place >= 0]
        if places:
            place = min(places)
            yield Finding("", f"{file.name} holds an error: {text[place - 200 : place + 3_000]}")
