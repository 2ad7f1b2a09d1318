"""Giving tasks to workers, as far as memory is concerned: slots are reserved here, handed over after the
commit. A workflow task goes out before its input is on disk, since the code it runs has no effects."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decide import decide
from perdure.engine.core.decisions.activities import start, waits
from perdure.engine.core.decisions.workflow_tasks import take
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.engine.node.dispatch import AttachedWorker, first
from perdure.engine.node.live import Live, Row, Work
from perdure.engine.node.patience import patiently
from perdure.engine.storage.api import BacklogItem, QueueKey
from perdure.limits import SECOND, WORKFLOW_TASK_TIMEOUT
from perdure.model.events import HistoryEvent
from perdure.model.state import PendingActivity, State
from perdure.model.tasks import (
    START,
    ActivityTask,
    ActivityToken,
    AdmittedUpdate,
    EvictWorkflow,
    RunRef,
    WorkflowTask,
    WorkflowTaskCompletion,
)

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving

logger = logging.getLogger("perdure.engine")


class Offers:
    """Matches what the executions have to do with the workers that are there."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._dispatcher = serving.dispatcher
        self._given = 0  # the number of the last workflow task that was given to a worker
        self._offered: list[Live] = []  # those that have a workflow task to give
        self._receivers: dict[AttachedWorker, None] = {}  # workers for which tasks wait
        self._out: dict[Live, float] = {}  # whose workflow task is at a worker, and since when
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = inf  # when that is, by the loop's clock
        self._orphans: list[BacklogItem] = []  # tasks of runs that are gone, to be removed
        self.ending = False  # the engine is about to stop: workers leave, and that is nothing to warn of

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()

    # --- Activities -------------------------------------------------------------------------------------
    def activities(self, live: Live, tx: Transition) -> None:
        """Start the attempts that a transition offers, as a part of it, where a worker has a slot; the others join the
        backlog."""
        for offer in tx.offers:
            key = self._queue_of(live, tx.state.activities[offer.scheduled_event_id])
            worker = None if self._serving.peers.silent else self._dispatcher.activity_worker(key)
            if worker is None:
                self._backlog(live, key, offer.priority, offer.scheduled_event_id, offer.attempt)
            else:
                start(tx, i.StartActivity(offer.scheduled_event_id, offer.attempt, worker.hello.instance))
                self._take_slot(tx, worker, offer.scheduled_event_id, offer.attempt)

    def _take_slot(self, tx: Transition, worker: AttachedWorker, scheduled_event_id: int, attempt: int) -> None:
        """An attempt is started on a worker, which is to be given it."""
        worker.held[ActivityToken(tx.execution.ref, scheduled_event_id, attempt)] = self._serving.peers.silences

    def unserved(self, live: Live) -> tuple[str, ...]:
        """Why tasks of a run that wait are not begun, where that is for want of a worker."""
        state = live.run.state
        keys = [workflow_queue(state)] if live.queued and not live.run.stopped else []
        keys += [self._queue_of(live, a) for a in state.activities.values() if waits(state, a, a.attempt)]
        return tuple(filter(None, map(self._dispatcher.missing, dict.fromkeys(keys))))

    def _queue_of(self, live: Live, activity: PendingActivity) -> QueueKey:
        event = activity.event
        return QueueKey(live.chain.namespace, "activity", activity.task_queue or event.task_queue, event.activity_type)

    def _backlog(self, live: Live, key: QueueKey, priority: int, scheduled: int, attempt: int) -> None:
        if not self.ending and (missing := self._dispatcher.newly_missing(key)):
            logger.warning("%s: what is asked of it waits for one, such as the next deploy", missing)
        sequence = self._serving.next_sequence()
        item = BacklogItem(key, priority, 0, sequence, live.key, live.run.ref.run_id, scheduled, attempt)
        row = live.next_row()
        row.backlog_added.append(item)
        live.waits[scheduled] = item
        self._serving.dirty(live, row)

    # --- The backlog ------------------------------------------------------------------------------------
    def pump(self) -> None:
        """Give free slots to what waits in the backlogs; what was claimed for a slot that is gone is for others."""
        if self._serving.peers.silent:
            return
        for line in self._dispatcher.waiting():
            claims = sum(backlog.claims for backlog in line.values())
            rooms = {key: self._dispatcher.room(key) for key in line}
            while backlog := first([line[key] for key, room in rooms.items() if room > claims]):
                item = backlog.claim()
                self._serving.submit(item.run.chain, Work(item, run_id=item.run_id, again=False))
                claims += 1
            wanted = {key: backlog for key, backlog in line.items() if backlog.wants_page and rooms[key] > claims}
            if wanted:
                for backlog in wanted.values():
                    backlog.reading = True
                self._serving.read_backlogs(wanted, max(rooms[key] for key in wanted) - claims)
            for backlog in [line[key] for key, room in rooms.items() if room <= claims and line[key].head]:
                self._serving.peers.release(backlog.give_back())

    def claim(self, live: Live, item: BacklogItem) -> None:
        """The first of a backlog: start it, or find that it does not wait any more."""
        key, backlog = item.queue, self._dispatcher.backlog(item.queue)
        worker = None
        if self._serving.peers.silent:
            backlog.put_back(item)
            return
        if self._waits(live, item):
            worker = self._dispatcher.free_worker(key) if key.kind == "activity" else self._anyone(key)
            if worker is None:  # gone since, or another line was faster
                backlog.put_back(item)
                return
        backlog.claims -= 1
        row = live.next_row()
        row.backlog_removed += (item,)
        live.waits.pop(item.scheduled_event_id, None)
        self._serving.dirty(live, row)
        if key.kind == "workflow":
            live.queued = False
            live.home = self._serving.peers.node  # its last home had no worker for it
            self.workflow_task(live)
        elif worker is not None:
            begin = i.StartActivity(item.scheduled_event_id, item.attempt, worker.hello.instance)
            tx = decide(live.run, begin, self._serving.clock.now())
            self._take_slot(tx, worker, item.scheduled_event_id, item.attempt)
            self._serving.apply(live, Work(begin, again=False), tx)
        self._dispatcher.served(key)

    def _waits(self, live: Live, item: BacklogItem) -> bool:
        """Whether a task waits still: it may have been cancelled, timed out or settled."""
        if item.queue.kind == "workflow":
            return live.queued
        activity = live.run.state.activities.get(item.scheduled_event_id)
        if activity is None or self._queue_of(live, activity) != item.queue:
            return False
        return waits(live.run.state, activity, item.attempt)

    def _anyone(self, key: QueueKey) -> AttachedWorker | None:
        return next(iter(self._dispatcher.able(key)), None)

    def put_back(self, item: BacklogItem) -> None:
        """A claim could not be decided."""
        self._dispatcher.backlog(item.queue).put_back(item)

    def orphaned(self, item: BacklogItem) -> None:
        """The run of a claim is gone, so there is nothing to start, and nothing to write its removal with. Until it is
        removed all the same, it counts as claimed, so that it isn't read again."""
        self._dispatcher.backlog(item.queue).claims -= 1
        self._orphans.append(item)
        if len(self._orphans) == 1:
            self._serving.spawn(self._drop_orphans())

    async def _drop_orphans(self) -> None:
        orphans, self._orphans = self._orphans, []
        await patiently("tasks of runs that are gone", partial(self._serving.store.drop_backlog, orphans))
        for item in orphans:
            self._dispatcher.removed(item)

    def undo(self, row: Row) -> None:
        """A row was refused: what it reserved is free again."""
        for effect in row.effects:
            if isinstance(effect, fx.HandOver):
                worker = self._dispatcher.workers.get(effect.worker)
                if worker is not None:
                    worker.held.pop(effect.task.token, None)
            elif isinstance(effect, fx.WakeServed):
                self._serving.wake_served(effect)
        for item in row.backlog_removed:
            self._dispatcher.backlog(item.queue).restore(item)

    # --- Workflow tasks ---------------------------------------------------------------------------------
    def soon(self, live: Live) -> None:
        """Give the open workflow task to a worker at the end of the turn: all that waits is decided then, and the
        code hears of them together."""
        live.offered = True
        self._offered.append(live)
        self._serving.nudge()

    def workflow_task(self, live: Live) -> None:
        """Give the open workflow task to a worker."""
        execution = live.execution
        if execution is None or execution.taken is not None or (task := execution.state.task) is None:
            return
        if live.queued or live.gone:  # it is claimed when a worker is there; or somebody else cares for it
            return
        if not live.speculative and live.pending is not None:
            live.pending.effects.append(fx.OfferWorkflowTask())
            return
        if self._serving.peers.elsewhere(live.home):
            return  # its home is told of it by the commit
        state = execution.state
        key = workflow_queue(state)
        worker = self._dispatcher.workflow_worker(key, live.sticky)
        if worker is None:
            if not task.next_attempt_at and not execution.stopped:
                live.queued = True
                self._backlog(live, key, 0, 0, 0)
            return
        if state.buffered:  # just read from the store: a worker had the task, and its process is gone
            self._serving.task_lost(live)
            return
        now = self._serving.clock.now()
        self._given = now if now > self._given else self._given + 1  # across restarts, too
        if not take(execution, worker.hello.instance, now, worker.hello.build_id, self._given):
            return  # it backs off, or the run is held
        live.home = self._serving.peers.node  # its home, if that was another, is gone
        seen = state.seen
        if live.sticky == worker.hello.instance and live.recent_from <= seen.event_id + 1:
            news = live.recent[seen.event_id + 1 - live.recent_from :]
            self.send_task(live, execution, worker, news, delta=True)
        elif live.recent_from == 1:
            self.send_task(live, execution, worker, live.recent, delta=False)
        else:
            self.history(live)

    def send_task(
        self, live: Live, execution: Execution, worker: AttachedWorker, events: list[HistoryEvent], *, delta: bool
    ) -> None:
        """Hand over a workflow task that was taken, at the end of the turn."""
        state, taken = execution.state, execution.taken
        assert taken is not None and state.task is not None
        self._watch(live, state)
        updates = tuple([AdmittedUpdate(u.update_id, u.name, u.input, u.header) for u in execution.updates])
        live.sticky = worker.hello.instance
        live.wants_history = live.wants_input = False
        self._serving.nudge()
        self.later(
            worker,
            WorkflowTask(
                execution.ref,
                state.task.attempt,
                execution.taken_at,
                state.seen if delta else START,
                taken,
                tuple(events),
                updates,
                state.history_bytes,
                execution.given,
            ),
        )

    def later(self, worker: AttachedWorker, task: WorkflowTask | ActivityTask) -> None:
        """Send a task at the end of what goes on: a turn, or what follows a commit."""
        self._receivers[worker] = None
        worker.later(task)

    def hand_over(self) -> None:
        """Send the tasks that wait to their workers, which may answer at once. All in a row: the code of engine and
        worker is more than a processor's caches hold, and a fifth slower where they take turns."""
        offered, self._offered = self._offered, []
        for live in offered:
            live.offered = False
            self.workflow_task(live)
        while self._receivers:
            worker = next(iter(self._receivers))
            if self._dispatcher.workers.get(worker.hello.instance) is worker:
                worker.hand_over()
            del self._receivers[worker]

    def history(self, live: Live) -> None:
        """The worker of the taken task needs the whole history, which is read once all of it is on disk."""
        live.wants_history = True
        self._serving.act(live, [fx.SendHistory(live.run.given)])
        if live.row is not None:
            self._serving.dirty(live, live.row)

    def answered(self, live: Live, state: State, completion: WorkflowTaskCompletion) -> None:
        """A workflow task was completed: forget the events that the worker has seen."""
        self._out.pop(live, None)
        seen = state.seen.event_id
        if seen >= live.recent_from:
            del live.recent[: seen + 1 - live.recent_from]
            live.recent_from = seen + 1
        if completion.acknowledge and live.pending is not None:
            live.pending.effects.append(fx.Acknowledge(live.sticky, completion.position))

    def _watch(self, live: Live, state: State) -> None:
        """See that the task is answered in time."""
        self._out[live] = now = self._serving.loop.time()
        until = now + (state.started.workflow_task_timeout or WORKFLOW_TASK_TIMEOUT) / SECOND
        if until < self._looks_at:
            self._look_at(until)

    def _look_at(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = until
        self._timer = self._serving.loop.call_at(until, self._give_to_others)

    def _give_to_others(self) -> None:
        """Give tasks that were not answered in time to other workers, if there are any: to the same one they would
        only be one more thing to do, since what it is sent stays in order."""
        self._timer, self._looks_at = None, inf
        now = self._serving.loop.time()
        for live, since in list(self._out.items()):
            execution = live.execution
            if live.gone or execution is None or execution.taken is None:
                del self._out[live]
            elif now - since >= task_timeout(live):
                key = workflow_queue(execution.state)
                if self._dispatcher.prefer_others(key, execution.taken_by):
                    del self._out[live]
                    logger.warning(
                        "%s did not answer a workflow task of %s within %g s; another worker gets it",
                        execution.taken_by, live.chain, task_timeout(live),
                    )  # fmt: skip
                    self.evict_copy(live)
                    self._serving.task_lost(live)
        if self._out:
            self._look_at(now + min(map(task_timeout, self._out)))

    def evict(self, run: RunRef) -> None:
        """Whatever any worker holds of this run is not to be used again."""
        for worker in self._dispatcher.workers.values():
            worker.receive(EvictWorkflow(run))

    def evict_copy(self, live: Live) -> None:
        """Whatever a worker holds of this run is not to be used again."""
        if live.execution is None or not live.sticky:
            return
        worker = self._dispatcher.workers.get(live.sticky)
        live.sticky = ""
        if worker is not None:
            worker.receive(EvictWorkflow(live.execution.ref))


def task_timeout(live: Live) -> float:
    """Seconds that a worker is given to answer the run's workflow task."""
    return (live.run.state.started.workflow_task_timeout or WORKFLOW_TASK_TIMEOUT) / SECOND


def workflow_queue(state: State) -> QueueKey:
    """Where the workflow tasks of a run wait."""
    started = state.started
    return QueueKey(state.namespace, "workflow", started.task_queue, started.workflow_type)
