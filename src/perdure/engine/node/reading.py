"""What is read from the store for somebody: histories, listings, and what was taken before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from perdure.engine.core.inputs import WorkflowTaskUndecided
from perdure.engine.node.live import Live, Work
from perdure.engine.node.patience import patiently
from perdure.engine.node.places import Locate, Location
from perdure.engine.node.schedules import list_schedules
from perdure.engine.storage import filter as list_filter
from perdure.engine.storage.api import ChainKey, RunKey
from perdure.limits import HISTORY_PAGE_BYTES, LIST_PAGE
from perdure.model.events import HistoryEvent
from perdure.model.failures import Failure
from perdure.model.journal import Undecodable, decode_events
from perdure.model.requests import GetHistory, HistoryPage, ListPage, ListWorkflows
from perdure.model.schedules import ListSchedules
from perdure.model.tasks import HistoryWanted

if TYPE_CHECKING:
    from perdure.engine.node.dispatch import AttachedWorker
    from perdure.engine.node.node import Node


class Told:
    """A history, as far as it was read. version: of the last row that was."""

    __slots__ = ("events", "version")

    def __init__(self) -> None:
        self.events: list[HistoryEvent] = []
        self.version = 0


class Reading:
    """Reads for clients and workers, beside the turns."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.store

    async def workflows(self, request: ListWorkflows) -> ListPage:
        """A page of a listing."""
        list_filter.parse(request.query, "workflows")  # so that an error speaks of the fields of workflows
        limit = min(request.limit or LIST_PAGE, LIST_PAGE)
        rows, following = await self._store.list(request.namespace, request.query, request.page, limit)
        return ListPage(tuple(rows), following)

    async def schedules(self, request: ListSchedules) -> ListPage:
        """A page of a listing of schedules."""
        return await list_schedules(self._store, request)

    async def history(self, request: GetHistory) -> HistoryPage:
        """A page of a history."""
        chain = ChainKey(request.namespace, request.workflow_id)
        found = await self._node.tell(chain, request.run_id, Locate())
        assert isinstance(found, Location)
        page = await self._store.journal(found.key, request.token, HISTORY_PAGE_BYTES)
        events = tuple(event for _, history in page.rows for event in self._events(chain, history))
        return HistoryPage(found.run_id, events, page.next)

    async def taken(self, chain: ChainKey, request_ids: Sequence[str]) -> set[str]:
        """Which request ids were taken before; asks until the store answers."""
        return await patiently("request ids", lambda: self._store.taken(chain, request_ids, self._node.clock.now()))

    async def whole(self, run: RunKey, until: int) -> list[HistoryEvent]:
        """All events of a run up to an id."""
        told = Told()
        await self.read_on(run, told, until)
        return [event for event in told.events if event.id <= until]

    async def read_on(self, run: RunKey, told: Told, until: int | None = None) -> None:
        """Read what a history has beyond what was read: all of it, or as far as an event's id; page by page."""
        while True:
            page = await patiently("a history", partial(self._store.journal, run, told.version, HISTORY_PAGE_BYTES))
            for told.version, history in page.rows:
                told.events += self._events(run.chain, history)
            if not page.next or (until is not None and told.events and told.events[-1].id >= until):
                return

    def _events(self, chain: ChainKey, history: bytes) -> Sequence[HistoryEvent]:
        """The events of a row."""
        try:
            return decode_events(history) if history else ()
        except Undecodable as error:
            raise self._store.damaged(f"the history of {chain} can't be read: {error}") from error

    # --- Whole histories for workflow tasks -------------------------------------------------------------
    def history_wanted(self, worker: AttachedWorker, message: HistoryWanted) -> None:
        """A worker does not hold the workflow that it was given news for."""
        live = self._node.serving.lives.get(ChainKey(message.run.namespace, message.run.workflow_id))
        execution = live.execution if live is not None else None
        if live is None or execution is None or execution.taken is None:
            return
        if (execution.ref, execution.taken_by, execution.given) == (message.run, worker.hello.instance, message.given):
            live.sticky = ""
            self._node.serving.offers.history(live)

    def task_history(self, live: Live, given: int) -> None:
        """Send the whole history, which is on disk, to the worker that has the workflow task."""
        self._node.spawn(self._task_history(live, given))

    async def _task_history(self, live: Live, given: int) -> None:
        execution = live.run
        taken = execution.taken
        if taken is None or execution.given != given:
            return  # it was given to another, whose news need not be on disk yet
        try:
            events = await self.whole(live.key, taken.event_id)
            assert events[-1].id == taken.event_id
        except Exception as error:
            if not live.gone and execution.taken is not None and execution.given == given:
                failure = Failure(f"the engine could not read the history: {error!r}", kind="engine")
                undecided = WorkflowTaskUndecided(execution.taken_by, failure)
                self._node.serving.submit(live.chain, Work(undecided, None, execution.ref.run_id, again=False))
            return
        worker = self._node.dispatcher.workers.get(execution.taken_by)
        if live.gone or execution.taken is None or execution.given != given or worker is None:
            return  # it was given to another
        self._node.serving.offers.send_task(live, execution, worker, events, delta=False)
