"""One turn: every ready execution takes its inputs, decides, and offers what it has to do.

Everything here is synchronous and touches only memory. What leaves the engine hangs on a row (`live.Row`)
and is performed by the node when the committer says that the row is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decide import decide
from perdure.engine.core.decisions.starts import begin_run, check_start, continue_run
from perdure.engine.core.queries import describe, outcome
from perdure.engine.core.transition import Transition
from perdure.engine.node.dispatch import AttachedWorker
from perdure.engine.node.live import Answer, Live, Work, settle
from perdure.engine.node.offers import Offers
from perdure.engine.storage.api import BacklogItem, ChainKey, QueueKey, RunKey
from perdure.errors import NotFound, NotRunning, PerdureError
from perdure.limits import MAX_CACHED_EXECUTIONS
from perdure.model import requests as q
from perdure.model.events import WorkflowExecutionContinuedAsNew
from perdure.model.requests import StartWorkflow, TerminateWorkflow
from perdure.model.tasks import WorkflowTaskCompletion

if TYPE_CHECKING:
    from perdure.engine.node.node import Node

logger = logging.getLogger("perdure.engine")


class Serving:
    """The executions in memory, and what happens to them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.clock, self.ids, self.dispatcher, self.retention = node.clock, node.ids, node.dispatcher, node.retention
        self.loop = asyncio.get_running_loop()
        self.lives: OrderedDict[ChainKey, Live] = OrderedDict()
        self.older: dict[tuple[ChainKey, str], Live] = {}
        self.results: dict[str, list[Answer]] = {}  # callers who wait for the end of a run
        self.offers = Offers(self)
        self._ready: deque[Live] = deque()
        self._turn_scheduled = False
        self._sequence = 0

    # --- Inputs -----------------------------------------------------------------------------------------
    def submit(self, chain: ChainKey, work: Work) -> None:
        """Put an input into the inbox of a workflow id's latest run."""
        live = self.lives.get(chain)
        if live is None:
            live = self.lives[chain] = Live(chain)
        live.inbox.append(work)
        self.make_ready(live)

    def make_ready(self, live: Live) -> None:
        """An execution has something to do in this turn or the next."""
        if not live.known and not live.loading and isinstance(live.inbox[0].input, StartWorkflow):
            # Most ids are new, so it isn't read: if there is a run, the store refuses this one, and it is
            # decided again from what is stored.
            live.known = True
        if not live.known:
            self._node.loader.need(live)
        elif not live.ready:
            live.ready = True
            self._ready.append(live)
            if not self._turn_scheduled:
                self._turn_scheduled = True
                self.loop.call_soon(self.turn)

    def turn(self) -> None:
        """Serve every execution that is ready, and those that become so meanwhile."""
        self._turn_scheduled = True  # what becomes ready below is served below
        try:
            while True:
                while self._ready:
                    live = self._ready.popleft()
                    live.ready = False
                    while live.inbox and not live.gone:
                        self.step(live, live.inbox.popleft())
                    if not live.gone:
                        self.offers.flush_queries(live)
                self.offers.pump()
                if not self._ready:
                    break
        finally:
            self._turn_scheduled = False
            if self._ready:
                self._turn_scheduled = True
                self.loop.call_soon(self.turn)

    # --- Deciding ---------------------------------------------------------------------------------------
    def step(self, live: Live, work: Work) -> None:
        """Decide one input."""
        input = work.input
        if input is None:  # only meant to load it
            return
        if isinstance(input, StartWorkflow):
            self._start(live, work, input)
            return
        execution = live.execution
        if execution is None:
            run = f"workflow {live.chain.workflow_id!r} has no run {live.older!r}"
            none = f"there is no workflow with the id {live.chain.workflow_id!r}"
            self.reply(live, work, NotFound(run if live.older else none))
            self._served(live, work)
            return
        if work.run_id and work.run_id != execution.ref.run_id:
            self._forward(live, work)
            return
        read = READS.get(type(input))
        if read is not None:
            read(self, live, work)
            return
        try:
            tx = decide(execution, input, self.clock.now())
        except NotRunning as error:
            if isinstance(input, q.SignalWorkflow):  # it may have been taken while the run was open
                self._node.refuse_unless_repeated(live, work, error)
            else:
                self.reply(live, work, error)
        except PerdureError as error:
            self.reply(live, work, error)
        except Exception as error:
            self._broken(live, work, error)
            return
        else:
            self.apply(live, work, tx)
        if type(input) is i.WakeUp:
            self._woken(live)

    def apply(self, live: Live, work: Work, tx: Transition) -> None:
        """Keep what was decided, and act on it."""
        if tx.changed:
            row = live.next_row()
            row.take(tx)
            live.recent += tx.events
            self.dirty(live)
            if work.again:
                row.works.append(work)
        if type(work.input) is WorkflowTaskCompletion:
            self.offers.answered(live, work.input)
        if tx.effects:
            self.act(live, tx.effects)
        if work.answer is not None and not self.offers.waits_for_update(live, work, tx):
            self.reply(live, work, tx.reply)

    def act(self, live: Live, effects: list[fx.Effect]) -> None:
        """Do at once what concerns only memory; hang the rest on the row."""
        for effect in effects:
            match effect:
                case fx.OfferActivity():
                    self.offers.activity(live, effect)
                case fx.OfferWorkflowTask():
                    self.offers.workflow_task(live)
                case fx.EvictCopy():
                    self.offers.evict_copy(live)
                case fx.ContinueRun():
                    self._continue(live)
                case fx.DeleteRun():
                    live.next_row().delete = True
                    self.dirty(live)
                case _:
                    pending = live.pending
                    if pending is not None:
                        pending.effects.append(effect)
                    else:
                        self._node.performing.perform(live, [effect])

    def reply(self, live: Live, work: Work, value: object) -> None:
        """Answer, as soon as all that the answer saw is on disk."""
        if work.answer is None:
            return
        pending = live.pending
        if pending is None:
            settle(work.answer, value)
            return
        pending.answers.append((work.answer, value))
        if not pending.works or pending.works[-1] is not work:
            pending.works.append(work)

    # --- Starting ---------------------------------------------------------------------------------------
    def _start(self, live: Live, work: Work, request: StartWorkflow) -> None:
        try:
            known = check_start(live.execution, request)
        except PerdureError as error:
            self.reply(live, work, error)
            return
        if known is not None:
            self.reply(live, work, known)
            return
        before = live.execution
        if before is not None and before.open:
            reason = "another run was started under its id"
            terminate = TerminateWorkflow(*live.chain, "", reason, request.identity)
            self.step(live, Work(terminate))
        if live.pending is not None:
            live.parked.append(work)  # until the end of the last run is on disk
            return
        started = begin_run(i.Start(request, self.ids.new_id(), live.key.run_no + 1), self.clock.now(), self.retention)
        new = self._begin(live, started)
        row = new.next_row()
        row.works.append(work)
        if before is not None:
            # A repeated start is recognised by its run while that is the latest, by this afterwards.
            row.dedup.append(request.request_id)
            if live.key.run_no == 1:
                row.dedup.append(before.state.started.request_id)
        self.reply(new, work, started.reply)

    def _begin(self, live: Live, tx: Transition) -> Live:
        """Put a new run in memory, after the one that `live` is (or in its place, if it is none)."""
        new = live
        if live.execution is not None:
            new = self.lives[live.chain] = Live(live.chain)
            new.known = True
            new.speculative = live.speculative
            live.gone = live.pending is None
            new.inbox += live.inbox
            live.inbox.clear()
            if new.inbox:
                self.make_ready(new)
        new.execution = tx.execution
        new.key = RunKey(*live.chain, live.key.run_no + 1)
        self.apply(new, Work(None, again=False), tx)
        return new

    def _continue(self, live: Live) -> None:
        """Begin the next run of the chain, in the commit that ends this one."""
        event = live.recent[-1]
        assert isinstance(event, WorkflowExecutionContinuedAsNew)
        tx = continue_run(live.run.state, event, live.key.run_no + 1, self.clock.now(), self.retention)
        live.successor = self._begin(live, tx)

    # --- Older runs -------------------------------------------------------------------------------------
    def _forward(self, live: Live, work: Work) -> None:
        """The input is for a run that is not the latest."""
        if live.older:
            self.reply(live, work, NotFound(f"workflow {live.chain.workflow_id!r} has no run {work.run_id}"))
            self._served(live, work)
            return
        key = live.chain, work.run_id
        older = self.older.get(key)
        if older is None:
            older = self.older[key] = Live(live.chain, work.run_id)
        older.inbox.append(work)
        self.make_ready(older)

    # --- Reading ----------------------------------------------------------------------------------------
    def _result(self, live: Live, work: Work) -> None:
        request = work.input
        assert isinstance(request, q.GetResult) and work.answer is not None
        if live.run.open and request.wait:
            self.results.setdefault(live.run.ref.run_id, []).append(work.answer)
        else:
            self.reply(live, work, outcome(live.run.state))

    def _describe(self, live: Live, work: Work) -> None:
        self.reply(live, work, describe(live.run))

    def _locate(self, live: Live, work: Work) -> None:
        self.reply(live, work, Location(live.key, live.run.ref.run_id))

    def _query(self, live: Live, work: Work) -> None:
        live.queries.append(work)

    def _claim(self, live: Live, work: Work) -> None:
        assert isinstance(work.input, BacklogItem)
        self.offers.claim(live, work.input)

    # --- What the node's other parts say ----------------------------------------------------------------
    def dirty(self, live: Live) -> None:
        """An execution has a row to be written."""
        self._node.committer.add(live)

    def next_sequence(self) -> int:
        """A number for the end of a backlog: later ones are larger, across restarts."""
        self._sequence = max(self._sequence + 1, self.clock.now())
        return self._sequence

    def nudge(self) -> None:
        """Slots or backlogs have changed: look at them in a turn."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self.loop.call_soon(self.turn)

    def installed(self, live: Live) -> None:
        """An execution was read from the store; if its workflow task is open, somebody must take it."""
        if live.execution is not None:
            self.offers.workflow_task(live)
        self.make_ready(live)

    def on_disk(self, live: Live) -> None:
        """A row of it is on disk."""
        if live.row is None and live.parked:
            live.inbox += live.parked
            live.parked.clear()
            self.make_ready(live)
        if live.queries:
            self.make_ready(live)
        if live.idle():
            self._rest(live)

    def give_up(self, live: Live, error: Exception) -> None:
        """It can't be loaded: whoever asked hears why, and its wake-up is put off."""
        for work in live.inbox:
            settle(work.answer, error)
            self._served(live, work, error)
        live.inbox.clear()
        self._forget(live)

    def wake_served(self, effect: fx.WakeServed) -> None:
        """A wake-up was acted on."""
        self._node.wakeups.done(effect.key)

    def read_backlog(self, key: QueueKey) -> None:
        """A backlog's head runs low."""
        self._node.read_backlog(key)

    def query_history(self, live: Live, query_id: str) -> None:
        """A worker needs the whole history to answer a query."""
        self._node.reading.query_history(live, query_id)

    def worker_gone(self, worker: AttachedWorker) -> None:
        """What a worker held is lost."""
        alive = frozenset(self.dispatcher.workers)
        for run in {token.run for token in worker.held}:
            self.submit(ChainKey(run.namespace, run.workflow_id), Work(i.WorkersLost(alive), None, run.run_id))
        for live in list(self.lives.values()):
            if live.sticky == worker.hello.instance:
                live.sticky = ""
                if live.execution is not None and live.execution.taken is not None:
                    live.inbox.append(Work(i.WorkflowTaskLost(), again=False))
                    self.make_ready(live)

    # --- What went wrong --------------------------------------------------------------------------------
    def _broken(self, live: Live, work: Work, error: Exception) -> None:
        """A decision raised: memory may be half changed, so it is thrown away; the input is not tried again."""
        logger.error("deciding %s for %s failed", type(work.input).__name__, live.chain, exc_info=error)
        settle(work.answer, error)
        self._served(live, work, error)
        self.decide_again(live.chain, [each for each in self.discard(live) if each is not work])

    def _served(self, live: Live, work: Work, error: Exception | None = None) -> None:
        if type(work.input) is i.WakeUp:
            self._node.wakeups.done(work.input.key, error)

    def _forget(self, live: Live) -> None:
        live.gone = True
        if live.older:
            self.older.pop((live.chain, live.older), None)
        elif self.lives.get(live.chain) is live:
            del self.lives[live.chain]

    def discard(self, live: Live) -> list[Work]:
        """Memory is not what the disk says. Forget it; what came from outside is to be decided again."""
        if live.gone:
            return []
        self._forget(live)
        self.offers.evict_copy(live)
        works: dict[int, Work] = {}
        for row in (live.flight, live.row):
            if row is not None:
                works |= {id(work): work for work in row.works}
                self.offers.undo(row)
        works |= {id(work): work for work in (*live.inbox, *live.parked, *live.queries) if work.again}
        live.inbox.clear()
        if live.successor is not None:
            works |= {id(work): work for work in self.discard(live.successor)}
        return list(works.values())

    def decide_again(self, chain: ChainKey, works: list[Work]) -> None:
        """Put inputs back whose outcome was discarded."""
        self.submit(chain, Work(None))  # whatever else there is: its open workflow task may need somebody
        for work in works:
            if work.answer is None or not work.answer.done():
                self.submit(chain, work)

    # --- Memory -----------------------------------------------------------------------------------------
    def _woken(self, live: Live) -> None:
        """See that the stored wake-up time does not stay in the past, and tell when the wake-up is served."""
        if live.pending is None and 0 < live.wake_at <= self.clock.now():
            live.next_row()
            self.dirty(live)
        self.act(live, [fx.WakeServed(live.key)])

    def _rest(self, live: Live) -> None:
        """All of it is on disk: it is forgotten when memory is short, or at once if it has ended."""
        if live.older or (live.execution is not None and not live.execution.open):
            self._forget(live)
            return
        lives = self.lives
        if lives.get(live.chain) is live:
            lives.move_to_end(live.chain)
        for _ in range(min(len(lives) - MAX_CACHED_EXECUTIONS, 8)):
            chain, oldest = next(iter(lives.items()))
            if oldest.idle():
                self._forget(oldest)
            else:
                lives.move_to_end(chain)


class Location(NamedTuple):
    """Where a run's rows are."""

    key: RunKey
    run_id: str


class Locate(NamedTuple):
    """Ask where a run's rows are."""


READS: Final[dict[type[Any], Callable[[Serving, Live, Work], None]]] = {
    q.GetResult: Serving._result,  # pyright: ignore[reportPrivateUsage]
    q.DescribeWorkflow: Serving._describe,  # pyright: ignore[reportPrivateUsage]
    q.QueryWorkflow: Serving._query,  # pyright: ignore[reportPrivateUsage]
    Locate: Serving._locate,  # pyright: ignore[reportPrivateUsage]
    BacklogItem: Serving._claim,  # pyright: ignore[reportPrivateUsage]
}
"""Inputs that decide nothing about the execution."""
