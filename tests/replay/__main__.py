"""Records histories, or replays them:  python -m tests.replay record|replay FOLDER

`record` runs each case on an engine and writes its history. `replay` does each history's workflow again, and prints
what doesn't fit; it ends with 1 if there is any.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from pathlib import Path

from perdure import embedded
from perdure.model.events import HistoryEvent
from perdure.model.journal import decode_events, digest_after, encode_event, join_events
from perdure.model.tasks import Position, QueryTask, RunRef
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow.runtime import WorkflowRun
from tests.replay.workflows import CASES
from tests.sdk.programs import workflows as programs

__all__ = ["programs"]  # which are in the registry now

_UNKNOWN_QUERY = "perdure.errors.NotFound"  # what a whole history is replayed for: to say that there is none of it


async def record(folder: Path) -> None:
    """Run each case, and write down its history."""
    async with embedded(":memory:") as client:
        for name, begin in CASES.items():
            handle = await begin(client)
            await handle.result()
            events = [event async for event in handle.history()]
            run_id = (await handle.describe()).run_id
            (folder / f"{name}.{handle.id}.{run_id}").write_bytes(
                join_events([encode_event(event) for event in events])
            )


def replay(folder: Path) -> list[str]:
    """Do each history again; what doesn't fit."""
    complaints: list[str] = []
    handler = logging.Handler(logging.WARNING)  # inputs that have changed are only warned of
    handler.emit = lambda record: complaints.append(record.getMessage())
    logging.getLogger("perdure").addHandler(handler)
    for file in sorted(folder.iterdir()):
        events = tuple(decode_events(file.read_bytes()))
        ref = RunRef("default", *file.name.split(".")[1:])
        run = WorkflowRun(ref, REGISTRY.workflows)
        answer = run.query(QueryTask(ref, "q", "nothing of this name", (), position(events), events[-1].time, events))
        run.evict()
        if answer.failure is None or answer.failure.types[0] != _UNKNOWN_QUERY:
            complaints.append(f"{file.name}: {answer.failure.text if answer.failure else 'answered'}")
    return complaints


def position(events: tuple[HistoryEvent, ...]) -> Position:
    """Where a history ends."""
    digest = 0
    for event in events:
        digest = digest_after(encode_event(event), digest)
    return Position(events[-1].id, digest)


def main() -> int:
    """Run, and return the exit status."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "record":
        asyncio.run(record(folder))
        return 0
    gc.disable()  # of failed tasks that nobody has asked, asyncio complains when they are collected
    complaints = replay(folder)
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
