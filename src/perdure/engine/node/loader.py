"""Executions from the store: read in batches, folded, and handed back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from perdure.engine.core.evolve import fold, rebuild
from perdure.engine.core.execution import Execution
from perdure.engine.node.live import Live
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import Store, StoredRun
from perdure.limits import MAX_GROUP
from perdure.model.journal import decode_state, events_of

logger = logging.getLogger("perdure.engine")


def fold_stored(stored: StoredRun, retention: int) -> Execution:
    """The execution that a store's rows describe."""
    if stored.snapshot is not None:
        state = fold(decode_state(stored.snapshot), stored.journal)
    else:
        key = stored.key
        state = rebuild(key.namespace, key.workflow_id, key.run_no, stored.journal)
    return Execution(state, retention)


class Loader:
    """Reads what is missing. `loaded` is called for each, `failed` where a stored run can't be read."""

    def __init__(
        self,
        store: Store,
        retention: int,
        loaded: Callable[[Live], None],
        failed: Callable[[Live, Exception], None],
    ) -> None:
        self._store, self._retention = store, retention
        self._loaded, self._failed = loaded, failed
        self._wanted: list[Live] = []
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether something is still to be read."""
        return not self._idle.is_set()

    async def idle(self) -> None:
        """Wait until all that is needed was read."""
        await self._idle.wait()

    def need(self, live: Live) -> None:
        """Read this one soon."""
        if not live.loading:
            live.loading = True
            self._wanted.append(live)
            self._idle.clear()
            self._work.set()

    async def run(self) -> None:
        """Read batches until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._wanted:
                batch, self._wanted = self._wanted[:MAX_GROUP], self._wanted[MAX_GROUP:]
                await self._load(batch)
                await asyncio.sleep(0)  # a store that reads at once doesn't give up the loop
            self._idle.set()

    async def _load(self, batch: list[Live]) -> None:
        for live in batch:
            live.moved = False
            for work in live.inbox:
                work.fresh = True
        try:
            stored = await patiently("executions", lambda: self._read(batch))
        except Exception as error:
            if len(batch) > 1:  # one that can't be read must not stop the others
                for live in batch:
                    await self._load([live])
            else:
                self._give_up(batch[0], error)
            return
        for live, run in zip(batch, stored, strict=True):
            try:
                self._install(live, run)
            except Exception as error:  # nor one that can't be folded
                self._give_up(live, error)
                continue
            live.loading = False
            if live.moved:
                live.known = False  # nothing is decided on what is old already
                self.need(live)
            elif not live.gone:
                self._loaded(live)

    async def _read(self, batch: list[Live]) -> list[StoredRun | None]:
        latest = iter(await self._store.load([live.chain for live in batch if not live.older]))
        return [await self._store.load_run(live.chain, live.older) if live.older else next(latest) for live in batch]

    def _give_up(self, live: Live, error: Exception) -> None:
        live.loading = False
        if not live.gone:
            logger.error("can't load %s", live.chain, exc_info=error)
            self._failed(live, error)

    def _install(self, live: Live, stored: StoredRun | None) -> None:
        live.known = True
        if stored is None:
            return
        live.key = stored.key
        live.version, live.wake_at = stored.version, stored.wake_at
        live.home = live.homed = stored.home
        live.execution = execution = fold_stored(stored, self._retention)
        state = execution.state
        live.queued = state.task is not None and stored.running == state.running
        live.journal_bytes = sum(len(history) + len(private) for history, private in stored.journal)
        live.snapshot_bytes = len(stored.snapshot) if stored.snapshot is not None else 0
        live.recent = list(events_of(history for history, _ in stored.journal))
        live.recent_from = live.recent[0].id if live.recent else state.last_event_id + 1
