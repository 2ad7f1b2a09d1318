"""Giving tasks to workers, as far as memory is concerned: slots are reserved here, handed over after the
commit. A workflow task goes out before its input is on disk, since the code it runs has no effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.decide import decide
from perdure.engine.core.decisions.messages import outcome_of
from perdure.engine.core.transition import Transition
from perdure.engine.node.dispatch import AttachedWorker
from perdure.engine.node.live import Answer, Live, Row, Work
from perdure.engine.storage.api import BacklogItem, QueueKey
from perdure.errors import NotFound
from perdure.model.events import HistoryEvent
from perdure.model.requests import QueryWorkflow, UpdateWorkflow
from perdure.model.tasks import (
    START,
    ActivityToken,
    AdmittedUpdate,
    EvictWorkflow,
    QueryTask,
    WorkflowTask,
    WorkflowTaskCompletion,
)

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving


class Offers:
    """Matches what the executions have to do with the workers that are there."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._dispatcher = serving.dispatcher
        self.queries: dict[str, tuple[Live, Work]] = {}  # at a worker, by query id
        self.updates: dict[tuple[str, str], list[tuple[Answer, UpdateWorkflow]]] = {}

    # --- Activities -------------------------------------------------------------------------------------
    def activity(self, live: Live, offer: fx.OfferActivity) -> None:
        """Start an attempt if a worker has a slot; else it joins the backlog."""
        key = QueueKey(live.chain.namespace, "activity", offer.task_queue)
        worker = self._dispatcher.activity_worker(key)
        if worker is None:
            self._backlog(live, key, offer.priority, offer.scheduled_event_id, offer.attempt)
        else:
            self._start(live, worker, offer.scheduled_event_id, offer.attempt)

    def _start(self, live: Live, worker: AttachedWorker, scheduled_event_id: int, attempt: int) -> None:
        """Start an attempt on a worker. Raises NotFound where it does not wait any more."""
        start = i.StartActivity(scheduled_event_id, attempt, worker.hello.instance)
        tx = decide(live.run, start, self._serving.clock.now())
        worker.held.add(ActivityToken(live.run.ref, scheduled_event_id, attempt))
        self._serving.apply(live, Work(start, again=False), tx)

    def _backlog(self, live: Live, key: QueueKey, priority: int, scheduled: int, attempt: int) -> None:
        sequence = self._serving.next_sequence()
        item = BacklogItem(key, priority, 0, sequence, live.key, live.run.ref.run_id, scheduled, attempt)
        live.next_row().backlog_added.append(item)
        self._serving.dirty(live)

    def claim(self, live: Live, item: BacklogItem) -> None:
        """The first of a backlog: start it, or find that it does not wait any more."""
        live.next_row().backlog_removed.append(item)
        self._serving.dirty(live)
        if item.queue.kind == "workflow":
            self.workflow_task(live)
            return
        key = QueueKey(live.chain.namespace, "activity", item.queue.task_queue)
        worker = self._dispatcher.free_worker(key)
        try:
            if worker is not None:
                self._start(live, worker, item.scheduled_event_id, item.attempt)
                return
            activity = live.run.state.activities.get(item.scheduled_event_id)
            if activity is not None and activity.status == "scheduled" and activity.attempt == item.attempt:
                self._backlog(live, key, item.priority, item.scheduled_event_id, item.attempt)
        except NotFound:
            pass  # cancelled, timed out or settled while it waited

    def pump(self) -> None:
        """Give free slots to what waits in the backlogs."""
        for key, backlog in self._dispatcher.backlogs.items():
            if not backlog:
                continue
            if key.kind == "workflow":
                room = len(backlog.head) if key in self._dispatcher.queues else 0
            else:
                workers = self._dispatcher.queues.get(key, ())
                room = sum(worker.room for worker in workers) - len(backlog.claimed)
            while room > 0 and backlog.head:
                item = backlog.take()
                self._serving.submit(item.run.chain, Work(item, run_id=item.run_id, again=False))
                room -= 1
            if room > 0 and backlog.more and not backlog.reading:
                backlog.reading = True
                self._serving.read_backlog(key)

    def undo(self, row: Row) -> None:
        """A row was refused: what it reserved is free again."""
        for effect in row.effects:
            if isinstance(effect, fx.HandOver):
                worker = self._dispatcher.workers.get(effect.worker)
                if worker is not None:
                    worker.held.discard(effect.task.token)
            elif isinstance(effect, fx.WakeServed):
                self._serving.wake_served(effect)
        for item in row.backlog_removed:
            backlog = self._dispatcher.backlog(item.queue)
            backlog.claimed.discard(item)
            backlog.add(item)

    # --- Workflow tasks ---------------------------------------------------------------------------------
    def workflow_task(self, live: Live) -> None:
        """Give the open workflow task to a worker."""
        execution = live.execution
        if execution is None or execution.state.task is None or execution.taken is not None:
            return
        if not live.speculative and live.pending is not None:
            live.pending.effects.append(fx.OfferWorkflowTask())
            return
        state = execution.state
        key = QueueKey(live.chain.namespace, "workflow", state.started.task_queue)
        worker = self._dispatcher.workflow_worker(key, live.sticky)
        if worker is None:
            self._backlog(live, key, 0, 0, 0)
            return
        try:
            decide(execution, i.TakeWorkflowTask(worker.hello.instance), self._serving.clock.now())
        except NotFound:
            return  # it backs off, or the run is held
        seen = state.seen
        if live.sticky == worker.hello.instance and live.recent_from <= seen.event_id + 1:
            self.send_task(live, worker, live.recent[seen.event_id + 1 - live.recent_from :], delta=True)
        elif live.recent_from == 1:
            self.send_task(live, worker, live.recent, delta=False)
        else:
            self.history(live)

    def send_task(self, live: Live, worker: AttachedWorker, events: list[HistoryEvent], *, delta: bool) -> None:
        """Hand over a workflow task that was taken."""
        execution = live.run
        state, taken = execution.state, execution.taken
        assert taken is not None and state.task is not None
        updates = tuple(AdmittedUpdate(u.update_id, u.name, u.input) for u in state.admitted.values())
        live.sticky = worker.hello.instance
        live.wants_history = False
        worker.receive(
            WorkflowTask(
                execution.ref,
                state.task.attempt,
                execution.taken_at,
                state.seen if delta else START,
                taken,
                tuple(events),
                updates,
                state.history_bytes,
            )
        )

    def history(self, live: Live) -> None:
        """The worker of the taken task needs the whole history, which is read once all of it is on disk."""
        live.wants_history = True
        self._serving.act(live, [fx.SendHistory()])
        if live.row is not None:
            self._serving.dirty(live)

    def answered(self, live: Live, completion: WorkflowTaskCompletion) -> None:
        """A workflow task was completed: forget the events that the worker has seen."""
        seen = live.run.state.seen.event_id
        if seen >= live.recent_from:
            del live.recent[: seen + 1 - live.recent_from]
            live.recent_from = seen + 1
        if completion.acknowledge and live.pending is not None:
            live.pending.effects.append(fx.Acknowledge(live.sticky, completion.position))

    def evict_copy(self, live: Live) -> None:
        """Whatever a worker holds of this run is not to be used again."""
        if live.execution is None or not live.sticky:
            return
        worker = self._dispatcher.workers.get(live.sticky)
        live.sticky = ""
        if worker is not None:
            worker.receive(EvictWorkflow(live.execution.ref))

    # --- Queries and updates ----------------------------------------------------------------------------
    def flush_queries(self, live: Live) -> None:
        """Send the queries that wait, unless the code is about to see news first."""
        execution = live.execution
        if not live.queries or execution is None:
            return
        task = execution.state.task
        if execution.taken is not None or (task is not None and not task.next_attempt_at and live.pending):
            return
        waiting, live.queries = live.queries, []
        key = QueueKey(live.chain.namespace, "workflow", execution.state.started.task_queue)
        worker = self._dispatcher.workflow_worker(key, live.sticky)
        for work in waiting:
            if worker is None:
                error = NotFound(f"no worker serves task queue {key.task_queue!r}, so nobody can answer the query")
                self._serving.reply(live, work, error)
                continue
            query_id = self._serving.ids.new_id()
            self.queries[query_id] = live, work
            if live.sticky == worker.hello.instance:
                self.send_query(live, query_id, worker, ())
            else:
                self._serving.query_history(live, query_id)

    def send_query(self, live: Live, query_id: str, worker: AttachedWorker, events: tuple[HistoryEvent, ...]) -> None:
        """Hand a query to a worker; `events` is the whole history, where the worker needs it."""
        request = self.queries[query_id][1].input
        assert isinstance(request, QueryWorkflow)
        execution = live.run
        state = execution.state
        worker.receive(
            QueryTask(execution.ref, query_id, request.name, request.input, state.seen, state.last_time, events)
        )

    def waits_for_update(self, live: Live, work: Work, tx: Transition) -> bool:
        """Whether a caller has to wait for an update to get further."""
        request = work.input
        if not isinstance(request, UpdateWorkflow) or work.answer is None:
            return False
        outcome = outcome_of(live.run.state, request.update_id)
        if outcome is not None and (outcome.stage != "accepted" or request.wait_for == "accepted"):
            tx.reply = outcome
            return False
        key = live.run.ref.run_id, request.update_id
        self.updates.setdefault(key, []).append((work.answer, request))
        return True
