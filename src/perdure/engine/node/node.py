"""One running engine: the Service protocol over a store.

::

    Node(store, clock, ids) → start() → attach workers → serve() → … → stop()

`start` opens the store, `serve` takes up what an earlier process left. Several inputs of one execution are
served in the order in which they arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

from perdure.clock import Clock
from perdure.engine.core import inputs as i
from perdure.engine.core.deduplication import dedup_ids
from perdure.engine.node import blobs, updates
from perdure.engine.node.answers import ANSWERS, AskAnswered
from perdure.engine.node.committer import Committer
from perdure.engine.node.dispatch import AttachedWorker, Dispatcher
from perdure.engine.node.hearing import HEARD
from perdure.engine.node.housekeeping import tidy_up
from perdure.engine.node.inbound import check_hello, check_request
from perdure.engine.node.live import Answer, Live, Row, Work, settle
from perdure.engine.node.loader import Loader
from perdure.engine.node.patience import patiently
from perdure.engine.node.peers import Alone, Peers
from perdure.engine.node.performing import Performing
from perdure.engine.node.places import Locate
from perdure.engine.node.reading import Reading
from perdure.engine.node.resets import ResetRun, reset
from perdure.engine.node.schedules import chain_of
from perdure.engine.node.serving import Serving
from perdure.engine.node.stalls import Stalls
from perdure.engine.node.wakeups import Wakeups
from perdure.engine.storage.api import ChainKey, Due, Store, Verdict
from perdure.errors import EngineStopped, PerdureError, StoreCorrupt, StoreFull, StoreLost, Unavailable
from perdure.ids import IdSource
from perdure.limits import BACKLOG_PAGE, DEFAULT_RETENTION, MAX_UNCOMMITTED, SECOND, STOP_WAIT
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.journal import Undecodable
from perdure.model.schedules import ListSchedules

logger = logging.getLogger("perdure.engine")
ELSEWHERE = (
    "the engine runs on another event loop than this one: use its client in the thread and the loop that opened it "
    "(from another thread: asyncio.run_coroutine_threadsafe)"
)
Reply = TypeVar("Reply", covariant=True)

STOPPED = "the engine was stopped; open it again, and ask again"


class Node:
    """Serves executions from a store. Use it from one event loop.

    Args:
        store: where the executions are; the node opens and closes it.
        clock, ids: where time and identifiers come from.
        retention: how long a closed run is kept, microseconds.
        peers: makes the other nodes of the store, as this one sees them; by default it is alone.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: IdSource,
        *,
        retention: int = DEFAULT_RETENTION,
        peers: Callable[[Node], Peers] | None = None,
    ) -> None:
        self.store, self.clock, self.ids, self.retention = store, clock, ids, retention
        self.peers: Peers = Alone(self) if peers is None else peers(self)
        self.stalls = Stalls(clock)
        self.unclean = False
        # In the order in which they came, so that a simulated node stops in the same way each time.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._committing: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._callers: dict[Answer, None] = {}  # all who wait for a reply, wherever their request is
        self._closed = "the engine was not started"  # why it takes nothing; "": it does
        self._ended_by: type[PerdureError] = EngineStopped  # and what callers get for it

    # --- Life -------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Open the store. Raises StoreError with what to do about it."""
        self.unclean = await self.store.open(self.clock.now())
        self.dispatcher = Dispatcher(shared=self.peers.shared)
        try:
            await self.peers.join()
            for queue in await self.store.backlogged_queues():
                self.dispatcher.backlog(queue).grew()
        except BaseException:
            await self.store.close()
            raise
        self.committer = Committer(
            self.store,
            self.peers,
            self.clock,
            self.ids,
            self.stalls,
            self._taken,
            self._refused,
            self._written,
            self._unwritable,
            self._full,
        )
        self.loader = Loader(self.store, self.retention, self._loaded, self._unloadable)
        self.wakeups = Wakeups(self.peers, self.clock, self.stalls, self._wake)
        self.serving = Serving(self)
        self.performing = Performing(self)
        self.reading = Reading(self)
        self._closed = ""
        self._committing = self.spawn(self.committer.run(), vital=True)
        self._loading = self.spawn(self.loader.run(), vital=True)

    async def serve(self) -> None:
        """Take up what an earlier process left: attempts whose worker is gone, workflow tasks, timers."""
        await self.peers.serve()
        count = await self.take_up()
        if self.unclean and count:
            logger.warning(
                "the last process ended without leaving in order; what was at work goes on (workflows: %d), and what "
                "its activities had begun is begun again",
                count,
            )
        self.spawn(self.wakeups.run(), vital=True)
        self.spawn(tidy_up(self.store, self.clock), vital=True)

    async def take_up(self) -> int:
        """Go on with what ran on workers and nodes that are gone; how many runs may be concerned."""
        after, count = None, 0
        while runs := await patiently("what ran", partial(self.peers.running, after, BACKLOG_PAGE)):
            count += len(runs)
            for run in runs:
                self.serving.look_for_lost(run.chain, "")
                self.serving.submit(run.chain, Work(i.RetryWorkflowTask()))
            after = runs[-1]
        return count

    def ends_soon(self) -> None:
        """It is about to be stopped: that its workers leave before is nothing to warn of."""
        self.serving.offers.ending = True

    async def stop(self) -> None:
        """Take no more requests and messages, wait until all is on disk, and close the store.

        Whoever still waits for something gets EngineStopped. Where the store takes no commits, what it has not
        taken within `limits.STOP_WAIT` is given up: nobody was told that it happened. A caller that is cancelled
        meanwhile, or stops it again, goes on when all this is done.
        """
        if self._committing is not None:
            committing, self._committing = self._committing, None
            self._closed = self._closed or STOPPED
            self._stopping = asyncio.create_task(self._stop(committing))
        if self._stopping is not None:
            await _to_its_end(self._stopping)

    async def _stop(self, committing: asyncio.Task[None]) -> None:
        try:
            await asyncio.sleep(0)  # what has arrived is decided
            await self._cancel([task for task in self._tasks if task not in (committing, self._loading)])
            idle = self.spawn(self._idle())
            # An interrupted loop cancels all of its tasks: then nobody commits any more, and it is as after a crash.
            await asyncio.wait((idle, committing), timeout=STOP_WAIT / SECOND, return_when=asyncio.FIRST_COMPLETED)
            if not idle.done():
                logger.warning("stopped without what the store has not taken; it was not acknowledged")
            await self._cancel([*self._tasks])
        finally:  # also where this task is one of those
            self.serving.offers.stop()
            self.serving.beats.stop()
            self.serving.collector.stop()
            self._abandon()
            await self.store.close()

    async def _idle(self) -> None:
        """Wait until all that has arrived is on disk; also what a refused commit makes be decided again."""
        while self.committer.busy or self.loader.busy:
            await self.committer.idle()
            await self.loader.idle()
            await asyncio.sleep(0)  # what was read is decided

    async def _cancel(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abandon(self) -> None:
        """Whoever still waits hears that nobody serves them any more."""
        for answer in self._callers:
            settle(answer, self._refusal())

    def _refusal(self) -> PerdureError:
        return self._ended_by(self._closed)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, vital: bool = False) -> asyncio.Task[None]:
        """Run something beside the others until the node stops. vital: the engine can't do without it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._failed if vital else self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the engine could not finish something", exc_info=error)

    def _failed(self, task: asyncio.Task[Any]) -> None:
        """Without this part nothing would ever be answered: say so, rather than let everybody wait."""
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("the engine has failed; stop it, and open it again", exc_info=error)
            self._ended_by = type(error) if isinstance(error, StoreLost | StoreCorrupt) else EngineStopped
            self._closed = f"the engine has failed ({error!r}); stop it, and open it again"
            self._abandon()

    # --- The Service protocol ---------------------------------------------------------------------------
    async def call(self, request: q.Request[Reply], /) -> Reply:
        """Carry out a request (see `Service.call`)."""
        check_request(request)
        if self._closed:
            raise self._refusal()
        if asyncio.get_running_loop() is not self.serving.loop:
            raise RuntimeError(ELSEWHERE)
        of_store = OF_STORE.get(type(request))
        if of_store is not None:
            return cast(Reply, await of_store(self, request))
        if self.committer.uncommitted >= MAX_UNCOMMITTED:
            raise Unavailable("the store does not keep up (limits.MAX_UNCOMMITTED); try again")
        of_runs = OF_SEVERAL_RUNS.get(type(request))
        if of_runs is not None:
            return cast(Reply, await of_runs(self, request))
        return cast(Reply, await self.tell(chain_of(request), getattr(request, "run_id", ""), request))

    async def tell(self, chain: ChainKey, run_id: str, input: object) -> object:
        """Hand an input to a run ("": the latest), and wait for its reply."""
        if self._closed:
            raise self._refusal()
        answer: Answer = self.serving.loop.create_future()
        self._callers[answer] = None
        self.serving.submit(chain, Work(input, answer, run_id))
        try:
            return await answer
        finally:
            self._callers.pop(answer, None)
            if answer.cancelled():
                self.serving.waiting.withdraw(answer)

    async def attach(self, hello: t.WorkerHello, receive: Callable[[t.ToWorker], None], /) -> q.WorkerLink:
        """Attach a worker (see `Service.attach`)."""
        if self._closed:
            raise self._refusal()
        check_hello(hello)
        worker = AttachedWorker(hello, receive)
        self.dispatcher.attach(worker)
        self.serving.nudge()
        return Link(self, worker)

    def received(self, worker: AttachedWorker, message: t.FromWorker) -> None:
        """A worker said something."""
        if not self._closed:  # else what it did is done again, by the next engine
            HEARD[type(message)](self, worker, message)

    # --- What the parts tell each other -----------------------------------------------------------------
    def _loaded(self, live: Live) -> None:
        if live.execution is not None and (self.unclean or self.peers.orphaned(live.home)):
            live.speculative = False  # its first input may be what brought the last process down
        self.serving.installed(live)

    def _unloadable(self, live: Live, error: Exception) -> None:
        if isinstance(error, Undecodable):
            error = self.store.damaged(f"{live.chain} can't be read: {error}")
        elif not isinstance(error, PerdureError):
            error = PerdureError(f"workflow {live.chain.workflow_id!r} can't be rebuilt from its journal: {error!r}")
        self.serving.give_up(live, error)

    def _written(self) -> None:
        self.serving.offers.hand_over()

    def _taken(self, live: Live, row: Row) -> None:
        """A row is on disk: what waited for it leaves."""
        live.speculative = True
        if live.home == self.peers.node:
            self.wakeups.at(live.wake_at)
        for item in row.backlog_added:
            self.dispatcher.backlog(item.queue).add(item)
        for item in row.backlog_removed:  # which may have been added by the same row
            self.dispatcher.removed(item)
        for answer, value in row.answers:
            settle(answer, value)
        for work, value in row.reads:
            self.peers.answer(live, work, value)
        if row.effects:
            self.performing.perform(live, row.effects)
        if row.backlog_added or row.backlog_removed:
            self.serving.nudge()
        self.serving.on_disk(live)

    def _refused(self, live: Live, row: Row, verdict: Verdict) -> None:
        """Somebody else has moved the execution on, or had the request before: decide again."""
        live.flight = row  # so that what hangs on it is decided again, too
        works = self.serving.discard(live)
        repeated: list[Work] = []
        if verdict == "duplicate":
            repeated = [work for work in works if any(id in row.dedup for id in _remembered_by(work))]
            self.spawn(self._without_repeats(live.chain, list(row.dedup), repeated))
        # The others don't wait for it: without its heartbeats, an attempt that is alive would time out meanwhile.
        aside = {id(work) for work in repeated}
        self.serving.decide_again(live.chain, [work for work in works if id(work) not in aside])

    def _unwritable(self, live: Live, row: Row, error: Exception) -> None:
        """A row can't be stored, whatever else is: it isn't tried again."""
        logger.error("what was decided for %s can't be stored", live.chain, exc_info=error)
        live.flight = row
        works = self.serving.discard(live)
        for work in row.works:
            self.serving.fail(work, error)
        self.serving.start_anew(live.chain, [work for work in works if work not in row.works])

    def _full(self, lives: Sequence[Live], error: StoreFull) -> None:
        """The store has no space: whoever asks for something hears it, and it is as if they hadn't. What goes on by
        itself is tried again."""
        changed = {live.chain for live in lives if any(map(_asked_to_change, live.works()))}
        for live in lives:
            # Who only looks changes nothing that would have to be taken back.
            works = self.serving.discard(live) if live.chain in changed else list(live.works())
            for work in works:
                if _asked_for(work):
                    self.serving.fail(work, error)
            if live.chain in changed:
                self.serving.decide_again(live.chain, works)

    async def _without_repeats(self, chain: ChainKey, request_ids: list[str], works: list[Work]) -> None:
        """Some request was carried out before: answer it, and decide the others again."""
        try:
            taken = await self.reading.taken(chain, request_ids)
        except Exception as error:
            for work in works:
                self.serving.fail(work, error)
            return
        again: list[Work] = []
        for work in works:
            if any(id in taken for id in _remembered_by(work)):
                self.performing.answer_repeat(work)
            else:
                again.append(work)
        self.serving.decide_again(chain, again)
        self.serving.lives[chain].remembered = taken.difference(*map(_remembered_by, works))

    def refuse_unless_repeated(self, live: Live, work: Work, error: PerdureError) -> None:
        """A request can't be carried out now. If it was before, that is the answer."""
        self.spawn(self._refuse_unless_repeated(live, work, error, live.pending is None))

    async def _refuse_unless_repeated(self, live: Live, work: Work, error: PerdureError, on_disk: bool) -> None:
        try:
            taken = await self.reading.taken(live.chain, list(_remembered_by(work)))
        except Exception as trouble:
            self.serving.fail(work, trouble)
            return
        if taken:
            self.performing.answer_repeat(work)
        elif live.gone and not on_disk:  # what it was refused for may have been refused itself meanwhile
            self.serving.submit(live.chain, work)
        else:
            self.serving.reply(live, work, error)

    def _wake(self, due: Due) -> None:
        live = self.serving.lives.get(due.key.chain)
        if self.peers.shared and live is not None and live.key == due.key and live.wake_at != due.wake_at:
            self.serving.moved(due.key.chain)  # another node has written, and this one was not told
        self.serving.submit(due.key.chain, Work(i.WakeUp(due.key, self.stalls.known()), None, due.run_id))


