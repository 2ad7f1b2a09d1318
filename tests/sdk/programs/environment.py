"""All that happens around a workflow: what comes of what it asks for, and what others send it, as a seed says.

::

    happenings* → workflow task → happenings while it is out (they follow its commands) → …
                     └─ now and then its answer is lost, or it fails: it is given out again, with what came meanwhile

It does as the engine does, and leaves out what the code can't notice. All choices depend on the seed and the history
only: so the same program in the same environment has the same history, whatever becomes of its copies in memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from perdure import ApplicationError
from perdure.clock import SECOND
from perdure.model import commands as c
from perdure.model import events as e
from perdure.model.failures import Failure
from perdure.model.tasks import WorkflowTask, WorkflowTaskCompletion
from perdure.sdk.converter import encode
from perdure.sdk.failures import failure_of
from perdure.sdk.workflow.local import LocalFuture, LocalOutcome
from perdure.sdk.workflow.loop import DeterministicLoop
from tests.sdk.harness import Outcome, Scenario, value
from tests.sdk.programs.generator import Op
from tests.sdk.programs.workflows import PlainProgram, Program

CLOSING: Final = (c.CompleteWorkflow, c.FailWorkflow, c.CancelWorkflow)
CANCELLED: Final = Failure("cancelled", kind="cancelled")
RESCUES: Final = 60
TASKS: Final = 400

Happening = Callable[[], None]


class Environment(Scenario):
    """One run of a program.

    Args:
        program: what the workflow does.
        seed: what happens to it.
        evicts: how likely it is that its copy leaves memory between two workflow tasks. What else only looks at it,
            happens as often.
    """

    def __init__(self, program: Op, seed: int, evicts: float = 0.0) -> None:
        super().__init__(PlainProgram if seed % 5 == 4 else Program, program)
        self.random = Random(seed)
        self.whims = Random(seed + 1)  # what must change nothing
        self.evicts = evicts
        self.messages = self.random.choice((0, 2, 4, 8))
        self.cancels = self.random.choice((0, 0, 0, 1, 2))
        self.trouble = self.random.choice((0.0, 0.0, 0.08))
        self.crowd = self.random.choice((1, 1, 3, 6))  # how much happens at once
        self.buffers = self.random.choice((0.0, 0.3))
        self.rescues = RESCUES
        self.count = 0
        self.over = False
        self.loops: list[weakref.ref[DeterministicLoop]] = []
        """Those of all copies that were in memory."""

    # --- What happens -----------------------------------------------------------------------------------
    def happenings(self) -> list[tuple[float, Happening]]:
        """All that could happen now, and how likely each is."""
        found: list[tuple[float, Happening]] = []
        asked = {event.scheduled_event_id for event in self.history if type(event) is e.ActivityTaskCancelRequested}
        for id in self.open(e.ActivityTaskScheduled):
            found += [(3, partial(self.end_activity, id, True)), (0.7, partial(self.end_activity, id, False))]
            found.append((3 if id in asked else 0.1, partial(self.stop_activity, id)))
        timers = [event for event in self.history if type(event) is e.TimerStarted]
        fired = set(self.open(e.TimerStarted))
        due = sorted((timer.fire_at, timer.id) for timer in timers if timer.id in fired)
        found += [(3.0, partial(self.fire_timer, id)) for _, id in due[:1]]
        for id in self.open(e.StartChildWorkflowExecutionInitiated):
            found += self.of_child(id)
        found += [(2.0, partial(self.answer, id)) for id in self.unanswered()]
        return found

    def of_child(self, id: int) -> list[tuple[float, Happening]]:
        begun = any(type(x) is e.ChildWorkflowExecutionStarted and x.initiated_event_id == id for x in self.history)
        if not begun:
            return [(2, partial(self.begin_child, id, True)), (0.2, partial(self.begin_child, id, False))]
        asked = any(
            type(x) is e.RequestCancelExternalWorkflowExecutionInitiated and x.child_initiated_event_id == id
            for x in self.history
        )
        failed = Failure("child", ("perdure.errors.ApplicationError",))
        return [
            (2, partial(self.end_child, id, None)),
            (0.5, partial(self.end_child, id, failed)),
            (2 if asked else 0.1, partial(self.end_child, id, CANCELLED)),
        ]

    def unanswered(self) -> list[int]:
        """What was sent to others, and has not arrived."""
        sent = (e.SignalExternalWorkflowExecutionInitiated, e.RequestCancelExternalWorkflowExecutionInitiated)
        answers = (
            e.ExternalWorkflowExecutionSignaled,
            e.SignalExternalWorkflowExecutionFailed,
            e.ExternalWorkflowExecutionCancelRequested,
            e.RequestCancelExternalWorkflowExecutionFailed,
        )
        over = {event.initiated_event_id for event in self.history if isinstance(event, answers)}
        return [event.id for event in self.history if isinstance(event, sent) and event.id not in over]

    def happen(self) -> Happening | None:
        """Choose what happens next."""
        found = self.happenings()
        if self.messages > 0:
            found.append((0.3 * sum(weight for weight, _ in found) + 0.1, self.send))
        if self.cancels > 0:
            found.append((0.05 * sum(weight for weight, _ in found) + 0.01, self.ask_to_stop))
        return self.random.choices([x for _, x in found], [weight for weight, _ in found])[0] if found else None

    def end_activity(self, id: int, well: bool) -> None:
        self.add(e.ActivityTaskStarted(self.next_id, self.now, id, 1, "worker", self.now))
        if well:
            event = self.history[id - 1]
            assert isinstance(event, e.ActivityTaskScheduled)
            result = encode(f"did {value(event.input[0])}", "a result")
            self.add(e.ActivityTaskCompleted(self.next_id, self.now, id, self.next_id - 1, result))
        else:
            failure = failure_of(ApplicationError(f"failed {id}"))
            self.add(e.ActivityTaskFailed(self.next_id, self.now, id, self.next_id - 1, failure))

    def stop_activity(self, id: int) -> None:
        self.add(e.ActivityTaskCanceled(self.next_id, self.now, id, 0))

    def fire_timer(self, id: int) -> None:
        timer = self.history[id - 1]
        assert isinstance(timer, e.TimerStarted)
        if id in self.open(e.TimerStarted):  # it may have been cancelled meanwhile
            self.now = max(self.now, timer.fire_at)
            self.add(e.TimerFired(self.next_id, self.now, timer.timer_id, id))

    def begin_child(self, id: int, well: bool) -> None:
        event = self.history[id - 1]
        assert isinstance(event, e.StartChildWorkflowExecutionInitiated)
        if well:
            self.add(e.ChildWorkflowExecutionStarted(self.next_id, self.now, id, event.workflow_id, "child-run"))
        else:
            self.add(e.StartChildWorkflowExecutionFailed(self.next_id, self.now, id, event.workflow_id, CHILD_REFUSED))

    def end_child(self, id: int, failure: Failure | None) -> None:
        if failure is None:
            result = encode(f"done {id}", "a result")
            self.add(e.ChildWorkflowExecutionCompleted(self.next_id, self.now, id, 0, result))
        else:
            self.add(e.ChildWorkflowExecutionFailed(self.next_id, self.now, id, 0, failure))

    def answer(self, id: int) -> None:
        signal = isinstance(self.history[id - 1], e.SignalExternalWorkflowExecutionInitiated)
        if self.random.random() < 0.8:
            arrived = e.ExternalWorkflowExecutionSignaled if signal else e.ExternalWorkflowExecutionCancelRequested
            self.add(arrived(self.next_id, self.now, id))
        else:
            refused = (
                e.SignalExternalWorkflowExecutionFailed if signal else e.RequestCancelExternalWorkflowExecutionFailed
            )
            self.add(refused(self.next_id, self.now, id, NOBODY))

    def send(self) -> None:
        """Somebody sends something."""
        self.messages -= 1
        self.count += 1
        number = self.random.randrange(9)
        match self.random.randrange(6):
            case 0 if number == 8:
                self.signal("hurt", "hurt")
            case 0:
                self.signal("poke", number % 3)
            case 1:
                self.signal("push" if number % 2 else "block", f"{number}")  # the latter only some can take
            case 2 | 3:
                self.signal("mail", f"mail {number}")
            case 4:
                self.update(f"u{self.count}", "ask", number)
            case _:
                self.update(f"u{self.count}", "count", number % 3)

    def ask_to_stop(self) -> None:
        self.cancels -= 1
        self.cancel()

    # --- The run ----------------------------------------------------------------------------------------
    def play(self) -> None:
        """From the beginning to the end."""
        for _ in range(TASKS):
            self.now += self.random.choice((0, 0, SECOND // 2, 3 * SECOND))
            self.let_happen()
            self.look()
            self.task()
            if self.over:
                return
        raise AssertionError(f"the run is not over after {TASKS} workflow tasks")

    def let_happen(self) -> None:
        """What the next workflow task is told."""
        if not self.tasks and self.attempt == 1 and self.random.random() < 0.8:
            return
        happened = False
        for _ in range(self.random.randint(1, self.crowd)):
            happening = self.happen()
            if happening is not None:
                happened = True
                happening()
        if not happened and self.tasks and not self.tasks[-1][1].more:
            assert self.rescues > 0, "the run is stuck: nothing that it waits for will come"
            self.rescues -= 1
            self.signal("mail", "rescue")
            self.signal("rescue")

    def look(self) -> None:
        """The copy is asked something, and may leave memory: nobody may notice."""
        if self.evicts and self.tasks and not self.run.broken:
            if self.whims.random() < self.evicts:
                live = self.ask("trace")
                assert self.whims.random() > self.evicts or live == self.ask_replayed("trace")
            if self.whims.random() < self.evicts:
                self.run.evict()

    def task(self) -> None:
        """One workflow task, and what happens while it is out."""
        task = self.next_task()
        self.loops.append(weakref.ref(self.run._loop))
        outcome = self.work(task)
        assert isinstance(outcome, WorkflowTaskCompletion), outcome.failure.message + outcome.failure.traceback
        buffered = self.buffered()
        fate = self.random.random()
        if fate < self.trouble:
            self.run.evict()  # the answer is lost
            if fate < self.trouble / 2:
                self.record_failure(task, Failure("some bug"))
            self.arrive(buffered)
            return
        last = outcome.commands[-1] if outcome.commands else None
        if isinstance(last, CLOSING) and (self.send in buffered or self.ask_to_stop in buffered):
            self.refuse(task)
        else:
            self.record(task, outcome)
            self.tasks.append((task, outcome))
            self.over = isinstance(last, CLOSING)
        if not self.over:
            self.arrive(buffered)

    def buffered(self) -> list[Happening]:
        """What comes while the task is out."""
        found: list[Happening] = []
        while self.random.random() < self.buffers:
            happening = self.happen()
            if happening is not None and happening not in found:
                found.append(happening)
        return found

    def arrive(self, buffered: list[Happening]) -> None:
        """It follows the events of the task's commands."""
        ended: set[int] = set()
        for happening in buffered:
            if isinstance(happening, partial):  # of something that ends, in one way
                id = happening.args[0]
                if id in ended:
                    continue
                ended.add(id)
            happening()

    def refuse(self, task: WorkflowTask) -> None:
        """It wants to close, but has not seen everything: it is given out again."""
        if self.attempt > 1:
            self.add(e.WorkflowTaskScheduled(self.next_id, task.time, "default", self.attempt))
            self.scheduled = self.next_id - 1
        self.add(e.WorkflowTaskStarted(self.next_id, task.time, self.scheduled, history_bytes=task.history_bytes))
        failure = Failure("unseen", kind="engine")
        self.add(e.WorkflowTaskFailed(self.next_id, self.now, self.scheduled, self.next_id - 1, failure))
        self.run.evict()
        self.scheduled, self.attempt = 0, 1

    def work(self, task: WorkflowTask) -> Outcome:
        """Let the copy do a task, with the local activities that it asks for."""
        outcome = self.run.activate(task)
        elapsed = 0
        while outcome is None:
            if self.random.random() < 0.1:
                reported = self.run.report()
                assert reported is not None
                return reported
            locals = self.run.locals
            locals.take()
            future = locals.pending[self.random.choice(sorted(locals.pending))]
            elapsed += self.random.choice((0, 1000))
            outcome = self.run.resume(future.call.seq, self.local_outcome(future), elapsed)
        return outcome

    def local_outcome(self, future: LocalFuture) -> LocalOutcome:
        """What comes of a local activity."""
        attempt, fate = future.call.attempt, self.random.random()
        if future.asked:  # to stop
            return LocalOutcome(attempt=attempt)
        failure = failure_of(ApplicationError(f"local {future.call.seq}"))
        if fate < 0.2:
            return LocalOutcome(failure=failure, attempt=attempt)
        if fate < 0.3 and attempt == 1:
            return LocalOutcome(failure=failure, attempt=1, backoff=30 * SECOND)
        return LocalOutcome(encode(f"did {future.call.seq}", "a result"), attempt=attempt)


CHILD_REFUSED: Final = Failure("the id is taken", ("perdure.errors.AlreadyStarted",))
NOBODY: Final = Failure("there is no such workflow", ("perdure.errors.NotFound",))
