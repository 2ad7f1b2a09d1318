"""A run that is driven by hand, one input at a time, with all that must hold checked after each.

After every transition: the invariants hold of the state, the transition and the whole history; what was journaled
so far, folded, gives the live state, from the first row and from a snapshot taken at some earlier transition, however
the transitions were gathered into rows; everything that is stored reads back as it was written; and the deadlines
computed afresh are those that were kept up to date. A refused input has changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from perdure.clock import SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.deadlines import Deadlines, Stalls
from perdure.engine.core.decide import decide
from perdure.engine.core.decisions.starts import Continued, begin_run, continue_run
from perdure.engine.core.decisions.workflow_tasks import take
from perdure.engine.core.evolve import fold, rebuild
from perdure.engine.core.execution import Execution
from perdure.engine.core.invariants import check_execution, check_history, check_transition
from perdure.engine.core.transition import Transition
from perdure.errors import PerdureError
from perdure.limits import DEFAULT_RETENTION
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.journal import (
    decode_events,
    decode_state,
    encode_event,
    encode_private,
    encode_state,
    join_events,
    merged,
)
from perdure.model.payloads import Payload
from perdure.model.state import PendingActivity, State

NOW = 1_700_000_000 * SECOND
NAMESPACE, WORKFLOW, RUN, QUEUE = "default", "wf", "run-1", "queue"
KEY = NAMESPACE, WORKFLOW, 1
FAILURE = Failure("no luck", ("app.errors.NoLuck", "app.errors.Luck", "builtins.Exception"))

Kind = TypeVar("Kind")
Row = tuple[bytes, bytes]


def payload(value: object) -> Payload:
    """A value, encoded."""
    return Payload(json.dumps(value).encode())


def start_request(request_id: str = "start-1", **fields: object) -> q.StartWorkflow:
    """A request to start the run, with the fields given instead of the usual ones."""
    usual: dict[str, object] = {"workflow_type": "Type", "task_queue": QUEUE, "input": (payload("input"),)}
    return q.StartWorkflow(NAMESPACE, WORKFLOW, request_id=request_id, **(usual | fields))  # pyright: ignore[reportArgumentType]


def effects(tx: Transition, kind: type[Kind]) -> list[Kind]:
    """The effects of one kind; and the offers."""
    return [effect for effect in (*tx.offers, *tx.effects) if isinstance(effect, kind)]


class Run:
    """One run. `now` is the time of the next input; it may be set at will."""

    def __init__(self, tx: Transition, *, now: int = NOW, seed: int = 0) -> None:
        self.now = now
        self.execution = tx.execution
        self.rows: list[Row] = []
        self.history: list[e.HistoryEvent] = []
        self.carried = fx.ContinueRun()
        self._snapshots: list[tuple[int, bytes]] = []
        self._random = Random(seed)
        self.keep(tx)

    @classmethod
    def begin(cls, *, retention: int = DEFAULT_RETENTION, now: int = NOW, seed: int = 0, **fields: object) -> Run:
        """A new run; `fields` are those of the start request."""
        return cls(begin_run(i.Start(start_request(**fields), RUN, 1), now, retention), now=now, seed=seed)  # pyright: ignore[reportArgumentType]

    def continued(self) -> Run:
        """The run that goes on after this one: it continued as new, or failed and is tried again."""
        end = self.history[-1]
        assert isinstance(end, Continued)
        retention = self.execution.deadlines.retention
        tx = continue_run(self.state, end, self.state.run_no + 1, self.now, retention, self.carried)
        return Run(tx, now=self.now)

    def followed(self) -> Run:
        """A run that is started under the id of this one, which has closed."""
        start = i.Start(start_request(), "other-run", self.state.run_no + 1)
        return Run(begin_run(start, self.now, self.execution.deadlines.retention, self.state), now=self.now)

    @property
    def state(self) -> State:
        return self.execution.state

    @property
    def last(self) -> e.HistoryEvent:
        """The last event of the history."""
        return self.history[-1]

    def names(self, since: int = 0) -> list[str]:
        """The types of the events after the one with this id."""
        return [type(event).__name__ for event in self.history[since:]]

    def journaled(self) -> list[r.PrivateRecord]:
        """The private records so far."""
        return [record for row in self.rows for record in merged(*row) if isinstance(record, r.Record)]

    # --- One step ---------------------------------------------------------------------------------------
    def decide(self, input: object) -> Transition:
        """Decide an input, now. Raises what the decision raises, after checking that nothing has changed."""
        before = self._all_there_is()
        try:
            tx = decide(self.execution, input, self.now)
        except PerdureError:
            assert self._all_there_is() == before, f"{input} was refused, but has changed something"
            raise
        self.keep(tx)
        return tx

    def crash(self) -> None:
        """The process dies: what only memory knew is lost, the rest is read from the journal."""
        retention = self.execution.deadlines.retention
        self.execution = Execution(self._from_journal(), retention)
        check_execution(self.execution)

    def _all_there_is(self) -> object:
        execution = self.execution
        taken = execution.taken, execution.taken_at, execution.taken_by
        return encode_state(execution.state), taken, dict(execution.beats), execution.deadlines.next()

    def keep(self, tx: Transition) -> None:
        """Journal what was decided, and check everything."""
        check_transition(tx)
        self.carried = next(iter(effects(tx, fx.ContinueRun)), self.carried)
        self.history += tx.events
        if tx.changed:
            row = join_events(tx.encoded), encode_private(tx.private)
            assert list(merged(*row)) == _in_order(tx)
            self.rows.append(row)
            self._snapshots.append((len(self.rows), encode_state(self.state)))
        check_history(self.history)
        assert [event for history, _ in self.rows if history for event in decode_events(history)] == self.history
        assert decode_state(encode_state(self.state)) == self.state
        rebuilt = self._from_journal()
        deadlines = self.execution.deadlines
        afresh = Deadlines(rebuilt, self.execution.beats, deadlines.retention)
        afresh.extend(deadlines.stalls)
        assert afresh.next() == deadlines.next()

    def _from_journal(self) -> State:
        """The stored state, which must agree with the live one, whichever way it is read."""
        state = self.state
        after, snapshot = self._random.choice(self._snapshots)
        assert fold(decode_state(snapshot), self.rows[after:]) == state
        rows = self._regrouped() if self._random.random() < 0.3 else self.rows
        rebuilt = rebuild(state.namespace, state.workflow_id, state.run_no, rows)
        assert rebuilt == state
        return rebuilt

    def _regrouped(self) -> list[Row]:
        """The same journal, as if some transitions had been committed together."""
        rows: list[Row] = []
        encoded: list[bytes] = []
        private: list[tuple[int, r.PrivateRecord]] = []
        for index, row in enumerate(self.rows, 1):
            for record in merged(*row):
                if isinstance(record, e.Event):
                    encoded.append(encode_event(record))
                else:
                    private.append((len(encoded), record))
            if index == len(self.rows) or self._random.random() < 0.5:
                rows.append((join_events(encoded), encode_private(private)))
                encoded, private = [], []
        return rows

    # --- The workflow task ------------------------------------------------------------------------------
    def take(self, worker: str = "worker-1") -> t.Position:
        """A worker takes the workflow task. Raises LookupError where there is none to take."""
        if not take(self.execution, worker, self.now):
            raise LookupError("there is no workflow task to take")
        assert self.execution.taken is not None
        return self.execution.taken

    def completion(self, *commands: c.Command, position: t.Position | None = None) -> t.WorkflowTaskCompletion:
        """What the worker that has the task answers."""
        position = position or self.execution.taken
        task = self.state.task
        assert position is not None and task is not None
        return t.WorkflowTaskCompletion(self.execution.ref, task.attempt, position, commands, "3.11")

    def complete(self, *commands: c.Command) -> Transition:
        """The worker completes the task that it has; it takes it first, if nobody has."""
        if self.execution.taken is None:
            self.take()
        return self.decide(self.completion(*commands))

    def fail_task(self, failure: Failure = FAILURE) -> Transition:
        """The worker fails the task that it has; it takes it first, if nobody has."""
        position = self.execution.taken or self.take()
        task = self.state.task
        assert task is not None
        return self.decide(t.WorkflowTaskFailure(self.execution.ref, task.attempt, position, failure))

    # --- Activities -------------------------------------------------------------------------------------
    def schedule(self, name: str = "a", **fields: object) -> PendingActivity:
        """The code asks for an activity; `fields` are those of its command."""
        self.complete(schedule(name, **fields))
        return self.activity(name)

    def running(self, name: str = "a", worker: str = "worker-1", **fields: object) -> t.ActivityToken:
        """The code asks for an activity, and it is handed to a worker."""
        self.schedule(name, **fields)
        return self.start(name, worker)

    def start(self, name: str = "a", worker: str = "worker-1") -> t.ActivityToken:
        """A worker starts the waiting attempt of an activity."""
        activity = self.activity(name)
        tx = self.decide(i.StartActivity(activity.event.id, activity.attempt, worker))
        (handed,) = effects(tx, fx.HandOver)
        return handed.task.token

    def activity(self, name: str = "a") -> PendingActivity:
        """A pending activity, by its id."""
        return self.state.activities[self.state.activity_ids[name]]

    def fail_activity(self, token: t.ActivityToken, failure: Failure = FAILURE) -> Transition:
        """The attempt raises."""
        return self.decide(t.ActivityFailure(token, failure))

    # --- From outside -----------------------------------------------------------------------------------
    def signal(self, name: str = "s", request_id: str = "") -> Transition:
        """Somebody sends a signal."""
        return self.decide(q.SignalWorkflow(NAMESPACE, WORKFLOW, "", name, (), request_id or f"signal-{name}"))

    def update(self, update_id: str = "u", name: str = "resize") -> Transition:
        """Somebody sends an update."""
        return self.decide(q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", update_id, name, (payload(update_id),)))

    def cancel(self) -> Transition:
        """Somebody asks the workflow to stop."""
        return self.decide(q.CancelWorkflowRequest(NAMESPACE, WORKFLOW, "", "enough", "ann"))

    def terminate(self) -> Transition:
        """Somebody ends the run."""
        return self.decide(q.TerminateWorkflow(NAMESPACE, WORKFLOW, "", "enough", "ann"))

    def release(self, name: str = "", **fields: object) -> Transition:
        """Somebody lets an activity go on (all that are held, without a name)."""
        request = q.ReleaseActivity(NAMESPACE, WORKFLOW, "", name, **fields)  # pyright: ignore[reportArgumentType]
        return self.decide(request)

    def wake(self, at: int | None = None, stalls: Stalls = ()) -> Transition:
        """Time passes until then (by default the next deadline), and the run is woken."""
        at = self.execution.wake_at() if at is None else at
        assert at, "nothing is due, ever"
        self.now = max(self.now, at)
        tx = self.decide(i.WakeUp(KEY, stalls))
        if self.state.status == "Running" or self.state.outbox:
            next = self.execution.wake_at()
            assert not next or next > tx.now, "woken, but something is still due"
        return tx


def schedule(name: str = "a", **fields: object) -> c.ScheduleActivity:
    """A command that asks for an activity."""
    return c.ScheduleActivity(name, "create_vpc", "", (payload(name),), **fields)  # pyright: ignore[reportArgumentType]


def _in_order(tx: Transition) -> Sequence[r.AnyRecord]:
    """What a transition has added, in the order in which it was added."""
    added: list[r.AnyRecord] = []
    position = 0
    for preceding, record in tx.private:
        added += tx.events[position:preceding]
        added.append(record)
        position = preceding
    return added + tx.events[position:]
