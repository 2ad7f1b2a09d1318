"""What is needed to look into a violation: the kills, and all that is known of the workflows concerned."""

from __future__ import annotations

from collections.abc import Iterator

from tests.crash.ledger import AnyLine, Mark
from tests.crash.runner import Broken, Round


def report(round: Round, broken: Broken) -> str:
    """A broken round, as text."""
    return "\n".join(_report(round, broken))


def _report(round: Round, broken: Broken) -> Iterator[str]:
    yield f"=== {len(broken.findings)} violations in {round.folder} (seed {round.seed!r})"
    yield from map(str, broken.findings)
    yield "=== kills"
    for process, moment in round.made:
        yield f"process {process}, {moment}"
    for workflow_id in sorted({finding.workflow_id for finding in broken.findings} - {""}):
        yield f"=== {workflow_id}: outside"
        for line in round.lines:
            if isinstance(line, Mark) or line.workflow == workflow_id:
                yield shown_line(line)
        for run in round.disk.runs.get(workflow_id, ()):
            yield f"=== {workflow_id}: run {run.stored.run_id} on disk"
            yield from map(str, run.events)
            yield f"state: {run.state}"


def shown_line(line: AnyLine) -> str:
    """A line of a ledger, for people."""
    fields = {name: getattr(line, name) for name in line.__struct_fields__ if name not in ("process", "at", "run")}
    told = " ".join(f"{name}={value!r}" for name, value in fields.items() if value not in ("", None))
    return f"{line.at} p{line.process} {type(line).__name__} {told}"
