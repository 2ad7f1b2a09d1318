"""One turn: every ready execution takes its inputs, decides, and offers what it has to do.

Everything here is synchronous and touches only memory. What leaves the engine hangs on a row (`live.Row`)
and is performed by the node when the committer says that the row is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decide import decide
from perdure.engine.core.decisions.schedules import gone
from perdure.engine.core.decisions.starts import begin_run, check_start, may_have_joined
from perdure.engine.core.deduplication import dedup_id
from perdure.engine.core.transition import Transition
from perdure.engine.node import schedules, updates
from perdure.engine.node.answers import ANSWERS, LookAgain
from perdure.engine.node.beats import Beats
from perdure.engine.node.chains import begin, continue_run
from perdure.engine.node.dispatch import AttachedWorker, Backlog
from perdure.engine.node.live import Live, Work, heartbeats_of, settle
from perdure.engine.node.offers import Offers
from perdure.engine.node.queries import Queries
from perdure.engine.node.resets import ResetRun, begin_again
from perdure.engine.node.resting import Collector
from perdure.engine.node.waiting import Waiting, far_enough
from perdure.engine.storage.api import BacklogItem, ChainKey, QueueKey, RunKey
from perdure.errors import NotFound, PerdureError, WorkflowAlreadyStarted
from perdure.limits import MAX_CACHED_EXECUTIONS, MAX_GROUP, OPENINGS_TOLD_APART, SECOND, WAKE_BACKOFF_INITIAL
from perdure.model import requests as q
from perdure.model.events import HistoryEvent
from perdure.model.failures import Failure
from perdure.model.requests import StartWorkflow, TerminateWorkflow
from perdure.model.schedules import CreateSchedule
from perdure.model.tasks import ActivityCompletion, ActivityFailure, WorkflowTaskCompletion

if TYPE_CHECKING:
    from perdure.engine.node.node import Node

logger = logging.getLogger("perdure.engine")

REMEMBERED: Final[frozenset[type[Any]]] = schedules.REMEMBERED | {
    q.SignalWorkflow, q.CancelWorkflowRequest, q.PauseWorkflow, q.ResumeWorkflow, q.PauseActivity, q.UnpauseActivity,
    q.ResetActivity, q.UpdateActivityOptions, q.SettleAttempt,
}  # fmt: skip
"""Requests whose ids are rows of the store, from the commit that carries them."""

ONCE: Final = frozenset((q.SignalWorkflow, q.CancelWorkflowRequest, q.SettleAttempt))
"""Those that may end what they are about, or come just before its end."""


class Serving:
    """The executions in memory, and what happens to them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.clock, self.ids, self.dispatcher, self.retention = node.clock, node.ids, node.dispatcher, node.retention
        self.peers, self.store = node.peers, node.store
        self.loop = asyncio.get_running_loop()
        self.collector = Collector(self.loop)
        self.dirty = node.committer.add
        self.lives: OrderedDict[ChainKey, Live] = OrderedDict()
        self.older: dict[tuple[ChainKey, str], Live] = {}
        self.waiting = Waiting()
        self.offers = Offers(self)
        self.beats = Beats(self)
        self.queries = Queries(self)
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
        if not live.known:
            if live.loading or not probably_first(live.inbox[0].input):
                self._node.loader.need(live)
                return
            # Most ids are new, so it isn't read: if there is a run, the store refuses this one, and it is
            # decided again from what is stored.
            live.known = True
        if not live.ready:
            live.ready = True
            self._ready.append(live)
            if not self._turn_scheduled:
                self._turn_scheduled = True
                self.loop.call_soon(self.turn)

    def turn(self) -> None:
        """Serve the executions that are ready, and those that become so meanwhile, as far as a turn goes."""
        self._turn_scheduled = True  # what becomes ready below is served below
        self.collector.turn_begins()
        try:
            self._serve()
        finally:
            self.collector.turn_ends(self._node.committer.uncommitted)
            self._turn_scheduled = False
            if self._ready:
                self.nudge()

    def _serve(self) -> None:
        for _ in range(MAX_GROUP):
            if not self._ready:
                self.offers.hand_over()
                if not self._ready:
                    self.offers.pump()
                    if not self._ready:
                        return
            live = self._ready.popleft()
            live.ready = False
            while live.inbox and not live.gone:
                self.step(live, live.inbox.popleft())
            if not live.gone:
                if live.queries:
                    self.queries.flush(live)
                if live.row is None and live.flight is None:
                    self.rest(live)
        self.offers.hand_over()

    # --- Deciding ---------------------------------------------------------------------------------------
    def step(self, live: Live, work: Work) -> None:
        """Take one input."""
        try:
            begins = BEGINNINGS.get(type(work.input))
            if begins is not None:
                begins(self, live, work)
            elif work.input is not None:  # None: it was only meant to be loaded
                self._take(live, work)
        except Exception as error:
            self._broken(live, work, error)

    def _take(self, live: Live, work: Work) -> None:
        input, execution = work.input, live.execution
        if execution is None:
            self.missing(live, work)
            return
        if work.run_id and work.run_id != execution.ref.run_id:
            self._forward(live, work)
            return
        if type(input) in REMEMBERED and self._under_way(live, cast(q.Request[object], input)):
            self.reply(live, work, q.Done())
            return
        answer = ANSWERS.get(type(input))
        if answer is not None:
            answer(self, live, work)
            return
        if type(input) is i.WakeUp and live.home != self.peers.node:
            live.home = self.peers.node  # its home is gone, or has left it due for too long
            self.offers.workflow_task(live)
        try:
            tx = decide(execution, input, self.clock.now())
        except PerdureError as error:
            self._refuse(live, work, error)
        else:
            self.apply(live, work, tx)
        after = AFTERWARDS.get(type(input))
        if after is not None:
            after(self, live, work)

    def _refuse(self, live: Live, work: Work, error: PerdureError) -> None:
        """An input can't be decided on. Some were carried out before, and must not be told otherwise."""
        input = work.input
        if type(input) in schedules.REMEMBERED or (type(input) in ONCE and isinstance(error, NotFound)):
            self._node.refuse_unless_repeated(live, work, error)
            return
        if type(input) is WorkflowTaskCompletion:
            self.offers.evict(input.run)  # its code has gone on from what nobody will record
        self.reply(live, work, error)

    def apply(self, live: Live, work: Work, tx: Transition) -> None:
        """Keep what was decided, and act on it."""
        if tx.offers:
            self.offers.activities(live, tx)
        if tx.encoded or tx.private or tx.dedup:
            row = live.take(tx)
            self.dirty(live, row)
            if work.again:
                row.works.append(work)
        if type(work.input) is WorkflowTaskCompletion:
            self.offers.answered(live, tx.state, work.input)
        if tx.effects:
            self.act(live, tx.effects)
        if work.answer is not None:
            if type(work.input) is q.UpdateWorkflow and not far_enough(tx.reply, work.input.wait_for):
                updates.wait(self, live, work, work.input)
            else:
                self.reply(live, work, tx.reply)

    def act(self, live: Live, effects: list[fx.Effect]) -> None:
        """Do at once what concerns only memory; hang the rest on the row."""
        for effect in effects:
            at_once = AT_ONCE.get(type(effect))
            if at_once is not None:
                at_once(self, live, effect)
            elif (pending := live.pending) is not None:
                pending.effects.append(effect)
            else:
                self._node.performing.perform(live, [effect])

    def delete_run(self, live: Live, _: fx.DeleteRun) -> None:
        """Its retention is over."""
        row = live.next_row()
        row.delete = True
        self.dirty(live, row)

    def reply(self, live: Live, work: Work, value: object) -> None:
        """Answer, as soon as all that the answer saw is on disk. Where nobody waits, but what a worker did is refused,
        it is looked at again if it is not so: or an outcome would be lost."""
        if work.answer is None and not work.again:
            return
        if live.row is not None:
            if work.answer is not None:
                live.row.answers.append((work.answer, value))
            self.depends(live, work)
        elif live.flight is not None:  # perhaps it is on disk since before the question, and another node's after it
            live.flight.reads += ((work, value),)
            self.depends(live, work)
        else:
            self.peers.answer(live, work, value)

    def _under_way(self, live: Live, request: q.Request[object]) -> bool:
        """Whether the same request came before, and is not on disk yet."""
        return any(row is not None and dedup_id(request) in row.dedup for row in (live.flight, live.row))

    def depends(self, live: Live, work: Work) -> None:
        """If the last row that it saw is refused, it is decided again."""
        pending = live.pending
        if pending is not None and (not pending.works or pending.works[-1] is not work):
            pending.works.append(work)

    # --- Starting ---------------------------------------------------------------------------------------
    def start(self, live: Live, work: Work) -> None:
        """A start: a run begins, or there is one already."""
        request = work.input
        assert isinstance(request, StartWorkflow)
        try:
            known = check_start(live.execution, request)
        except PerdureError as error:
            if may_have_joined(request) and isinstance(error, WorkflowAlreadyStarted):
                self._node.refuse_unless_repeated(live, work, error)  # it may have been answered with the last run
            else:
                self.reply(live, work, error)
            return
        before = live.execution
        if known is not None:
            if known.existing and live.run.open:
                self._join(live, work, request, known)
            else:
                self.reply(live, work, known)
            return
        ended = before is not None and before.open
        if before is not None and ended:
            terminate = TerminateWorkflow(*live.chain, "", "another run was started under its id", request.identity)
            self.apply(live, Work(terminate, again=False), decide(before, terminate, self.clock.now()))
        elif live.pending is not None:
            live.parked += (work,)  # until the end of the last run is on disk
            return
        start, now = i.Start(request, self.ids.new_id(), live.key.run_no + 1), self.clock.now()
        started = begin_run(start, now, self.retention, before and before.state)
        new = begin(self, live, started)
        if ended:
            live.successor = new  # one commit: where the start turns out to be a repetition, nothing is terminated
        row = new.next_row()
        row.works.append(work)
        if before is not None:
            row.dedup[dedup_id(request)] = None  # that of the first run is remembered when another follows
        self.reply(new, work, started.reply)

    def _join(self, live: Live, work: Work, request: StartWorkflow, known: q.Started) -> None:
        """A start is answered with the run that is there, to which its message goes."""
        if self._under_way(live, request):
            self.reply(live, work, known)
            return
        try:
            tx = decide(live.run, i.Join(request), self.clock.now())
        except PerdureError as error:
            self.reply(live, work, error)
        else:
            self.apply(live, work, tx)

    # --- Older runs -------------------------------------------------------------------------------------
    def _forward(self, live: Live, work: Work) -> None:
        """The input is for a run that is not the latest."""
        if live.older:
            self.missing(live, work)
            return
        key = live.chain, work.run_id
        older = self.older.get(key)
        if older is None:
            older = self.older[key] = Live(live.chain, work.run_id)
            older.below = live.key.run_no
        older.inbox.append(work)
        self.make_ready(older)

    def _not_older(self, live: Live) -> None:
        """Another node began this run, after the one in memory or in its place: its inputs are for the latest run. Or
        its end is on its way to the disk, and they are decided when it is there."""
        works = list(live.inbox)
        live.inbox.clear()
        self._forget(live)
        latest = self.lives.get(live.chain)
        if latest is not None and latest.pending is not None:
            latest.parked += (*works,)  # until it is known that the store refuses what is in memory
            return
        self.moved(live.chain)
        for work in works:
            self.submit(live.chain, work)

    # --- What the node's other parts say ----------------------------------------------------------------
    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something beside the turns."""
        self._node.spawn(coroutine)

    def next_sequence(self) -> int:
        """A number for the end of a backlog: later ones are larger. Nobody else draws it, since it names the task: no
        other node, and no other process before or after this one, whose clock may be set otherwise."""
        self._sequence = max(self._sequence + 1, self.clock.now())
        return self._sequence * OPENINGS_TOLD_APART + self.store.opening % OPENINGS_TOLD_APART

    def nudge(self) -> None:
        """Slots or backlogs have changed: look at them in a turn."""
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self.loop.call_soon(self.turn)

    def installed(self, live: Live) -> None:
        """An execution was read from the store; if its workflow task is open, somebody must take it."""
        if live.older and (live.key.run_no >= live.below or (live.execution is not None and live.execution.open)):
            self._not_older(live)
            return
        if live.execution is not None:
            self.peers.served(live)
        self.offers.workflow_task(live)
        self.make_ready(live)

    def moved(self, chain: ChainKey) -> None:
        """Another node has written to a workflow id. If what is in memory builds on that, it is refused later."""
        live = self.lives.get(chain)
        if live is None:
            self.submit(chain, Work(None))
        elif live.loading:
            live.moved = True
        elif live.pending is None:
            # The worker's copy has seen nothing that is not on disk, and needs only what is new; unless it is at work.
            idle = live.execution is None or live.execution.taken is None
            copy = live.sticky if idle else ""
            works = self.discard(live, keep_copy=idle)
            self.decide_again(chain, works)
            self.lives[chain].sticky = copy

    def waits_for(self, chain: ChainKey, run_id: str) -> bool:
        """Whether somebody waits here for what another node may do to a run."""
        live = self.lives.get(chain)
        return self.waiting.waits_for(run_id) or (live is not None and bool(live.queries))

    def look(self, chain: ChainKey, run_id: str) -> None:
        """See what has become of a run that another node serves, for those who wait here."""
        self.submit(chain, Work(LookAgain(), run_id=run_id, again=False))

    def on_disk(self, live: Live) -> None:
        """A row of it is on disk."""
        if live.row is None and live.parked:
            live.inbox += live.parked
            live.parked = ()
            self.make_ready(live)
        if live.queries:
            self.make_ready(live)
        self.rest(live)

    def give_up(self, live: Live, error: Exception) -> None:
        """It can't be loaded: whoever asked hears why, and its wake-up is put off."""
        for work in live.inbox:
            self.fail(work, error)
        live.inbox.clear()
        self._forget(live)

    def wake_served(self, effect: fx.WakeServed) -> None:
        """A wake-up was acted on."""
        self._node.wakeups.done(effect.key)

    def read_backlogs(self, backlogs: dict[QueueKey, Backlog], room: int) -> None:
        """The heads of some backlogs of one line run low; there are slots for so many tasks."""
        self.spawn(self._read_backlogs(backlogs, room))

    async def _read_backlogs(self, backlogs: dict[QueueKey, Backlog], room: int) -> None:
        try:
            await self.peers.fetch(backlogs, room)
        except BaseException:
            for backlog in backlogs.values():
                backlog.fill((), more=True)  # to be read again, when there is something to do next
            raise

    async def whole_history(self, run: RunKey, until: int) -> list[HistoryEvent]:
        """All events of a run up to an id, as they are on disk."""
        return await self._node.reading.whole(run, until)

    def worker_gone(self, worker: AttachedWorker) -> None:
        """What a worker held is lost, but for what it has let go, or never got."""
        for back in worker.let_go():
            run = back.token.run
            self.submit(ChainKey(run.namespace, run.workflow_id), Work(back, None, run.run_id))
        for run in dict.fromkeys(token.run for token in worker.held):
            self.look_for_lost(ChainKey(run.namespace, run.workflow_id), run.run_id, worker.hello.instance)
        for live in list(self.lives.values()):
            if live.sticky == worker.hello.instance:
                live.sticky = ""
            execution = live.execution
            if execution is not None and execution.taken is not None and execution.taken_by == worker.hello.instance:
                self.task_lost(live)
        self.queries.worker_gone(worker)
        self.nudge()

    def look_for_lost(self, chain: ChainKey, run_id: str, gone: str = "") -> None:
        """Attempts of this run may be on a worker that is gone: on one that was here, or ("") on any."""

        def alive(worker: str, since: int) -> bool:  # when it is decided, not now
            if gone:
                return worker != gone or worker in self.dispatcher.workers
            return self.peers.is_alive(worker, since)

        self.submit(chain, Work(i.WorkersLost(alive), None, run_id))

    def task_lost(self, live: Live) -> None:
        """Nobody works on its workflow task any more."""
        live.inbox.append(Work(i.WorkflowTaskLost(), again=False))
        self.make_ready(live)

    # --- What went wrong --------------------------------------------------------------------------------
    def missing(self, live: Live, work: Work) -> None:
        """There is no such run (any more)."""
        id = live.chain.workflow_id
        text = f"workflow {id!r} has no run {work.run_id}" if live.older else f"there is no workflow with the id {id!r}"
        if type(work.input) in schedules.OF_SCHEDULES:
            text = gone(id)
        self.reply(live, work, NotFound(text))
        if type(work.input) is i.WakeUp:
            self._node.wakeups.done(work.input.key)
        elif type(work.input) is BacklogItem:
            if not work.fresh:  # memory may be older than the task
                self.decide_again(live.chain, self.discard(live))
                self.submit(live.chain, work)
            else:
                self.offers.orphaned(work.input)

    def _broken(self, live: Live, work: Work, error: Exception) -> None:
        """A decision raised: memory may be half changed, so it is thrown away; the input is not tried again."""
        logger.error("deciding %s for %s failed", type(work.input).__name__, live.chain, exc_info=error)
        flight, live.flight = live.flight, None  # not this one: it is on its way, and was decided well
        works = self.discard(live)
        live.flight = flight
        self.fail(work, error)
        again = [each for each in works if each is not work]
        if isinstance(work.input, WorkflowTaskCompletion | ActivityCompletion | ActivityFailure):
            again += self._undecided(live, work.input, error)
        self.start_anew(live.chain, again)

    def _undecided(
        self, live: Live, answer: WorkflowTaskCompletion | ActivityCompletion | ActivityFailure, error: Exception
    ) -> list[Work]:
        """What is decided instead of a worker's answer that can't be, once memory is what the disk says."""
        failure = Failure(f"the engine could not decide on what the code answered: {error!r}", kind="engine")
        if not isinstance(answer, WorkflowTaskCompletion):
            if isinstance(answer, ActivityFailure) and answer.failure.kind == failure.kind:
                return []  # not even that
            return [Work(ActivityFailure(answer.token, failure), None, answer.token.run.run_id)]
        worker = "" if live.execution is None else live.execution.taken_by
        # A run that is not on disk is begun again, with another id.
        return [Work(i.WorkflowTaskUndecided(worker, failure), run_id=answer.run.run_id if live.version else "")]

    def fail(self, work: Work, error: Exception) -> None:
        """An input came to nothing: whoever asked hears why, and a wake-up is put off."""
        self.waiting.withdraw(work.answer)
        settle(work.answer, error)
        if type(work.input) is i.WakeUp:
            self._node.wakeups.done(work.input.key, error)
        elif type(work.input) is BacklogItem:
            self.offers.put_back(work.input)

    def start_anew(self, chain: ChainKey, works: list[Work]) -> None:
        """Decide again after an error of our own; not at once, since it may come again."""
        self.spawn(self._start_anew(chain, works))

    async def _start_anew(self, chain: ChainKey, works: list[Work]) -> None:
        await asyncio.sleep(WAKE_BACKOFF_INITIAL / SECOND)
        self.decide_again(chain, works)

    def _forget(self, live: Live) -> None:
        live.gone = True
        if live.older:
            self.older.pop((live.chain, live.older), None)
        elif self.lives.get(live.chain) is live:
            del self.lives[live.chain]

    def discard(self, live: Live, *, keep_copy: bool = False) -> list[Work]:
        """Memory is not what the disk says. Forget it; what came from outside is to be decided again.

        keep_copy: the worker's copy has seen only what is on disk.
        """
        if not live.gone:
            self._forget(live)
            if not keep_copy:
                self.offers.evict_copy(live)
        works = {id(work): work for work in heartbeats_of(live)}
        for row in (live.flight, live.row):
            if row is not None:
                works |= {id(work): work for work in row.works}
                self.offers.undo(row)
                self._node.committer.drop(row)
        live.flight = live.row = None
        for work in (*live.inbox, *live.parked, *self.queries.withdraw(live)):
            if type(work.input) is BacklogItem:
                self.offers.put_back(work.input)
            elif work.again:
                works[id(work)] = work
        live.inbox.clear()
        live.parked = ()
        successor, live.successor = live.successor, None
        if successor is not None:
            works |= {id(work): work for work in self.discard(successor)}
        return list(works.values())

    def decide_again(self, chain: ChainKey, works: list[Work]) -> None:
        """Put inputs back whose outcome was discarded."""
        self.submit(chain, Work(None))  # whatever else there is: its open workflow task may need somebody
        for work in works:
            if work.answer is None or not work.answer.done():
                self.waiting.withdraw(work.answer)
                self.submit(chain, work)

    # --- Memory -----------------------------------------------------------------------------------------
    def woken(self, live: Live, _: Work) -> None:
        """See that the stored wake-up time does not stay in the past, and tell when the wake-up is served."""
        if live.pending is None and 0 < live.wake_at <= self.clock.now():
            self.dirty(live, live.next_row())
        self.act(live, [fx.WakeServed(live.key)])

    def rest(self, live: Live) -> None:
        """Forget it if all of it is on disk and it has ended; or if it waits, and memory is short."""
        foreign = live.home != self.peers.node
        if foreign and live.execution is not None and live.execution.beats and live.settled():
            self.apply(live, Work(None, again=False), decide(live.execution, i.KeepBeats(), self.clock.now()))
            return  # nobody else has heard how far its activities came
        if not (live.settled() if foreign else live.idle()):
            return
        if foreign or live.older or live.execution is None or not live.execution.open:
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


