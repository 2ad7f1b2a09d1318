"""Whatever happens, in whatever order, with crashes in between: nothing is lost, and everything goes on.

A run is driven by random programs, each a list of steps: requests, messages from workers (also late ones), clock
moves in both directions, wake-ups and crashes. Which steps there are depends on where the run is; numbers choose
among them, so that a program that fails can be shrunk by leaving steps out. The harness checks the invariants and
the journal after every step; here is what the world outside may rely on: what was acknowledged is there, in order
and once, and what has to be done is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.clock import HOUR, MILLISECOND, MINUTE, SECOND
from perdure.engine.core import effects as fx
from perdure.engine.core import inputs as i
from perdure.engine.core.transition import Transition
from perdure.errors import PerdureError
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.failures import Failure
from perdure.model.retry import RetryPolicy
from perdure.model.state import PendingActivity, State
from tests.engine.core.harness import FAILURE, KEY, NAMESPACE, RUN, WORKFLOW, Run, effects, payload

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
MESSAGES = (e.WorkflowExecutionSignaled, e.WorkflowExecutionCancelRequested)
BY_COMMAND = (
    e.WorkflowExecutionCompleted,
    e.WorkflowExecutionFailed,
    e.WorkflowExecutionCanceled,
    e.WorkflowExecutionContinuedAsNew,
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

Picks = tuple[int, int, int]
"""What a step chooses by: each picks one of however many there are."""


def pick_from(items: Sequence[Item], pick: int) -> Item:
    return items[pick % len(items)]


# --- What the code may ask for --------------------------------------------------------------------------
def _schedule(_: State, name: str, policy: int, timeout: int) -> c.Command:
    timeouts = pick_from(TIMEOUTS, timeout)
    return c.ScheduleActivity(name, "x", "", (), retry_policy=pick_from(POLICIES, policy), header=None, **timeouts)


def _cancel_activity(state: State, _: str, pick: int, __: int) -> c.Command | None:
    known = [*state.activity_ids, *state.ended_ids]
    return c.RequestCancelActivity(pick_from(known, pick)) if known else None


def _start_timer(_: State, name: str, pick: int, __: int) -> c.Command:
    return c.StartTimer(name, pick_from((0, SECOND, 30 * SECOND, HOUR), pick))


def _cancel_timer(state: State, _: str, pick: int, __: int) -> c.Command | None:
    known = [*state.timers, *state.ended_timers]
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

ENDS: dict[int, Callable[[], c.Command]] = {
    2: lambda: c.CompleteWorkflow(payload(1)),
    20: lambda: c.FailWorkflow(FAILURE),
    21: c.CancelWorkflow,
    19: lambda: c.ContinueAsNew("Type", "", ()),
}
"""Commands that end the run, by the number at which that happens."""

LATE: tuple[object, ...] = (
    q.SignalWorkflow(NAMESPACE, WORKFLOW, "", "late", (), "late"),
    q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", "late", "resize", ()),
    q.CancelWorkflowRequest(NAMESPACE, WORKFLOW, ""),
    q.TerminateWorkflow(NAMESPACE, WORKFLOW, ""),
    q.ReleaseActivity(NAMESPACE, WORKFLOW, ""),
    q.CompleteActivity(NAMESPACE, WORKFLOW, "", "nobody", payload(1)),
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
    i.ChildReported(RUN, 999, payload(1), None, "child-run"),
    i.WakeUp(KEY),
    i.WorkersLost(lambda worker, since: worker in WORKERS),
    i.WorkflowTaskLost(),
    i.RetryWorkflowTask(),
)


class Lives:
    """One run after the other, what was acknowledged to the world, and what the engine has offered to do."""

    def __init__(self) -> None:
        self.named = 0
        self.run = Run.begin()
        self._forget()

    def _forget(self) -> None:
        """Begin to keep the books of a run."""
        self.signals: list[str] = []
        self.cancels = 0
        self.crashed = False
        self.updates: list[str] = []
        self.heard: dict[str, str] = {}
        self.tokens: list[t.ActivityToken] = []
        self.positions: list[t.Position] = []
        self.completed: set[int] = set()
        self.task_offered = True
        self.offered: set[tuple[int, int]] = set()

    def step(self, which: int, picks: Picks) -> None:
        """Do one of what can be done now; then look at everything."""
        self.run.now += 137 * MILLISECOND
        possible = [step for likely, step, when in STEPS if when(self) for _ in range(likely)]
        pick_from(possible, which)(self, picks)
        for check in CHECKS:
            check(self)

    def name(self) -> str:
        self.named += 1
        return f"n{self.named}"

    def send(self, input: object) -> Transition | None:
        """Decide an input; None if it is refused, as inputs may be at any time."""
        try:
            tx = self.run.decide(input)
        except PerdureError:
            return None
        self.offered |= {(offer.scheduled_event_id, offer.attempt) for offer in effects(tx, fx.ActivityOffer)}
        self.task_offered = self.task_offered or bool(effects(tx, fx.OfferWorkflowTask))
        for progressed in effects(tx, fx.UpdateProgressed):
            self.heard[progressed.outcome.update_id] = progressed.outcome.stage
        return tx

    def must(self, input: object) -> Transition:
        """Decide an input that there is no reason to refuse."""
        tx = self.send(input)
        assert tx is not None, f"refused: {input}"
        return tx

    # --- What there is ----------------------------------------------------------------------------------
    @property
    def state(self) -> State:
        return self.run.state

    def open(self) -> bool:
        return self.run.execution.open

    def closed(self) -> bool:
        return not self.open()

    def taken(self) -> bool:
        return self.run.execution.taken is not None

    def can_answer(self) -> bool:
        """Whether a workflow task is out, or can be taken now."""
        task = self.state.task
        return task is not None and not task.next_attempt_at and not self.state.held

    def activities(self, *statuses: str) -> list[PendingActivity]:
        return [activity for activity in self.state.activities.values() if activity.status in statuses]

    # --- From clients -----------------------------------------------------------------------------------
    def signal(self, _: Picks) -> None:
        name = self.name()
        if self.send(q.SignalWorkflow(NAMESPACE, WORKFLOW, "", name, (), f"request-{name}")) is not None:
            self.signals.append(name)

    def update(self, picks: Picks) -> None:
        again = picks[0] % 3 == 0 and self.updates
        id = pick_from(self.updates, picks[1]) if again else self.name()
        tx = self.send(q.UpdateWorkflow(NAMESPACE, WORKFLOW, "", id, "resize", ()))
        if again:
            assert tx is not None and not tx.changed
        elif tx is not None:
            self.updates.append(id)

    def cancel(self, _: Picks) -> None:
        self.must(q.CancelWorkflowRequest(NAMESPACE, WORKFLOW, ""))
        self.cancels = 1

    def release(self, picks: Picks) -> None:
        activity = pick_from(self.activities("held", "backing_off"), picks[0])
        policy, timeout = pick_from(POLICIES, picks[1]), pick_from([None, 0, HOUR], picks[2])
        name = activity.event.activity_id
        self.must(
            q.ReleaseActivity(NAMESPACE, WORKFLOW, "", name, retry_policy=policy, schedule_to_close_timeout=timeout)
        )

    def settle(self, picks: Picks) -> None:
        name, id = pick_from(list(self.state.activity_ids.items()), picks[0])
        if picks[1] % 2:
            self.must(q.CompleteActivity(NAMESPACE, WORKFLOW, "", name, payload(1)))
            self.completed.add(id)
        else:
            self.must(q.FailActivity(NAMESPACE, WORKFLOW, "", name, FAILURE))

    def terminate(self, _: Picks) -> None:
        self.must(q.TerminateWorkflow(NAMESPACE, WORKFLOW, ""))

    # --- From workers: workflow tasks -------------------------------------------------------------------
    def take(self, picks: Picks) -> None:
        self.positions.append(self.run.take(pick_from(WORKERS, picks[0])))
        self.task_offered = False

    def complete(self, picks: Picks) -> None:
        """A worker answers; as many of the activities that it asks for as there are free slots begin at once."""
        if not self.taken():
            self.take(picks)
        task, taken = self.state.task, self.run.execution.taken
        assert task is not None and taken is not None
        kinds = [(picks[0] + 5 * n * (picks[1] + 1)) % len(COMMANDS) for n in range(picks[2] % 5)]
        commands = [COMMANDS[kind](self.state, self.name(), picks[1] + n, picks[2]) for n, kind in enumerate(kinds)]
        asked = [command for command in commands if isinstance(command, c.ScheduleActivity)]
        if asked and picks[1] % 4 == 0:
            commands.append(c.RequestCancelActivity(asked[0].activity_id))  # in the same breath
        if picks[0] + picks[1] in ENDS:
            commands.append(ENDS[picks[0] + picks[1]]())
        kept = tuple(command for command in commands if command is not None)
        tx = self.must(t.WorkflowTaskCompletion(self.run.execution.ref, task.attempt, taken, kept))
        for offer in effects(tx, fx.ActivityOffer)[: picks[0] % 4]:
            self.begin(offer.scheduled_event_id, offer.attempt, "worker-1")

    def fail_task(self, _: Picks) -> None:
        task, taken = self.state.task, self.run.execution.taken
        assert task is not None and taken is not None
        self.must(t.WorkflowTaskFailure(self.run.execution.ref, task.attempt, taken, FAILURE))

    def lose_task(self, _: Picks) -> None:
        self.must(i.WorkflowTaskLost())

    def retry_task(self, _: Picks) -> None:
        self.must(i.RetryWorkflowTask())

    # --- From workers: activities -----------------------------------------------------------------------
    def begin(self, scheduled: int, attempt: int, worker: str) -> None:
        tx = self.must(i.StartActivity(scheduled, attempt, worker))
        self.tokens += [handed.task.token for handed in effects(tx, fx.HandOver)]

    def start(self, picks: Picks) -> None:
        activity = pick_from(self.activities("scheduled"), picks[0])
        self.begin(activity.event.id, activity.attempt, pick_from(WORKERS, picks[1]))

    def report(self, picks: Picks) -> None:
        """Of one of the latest attempts, mostly, which may be over."""
        token = pick_from(self.tokens[-4:] if picks[0] % 4 else self.tokens, picks[1])
        activity = self.state.activities.get(token.scheduled_event_id)
        runs = activity is not None and activity.status == "started" and activity.attempt == token.attempt
        chain = NAMESPACE, WORKFLOW, ""
        place = token.scheduled_event_id, token.attempt
        messages: tuple[object, ...] = (
            t.ActivityCompletion(token, payload(1)),
            *(t.ActivityFailure(token, failure) for failure in FAILURES),
            t.ActivityHeartbeat(token, (payload(self.named),)),
            t.ActivityCancellation(token),
            t.ActivityEvicted(token),
            t.ActivityDetached(token),
            q.SettleAttempt(*chain, str(picks[2]), payload(1), None, "", *place),
            q.SettleAttempt(*chain, str(picks[2]), None, FAILURE, "", *place),
            q.HeartbeatAttempt(*chain, (payload(self.named),), "", *place),
        )
        message = pick_from(messages, picks[2])
        assert (self.send(message) is not None) == runs
        returned = isinstance(message, q.SettleAttempt) and message.result is not None
        if runs and (returned or isinstance(message, t.ActivityCompletion)):
            self.completed.add(token.scheduled_event_id)

    def lose_workers(self, picks: Picks) -> None:
        self.must(i.WorkersLost(lambda worker, since: worker in WORKERS[: picks[0] % 2]))

    # --- From other executions --------------------------------------------------------------------------
    def answer_outbox(self, picks: Picks) -> None:
        entry = pick_from(list(self.state.outbox), picks[0])
        if picks[1] % 3 == 0:
            self.must(i.OutboxUndelivered(entry, "down"))
        else:
            self.must(i.OutboxAnswered(entry, "it is gone" if picks[2] % 4 == 0 else "", "child-run"))

    def hear_of_child(self, picks: Picks) -> None:
        child = pick_from(list(self.state.children), picks[0])
        failure = FAILURE if picks[1] % 2 else None
        self.must(i.ChildReported(RUN, child, None if failure else payload(1), failure, "child-run"))

    # --- What comes too late, or makes no sense ---------------------------------------------------------
    def answer_late(self, picks: Picks) -> None:
        position, attempt, task = pick_from(self.positions, picks[0]), picks[1] % 3 + 1, self.state.task
        fits = task is not None and task.attempt == attempt and self.run.execution.taken == position
        tx = self.send(t.WorkflowTaskCompletion(self.run.execution.ref, attempt, position, ()))
        assert (tx is not None) == fits

    def send_nonsense(self, picks: Picks) -> None:
        self.send(pick_from(NONSENSE, picks[0] * 12 + picks[1]))

    def ask_in_vain(self, picks: Picks) -> None:
        assert self.send(pick_from(LATE, picks[0] * 12 + picks[1])) is None

    # --- Time and misfortune ----------------------------------------------------------------------------
    def pass_time(self, picks: Picks) -> None:
        self.run.now += pick_from([SECOND, 10 * SECOND, 30 * SECOND, HOUR, -SECOND, -HOUR], picks[0])

    def wake(self, picks: Picks) -> None:
        """By the clock, or at the very next deadline."""
        if picks[0] % 3:
            self.run.now = max(self.run.now, self.run.execution.wake_at())
        now = self.run.now
        tx = self.must(i.WakeUp(KEY, ((now - 15 * SECOND, now - SECOND),) if picks[1] % 3 == 0 else ()))
        next = self.run.execution.wake_at()
        assert effects(tx, fx.DeleteRun) or not next or next > tx.now, "woken, but something is still due"

    def crash(self, _: Picks) -> None:
        self.run.crash()
        self.crashed = True
        self.task_offered = True  # whoever loads a run offers what it has to do
        self.offered |= {(activity.event.id, activity.attempt) for activity in self.activities("scheduled")}

    def go_on(self, _: Picks) -> None:
        """The next run: that of the chain, or another."""
        timeout = HOUR if self.named % 2 else 0
        following = self.run.continued() if self.state.new_run_id else Run.begin(now=self.run.now, run_timeout=timeout)
        left, heard = self.left(), self.heard
        self.run = following
        self._forget()
        self.signals = [event.signal_name for event in left.messages if isinstance(event, e.WorkflowExecutionSignaled)]
        self.cancels = len(left.messages) - len(self.signals)
        self.updates = [x.update_id for x in left.records if isinstance(x, r.UpdateAdmitted | r.UpdateRemembered)]
        self.heard = {x.update_id: heard[x.update_id] for x in left.records if isinstance(x, r.UpdateRemembered)}

    def left(self) -> fx.ContinueRun:
        """What the run has left to the next one of its chain."""
        return self.run.carried if isinstance(self.run.last, e.WorkflowExecutionContinuedAsNew) else fx.ContinueRun()

    # --- What the world may rely on ---------------------------------------------------------------------
    def no_signal_is_lost_or_doubled_or_overtaken(self) -> None:
        events = (*self.run.history, *self.state.buffered, *self.left().messages)
        there = [event.signal_name for event in events if isinstance(event, e.WorkflowExecutionSignaled)]
        assert there == self.signals

    def a_request_to_stop_is_recorded_once(self) -> None:
        events = (*self.run.history, *self.state.buffered, *self.left().messages)
        assert sum(isinstance(event, e.WorkflowExecutionCancelRequested) for event in events) == self.cancels

    def nothing_waits_in_the_buffer_but_for_an_open_task(self) -> None:
        self.crashed = self.crashed and bool(self.state.buffered)
        assert not self.state.buffered or self.taken() or self.crashed

    def no_result_is_lost_or_doubled(self) -> None:
        events = (*self.run.history, *self.state.buffered)
        there = [event.scheduled_event_id for event in events if isinstance(event, e.ActivityTaskCompleted)]
        assert len(there) == len(set(there)) and set(there) <= self.completed
        assert self.closed() or set(there) == self.completed

    def no_update_is_lost_and_its_caller_hears_of_it(self) -> None:
        state = self.state
        if self.open():
            assert set(self.updates) == {*state.admitted, *state.accepted, *state.finished}
            assert all(self.heard[id] == "accepted" for id in state.accepted)
            assert not state.admitted.keys() & self.heard.keys()
        else:
            left = {record.update_id for record in self.left().records if isinstance(record, r.UpdateAdmitted)}
            assert self.heard.keys() | left == set(self.updates) and not self.heard.keys() & left
            assert "accepted" not in self.heard.values()
        for id, finished in state.finished.items():
            assert self.heard[id] == ("rejected" if finished.rejected else "completed")

    def code_that_ends_its_run_has_seen_every_message(self) -> None:
        if isinstance(self.run.last, BY_COMMAND):
            taken = self.positions[-1].event_id
            assert not [event for event in self.run.history[taken:] if isinstance(event, MESSAGES)]

    def news_has_a_workflow_task_and_that_is_offered(self) -> None:
        if self.closed():
            return
        if self.state.task is None:
            told = max(event.id for event in self.run.history if isinstance(event, e.WorkflowTaskCompleted))
            assert not [event for event in self.run.history[told:] if isinstance(event, NEWS)]
        elif not self.taken() and not self.state.task.next_attempt_at:
            assert self.task_offered

    def waiting_attempts_are_offered(self) -> None:
        waiting = {(activity.event.id, activity.attempt) for activity in self.activities("scheduled")}
        assert waiting <= self.offered

    def what_waits_in_time_has_a_wake_up(self) -> None:
        state, wake_at = self.state, self.run.execution.wake_at()
        due = [timer.fire_at for timer in state.timers.values()]
        due += [activity.next_attempt_at for activity in self.activities("backing_off")]
        due += [state.task.next_attempt_at] if state.task is not None and state.task.next_attempt_at else []
        assert not due or 0 < wake_at <= min(due)
        assert wake_at or not (state.outbox or self.closed())


STEPS: list[tuple[int, Callable[[Lives, Picks], None], Callable[[Lives], object]]] = [
    (2, Lives.signal, Lives.open),
    (2, Lives.update, Lives.open),
    (1, Lives.cancel, lambda lives: lives.open() and lives.named % 4 == 0),
    (1, Lives.terminate, lambda lives: lives.open() and lives.named % 16 == 0),
    (2, Lives.release, lambda lives: lives.activities("held", "backing_off")),
    (1, Lives.settle, lambda lives: lives.state.activities),
    (2, Lives.take, lambda lives: lives.can_answer() and not lives.taken()),
    (5, Lives.complete, Lives.can_answer),
    (1, Lives.fail_task, Lives.taken),
    (1, Lives.lose_task, lambda lives: lives.state.task),
    (1, Lives.retry_task, lambda lives: lives.state.task),
    (3, Lives.start, lambda lives: lives.activities("scheduled")),
    (4, Lives.report, lambda lives: lives.tokens),
    (1, Lives.lose_workers, lambda lives: lives.state.running),
    (2, Lives.answer_outbox, lambda lives: lives.state.outbox),
    (1, Lives.hear_of_child, lambda lives: lives.state.children),
    (1, Lives.answer_late, lambda lives: lives.positions),
    (1, Lives.send_nonsense, lambda _: True),
    (1, Lives.ask_in_vain, Lives.closed),
    (1, Lives.pass_time, lambda _: True),
    (3, Lives.wake, lambda lives: lives.run.execution.wake_at()),
    (2, Lives.crash, lambda _: True),
    (4, Lives.go_on, Lives.closed),
]
"""How likely each step is, and when there is something to do for it."""

CHECKS = (
    Lives.no_signal_is_lost_or_doubled_or_overtaken,
    Lives.a_request_to_stop_is_recorded_once,
    Lives.nothing_waits_in_the_buffer_but_for_an_open_task,
    Lives.no_result_is_lost_or_doubled,
    Lives.no_update_is_lost_and_its_caller_hears_of_it,
    Lives.code_that_ends_its_run_has_seen_every_message,
    Lives.news_has_a_workflow_task_and_that_is_offered,
    Lives.waiting_attempts_are_offered,
    Lives.what_waits_in_time_has_a_wake_up,
)

picks = st.integers(0, 11)


@given(st.lists(st.tuples(st.integers(0, 59), st.tuples(picks, picks, picks)), min_size=60, max_size=100))
@settings(max_examples=100)
def test_whatever_happens_nothing_is_lost_and_everything_goes_on(program: list[tuple[int, Picks]]) -> None:
    lives = Lives()
    for which, choices in program:
        lives.step(which, choices)