OF_STORE: Final[dict[type[Any], Callable[[Node, Any], Awaitable[object]]]] = {
    q.PutBlob: blobs.call,
    q.GetBlob: blobs.call,
    q.ListWorkflows: lambda node, request: node.reading.workflows(request),
    q.GetHistory: lambda node, request: node.reading.history(request),
    ListSchedules: lambda node, request: node.reading.schedules(request),
}
"""Requests that the store answers."""

OF_SEVERAL_RUNS: Final[dict[type[Any], Callable[[Node, Any], Awaitable[object]]]] = {
    q.ResetWorkflow: reset,
    q.UpdateWorkflow: updates.update,
}
"""Requests that may need more than one run of a chain. Any other is an input of one."""


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Wait for a task. Who is cancelled meanwhile is so afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _remembered_by(work: Work) -> tuple[str, ...]:
    """What the request of an input is remembered by; nothing if it is none."""
    request = work.input.request if isinstance(work.input, ResetRun) else work.input
    return dedup_ids(cast(q.Request[object], request)) if isinstance(request, q.Request) else ()


def _asked_for(work: Work) -> bool:
    """Whether somebody waits for it to be decided, rather than for a run to end."""
    input = work.input
    if work.answer is None or (isinstance(input, q.GetResult) and input.wait):
        return False
    return isinstance(input, q.Request | ResetRun | Locate | AskAnswered)


def _asked_to_change(work: Work) -> bool:
    return type(work.input) not in ANSWERS and _asked_for(work)


class Link:
    """The node's end of an attached worker."""

    def __init__(self, node: Node, worker: AttachedWorker) -> None:
        self._node, self._worker = node, worker

    def send(self, message: t.FromWorker, /) -> None:
        """See `WorkerLink.send`."""
        self._node.received(self._worker, message)

    async def detach(self) -> None:
        """See `WorkerLink.detach`."""
        if self._node.dispatcher.detach(self._worker):
            self._node.serving.worker_gone(self._worker)
