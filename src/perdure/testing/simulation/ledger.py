"""The world outside of the engine: what was asked, acknowledged and done, and the guarantees held against it.

A ledger outlives the simulated processes. Whatever reaches it has left the engine; so it is compared at once
with what is on disk at that moment (guarantees 1 and 4), and at the end with what should have come of it
(2, 3 and 5).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from perdure.engine.core.evolve import fold, rebuild
from perdure.engine.core.retries import RETRY_JITTER
from perdure.engine.storage.api import ChainKey, RunKey, Store
from perdure.errors import Hold
from perdure.model.events import ActivityTaskScheduled, HistoryEvent, WorkflowExecutionSignaled
from perdure.model.journal import decode_events, decode_state
from perdure.model.state import PendingActivity, State
from perdure.model.tasks import ActivityTask
from perdure.sdk.activity.api import activity

BACKOFF = 1.0
"""Seconds of an activity's first backoff."""

NAMESPACE = "default"
T = TypeVar("T")


class Violation(AssertionError):
    """A guarantee was broken."""


class Flaky(Exception):
    """An activity failed, as its step said."""


@dataclass
class Step:
    """One step: what kind, and how it goes. Times are milliseconds."""

    key: int
    kind: str
    ms: int = 0
    n: int = 0
    fails: int = 0
    hangs: int = 0
    holds: int = 0


End = Literal["running", "returned", "raised", "held", "hung", "cancelled", "killed", "unacknowledged"]


@dataclass
class Attempt:
    """One attempt of an activity, as the outside world saw it."""

    number: int
    process: int
    losses: int
    worker: str
    end: End = "running"
    ended: tuple[float, float] = (0.0, 0.0)


@dataclass
class Asked:
    """What the clients of one workflow want, and how far they got."""

    started: bool = False
    notes: dict[int, str] = field(default_factory=dict[int, str])  # number → "asked", "taken" or "refused"
    updates: dict[int, str] = field(default_factory=dict[int, str])
    result: object = None
    done: bool = False


