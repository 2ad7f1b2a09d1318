"""Group commit: all that is ready goes to the store in one transaction, as soon as the store is free.

It never waits on a timer, except that an execution whose workflow task is out is given
`limits.SPECULATION_WAIT` to answer, so that the input and its outcome go in one row. Nothing leaves the
engine before its row is on disk. A refused row discards all that was built on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from perdure.clock import Clock
from perdure.engine.core.effects import CancelAttempt
from perdure.engine.core.execution import Execution
from perdure.engine.node.live import Live, Row
from perdure.engine.node.peers import Peers
from perdure.engine.node.stalls import Stalls
from perdure.engine.storage.api import CommitUnknown, Store, Verdict, Visibility, Write
from perdure.errors import PerdureError, StoreCorrupt, StoreError, StoreFull, StoreLost, Unavailable
from perdure.ids import IdSource
from perdure.limits import (
    DEDUP_LIFETIME,
    MAX_GROUP,
    SECOND,
    SNAPSHOT_MINIMUM,
    SPECULATION_WAIT,
    STORE_FULL_WAIT,
    STORE_RETRY_INITIAL,
    STORE_RETRY_MAXIMUM,
)
from perdure.model.journal import blobs_in, encode_private, encode_state, join_events
from perdure.model.state import State

logger = logging.getLogger("perdure.engine")

Group = list[tuple[Live, Row, Write]]


class Committer:
    """Writes the rows of dirty executions, group by group.

    taken: called for each execution whose row is on disk, with the row. refused: with the row that was not
    taken and the reason. written: after all those of a group. unwritable: with a row that can't be stored at all, and
    the error. full: while the store has no space, with all
    that waits and the error; may discard some.
    uncommitted: how much is in memory that is not on disk.
    """

    def __init__(
        self,
        store: Store,
        peers: Peers,
        clock: Clock,
        ids: IdSource,
        stalls: Stalls,
        taken: Callable[[Live, Row], None],
        refused: Callable[[Live, Row, Verdict], None],
        written: Callable[[], None],
        unwritable: Callable[[Live, Row, Exception], None],
        full: Callable[[Sequence[Live], StoreFull], None],
    ) -> None:
        self._store, self._peers, self._clock, self._ids, self._stalls = store, peers, clock, ids, stalls
        self._taken, self._refused, self._written = taken, refused, written
        self._unwritable, self._full = unwritable, full
        self.uncommitted = 0
        self._dirty: dict[Live, None] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._resting = True  # waits for work; else it looks at what is dirty before it does so again
        self._timer: asyncio.TimerHandle | None = None

    def add(self, live: Live, row: Row) -> None:
        """Something was added to the row that an execution gathers."""
        row.additions += 1
        self.uncommitted += 1
        self._dirty[live] = None
        if self._resting:
            self._resting = False
            self._idle.clear()
            self._work.set()

    def drop(self, row: Row) -> None:
        """A row will not be written (again)."""
        self.uncommitted -= row.additions
        row.additions = 0

    @property
    def busy(self) -> bool:
        """Whether something is not on disk yet."""
        return not self._idle.is_set()

    async def idle(self) -> None:
        """Wait until everything is on disk."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write groups until cancelled."""
        while True:
            self._resting = True
            await self._work.wait()
            self._resting = False
            self._work.clear()
            wrote = await self._round()
            if not self._dirty:
                self._idle.set()
            elif wrote:
                self._work.set()

    async def _round(self) -> bool:
        """Write what can be written now; whether there was anything. Afterwards nothing of it is held on to."""
        group = self._gather()
        if group:
            await self._write(group)
        return bool(group)

    # --- What is written --------------------------------------------------------------------------------
    def _gather(self) -> Group:
        """What can be written now."""
        now, commit_id = self._clock.now(), self._ids.new_id()
        group: Group = []
        waiting = False
        for live in list(self._dirty):
            row = live.row
            if row is None or live.gone:
                self._dirty.pop(live, None)
                continue
            if self._may_answer(live, now):
                waiting = True
                continue
            lives = [live]
            while (successor := lives[-1].successor) is not None:  # one commit ends a run and begins the next
                lives[-1].successor = None
                lives.append(successor)
            self._prepare(lives, now, commit_id, group)
            if len(group) >= MAX_GROUP:
                break
        if waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SPECULATION_WAIT / SECOND, self._look_again)
        return group

    def _may_answer(self, live: Live, now: int) -> bool:
        """Whether a worker has the workflow task, and may still answer in time for the same commit."""
        execution = live.execution
        if execution is None or execution.taken is None or live.wants_history or live.wants_input:
            return False
        # Workflow time may be ahead of a clock that was set back.
        return 0 <= now - execution.taken_at < SPECULATION_WAIT

    def _prepare(self, lives: Sequence[Live], now: int, commit_id: str, group: Group) -> None:
        """Add the rows of a chain to the group, all or none."""
        before = len(group)
        try:
            for live in lives:
                row = live.row
                assert row is not None
                self._dirty.pop(live, None)
                live.flight, live.row = row, None
                group.append((live, row, self._as_write(live, row, now, commit_id)))
        except Exception as error:
            del group[before:]
            for live in lives:
                self._give_up(live, live.flight or live.next_row(), error)

    def _give_up(self, live: Live, row: Row, error: Exception) -> None:
        live.flight = None
        self.drop(row)
        self._unwritable(live, row, error)

    def _look_again(self) -> None:
        self._timer = None
        self._work.set()

    def _as_write(self, live: Live, row: Row, now: int, commit_id: str) -> Write:
        execution = live.run
        state = execution.state
        history, private = join_events(row.encoded), encode_private(row.private)
        live.journal_bytes += len(history) + len(private)
        snapshot = None
        if live.journal_bytes > SNAPSHOT_MINIMUM and live.journal_bytes > live.snapshot_bytes:
            snapshot = encode_state(state)
            live.snapshot_bytes, live.journal_bytes = len(snapshot), 0
        if self._peers.elsewhere(live.home):
            wake_at = self._leave_to_home(live, row, now)
        else:
            wake_at = self._wake_at(live, execution, now)
        return Write(
            live.key,
            execution.ref.run_id,
            live.version,
            live.version + 1,
            commit_id,
            state.status,
            wake_at,
            # A workflow task in the backlog is found there; any other is taken up after a restart.
            state.running + (1 if state.task is not None and not live.queued else 0),
            history,
            private,
            snapshot,
            visibility(state) if row.listed else None,
            [(request_id, now + DEDUP_LIFETIME) for request_id in row.dedup] if row.dedup else (),
            row.backlog_added,
            row.backlog_removed,
            row.delete,
            live.home,
            self._to_be_told(live, row) if self._peers.shared else (),
            blobs_in(history, private),
        )

    def _wake_at(self, live: Live, execution: Execution, now: int) -> int | None:
        """The wake-up time to store; None: leave it. Lowered at once, raised only when it has passed."""
        live.home = self._peers.node
        wake_at = execution.wake_at()
        if wake_at == live.wake_at or (live.wake_at > now and (wake_at == 0 or wake_at > live.wake_at)):
            return None
        live.wake_at = wake_at
        return wake_at

    def _leave_to_home(self, live: Live, row: Row, now: int) -> int | None:
        """The same where another node serves the run. It hears of every commit, since its memory is old now; where
        there is something to do for the code, it finds that also by the clock."""
        row.notify |= {live.home}
        state = live.run.state
        wake_at = live.run.wake_at()
        if state.task is not None and not state.task.next_attempt_at and not live.run.stopped and not live.queued:
            wake_at = now
        if wake_at == live.wake_at or (live.wake_at and (wake_at == 0 or wake_at > live.wake_at)):
            return None
        live.wake_at = wake_at
        return wake_at

    def _to_be_told(self, live: Live, row: Row) -> Sequence[int]:
        """The nodes whose workers are to stop something, and the one that was the home until now."""
        if live.homed not in (0, live.home):
            row.notify |= {live.homed}
        for effect in row.effects:
            if type(effect) is CancelAttempt and (node := self._peers.node_of(effect.worker)):
                row.notify |= {node}
        return sorted(row.notify) if row.notify else ()

    # --- Writing ----------------------------------------------------------------------------------------
    async def _write(self, group: Group) -> None:
        try:
            verdicts = None
            while verdicts is None:
                group = [each for each in group if each[0].flight is each[1]]  # else it was discarded meanwhile
                if not group:
                    return
                verdicts = await self._commit(group)
        except (StoreLost, StoreCorrupt):
            raise  # no other commit can help
        except Exception as error:
            await self._write_apart(group, error)
            return
        for (live, row, write), verdict in zip(group, verdicts, strict=True):
            live.flight = None
            self.drop(row)
            if verdict == "taken":
                live.version, live.homed = write.version, write.home
                self._taken(live, row)
            else:
                self._refused(live, row, verdict)
        self._written()

    async def _write_apart(self, group: Group, error: Exception) -> None:
        """Something in a group can't be stored at all: find it, so that it doesn't stop the others."""
        parts = [list(part) for _, part in groupby(group, key=lambda each: each[0].chain)]
        if len(parts) > 1:
            for part in parts:
                await self._write(part)
            return
        for live, row, _ in group:
            self._give_up(live, row, error)

    async def _commit(self, group: Group) -> Sequence[Verdict] | None:
        """Commit, however long it takes: the inputs are taken, and the store will come back. None: there was no space,
        and whoever asked for something was told so."""
        writes = [write for _, _, write in group]
        began, delay = self._clock.now(), STORE_RETRY_INITIAL
        while True:
            self._stalls.commit_sent()
            try:
                verdicts = await self._store.commit(writes, self._clock.now())
            except CommitUnknown as error:
                self._stalls.store_failed(error)
                settled = await self._settle(writes)
                if settled is not None:
                    self._stalls.store_works()
                    return settled
            except (StoreLost, StoreCorrupt):
                raise
            except (Unavailable, StoreError) as error:
                self._stalls.store_failed(error)
                if isinstance(error, StoreFull) and self._clock.now() - began >= STORE_FULL_WAIT:
                    self._full([*(live for live, _, _ in group), *self._dirty], error)
                    return None
            else:
                self._stalls.store_works()
                return verdicts
            await asyncio.sleep(delay / SECOND)
            delay = min(delay * 2, STORE_RETRY_MAXIMUM)

    async def _settle(self, writes: list[Write]) -> Sequence[Verdict] | None:
        """Nobody knows whether the group was committed: read back. None: it was not."""
        delay = STORE_RETRY_INITIAL
        while True:
            try:
                mine = await self._store.committed(writes)
                break
            except PerdureError as error:
                self._stalls.store_failed(error)
                await asyncio.sleep(delay / SECOND)
                delay = min(delay * 2, STORE_RETRY_MAXIMUM)
        if not any(mine):
            return None  # a group is one transaction: nothing of it is there, so it may be sent again
        return ["taken" if own else "stale" for own in mine]


def visibility(state: State) -> Visibility:
    """A run as listings show it."""
    started, schedule = state.started, state.schedule
    return Visibility(
        started.run_id,
        started.workflow_type if schedule is None else schedule.schedule.start.workflow_type,
        started.task_queue,
        state.status,
        started.time if schedule is None else schedule.created,  # whichever run it goes on in
        state.close_time,
        started.search_attributes if schedule is None else {"Paused": state.paused is not None},
        started.memo,
    )