def probably_first(input: object) -> bool:
    """Whether this is probably the first that is heard of a workflow id."""
    return isinstance(input, StartWorkflow) and input.message is None


BEGINNINGS: Final[dict[type[Any], Callable[[Serving, Live, Work], None]]] = {
    StartWorkflow: Serving.start,
    CreateSchedule: schedules.create,
    ResetRun: begin_again,
}
"""Inputs with which a run begins, or they are refused."""

AFTERWARDS: Final[dict[type[Any], Callable[[Serving, Live, Work], None]]] = {
    i.WakeUp: Serving.woken,
    # Its home is gone, and it was in memory here.
    i.RetryWorkflowTask: lambda serving, live, _: serving.offers.workflow_task(live),
    i.WorkersLost: Serving.depends,  # if what is under way is refused, another node may have begun more
}
"""What follows some inputs, whatever was decided."""

AT_ONCE: Final[dict[type[Any], Callable[[Serving, Live, Any], None]]] = {
    fx.OfferWorkflowTask: lambda serving, live, _: serving.offers.soon(live),
    fx.KeepSoon: lambda serving, live, _: serving.beats.soon(live),
    fx.EvictCopy: lambda serving, live, _: serving.offers.evict_copy(live),
    fx.ContinueRun: continue_run,
    fx.DeleteRun: Serving.delete_run,
}
"""Effects that concern only memory; the others wait for the disk."""
