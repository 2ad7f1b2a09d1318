"""Executions from the store: read in batches, folded, and handed back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from perdure.engine.core.evolve import fold, rebuild
from perdure.engine.core.execution import Execution
from perdure.engine.node.live import Live
from perdure.engine.storage.api import Store, StoredRun
from perdure.errors import PerdureError
from perdure.limits import MAX_GROUP, SECOND, STORE_RETRY_INITIAL, STORE_RETRY_MAXIMUM
from perdure.model.journal import decode_state, events_of

logger = logging.getLogger("perdure.engine")


def fold_stored(stored: StoredRun, retention: int) -> Execution:
    """The execution that a store's rows describe."""
    if stored.snapshot is not None:
        state = fold(decode_state(stored.snapshot), stored.journal)
    else:
        key = stored.key
        state = rebuild(key.namespace, key.workflow_id, key.run_no, list(stored.journal))
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

    def need(self, live: Live) -> None:
        """Read this one soon."""
        if not live.loading:
            live.loading = True
            self._wanted.append(live)
            self._work.set()

    async def run(self) -> None:
        """Read batches until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._wanted:
                batch, self._wanted = self._wanted[:MAX_GROUP], self._wanted[MAX_GROUP:]
                await self._read(batch)

    async def _read(self, batch: list[Live]) -> None:
        delay = STORE_RETRY_INITIAL
        while True:
            try:
                latest = [live for live in batch if not live.older]
                stored = dict(zip(latest, await self._store.load([live.chain for live in latest]), strict=True))
                for live in batch:
                    if live.older:
                        stored[live] = await self._store.load_run(live.chain, live.older)
                break
            except PerdureError as error:
                logger.warning("can't read executions (%s); trying again", error)
                await asyncio.sleep(delay / SECOND)
                delay = min(delay * 2, STORE_RETRY_MAXIMUM)
        for live in batch:
            live.loading = False
            if live.gone:
                continue
            try:
                self._install(live, stored[live])
            except Exception as error:  # a run that can't be folded must not stop the others
                logger.exception("can't rebuild %s", live.chain)
                self._failed(live, error)
                continue
            self._loaded(live)

    def _install(self, live: Live, stored: StoredRun | None) -> None:
        live.known = True
        if stored is None:
            return
        live.key = stored.key
        live.version, live.commit_id, live.wake_at = stored.version, stored.commit_id, stored.wake_at
        live.execution = fold_stored(stored, self._retention)
        live.journal_bytes = sum(len(history) + len(private) for history, private in stored.journal)
        live.snapshot_bytes = len(stored.snapshot) if stored.snapshot is not None else 0
        live.recent = list(events_of(history for history, _ in stored.journal))
        live.recent_from = live.recent[0].id if live.recent else live.execution.state.last_event_id + 1
