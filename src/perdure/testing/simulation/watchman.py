"""Nothing starves: whatever somebody could go on with, somebody goes on with soon.

Looks at the store every second. What waits there for longer than it may, although for so long nothing went wrong, is
a violation. So faults need no end for this to be seen: a quiet minute between two of them is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from perdure.clock import SECOND
from perdure.engine.storage.api import StoredRun
from perdure.limits import CLAIM_LEASE, STORE_RETRY_MAXIMUM
from perdure.testing.simulation.ledger import Ledger, at_once
from perdure.testing.simulation.lives import GRACE
from perdure.testing.simulation.process import EPOCH, Process

SOON: Final = 5.0
"""Seconds within which anything is gone on with: a node looks every second, and any takes over after three more;
reading and writing may take a fifth of a second each, and be tried again."""

OPERATION: Final = 0.4
"""Seconds that one operation of the store may take: a fifth before it has its effect, and one after."""

TAKEN_OVER: Final = 2 * GRACE + STORE_RETRY_MAXIMUM / SECOND + 5 * OPERATION
"""Seconds within which another node goes on with what one had that is gone: the grace, until it counts as lost;
another, for who has come lately, or could not reach the store, so that all have the time to say that they live, or for
what was begun within the grace before, by a worker that could be too new to be known. Nodes wake up when that is over;
then five operations (to renew, to ask what ran and whether that is old in memory, to read it, to write), one of them
refused at first."""

UNCLAIMED: Final = CLAIM_LEASE / SECOND + SOON
"""Seconds within which somebody begins a task of a backlog that there is a slot for: one that is gone may have claimed
it, or one whose claim was carried out and not answered."""


class Watchman:
    """See the module.

    Args:
        processes: those that were begun.
        calm_since: when anything last went wrong or was mended; None while nobody could go on with anything.
    """

    def __init__(self, ledger: Ledger, processes: Sequence[Process], calm_since: Callable[[], float | None]) -> None:
        self._ledger, self._store, self._processes = ledger, ledger.store, processes
        self._calm_since = calm_since
        self._since: dict[object, float] = {}

    def look(self) -> None:
        """See what waits, and for how long it has."""
        calm_since = self._calm_since()
        if calm_since is None:
            self._since.clear()
            return
        now = self._ledger.time()
        waiting = dict(self._waiting())
        self._since = {what: self._since.get(what, now) for what in waiting}
        for what, bound in waiting.items():
            waits = now - max(self._since[what], calm_since)
            if waits > bound:
                self._ledger.fail(f"nobody has gone on for {waits:.1f} s with {what}")

    def at_rest(self) -> bool:
        """Whether nothing waits, but for the end of its retention; nor does any node that lives, for anything."""
        waits = at_once(self._store.running(None, 1)) or at_once(self._store.backlogged_queues())
        return not waits and not self._store.in_use() & {process.node.peers.node for process in self._living()}

    def _living(self) -> list[Process]:
        return [process for process in self._processes if process.running]

    def _waiting(self) -> Iterator[tuple[object, float]]:
        """What somebody could go on with, and for how long it may wait."""
        now = EPOCH + int(self._ledger.time() * SECOND)
        living = {process.node.peers.node for process in self._living()}
        for due in at_once(self._store.due(now, 10)):
            yield ("what is due", *due), SOON
        for key in at_once(self._store.running(None, 1_000)):
            for run in at_once(self._store.load([key.chain])):
                if run is not None and run.key == key:
                    yield from ((what, TAKEN_OVER) for what in self._lost(run))
        for queue in at_once(self._store.backlogged_queues()):
            room = any(process.node.dispatcher.room(queue) for process in self._living())
            for item in at_once(self._store.backlog(queue, None, 1_000)):
                if room:
                    yield ("a task of the backlog", *item), UNCLAIMED
                if (holder := self._store.holder(item)) in living:
                    yield ("a task of the backlog that it has claimed", holder, *item), SOON

    def _lost(self, run: StoredRun) -> Iterator[object]:
        """What nobody may know of who lives."""
        key, version, state = run.key, run.version, self._ledger.state(run)
        for activity in state.activities.values():
            if activity.status == "started" and not self._lives(activity.worker):
                yield "an attempt whose worker is gone", key, activity.event.id, activity.attempt
        task = state.task
        queued = run.running == state.running  # then it waits in the backlog, for whoever has the code
        waits = task is not None and not task.next_attempt_at
        if waits and not state.held and state.paused is None and not queued:
            yield "the workflow task", key, version

    def _lives(self, worker: str) -> bool:
        return any(worker in process.node.dispatcher.workers for process in self._living())
