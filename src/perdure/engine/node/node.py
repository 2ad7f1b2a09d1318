"""One running engine: the Service protocol over a store.

::

    Node(store, clock, ids) → start() → attach workers → serve() → … → stop()

`start` opens the store, `serve` takes up what an earlier process left. Several inputs of one execution are
served in the order in which they arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from perdure.clock import Clock
from perdure.engine.core import inputs as i
from perdure.engine.node.committer import Committer
from perdure.engine.node.dispatch import AttachedWorker, Dispatcher
from perdure.engine.node.inbound import check_request
from perdure.engine.node.live import Answer, Live, Row, Work, settle
from perdure.engine.node.loader import Loader
from perdure.engine.node.performing import Performing
from perdure.engine.node.reading import Reading
from perdure.engine.node.serving import Serving
from perdure.engine.node.wakeups import Wakeups
from perdure.engine.storage.api import ChainKey, Due, QueueKey, Store, Verdict
from perdure.errors import EngineStopped, PerdureError, Unavailable
from perdure.ids import IdSource
from perdure.limits import BACKLOG_PAGE, DEFAULT_RETENTION, MAX_UNCOMMITTED
from perdure.model import requests as q
from perdure.model import tasks as t

logger = logging.getLogger("perdure.engine")
Reply = TypeVar("Reply", covariant=True)


class Node:
    """Serves executions from a store. Use it from one event loop.

    Args:
        store: where the executions are; the node opens and closes it.
        clock, ids: where time and identifiers come from.
        retention: how long a closed run is kept, microseconds.
    """

    def __init__(self, store: Store, clock: Clock, ids: IdSource, *, retention: int = DEFAULT_RETENTION) -> None:
        self.store, self.clock, self.ids, self.retention = store, clock, ids, retention
        self.unclean = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    # --- Life -------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Open the store. Raises StoreError with what to do about it."""
        self.unclean = await self.store.open(self.clock.now())
        self.dispatcher = Dispatcher()
        self.committer = Committer(self.store, self.clock, self.ids, self._taken, self._refused)
        self.loader = Loader(self.store, self.retention, self._loaded, self._unloadable)
        self.wakeups = Wakeups(self.store, self.clock, self._wake)
        self.serving = Serving(self)
        self.performing = Performing(self)
        self.reading = Reading(self)
        for queue in await self.store.backlogged_queues():
            self.dispatcher.backlog(queue).more = True
        for service in (self.committer, self.loader):
            self.spawn(service.run())

    async def serve(self) -> None:
        """Take up what an earlier process left: attempts whose worker is gone, workflow tasks, timers."""
        after = None
        while runs := await self.store.running(after, BACKLOG_PAGE):
            alive = frozenset(self.dispatcher.workers)
            for run in runs:
                self.serving.submit(run.chain, Work(i.WorkersLost(alive)))
                self.serving.submit(run.chain, Work(i.RetryWorkflowTask()))
            after = runs[-1]
        self.spawn(self.wakeups.run())

    async def stop(self) -> None:
        """Take no more requests, wait until all is on disk, and close the store."""
        self._closing = True
        await asyncio.sleep(0)
        await self.committer.idle()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.performing.abandon(EngineStopped("the engine was stopped while this was waiting; open it again, and ask again"))
        await self.store.close()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something beside the others until the node stops."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("a part of the engine has ended", exc_info=error)

    # --- The Service protocol ---------------------------------------------------------------------------
    async def call(self, request: q.Request[Reply], /) -> Reply:
        """Carry out a request (see `Service.call`)."""
        check_request(request)
        if self._closing:
            raise EngineStopped("the engine was stopped; open it again, and ask again")
        if isinstance(request, q.ListWorkflows | q.GetHistory):
            return cast(Reply, await self.reading.call(request))
        if len(self.committer) >= MAX_UNCOMMITTED:
            raise Unavailable("the store does not keep up (limits.MAX_UNCOMMITTED); try again")
        answer: Answer = self.serving.loop.create_future()
        chain = ChainKey(request.namespace, request.workflow_id)
        self.serving.submit(chain, Work(request, answer, getattr(request, "run_id", "")))
        return await answer

    async def tell(self, chain: ChainKey, run_id: str, input: object) -> object:
        """Hand an input of the engine's own to a run, and wait until it is on disk."""
        answer: Answer = self.serving.loop.create_future()
        self.serving.submit(chain, Work(input, answer, run_id))
        return await answer

    async def attach(self, hello: t.WorkerHello, receive: Callable[[t.ToWorker], None], /) -> q.WorkerLink:
        """Attach a worker (see `Service.attach`)."""
        worker = AttachedWorker(hello, receive)
        self.dispatcher.attach(worker)
        self.serving.nudge()
        return Link(self, worker)

    def received(self, worker: AttachedWorker, message: t.FromWorker) -> None:
        """A worker said something."""
        match message:
            case t.HistoryWanted():
                self.reading.history_wanted(worker, message)
            case t.QueryAnswer():
                self.performing.query_answered(message)
            case t.WorkflowTaskCompletion() | t.WorkflowTaskFailure():
                run = message.run
                self.serving.submit(
                    ChainKey(run.namespace, run.workflow_id), Work(message, None, run.run_id, again=False)
                )
            case t.WorkerLeaving():
                worker.leaving = True
            case _:
                run = message.token.run
                if type(message) is not t.ActivityHeartbeat:
                    worker.held.discard(message.token)
                    self.serving.nudge()
                self.serving.submit(ChainKey(run.namespace, run.workflow_id), Work(message, None, run.run_id))

    # --- What the parts tell each other -----------------------------------------------------------------
    def _loaded(self, live: Live) -> None:
        if self.unclean and live.execution is not None:
            live.speculative = False  # its first input may be what brought the last process down
        self.serving.installed(live)

    def _unloadable(self, live: Live, error: Exception) -> None:
        failure = PerdureError(f"workflow {live.chain.workflow_id!r} can't be rebuilt from its journal: {error!r}")
        self.serving.give_up(live, failure)

    def _taken(self, live: Live, row: Row) -> None:
        """A row is on disk: what waited for it leaves."""
        live.speculative = True
        self.wakeups.at(live.wake_at)
        for item in row.backlog_removed:
            self.dispatcher.backlog(item.queue).claimed.discard(item)
        for item in row.backlog_added:
            self.dispatcher.backlog(item.queue).add(item)
        for answer, value in row.answers:
            settle(answer, value)
        if row.effects:
            self.performing.perform(live, row.effects)
        if row.backlog_added or row.backlog_removed:
            self.serving.nudge()
        self.serving.on_disk(live)

    def _refused(self, live: Live, row: Row, verdict: Verdict) -> None:
        """Somebody else has moved the execution on, or had the request before: decide again."""
        live.flight = row  # so that what hangs on it is decided again, too
        works = self.serving.discard(live)
        if verdict == "duplicate":
            self.spawn(self._without_repeats(live.chain, row.dedup, works))
        else:
            self.serving.decide_again(live.chain, works)

    async def _without_repeats(self, chain: ChainKey, request_ids: list[str], works: list[Work]) -> None:
        """Some request was carried out before: answer it, and decide the others again."""
        taken = await self.reading.taken(chain, request_ids)
        again: list[Work] = []
        for work in works:
            if getattr(work.input, "request_id", None) in taken:
                self.performing.answer_repeat(work)
            else:
                again.append(work)
        self.serving.decide_again(chain, again)

    def refuse_unless_repeated(self, live: Live, work: Work, error: PerdureError) -> None:
        """A request can't be carried out now. If it was before, that is the answer."""
        self.spawn(self._refuse_unless_repeated(live, work, error))

    async def _refuse_unless_repeated(self, live: Live, work: Work, error: PerdureError) -> None:
        request_id = getattr(work.input, "request_id", "")
        if request_id in await self.reading.taken(live.chain, [request_id]):
            self.performing.answer_repeat(work)
        else:
            self.serving.reply(live, work, error)

    def _wake(self, due: Due) -> None:
        stalls = tuple(self.committer.stalls[-16:])
        self.serving.submit(due.key.chain, Work(i.WakeUp(due.key, stalls), None, due.run_id))

    def read_backlog(self, key: QueueKey) -> None:
        """Read more of a queue's backlog."""
        self.spawn(self._read_backlog(key))

    async def _read_backlog(self, key: QueueKey) -> None:
        backlog = self.dispatcher.backlog(key)
        try:
            page = await self.store.backlog(key, backlog.head[-1] if backlog.head else None, BACKLOG_PAGE)
            backlog.fill(list(page), complete=len(page) < BACKLOG_PAGE)
        except PerdureError as error:
            logger.warning("can't read the backlog of %s (%s)", key, error)
        finally:
            backlog.reading = False
        self.serving.nudge()


class Link:
    """The node's end of an attached worker."""

    def __init__(self, node: Node, worker: AttachedWorker) -> None:
        self._node, self._worker = node, worker

    def send(self, message: t.FromWorker, /) -> None:
        """See `WorkerLink.send`."""
        self._node.received(self._worker, message)

    async def detach(self) -> None:
        """See `WorkerLink.detach`."""
        self._node.dispatcher.detach(self._worker)
        self._node.serving.worker_gone(self._worker)
