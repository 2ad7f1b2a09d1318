"""One loaded run: its folded state, and what is computed from it or lives only in memory."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.engine.core.deadlines import Beat, Deadlines
from perdure.engine.core.starting import Starting
from perdure.limits import DEFAULT_RETENTION
from perdure.model.records import UpdateAdmitted
from perdure.model.state import State
from perdure.model.tasks import Position, RunRef


class Execution:
    """A run in memory.

    taken: the position at which a worker has the open workflow task; None while nobody has it. Only memory
    knows: workflow code has no effects of its own, so a task that is lost with the process is simply given
    out again. While it is set, what arrives is buffered.
    updates: those that go with it; what is admitted later may have signals before it in the buffer.
    given: which giving of the task that is. An earlier one is not to be answered: its worker may know of less.
    beats: the last heartbeat of each running attempt (time, details), by scheduled event id. Journaled now
    and then, and when the attempt ends.
    starting: what of the outbox waits for the start of a child.
    """

    __slots__ = (
        "beats", "build_id", "deadlines", "given", "ref", "starting", "state",
        "taken", "taken_at", "taken_by", "updates",
    )  # fmt: skip

    def __init__(self, state: State, retention: int = DEFAULT_RETENTION) -> None:
        self.state = state
        self.ref = RunRef(state.namespace, state.workflow_id, state.started.run_id)
        self.beats: dict[int, Beat] = {}
        self.deadlines = Deadlines(state, self.beats, retention)
        self.taken: Position | None = None
        self.taken_at = 0
        self.taken_by = ""
        self.updates: Sequence[UpdateAdmitted] = ()
        self.given = 0
        self.starting = Starting(state.outbox)
        self.build_id = ""  # of the worker's code

    def give_back(self) -> None:
        """Nobody has the workflow task any more."""
        self.taken, self.updates = None, ()

    @property
    def stopped(self) -> bool:
        """Whether a person's word is waited for: the code is given nothing, and no attempt is started."""
        return bool(self.state.held or self.state.paused)

    @property
    def open(self) -> bool:
        """Whether the run has not ended."""
        return self.state.status == "Running"

    def wake_at(self) -> int:
        """When the run next needs attention; 0: never."""
        return self.deadlines.next()
