"""An execution in memory, and what of it is not on disk yet.

A `Row` gathers what becomes one journal row. At most one row of an execution is on its way to the disk
(`flight`); what is decided meanwhile gathers in the next one (`row`). A reply or an effect hangs on the row
that it depends on, and leaves when that row is on disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

from msgspec import Struct

from perdure.engine.core.effects import Effect
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.engine.storage.api import BacklogItem, ChainKey, RunKey
from perdure.model.events import (
    ActivityTaskCanceled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
    HistoryEvent,
)
from perdure.model.records import HeartbeatRecorded, PrivateRecord
from perdure.model.tasks import ActivityHeartbeat, ActivityToken

Answer = asyncio.Future[Any]
_OUTCOMES = (ActivityTaskCompleted, ActivityTaskFailed, ActivityTaskTimedOut, ActivityTaskCanceled)


def settle(answer: Answer | None, value: object) -> None:
    """Give a waiting caller its reply or its error."""
    if answer is None or answer.done():
        return
    if isinstance(value, BaseException):
        answer.set_exception(value)
    else:
        answer.set_result(value)


class Work(Struct, eq=False):
    """An input in the inbox.

    answer: where the reply or the error goes; None: nobody waits.
    run_id: the run it is for; "": the latest.
    again: if the commit it went into is refused, it is decided again from the stored state. What was built
    on memory alone (a workflow task's outcome) is not.
    fresh: what is in memory of the run was read after this arrived.
    """

    input: object
    answer: Answer | None = None
    run_id: str = ""
    again: bool = True
    fresh: bool = False


class Row(Struct, eq=False):
    """What becomes one journal row, and what waits for it."""

    encoded: list[bytes] = []
    private: list[tuple[int, PrivateRecord]] = []
    dedup: dict[str, None] = {}
    backlog_added: list[BacklogItem] = []
    backlog_removed: tuple[BacklogItem, ...] = ()
    listed: bool = False
    delete: bool = False
    notify: frozenset[int] = frozenset()  # nodes that are to hear of it
    effects: list[Effect] = []
    answers: list[tuple[Answer, object]] = []
    reads: tuple[tuple[Work, object], ...] = ()  # answers that came when it was on its way already
    works: list[Work] = []
    additions: int = 0  # how often something was added, as `limits.MAX_UNCOMMITTED` counts

    def take(self, tx: Transition) -> None:
        """Add what a transition decided."""
        before = len(self.encoded)
        if tx.private:
            if before:
                self.private += [(before + n, record) for n, record in tx.private]
            else:
                self.private += tx.private
        self.encoded += tx.encoded
        if tx.dedup:
            self.dedup |= dict.fromkeys(tx.dedup)
        if tx.listed:
            self.listed = True


class Live:
    """One run in memory: the latest of its workflow id, or (with a run_id) an older one."""

    __slots__ = (
        "asked", "below", "chain", "execution", "flight", "gone", "home", "homed", "inbox", "journal_bytes", "key",
        "known", "loading", "moved", "offered", "older", "parked", "queries", "queued", "ready", "recent",
        "recent_from", "remembered", "row", "snapshot_bytes", "speculative", "sticky", "successor", "version", "waits",
        "wake_at", "wants_history", "wants_input",
    )  # fmt: skip

    def __init__(self, chain: ChainKey, older: str = "") -> None:
        self.chain = chain
        self.older = older  # the run_id of a run that is not the latest
        self.below = 0  # the run_no of what was the latest in memory, when this was taken for an older one
        self.key = RunKey(*chain, 0)
        self.execution: Execution | None = None
        self.known = False  # whether it is known what the store has
        self.loading = False
        self.moved = False  # another node has written since it began to be read
        self.gone = False  # discarded; whoever still holds it must look it up again
        self.inbox: deque[Work] = deque()
        self.ready = False  # in the queue of the current turn
        self.parked: tuple[Work, ...] = ()  # starts that wait until the end of the last run is on disk
        self.queries: list[Work] = []  # until the open workflow task is over
        self.asked: dict[str, Work] = {}  # queries that are at a worker, by query id

        self.version = 0  # on disk
        self.home = 0  # the node that serves it by preference; 0: none yet
        self.homed = 0  # the home on disk, which hears of it when that is to be another
        self.wake_at = 0  # on disk
        self.row: Row | None = None
        self.flight: Row | None = None
        self.journal_bytes = 0  # since the last snapshot
        self.snapshot_bytes = 0
        self.speculative = True

        self.recent: list[HistoryEvent] = []  # the end of the history, from event `recent_from`
        self.recent_from = 1
        self.sticky = ""  # the worker that holds the workflow in memory
        self.offered = False  # its workflow task is given to a worker at the end of the turn
        self.waits: dict[int, BacklogItem] = {}  # tasks in backlogs, by the activity's event (or 0), as far as known
        self.queued = False  # its open workflow task is in the backlog, and will be claimed from there
        self.wants_history = False
        self.wants_input = False  # its worker waits for what the open workflow task told to be on disk
        self.remembered: Collection[str] = ()  # requests that earlier runs have taken, which are deleted by now
        self.successor: Live | None = None  # the run that continues this one, to go into the same commit

    @property
    def run(self) -> Execution:
        """The execution; only where there is one."""
        assert self.execution is not None
        return self.execution

    @property
    def pending(self) -> Row | None:
        """The last row that is not on disk; None: memory and disk agree."""
        return self.row or self.flight

    def next_row(self) -> Row:
        """The row that gathers what is decided now."""
        if self.row is None:
            self.row = Row()
        return self.row

    def take(self, tx: Transition) -> Row:
        """Add what a transition decided to that row."""
        row = self.next_row()
        row.take(tx)
        self.recent += tx.events
        if self.waits:
            row.backlog_removed += tuple(self._over(tx))
        return row

    def _over(self, tx: Transition) -> Iterator[BacklogItem]:
        """Tasks in a backlog that nobody needs to begin any more."""
        if not tx.execution.open:
            yield from self.waits.values()
            self.waits = {}
            return
        for event in tx.events:
            if isinstance(event, _OUTCOMES) and (item := self.waits.pop(event.scheduled_event_id, None)) is not None:
                yield item

    def works(self) -> Iterator[Work]:
        """The inputs of what is not on disk, and what waits for it."""
        for row in (self.flight, self.row):
            if row is not None:
                yield from row.works
        yield from self.parked
        yield from self.queries
        yield from self.asked.values()

    def settled(self) -> bool:
        """Whether all of it is on disk, and nobody waits for it here."""
        return not (
            self.inbox
            or self.ready
            or self.offered
            or self.loading
            or self.row is not None
            or self.flight is not None
            or self.parked
            or self.queries
            or self.asked
        )

    def idle(self) -> bool:
        """Whether it could be forgotten: it is settled, and nothing in memory is missed."""
        execution = self.execution
        return self.settled() and (execution is None or (execution.taken is None and not execution.state.running))


def heartbeats_of(live: Live) -> list[Work]:
    """Heartbeats are not on disk: without them, attempts that are alive would time out, and how far those
    came that are over would be lost."""
    execution = live.execution
    if execution is None:
        return []
    details = {
        (record.scheduled_event_id, record.attempt): record.details
        for row in (live.flight, live.row)
        for _, record in (row.private if row is not None else ())
        if type(record) is HeartbeatRecorded
    }
    for scheduled, beat in execution.beats.items():
        details[scheduled, execution.state.activities[scheduled].attempt] = beat.details
    return [
        Work(ActivityHeartbeat(ActivityToken(execution.ref, scheduled, attempt), latest), None, execution.ref.run_id)
        for (scheduled, attempt), latest in details.items()
    ]