class Ledger(logging.Handler):
    """All that is known outside. It hears the engine's log, too, where an error is a violation."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.process = 0
        self.losses = 0  # processes and workers that died: each may have taken an attempt with it that nobody saw
        self.workers: dict[tuple[tuple[str, str, str], int], str] = {}  # who was given an attempt
        self.time: Callable[[], float] = lambda: 0.0
        self.clock: Callable[[], float] = lambda: 0.0
        self.asked: dict[str, Asked] = {}
        self.attempts: dict[tuple[str, str, str], list[Attempt]] = {}
        self.failed: dict[tuple[str, int], int] = {}
        self.held: set[tuple[str, int]] = set()
        self.errors: list[str] = []
        self.violation: Violation | None = None
        self.trace: deque[str] = deque(maxlen=4000)

    def say(self, text: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.time():10.4f} p{self.process} {text}")

    @contextmanager
    def listening(self, name: str) -> Generator[None]:
        """Take all that a logger says."""
        logger = logging.getLogger(name)
        propagates, logger.propagate = logger.propagate, False
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = propagates

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the engine's log."""
        self.say(record.getMessage())
        if record.levelno >= logging.ERROR:
            self.errors.append(logging.Formatter().format(record))

    def fail(self, text: str) -> None:
        """A guarantee is broken."""
        self.say(f"VIOLATION {text}")
        self.violation = self.violation or Violation(text)
        raise self.violation

    # --- What is on disk --------------------------------------------------------------------------------
    def stored(self, workflow_id: str) -> State | None:
        """The latest run of a workflow id, as the store has it now."""
        run = at_once(self.store.load([ChainKey(NAMESPACE, workflow_id)]))[0]
        if run is None:
            return None
        if run.snapshot is not None:
            return fold(decode_state(run.snapshot), run.journal)
        return rebuild(*run.key, list(run.journal))

    def on_disk(self, workflow_id: str, what: str) -> State:
        """The stored state, which must be there because somebody was told of it."""
        state = self.stored(workflow_id)
        if state is None:
            self.fail(f"{what}: {workflow_id} is not on disk")
            raise AssertionError
        return state

    # --- Activities -------------------------------------------------------------------------------------
    def given(self, task: ActivityTask, worker: str) -> None:
        """A worker was given an attempt; "": one that nobody knows to be dead."""
        if not worker:
            self.losses += 1
        run = task.token.run
        self.workers[(run.workflow_id, run.run_id, task.activity_id), task.token.attempt] = worker

    async def perform(self, step: Step) -> int:
        """An activity's effect on the outside world."""
        info = activity.info()
        key = info.workflow_id, info.run_id, info.activity_id
        attempt = self._begin(key, info.attempt)
        budget = info.workflow_id, step.key
        try:
            if self.failed.get(budget, 0) < step.hangs:
                self.failed[budget] = self.failed.get(budget, 0) + 1
                attempt.end = "hung"
                activity.heartbeat(info.attempt)
                await asyncio.sleep(30)
            await asyncio.sleep(step.ms / 1000)
            if step.holds and budget not in self.held:
                self.held.add(budget)
                attempt.end = "held"
                raise Hold("the simulated operator must look")
            if self.failed.get(budget, 0) < step.fails:
                self.failed[budget] = self.failed.get(budget, 0) + 1
                attempt.end = "raised"
                raise Flaky(f"failure {self.failed[budget]}")
            attempt.end = "returned"
            return step.key
        except asyncio.CancelledError:
            if attempt.end == "running":
                attempt.end = "cancelled"
            raise
        finally:
            attempt.ended = self.time(), self.clock()
            self.say(f"activity {key} attempt {info.attempt}: {attempt.end}")

    def _begin(self, key: tuple[str, str, str], number: int) -> Attempt:
        workflow_id, _, activity_id = key
        self.say(f"activity {key} attempt {number} begins")
        pending = self._pending(self.on_disk(workflow_id, "an activity began"), key)
        if pending is None:  # over while the task was on its way to the worker
            if not self._was_scheduled(workflow_id, activity_id):
                self.fail(f"attempt {number} of {key} began, but the activity is not on disk")
        elif pending.attempt < number or (pending.attempt == number and pending.status != "started"):
            self.fail(f"attempt {number} of {key} began, but the disk says {pending.status}, {pending.attempt}")
        before = self.attempts.get(key, [])
        if before:
            last = before[-1]
            # An attempt that was started on disk, but whose worker died before it began, is never seen here.
            if not last.number < number <= last.number + 1 + self.losses - last.losses:
                self.fail(f"attempt {number} of {key} came after attempt {last.number}")
            if last.end in ("returned", "running"):
                self.fail(f"attempt {number} of {key} began although attempt {last.number} is {last.end}")
            # By the wall clock or by the true time: a process may begin with a clock that is set otherwise.
            waited = max(self.time() - last.ended[0], self.clock() - last.ended[1])
            if last.end == "raised" and number == last.number + 1 and waited < BACKOFF * (1 - RETRY_JITTER) - 1e-6:
                self.fail(f"attempt {number} of {key} began {waited:.3f} s after a failure")
        elif number > 1 + self.losses:
            self.fail(f"the first attempt of {key} has the number {number}")
        attempt = Attempt(number, self.process, self.losses, self.workers.get((key, number), ""))
        self.attempts.setdefault(key, []).append(attempt)
        return attempt

    def _pending(self, state: State | None, key: tuple[str, str, str]) -> PendingActivity | None:
        """What is stored of an activity that has no outcome there."""
        _, run_id, activity_id = key
        if state is None or state.started.run_id != run_id or activity_id not in state.activity_ids:
            return None
        return state.activities[state.activity_ids[activity_id]]

    def _was_scheduled(self, workflow_id: str, activity_id: str) -> bool:
        events = self.history(workflow_id)
        return any(isinstance(e, ActivityTaskScheduled) and e.activity_id == activity_id for e in events)

    def process_died(self) -> None:
        """What ran is lost."""
        self.losses += 1
        for key, attempts in self.attempts.items():
            if attempts[-1].process == self.process:
                self._lost(key, attempts[-1])

    def worker_died(self, worker: str) -> None:
        """What it ran is lost."""
        self.losses += 1
        for key, attempts in self.attempts.items():
            if attempts[-1].worker == worker:
                self._lost(key, attempts[-1])

    def _lost(self, key: tuple[str, str, str], attempt: Attempt) -> None:
        """Nobody runs it any more. What had ended, but isn't on disk, is lost too."""
        if attempt.end in ("running", "hung"):
            attempt.end = "killed"
        elif attempt.end in ("returned", "raised", "held", "cancelled"):
            pending = self._pending(self.stored(key[0]), key)
            if pending is not None and pending.status == "started" and pending.attempt == attempt.number:
                attempt.end = "unacknowledged"

    # --- What clients are told --------------------------------------------------------------------------
    def told_started(self, workflow_id: str) -> None:
        """A start was acknowledged."""
        self.on_disk(workflow_id, "a start was acknowledged")
        self.asked[workflow_id].started = True

    def told_noted(self, workflow_id: str, n: int) -> None:
        """A signal was acknowledged."""
        state = self.on_disk(workflow_id, "a signal was acknowledged")
        self.asked[workflow_id].notes[n] = "taken"
        if n not in self.notes_on_disk(workflow_id, state):
            self.fail(f"signal {n} of {workflow_id} was acknowledged, but is not on disk")

    def told_updated(self, workflow_id: str, n: int, result: int) -> None:
        """An update was completed."""
        state = self.on_disk(workflow_id, "an update was completed")
        finished = state.finished.get(f"update-{n}")
        if finished is None or finished.result is None:
            self.fail(f"update {n} of {workflow_id} was completed, but is not on disk")
        if result != n:
            self.fail(f"update {n} of {workflow_id} gave {result}")
        self.asked[workflow_id].updates[n] = "completed"

    def told_described(self, workflow_id: str, run_id: str, events: int) -> None:
        """A description was given."""
        state = self.on_disk(workflow_id, "a description was given")
        if state.started.run_id == run_id and events > state.last_event_id:
            self.fail(f"{workflow_id} was described with {events} events; {state.last_event_id} are on disk")

    def told_result(self, workflow_id: str, result: object) -> None:
        """A result was given."""
        state = self.on_disk(workflow_id, "a result was given")
        if state.status == "Running":
            self.fail(f"{workflow_id} gave a result, but runs on disk")
        asked = self.asked[workflow_id]
        asked.result, asked.done = result, True

    def notes_on_disk(self, workflow_id: str, state: State) -> list[int]:
        """The signals that are in the journal, in order."""
        events = [*self.history(workflow_id), *state.buffered]
        return [int(e.input[0].data) for e in events if isinstance(e, WorkflowExecutionSignaled)]

    def histories(self, workflow_id: str) -> Iterator[list[HistoryEvent]]:
        """The stored histories of all runs of a workflow id."""
        latest = at_once(self.store.load([ChainKey(NAMESPACE, workflow_id)]))[0]
        for run_no in range(1, latest.key.run_no + 1 if latest is not None else 1):
            events: list[HistoryEvent] = []
            after = 0
            while after or not events:
                page = at_once(self.store.journal(RunKey(NAMESPACE, workflow_id, run_no), after, 1 << 30))
                for _, history in page.rows:
                    if history:
                        events += decode_events(history)
                after = page.next
            yield events

    def history(self, workflow_id: str) -> Iterator[HistoryEvent]:
        """Their events, one after another."""
        for events in self.histories(workflow_id):
            yield from events


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that doesn't wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waits")


_ledgers: list[Ledger] = []


def current() -> Ledger:
    """The ledger of the simulation that is running."""
    return _ledgers[-1]


@contextmanager
def used(ledger: Ledger) -> Generator[None]:
    """Make a ledger the current one."""
    _ledgers.append(ledger)
    try:
        yield
    finally:
        _ledgers.pop()
