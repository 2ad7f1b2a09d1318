"""Whatever happens, in whatever order, with crashes in between: nothing is lost, and everything goes on.

A run is driven by random inputs: requests, messages from workers (also late ones), clock moves in both directions,
wake-ups and crashes. The harness checks the invariants and the journal after every step; here is what the world
outside may rely on: what was acknowledged is there, in order and once, and what has to be done is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.clock import HOUR, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.transition import Transition
from perdure.errors import PerdureError
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from perdure.model.state import PendingActivity, State
from tests.engine.core.harness import FAILURE, KEY, NAMESPACE, WORKFLOW, Run, effects, payload

Item = TypeVar("Item")

NEWS = (
    e.WorkflowExecutionSignaled,
    e.WorkflowExecutionCancelRequested,
    e.ActivityTaskCompleted,
    e.ActivityTaskFailed,
    e.ActivityTaskTimedOut,
    e.ActivityTaskCanceled,
    e.TimerFired,
    e.ChildWorkflowExecutionStarted,
    e.StartChildWorkflowExecutionFailed,
    e.ChildWorkflowExecutionCompleted,
    e.ChildWorkflowExecutionFailed,
    e.ExternalWorkflowExecutionSignaled,
    e.SignalExternalWorkflowExecutionFailed,
)
FAILURES = (
    FAILURE,
    Failure("ask ann", ("perdure.errors.Hold",), "hold"),
    Failure("no room", ("app.Quota", "builtins.Exception")),
    Failure("never", ("app.Never",), non_retryable=True),
    Failure("soon", ("app.Soon",), next_retry_delay=0),
    Failure("later", ("app.Later",), next_retry_delay=20 * SECOND),
)
POLICIES = (
    RetryPolicy(),
    RetryPolicy(maximum_attempts=1),
    RetryPolicy(maximum_attempts=2, on_exhausted="hold", hold_on=("Quota",)),
    RetryPolicy(initial_interval=0),
    RetryPolicy(initial_interval=MINUTE, backoff_coefficient=1.5, non_retryable=("NoLuck",)),
)
TIMEOUTS: tuple[dict[str, int], ...] = (
    {},
    {"start_to_close_timeout": 30 * SECOND},
    {"heartbeat_timeout": 10 * SECOND, "start_to_close_timeout": HOUR},
    {"schedule_to_start_timeout": 20 * SECOND},
    {"schedule_to_close_timeout": 45 * SECOND},
)
WORKERS = ("worker-1", "worker-2")

picks = st.integers(0, 11)


def pick_from(items: Sequence[Item], pick: int) -> Item:
    return items[pick % len(items)]


# --- What the code may ask for --------------------------------------------------------------------------
def _schedule(_: State, name: str, policy: int, timeout: int) -> c.Command:
    timeouts = pick_from(TIMEOUTS, timeout)
    return c.ScheduleActivity(name, "x", "", (), retry_policy=pick_from(POLICIES, policy), **timeouts)


def _cancel_activity(state: State, _: str, pick: int, __: int) -> c.Command | None:
    known = [*state.activity_ids, *state.ended_ids]
    return c.RequestCancelActivity(pick_from(known, pick)) if known else None


def _start_timer(_: State, name: str, pick: int, __: int) -> c.Command:
    return c.StartTimer(name, pick_from((0, SECOND, 30 * SECOND, HOUR), pick))


def _cancel_timer(state: State, _: str, pick: int, __: int) -> c.Command | None:
    known = [*state.timers, *(event.timer_id for event in state.buffered if isinstance(event, e.TimerFired))]
    return c.CancelTimer(pick_from(known, pick)) if known else None


def _answer_update(state: State, _: str, pick: int, how: int) -> c.Command | None:
    if not state.admitted:
        return None
    id = pick_from(list(state.admitted), pick)
    return c.RejectUpdate(id, FAILURE) if how % 3 == 0 else c.AcceptUpdate(id)


def _complete_update(state: State, _: str, pick: int, how: int) -> c.Command | None:
    failure = FAILURE if how % 2 else None
    running = list(state.accepted)
    return c.CompleteUpdate(pick_from(running, pick), None if failure else payload(1), failure) if running else None


def _start_child(_: State, name: str, pick: int, __: int) -> c.Command:
    policies: tuple[e.ParentClosePolicy, ...] = ("terminate", "request_cancel", "abandon")
    return c.StartChildWorkflow(name, "Child", "", (), pick_from(policies, pick))


COMMANDS: tuple[Callable[[State, str, int, int], c.Command | None], ...] = (
    *(_schedule, _schedule, _schedule),
    _cancel_activity,
    _start_timer,
    _cancel_timer,
    *(_answer_update, _answer_update),
    *(_complete_update, _complete_update),
    _start_child,
    lambda _, name, __, ___: c.SignalExternalWorkflow(name, "", "hello", ()),
    lambda _, name, __, ___: c.RequestCancelExternalWorkflow(name, ""),
    lambda _, name, __, pick: c.CancelTimer("nonsense") if pick == 0 else None,
)
"""Commands that a worker may send; the last makes no sense, and fails the task."""

ENDS: dict[str, Callable[[], c.Command | None]] = {
    "": lambda: None,
    "complete": lambda: c.CompleteWorkflow(payload(1)),
    "fail": lambda: c.FailWorkflow(FAILURE),
    "cancel": c.CancelWorkflow,
    "continue": lambda: c.ContinueAsNew("Type", "", ()),
}
REPORTS = ("complete", "complete", "fail", "fail", "fail", "cancelled", "beat", "beat", "evicted")
LATE: tuple[object, ...] = (
    q.SignalWorkflow(NAMESPACE, WORKFLOW, "", "late", (), "late"),
    q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", "late", "resize", ()),
    q.CancelWorkflowRequest(NAMESPACE, WORKFLOW, ""),
    q.TerminateWorkflow(NAMESPACE, WORKFLOW, ""),
    q.ReleaseActivity(NAMESPACE, WORKFLOW, ""),
    q.CompleteActivity(NAMESPACE, WORKFLOW, "", "nobody", payload(1)),
    i.TakeWorkflowTask("worker-1"),
    i.StartActivity(5, 1, "worker-1"),
)
NONSENSE: tuple[object, ...] = (
    q.SignalWorkflow(NAMESPACE, WORKFLOW, "", "unnamed", (), ""),
    q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", "", "resize", ()),
    q.ReleaseActivity(NAMESPACE, WORKFLOW, "", "nobody"),
    q.FailActivity(NAMESPACE, WORKFLOW, "", "nobody", FAILURE),
    i.StartActivity(999, 1, "worker-1"),
    i.OutboxAnswered(999),
    i.OutboxUndelivered(999, "down"),
    i.ChildReported(999, payload(1), None, "child-run"),
    i.WakeUp(KEY),
    i.WorkersLost(frozenset(WORKERS)),
    i.WorkflowTaskLost(),
    i.RetryWorkflowTask(),
)


class Lives(RuleBasedStateMachine):
    """One run, what was acknowledged to the world, and what the engine has offered to do."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run.begin()
        self.named = 0
        self._forget()

    def _forget(self) -> None:
        """Begin to keep the books of a run."""
        self.signals: list[str] = []
        self.updates: set[str] = set()
        self.heard: dict[str, str] = {}
        self.tokens: list[t.ActivityToken] = []
        self.positions: list[t.Position] = []
        self.completed: set[int] = set()
        self.task_offered = True
        self.offered: set[tuple[int, int]] = set()

    def name(self) -> str:
        self.named += 1
        return f"n{self.named}"

    def send(self, input: object) -> Transition | None:
        """Decide an input; None if it is refused, as inputs may be at any time."""
        try:
            tx = self.run.decide(input)
        except PerdureError:
            return None
        self.offered |= {(offer.scheduled_event_id, offer.attempt) for offer in effects(tx, fx.OfferActivity)}
        self.task_offered = self.task_offered or bool(effects(tx, fx.OfferWorkflowTask))
        for progressed in effects(tx, fx.UpdateProgressed):
            self.heard[progressed.outcome.update_id] = progressed.outcome.stage
        return tx

    @property
    def open(self) -> bool:
        return self.run.execution.open

    def activities(self, *statuses: str) -> list[PendingActivity]:
        return [a for a in self.run.state.activities.values() if a.status in statuses]

    # --- From clients -----------------------------------------------------------------------------------
    @precondition(lambda self: self.open)
    @rule()
    def signal(self) -> None:
        name = self.name()
        if self.send(q.SignalWorkflow(NAMESPACE, WORKFLOW, "", name, (), f"request-{name}")) is not None:
            self.signals.append(name)

    @precondition(lambda self: self.open)
    @rule(again=st.booleans(), pick=picks)
    def update(self, again: bool, pick: int) -> None:
        id = pick_from(sorted(self.updates), pick) if again and self.updates else self.name()
        if self.send(q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", id, "resize", ())) is not None:
            self.updates.add(id)

    @precondition(lambda self: self.open and not self.run.state.cancel_requested)
    @rule()
    def cancel(self) -> None:
        self.send(q.CancelWorkflowRequest(NAMESPACE, WORKFLOW, ""))

    @precondition(lambda self: self.activities("held", "backing_off"))
    @rule(pick=picks, policy=st.sampled_from(POLICIES), timeout=st.sampled_from([None, 0, HOUR]))
    def release(self, pick: int, policy: RetryPolicy, timeout: int | None) -> None:
        names = [activity.event.activity_id for activity in self.activities("held", "backing_off")]
        request = q.ReleaseActivity(
            NAMESPACE, WORKFLOW, "", pick_from(names, pick), retry_policy=policy, schedule_to_close_timeout=timeout
        )
        assert self.send(request) is not None

    @precondition(lambda self: self.run.state.activities)
    @rule(pick=picks, how=st.booleans())
    def settle(self, pick: int, how: bool) -> None:
        name, id = pick_from(list(self.run.state.activity_ids.items()), pick)
        if how:
            self.completed.add(id)
            assert self.send(q.CompleteActivity(NAMESPACE, WORKFLOW, "", name, payload(1))) is not None
        else:
            assert self.send(q.FailActivity(NAMESPACE, WORKFLOW, "", name, FAILURE)) is not None

    @precondition(lambda self: self.open)
    @rule(sure=picks)
    def terminate(self, sure: int) -> None:
        if sure == 7:
            assert self.send(q.TerminateWorkflow(NAMESPACE, WORKFLOW, "")) is not None

    # --- From workers: workflow tasks -------------------------------------------------------------------
    def takes(self) -> bool:
        """Whether a workflow task is out, or can be taken now."""
        state = self.run.state
        return state.task is not None and not state.task.next_attempt_at and not state.held

    @precondition(lambda self: self.takes() and self.run.execution.taken is None)
    @rule(worker=st.sampled_from(WORKERS))
    def take(self, worker: str) -> None:
        assert self.send(i.TakeWorkflowTask(worker)) is not None
        assert self.run.execution.taken is not None
        self.positions.append(self.run.execution.taken)
        self.task_offered = False

    @precondition(takes)
    @rule(
        asked=st.lists(st.tuples(st.sampled_from(range(len(COMMANDS))), picks, picks), min_size=1, max_size=6),
        end=st.sampled_from(["complete", "fail", "cancel", "continue", *("" for _ in range(16))]),
        free=st.integers(0, 3),
    )
    def complete(self, asked: list[tuple[int, int, int]], end: str, free: int) -> None:
        """A worker answers; as many of the activities that it asks for as there are free slots begin at once."""
        if self.run.execution.taken is None:
            self.take("worker-1")
        task, taken = self.run.state.task, self.run.execution.taken
        assert task is not None and taken is not None
        commands = [COMMANDS[kind](self.run.state, self.name(), one, other) for kind, one, other in asked]
        commands += [ENDS[end]()]
        kept = tuple(command for command in commands if command is not None)
        tx = self.send(t.WorkflowTaskCompletion(self.run.execution.ref, task.attempt, taken, kept))
        assert tx is not None
        for offer in effects(tx, fx.OfferActivity)[:free]:
            self.begin(offer.scheduled_event_id, offer.attempt, "worker-1")

    @precondition(lambda self: self.run.execution.taken is not None)
    @rule()
    def fail_task(self) -> None:
        task, taken = self.run.state.task, self.run.execution.taken
        assert task is not None and taken is not None
        assert self.send(t.WorkflowTaskFailure(self.run.execution.ref, task.attempt, taken, FAILURE)) is not None

    @precondition(lambda self: self.run.state.task is not None)
    @rule(input=st.sampled_from([i.WorkflowTaskLost(), i.RetryWorkflowTask()]))
    def help_task(self, input: object) -> None:
        assert self.send(input) is not None

    # --- From workers: activities -----------------------------------------------------------------------
    def begin(self, scheduled: int, attempt: int, worker: str) -> None:
        tx = self.send(i.StartActivity(scheduled, attempt, worker))
        assert tx is not None
        self.tokens += [handed.task.token for handed in effects(tx, fx.HandOver)]

    @precondition(lambda self: self.activities("scheduled"))
    @rule(pick=picks, worker=st.sampled_from(WORKERS))
    def start(self, pick: int, worker: str) -> None:
        activity = pick_from(self.activities("scheduled"), pick)
        self.begin(activity.event.id, activity.attempt, worker)

    def report(self, token: t.ActivityToken, how: str, why: int) -> bool:
        messages: dict[str, object] = {
            "complete": t.ActivityCompletion(token, payload(1)),
            "fail": t.ActivityFailure(token, pick_from(FAILURES, why)),
            "cancelled": t.ActivityCancellation(token),
            "beat": t.ActivityHeartbeat(token, (payload(why),)),
            "evicted": t.ActivityEvicted(token),
        }
        taken = self.send(messages[how]) is not None
        if taken and how == "complete":
            self.completed.add(token.scheduled_event_id)
        return taken

    @precondition(lambda self: self.run.state.running)
    @rule(pick=picks, how=st.sampled_from(REPORTS), why=picks)
    def report_running(self, pick: int, how: str, why: int) -> None:
        activity = pick_from(self.activities("started"), pick)
        assert self.report(t.ActivityToken(self.run.execution.ref, activity.event.id, activity.attempt), how, why)

    @precondition(lambda self: self.run.state.running)
    @rule(alive=st.sampled_from([frozenset[str](), frozenset({"worker-1"})]))
    def workers_lost(self, alive: frozenset[str]) -> None:
        assert self.send(i.WorkersLost(alive)) is not None

    # --- What comes too late, or makes no sense ---------------------------------------------------------
    @precondition(lambda self: self.tokens)
    @rule(pick=picks, how=st.sampled_from(REPORTS), why=picks)
    def report_late(self, pick: int, how: str, why: int) -> None:
        token = pick_from(self.tokens, pick)
        activity = self.run.state.activities.get(token.scheduled_event_id)
        runs = activity is not None and activity.status == "started" and activity.attempt == token.attempt
        assert self.report(token, how, why) == runs

    @precondition(lambda self: self.positions)
    @rule(pick=picks, attempt=st.integers(1, 3), end=st.booleans())
    def answer_late(self, pick: int, attempt: int, end: bool) -> None:
        commands: tuple[c.Command, ...] = (c.CompleteWorkflow(payload(1)),) if end else ()
        position, task = pick_from(self.positions, pick), self.run.state.task
        fits = task is not None and task.attempt == attempt and self.run.execution.taken == position
        tx = self.send(t.WorkflowTaskCompletion(self.run.execution.ref, attempt, position, commands))
        assert (tx is not None) == fits

    @rule(pick=picks)
    def send_nonsense(self, pick: int) -> None:
        self.send(pick_from(NONSENSE, pick))

    @precondition(lambda self: not self.open)
    @rule(pick=picks)
    def ask_a_closed_run(self, pick: int) -> None:
        assert self.send(pick_from(LATE, pick)) is None

    # --- From other executions --------------------------------------------------------------------------
    @precondition(lambda self: self.run.state.outbox)
    @rule(pick=picks, error=st.sampled_from(["", "", "it is gone"]), delivered=st.sampled_from([True, True, False]))
    def answer_outbox(self, pick: int, error: str, delivered: bool) -> None:
        entry = pick_from(list(self.run.state.outbox), pick)
        answer = i.OutboxAnswered(entry, error, "child-run") if delivered else i.OutboxUndelivered(entry, "down")
        assert self.send(answer) is not None

    @precondition(lambda self: self.run.state.children)
    @rule(pick=picks, failure=st.sampled_from([None, FAILURE]))
    def child_reports(self, pick: int, failure: Failure | None) -> None:
        child = pick_from(list(self.run.state.children), pick)
        report = i.ChildReported(child, None if failure else payload(1), failure, "child-run")
        assert self.send(report) is not None

    # --- Time and misfortune ----------------------------------------------------------------------------
    @rule(by=st.sampled_from([1, SECOND, 10 * SECOND, HOUR, -SECOND, -HOUR]))
    def time_passes(self, by: int) -> None:
        self.run.now += by

    @precondition(lambda self: self.run.execution.wake_at())
    @rule(stalled=st.booleans(), on=st.booleans())
    def wake(self, stalled: bool, on: bool) -> None:
        """By the clock, or at the very next deadline."""
        if on:
            self.run.now = max(self.run.now, self.run.execution.wake_at())
        now = self.run.now
        tx = self.send(i.WakeUp(KEY, ((now - 15 * SECOND, now - SECOND),) if stalled else ()))
        assert tx is not None
        next = self.run.execution.wake_at()
        assert effects(tx, fx.DeleteRun) or not next or next > tx.now, "woken, but something is still due"

    @rule()
    def crash(self) -> None:
        self.run.crash()
        self.task_offered = True  # whoever loads a run offers what it has to do
        self.offered |= {(activity.event.id, activity.attempt) for activity in self.activities("scheduled")}

    @precondition(lambda self: not self.open)
    @rule()
    def go_on(self) -> None:
        """The next run: that of the chain, or another."""
        self.run = self.run.continued() if self.run.state.new_run_id else Run.begin(now=self.run.now)
        self._forget()

    # --- What the world may rely on ---------------------------------------------------------------------
    @invariant()
    def no_signal_is_lost_or_doubled_or_overtaken(self) -> None:
        state = self.run.state
        there = [
            x.signal_name for x in (*self.run.history, *state.buffered) if isinstance(x, e.WorkflowExecutionSignaled)
        ]
        assert there == self.signals

    @invariant()
    def no_result_is_lost_or_doubled(self) -> None:
        events = (*self.run.history, *self.run.state.buffered)
        there = [event.scheduled_event_id for event in events if isinstance(event, e.ActivityTaskCompleted)]
        assert len(there) == len(set(there)) and set(there) <= self.completed
        if self.open:
            assert set(there) == self.completed

    @invariant()
    def no_update_is_lost_and_its_caller_hears_of_it(self) -> None:
        state = self.run.state
        if self.open:
            assert self.updates == {*state.admitted, *state.accepted, *state.finished}
            assert all(self.heard[id] == "accepted" for id in state.accepted)
            assert not state.admitted.keys() & self.heard.keys()
        else:
            assert self.heard.keys() == self.updates
        for id, finished in state.finished.items():
            assert self.heard[id] == ("rejected" if finished.rejected else "completed")

    @invariant()
    def news_has_a_workflow_task_and_that_is_offered(self) -> None:
        state, execution = self.run.state, self.run.execution
        if not self.open:
            return
        if state.task is None:
            told = max(event.id for event in self.run.history if isinstance(event, e.WorkflowTaskCompleted))
            assert not [event for event in self.run.history[told:] if isinstance(event, NEWS)]
        elif execution.taken is None and not state.task.next_attempt_at:
            assert self.task_offered

    @invariant()
    def waiting_attempts_are_offered(self) -> None:
        waiting = {(a.event.id, a.attempt) for a in self.run.state.activities.values() if a.status == "scheduled"}
        assert waiting <= self.offered

    @invariant()
    def what_waits_in_time_has_a_wake_up(self) -> None:
        state, wake_at = self.run.state, self.run.execution.wake_at()
        due = [timer.fire_at for timer in state.timers.values()]
        due += [a.next_attempt_at for a in state.activities.values() if a.status == "backing_off"]
        due += [state.task.next_attempt_at] if state.task is not None and state.task.next_attempt_at else []
        assert not due or 0 < wake_at <= min(due)
        assert not state.outbox or wake_at
        assert self.open or wake_at


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=300, stateful_step_count=50)
