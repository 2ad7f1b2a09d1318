"""The guarantees (DESIGN, section 5), held against what is known outside and what is on disk.

`check_disk` holds at any moment: whatever was acknowledged, or had an effect outside, is there, and whatever waits
is found again without anybody's memory (guarantees 1 and 4). `check_attempts` holds of the ledger alone: attempts,
backoffs and holds (2 and 3). `check_end` holds when all is done: it all came out as it should.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec import convert

from perdure.engine.core.invariants import InvariantBroken, check_history, check_state
from perdure.model import events as e
from perdure.sdk.converter import decode
from tests.crash.clients import REFUSED
from tests.crash.disk import Disk, Run
from tests.crash.ledger import AnyLine, Began, Told
from tests.crash.workload import SENDERS, Order, Report, child_of

WORKFLOW_TASK = (0, 0)
"""What a workflow task in a backlog has in place of a scheduled event and an attempt."""


class Finding(NamedTuple):
    """What is not as it must be, of which workflow."""

    workflow_id: str
    text: str

    def __str__(self) -> str:
        return f"{self.workflow_id}: {self.text}"


# --- At any moment --------------------------------------------------------------------------------------
def check_disk(lines: Iterable[AnyLine], disk: Disk) -> list[Finding]:
    """What was told or done outside and isn't on disk, and what on disk contradicts itself."""
    found: list[Finding] = []
    if disk.integrity != "ok":
        found.append(Finding("", f"the file is damaged: {disk.integrity}"))
    for run in disk.every_run():
        found += [Finding(run.listed.workflow_id, text) for text in _sound(run, disk)]
    for line in lines:
        if isinstance(line, Told):
            found += [Finding(line.workflow, f"{text} ({line})") for text in _kept(line, disk)]
        elif isinstance(line, Began):
            found += [Finding(line.workflow, f"{text} ({line})") for text in _started(line, disk)]
    for workflow_id, chain in disk.runs.items():
        found += [Finding(workflow_id, text) for text in _in_order(notes_of(chain))]
    return found


def _sound(run: Run, disk: Disk) -> Iterator[str]:
    """One run: well formed, and woken by the store alone."""
    state, stored = run.state, run.stored
    try:
        check_state(state)
        check_history(run.events)
    except InvariantBroken as error:
        yield str(error)
    if not stored.status == run.listed.status == state.status:
        yield f"its row says {stored.status}, its listing {run.listed.status}, its journal {state.status}"
    waiting = {(item.scheduled_event_id, item.attempt) for item in disk.backlog if item.run_id == stored.run_id}
    task = state.task is not None
    if not state.running + (task and WORKFLOW_TASK not in waiting) <= stored.running <= state.running + task:
        yield f"its row says that {stored.running} tasks run; it is {state.running + task}"
    deadline = run.execution.wake_at()
    if deadline and not 0 < stored.wake_at <= deadline:
        yield f"something is due at {deadline}, but its row wakes at {stored.wake_at}"
    for id, activity in state.activities.items():
        if activity.status == "scheduled" and (id, activity.attempt) not in waiting:
            yield f"attempt {activity.attempt} of activity {activity.event.activity_id} waits in memory only"


def _kept(line: Told, disk: Disk) -> Iterator[str]:
    """Whether what was told is on disk."""
    chain = disk.runs.get(line.workflow)
    if chain is None:
        yield "it isn't on disk"
        return
    last = chain[-1].state
    match line.what:
        case "signal":
            if line.about not in notes_of(chain):
                yield f"signal {line.about!r} was acknowledged and isn't on disk"
        case "update":
            finished = last.finished.get(f"book {line.about}")
            if line.value != REFUSED and (finished is None or finished.result is None):
                yield f"update {line.about} was acknowledged and isn't on disk"
        case "release":
            run_id, activity_id, attempt = line.about.split()
            state = next(run.state for run in chain if run.stored.run_id == run_id)
            scheduled = state.activity_ids.get(activity_id)
            activity = state.activities[scheduled] if scheduled is not None else None
            if activity is not None and activity.attempt <= int(attempt):
                yield f"the release of activity {activity_id} was acknowledged; it is {activity.status} on disk"
        case "result":
            if last.result is None or decode(last.result, Report, "result") != convert(line.value, Report):
                yield f"its result was told; on disk it is {last.status}: {last.result}"
        case "start" | "query":
            pass


