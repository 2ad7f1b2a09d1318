"""What was done and what was checked; and what is needed to look into a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.faults import Kind
from tests.chaos.recovery import late_timers, retried, shown, silences
from tests.chaos.runner import Broken, Chaos
from tests.crash.ledger import Began, Told
from tests.crash.report import shown_line

INTERESTING: tuple[Kind, ...] = (
    "kill", "leave", "end backends", "suspend database", "restart database", "fail over", "kill standby",
)  # fmt: skip
"""Faults after which the others should go on soon."""


def summary(chaos: Chaos) -> str:
    """A run in which every guarantee held, as text."""
    return "\n".join(_summary(chaos))


def _summary(chaos: Chaos) -> Iterator[str]:
    faults = Counter(fault.kind for fault in chaos.faults)
    yield f"{faults.total()} faults in {chaos.seconds:.0f} s, seed {chaos.seed}, grace {chaos.grace:g} s: " + ", ".join(
        f"{count} × {kind}" for kind, count in sorted(faults.items())
    )
    told = Counter(line.what for line in chaos.lines if isinstance(line, Told))
    began = [line for line in chaos.lines if isinstance(line, Began)]
    again = sum("WorkerLost" in line.failure for line in began)
    statuses = Counter(run.state.status for run in chaos.disk.every_run())
    yield "runs: " + ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    yield "acknowledged: " + ", ".join(f"{count} × {what}" for what, count in sorted(told.items()))
    yield f"activities: {len(began)} attempts began, {again} of them after a lost one; none ran twice"
    yield f"begun again after a kill: {shown([seconds for _, seconds, _ in retried(chaos)])}"
    yield f"timers that were due within the grace after a kill were late: {shown(late_timers(chaos))}"
    for kind in INTERESTING:
        yield f"no client was told anything around {kind}: {shown(silences(chaos, kind))}"
    yield f"checked: {len(chaos.lines)} lines of the log, {sum(1 for _ in chaos.disk.every_run())} histories"


def report(chaos: Chaos, broken: Broken) -> str:
    """A broken run, as text."""
    return "\n".join(_report(chaos, broken))


def _report(chaos: Chaos, broken: Broken) -> Iterator[str]:
    yield f"=== {len(broken.findings)} violations in {chaos.folder} (seed {chaos.seed})"
    yield from map(str, broken.findings)
    yield "=== faults"
    yield from map(str, chaos.faults)
    for workflow_id in sorted({finding.workflow_id for finding in broken.findings} - {""}):
        yield f"=== {workflow_id}: outside"
        for line in chaos.lines:
            if getattr(line, "workflow", "") == workflow_id:
                yield shown_line(line)
        for run in chaos.disk.runs.get(workflow_id, ()):
            yield f"=== {workflow_id}: run {run.stored.run_id}, version {run.stored.version}, home {run.stored.home}"
            yield from map(str, run.events)
            yield f"state: {run.state}"
