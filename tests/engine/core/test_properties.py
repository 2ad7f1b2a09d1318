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
from perdure.limits import CLOSE_REFUSALS
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
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

    def pick(self, items: Sequence[Item], pick: int) -> Item:
        return items[pick % len(items)]

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

    # --- From clients -----------------------------------------------------------------------------------
    @rule()
    def signal(self) -> None:
        name = self.name()
        if self.send(q.SignalWorkflow(NAMESPACE, WORKFLOW, "", name, (), f"request-{name}")) is not None:
            self.signals.append(name)

    @rule(again=st.booleans(), pick=picks)
    def update(self, again: bool, pick: int) -> None:
        id = self.pick(sorted(self.updates), pick) if again and self.updates else self.name()
        if self.send(q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", id, "resize", ())) is not None:
            self.updates.add(id)

    @rule()
    def cancel(self) -> None:
        self.send(q.CancelWorkflowRequest(NAMESPACE, WORKFLOW, ""))

    @rule(pick=picks, policy=st.sampled_from(POLICIES), timeout=st.sampled_from([None, 0, HOUR]))
    def release(self, pick: int, policy: RetryPolicy, timeout: int | None) -> None:
        name = self.pick([*self.run.state.activity_ids, ""], pick)
        request = q.ReleaseActivity(
            NAMESPACE, WORKFLOW, "", name, retry_policy=policy, schedule_to_close_timeout=timeout
        )
        self.send(request)

    @rule(pick=picks, how=st.booleans())
    def settle(self, pick: int, how: bool) -> None:
        name = self.pick([*self.run.state.activity_ids, "nobody"], pick)
        id = self.run.state.activity_ids.get(name, 0)
        if how:
            if self.send(q.CompleteActivity(NAMESPACE, WORKFLOW, "", name, payload(1))) is not None:
                self.completed.add(id)
        else:
            self.send(q.FailActivity(NAMESPACE, WORKFLOW, "", name, FAILURE))

    @rule(sure=picks)
    def terminate(self, sure: int) -> None:
        if sure == 7:
            self.send(q.TerminateWorkflow(NAMESPACE, WORKFLOW, ""))

    # --- From workers: workflow tasks -------------------------------------------------------------------
    @rule(pick=picks)
    def take(self, pick: int) -> None:
        if self.send(i.TakeWorkflowTask(self.pick(WORKERS, pick))) is not None:
            assert self.run.execution.taken is not None
            self.positions.append(self.run.execution.taken)
            self.task_offered = False

    @rule(
        asked=st.lists(st.tuples(st.integers(0, 9), picks, picks), max_size=6),
        end=st.sampled_from(["", "", "", "", "complete", "fail", "cancel", "continue"]),
    )
    def complete(self, asked: list[tuple[int, int, int]], end: str) -> None:
        if self.run.execution.taken is None:
            self.take(0)
        task, taken = self.run.state.task, self.run.execution.taken
        if task is None or taken is None:
            return
        commands = [COMMANDS[kind](self, one, other) for kind, one, other in asked]
        commands += [command for command in (ENDS[end](),) if command is not None]
        kept = tuple(command for command in commands if command is not None)
        self.send(t.WorkflowTaskCompletion(self.run.execution.ref, task.attempt, taken, kept))

    @precondition(lambda self: self.positions)
    @rule(pick=picks, attempt=st.integers(1, 3), end=st.booleans())
    def answer_late(self, pick: int, attempt: int, end: bool) -> None:
        commands: tuple[c.Command, ...] = (c.CompleteWorkflow(payload(1)),) if end else ()
        position = self.pick(self.positions, pick)
        self.send(t.WorkflowTaskCompletion(self.run.execution.ref, attempt, position, commands))

    @rule()
    def fail_task(self) -> None:
        task, taken = self.run.state.task, self.run.execution.taken
        if task is not None and taken is not None:
            self.send(t.WorkflowTaskFailure(self.run.execution.ref, task.attempt, taken, FAILURE))

    @rule(input=st.sampled_from([i.WorkflowTaskLost(), i.RetryWorkflowTask()]))
    def help_task(self, input: object) -> None:
        self.send(input)

    # --- From workers: activities -----------------------------------------------------------------------
    @rule(pick=picks, worker=st.sampled_from(WORKERS))
    def start(self, pick: int, worker: str) -> None:
        waiting = [a for a in self.run.state.activities.values() if a.status == "scheduled"]
        if waiting:
            activity = self.pick(waiting, pick)
            tx = self.send(i.StartActivity(activity.event.id, activity.attempt, worker))
            assert tx is not None
            self.tokens += [handed.task.token for handed in effects(tx, fx.HandOver)]

    @precondition(lambda self: self.tokens)
    @rule(pick=picks, how=st.sampled_from(["complete", "fail", "fail", "cancelled", "beat", "evicted"]), why=picks)
    def report(self, pick: int, how: str, why: int) -> None:
        token = self.pick(self.tokens[-3:] if why % 3 else self.tokens, pick)
        messages: dict[str, object] = {
            "complete": t.ActivityCompletion(token, payload(1)),
            "fail": t.ActivityFailure(token, self.pick(FAILURES, why)),
            "cancelled": t.ActivityCancellation(token),
            "beat": t.ActivityHeartbeat(token, (payload(why),)),
            "evicted": t.ActivityEvicted(token),
        }
        if self.send(messages[how]) is not None and how == "complete":
            self.completed.add(token.scheduled_event_id)

    @rule(alive=st.sampled_from([frozenset[str](), frozenset({"worker-1"})]))
    def workers_lost(self, alive: frozenset[str]) -> None:
        self.send(i.WorkersLost(alive))

    # --- From other executions --------------------------------------------------------------------------
    @rule(pick=picks, error=st.sampled_from(["", "", "it is gone"]), delivered=st.booleans())
    def answer_outbox(self, pick: int, error: str, delivered: bool) -> None:
        entry = self.pick([*self.run.state.outbox, 0], pick)
        self.send(i.OutboxAnswered(entry, error, "child-run") if delivered else i.OutboxUndelivered(entry, "down"))

    @rule(pick=picks, failure=st.sampled_from([None, FAILURE]))
    def child_reports(self, pick: int, failure: Failure | None) -> None:
        child = self.pick([*self.run.state.children, 1], pick)
        self.send(i.ChildReported(child, None if failure else payload(1), failure, "child-run"))

    # --- Time and misfortune ----------------------------------------------------------------------------
    @rule(by=st.sampled_from([1, SECOND, 10 * SECOND, HOUR, -SECOND, -HOUR]))
    def time_passes(self, by: int) -> None:
        self.run.now += by

    @rule(stalled=st.booleans(), on=st.booleans())
    def wake(self, stalled: bool, on: bool) -> None:
        """By the clock, or at the very next deadline."""
        if on and self.run.execution.wake_at():
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
        self.offered |= {(a.event.id, a.attempt) for a in self.run.state.activities.values()}

    @precondition(lambda self: self.run.state.status == "ContinuedAsNew")
    @rule()
    def go_on(self) -> None:
        self.run = self.run.continued()
        self._forget()

    # --- What the world may rely on ---------------------------------------------------------------------
    @invariant()
    def no_signal_is_lost_or_doubled_or_overtaken(self) -> None:
        state = self.run.state
        there = [x.signal_name for x in (*self.run.history, *state.buffered) if isinstance(x, e.WorkflowExecutionSignaled)]
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


def _schedule(lives: Lives, policy: int, timeout: int) -> c.Command:
    timeouts = lives.pick(TIMEOUTS, timeout)
    return c.ScheduleActivity(lives.name(), "x", "", (), retry_policy=lives.pick(POLICIES, policy), **timeouts)


def _cancel_activity(lives: Lives, pick: int, _: int) -> c.Command | None:
    known = [*lives.run.state.activity_ids, *lives.run.state.ended_ids]
    return c.RequestCancelActivity(lives.pick(known, pick)) if known else None


def _start_timer(lives: Lives, pick: int, _: int) -> c.Command:
    return c.StartTimer(lives.name(), lives.pick((0, SECOND, 30 * SECOND, HOUR), pick))


def _cancel_timer(lives: Lives, pick: int, _: int) -> c.Command | None:
    state = lives.run.state
    known = [*state.timers, *(event.timer_id for event in state.buffered if isinstance(event, e.TimerFired))]
    return c.CancelTimer(lives.pick(known, pick)) if known else None


def _answer_update(lives: Lives, pick: int, how: int) -> c.Command | None:
    waiting = list(lives.run.state.admitted)
    if not waiting:
        return None
    id = lives.pick(waiting, pick)
    return c.RejectUpdate(id, FAILURE) if how % 3 == 0 else c.AcceptUpdate(id)


def _complete_update(lives: Lives, pick: int, how: int) -> c.Command | None:
    running = list(lives.run.state.accepted)
    failure = FAILURE if how % 2 else None
    return c.CompleteUpdate(lives.pick(running, pick), None if failure else payload(1), failure) if running else None


def _start_child(lives: Lives, pick: int, _: int) -> c.Command:
    policies: tuple[e.ParentClosePolicy, ...] = ("terminate", "request_cancel", "abandon")
    return c.StartChildWorkflow(lives.name(), "Child", "", (), lives.pick(policies, pick))


COMMANDS: tuple[Callable[[Lives, int, int], c.Command | None], ...] = (
    _schedule,
    _cancel_activity,
    _start_timer,
    _cancel_timer,
    _answer_update,
    _complete_update,
    _start_child,
    lambda lives, _, __: c.SignalExternalWorkflow(lives.name(), "", "hello", ()),
    lambda lives, _, __: c.RequestCancelExternalWorkflow(lives.name(), ""),
    lambda lives, _, __: c.CancelTimer("nonsense"),
)
"""Commands that a worker may send; the last makes no sense, and fails the task."""

ENDS: dict[str, Callable[[], c.Command | None]] = {
    "": lambda: None,
    "complete": lambda: c.CompleteWorkflow(payload(1)),
    "fail": lambda: c.FailWorkflow(FAILURE),
    "cancel": c.CancelWorkflow,
    "continue": lambda: c.ContinueAsNew("Type", "", ()),
}

TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=3000, stateful_step_count=40)