def _started(line: Began, disk: Disk) -> Iterator[str]:
    """Whether an attempt that began was started on disk."""
    run = next((each for each in disk.runs.get(line.workflow, ()) if each.stored.run_id == line.run), None)
    if run is None:
        yield "an activity began, but its run isn't on disk"
        return
    attempts = list(_attempts_on_disk(run, line.activity))
    if any(line.attempt <= attempt for attempt in attempts):
        return
    if attempts or run.state.status == "Running":  # the end of a run leaves no trace of what it no longer wants
        yield "the attempt began, but wasn't started on disk"


def _attempts_on_disk(run: Run, activity_id: str) -> Iterator[int]:
    scheduled = _scheduled(run, activity_id)
    for event in run.everything():
        if isinstance(event, e.ActivityTaskStarted) and event.scheduled_event_id in scheduled:
            yield event.attempt
    for id, activity in run.state.activities.items():
        if id in scheduled:
            yield activity.attempt if activity.status in ("started", "held") else activity.attempt - 1


def _scheduled(run: Run, activity_id: str) -> set[int]:
    events = run.events
    return {each.id for each in events if isinstance(each, e.ActivityTaskScheduled) and each.activity_id == activity_id}


def notes_of(chain: list[Run]) -> list[str]:
    """The signals that a workflow has, in order."""
    signals = [event for run in chain for event in run.everything() if isinstance(event, e.WorkflowExecutionSignaled)]
    return [str(decode(signal.input[0], str, "a note")) for signal in signals]


def _in_order(notes: list[str]) -> Iterator[str]:
    """Each sender's notes: in the order in which they were sent, each once."""
    for sender in SENDERS:
        numbers = [int(note.split()[1]) for note in notes if note.startswith(sender)]
        if numbers != list(range(len(numbers))):
            yield f"the notes of {sender} are {numbers}"


# --- At the end -----------------------------------------------------------------------------------------
def check_end(lines: list[AnyLine], disk: Disk, orders: list[Order]) -> list[Finding]:
    """What did not come out as it should, now that all is done."""
    found: list[Finding] = []
    told = {(line.workflow, line.what, line.about): line.value for line in lines if isinstance(line, Told)}
    for order in orders:
        id = order.workflow_id
        report = convert(told.get((id, "result", "")), Report | None)
        if report is None:
            found.append(Finding(id, "no result was told"))
            continue
        found += [Finding(id, text) for text in _as_expected(order, report)]
        for number in order.bookings:
            value = told.get((id, "update", str(number)))
            if value != (number if number > 0 else REFUSED):
                found.append(Finding(id, f"update {number} gave {value}"))
    found += [Finding(id, text) for id, text in _runs_as_expected(disk, orders)]
    for run in disk.every_run():
        if run.state.outbox or run.stored.running:
            found.append(Finding(run.listed.workflow_id, f"something of it still runs: {run.stored}"))
    found += [Finding(item.run.workflow_id, f"a task still waits: {item}") for item in disk.backlog]
    return found


def _as_expected(order: Order, report: Report) -> Iterator[str]:
    if report.results != order.expected():
        yield f"its steps gave {report.results}, not {order.expected()}"
    if len(report.notes) != len(SENDERS) * (order.notes or 0):
        yield f"it saw the notes {report.notes}"
    yield from _in_order(report.notes)
    if sorted(report.booked) != sorted(number for number in order.bookings if number > 0):
        yield f"it booked {report.booked}, not {order.bookings}"


def _runs_as_expected(disk: Disk, orders: list[Order]) -> Iterator[tuple[str, str]]:
    """Each workflow and each child has its runs, and there are no others."""
    expected = {order.workflow_id: 1 + sum(step.kind == "again" for step in order.plan) for order in orders}
    expected |= {child_of(step): 1 for order in orders for step in order.plan if step.kind == "child"}
    for id in sorted(expected.keys() | disk.runs.keys()):
        statuses = [run.state.status for run in disk.runs.get(id, ())]
        wanted = ["ContinuedAsNew"] * (expected.get(id, 0) - 1) + ["Completed"] * (id in expected)
        if statuses != wanted:
            yield id, f"its runs are {statuses}, not {wanted}"
