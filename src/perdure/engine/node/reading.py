"""What is read from the store for somebody: histories, listings, and what was taken before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.engine.node.live import Live, settle
from perdure.engine.node.serving import Locate, Location
from perdure.engine.storage.api import ChainKey, RunKey
from perdure.errors import PerdureError
from perdure.limits import HISTORY_PAGE_BYTES, LIST_PAGE, SECOND, STORE_RETRY_INITIAL
from perdure.model.events import HistoryEvent
from perdure.model.journal import decode_events
from perdure.model.requests import GetHistory, HistoryPage, ListPage, ListWorkflows
from perdure.model.tasks import HistoryWanted

if TYPE_CHECKING:
    from perdure.engine.node.dispatch import AttachedWorker
    from perdure.engine.node.node import Node

logger = logging.getLogger("perdure.engine")


class Reading:
    """Reads for clients and workers, beside the turns."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.store

    async def call(self, request: ListWorkflows | GetHistory) -> ListPage | HistoryPage:
        """Requests that are answered from the store alone."""
        if isinstance(request, ListWorkflows):
            limit = min(request.limit or LIST_PAGE, LIST_PAGE)
            rows, following = await self._store.list(request.namespace, request.query, request.page, limit)
            return ListPage(tuple(rows), following)
        chain = ChainKey(request.namespace, request.workflow_id)
        found = await self._node.tell(chain, request.run_id, Locate())
        assert isinstance(found, Location)
        page = await self._store.journal(found.key, request.token, HISTORY_PAGE_BYTES)
        events = tuple(event for _, history in page.rows if history for event in decode_events(history))
        return HistoryPage(found.run_id, events, page.next)

    async def taken(self, chain: ChainKey, request_ids: Sequence[str]) -> set[str]:
        """Which request ids were taken before; asks until the store answers."""
        while True:
            try:
                return await self._store.taken(chain, request_ids, self._node.clock.now())
            except PerdureError as error:
                logger.warning("can't read request ids (%s); trying again", error)
                await asyncio.sleep(STORE_RETRY_INITIAL / SECOND)

    # --- Whole histories for workers --------------------------------------------------------------------
    def history_wanted(self, worker: AttachedWorker, message: HistoryWanted) -> None:
        """A worker does not hold the workflow that it was given news or a query for."""
        chain = ChainKey(message.run.namespace, message.run.workflow_id)
        live = self._node.serving.lives.get(chain)
        if message.query_id:
            asked = self._node.serving.offers.queries.get(message.query_id)
            if asked is not None:
                self.query_history(asked[0], message.query_id)
            return
        execution = live.execution if live is not None else None
        if live is not None and execution is not None and execution.ref == message.run and execution.taken is not None:
            live.sticky = ""
            self._node.serving.offers.history(live)

    def task_history(self, live: Live) -> None:
        """Send the whole history, which is on disk, to the worker that has the workflow task."""
        self._node.spawn(self._task_history(live))

    async def _task_history(self, live: Live) -> None:
        execution = live.run
        taken, taken_by = execution.taken, execution.taken_by
        if taken is None:
            return
        events = await self._whole(live.key, taken.event_id)
        worker = self._node.dispatcher.workers.get(taken_by)
        if live.gone or execution.taken != taken or worker is None:
            return
        self._node.serving.offers.send_task(live, worker, events, delta=False)

    def query_history(self, live: Live, query_id: str) -> None:
        """Send a query again, with the whole history."""
        self._node.spawn(self._query_history(live, query_id))

    async def _query_history(self, live: Live, query_id: str) -> None:
        events = await self._whole(live.key, live.run.state.last_event_id)
        serving = self._node.serving
        asked = serving.offers.queries.get(query_id)
        if asked is None:
            return
        worker = next(iter(self._node.dispatcher.workers.values()), None)
        if worker is None:
            del serving.offers.queries[query_id]
            settle(asked[1].answer, PerdureError("no worker is there to answer the query"))
        else:
            serving.offers.send_query(live, query_id, worker, tuple(events))

    async def _whole(self, run: RunKey, until: int) -> list[HistoryEvent]:
        """All events of a run up to an id, read page by page."""
        events: list[HistoryEvent] = []
        after = 0
        while True:
            try:
                page = await self._store.journal(run, after, HISTORY_PAGE_BYTES)
            except PerdureError as error:
                logger.warning("can't read a history (%s); trying again", error)
                await asyncio.sleep(STORE_RETRY_INITIAL / SECOND)
                continue
            for _, history in page.rows:
                if history:
                    events += decode_events(history)
            after = page.next
            if not after or (events and events[-1].id >= until):
                return [event for event in events if event.id <= until]
