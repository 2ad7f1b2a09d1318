"""Activities, as the outside world sees them: each attempt that begins, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from perdure.errors import Hold
from perdure.limits import RETRY_JITTER
from perdure.model.events import (
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    ActivityTaskStarted,
    HistoryEvent,
    WorkflowExecutionStarted,
    WorkflowTaskFailed,
)
from perdure.model.state import PendingActivity, State
from perdure.model.tasks import ActivityTask
from perdure.sdk.activity.api import activity

if TYPE_CHECKING:
    from perdure.testing.simulation.ledger import Ledger

BACKOFF = 1.0
"""Seconds of an activity's first backoff."""

CLOCKS_AGREE = 0.6
"""Seconds by which the clocks of two nodes may differ that both follow a slow store's."""

UNDERWAY = 30.0
"""Seconds for which a started attempt may be on its way to its worker: a process may be suspended meanwhile."""

Key = tuple[str, str, str]
"""An activity: workflow id, run id, activity id."""


class Flaky(Exception):
    """An activity failed, as its step said."""


class Failures:
    """How often what is to go wrong has done so."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def next(self, whose: tuple[str, int], most: int) -> int:
        """The number of the failure that happens now; 0 where there were as many as there may be."""
        count = self._counts.get(whose, 0)
        if count >= most:
            return 0
        self._counts[whose] = count + 1
        return count + 1


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


End = Literal[
    "running", "returned", "raised", "held", "hung", "detached", "reported", "cancelled", "killed", "unacknowledged"
]


@dataclass
class Attempt:
    """One attempt of an activity.

    losses: how many processes and workers had been lost when it began.
    limited: its timeouts may end it, whatever its worker does.
    given_up: another one has begun since, because its worker was taken for lost.
    """

    number: int
    process: int
    losses: int
    worker: str
    limited: bool
    begun: float
    end: End = "running"
    ended: tuple[float, float] = (0.0, 0.0)
    given_up: bool = False


class Attempts:
    """All attempts, and the guarantees held against them.

    losses: processes and workers that died: each may have taken an attempt with it that nobody saw.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.losses = 0
        self.of: dict[Key, list[Attempt]] = {}
        self._workers: dict[tuple[Key, int], str] = {}  # who was given an attempt
        self._failed = Failures()
        self._held: set[tuple[str, int]] = set()
        self._deaths: list[tuple[float, float]] = []  # of processes: the true time, and their own

    def given(self, task: ActivityTask, worker: str) -> None:
        """A worker was given an attempt; "": one that nobody knows to be dead."""
        if not worker:
            self.losses += 1
        run = task.token.run
        self._workers[(run.workflow_id, run.run_id, task.activity_id), task.token.attempt] = worker

    async def perform(self, step: Step) -> int:
        """An activity's effect on the outside world."""
        info, ledger = activity.info(), self._ledger
        key = info.workflow_id, info.run_id, info.activity_id
        attempt = self._begin(key, info.attempt, limited=step.kind in ("guarded", "later"))
        budget = info.workflow_id, step.key
        try:
            if self._failed.next(budget, step.hangs):
                attempt.end = "hung"
                activity.heartbeat(info.attempt)
                await asyncio.sleep(30)
            await asyncio.sleep(step.ms / 1000)
            if step.kind == "later":
                attempt.end = "detached"
                ledger.elsewhere.told(key, info.task_token, step, attempt)
                raise activity.CompleteLater()
            if step.holds and budget not in self._held:
                self._held.add(budget)
                attempt.end = "held"
                raise Hold("the simulated operator must look")
            if number := self._failed.next(budget, step.fails):
                attempt.end = "raised"
                raise Flaky(f"failure {number}")
            attempt.end = "returned"
            return step.key
        except asyncio.CancelledError:
            if attempt.end == "running":
                attempt.end = "cancelled"
            raise
        finally:
            attempt.ended = ledger.time(), ledger.clock()
            ledger.say(f"activity {key} attempt {info.attempt}: {attempt.end}")

    # --- Beginning --------------------------------------------------------------------------------------
    def _begin(self, key: Key, number: int, *, limited: bool) -> Attempt:
        ledger = self._ledger
        ledger.say(f"activity {key} attempt {number} begins")
        self._check_disk(key, number)
        before = self.of.setdefault(key, [])
        last: Attempt | None = None
        for other in before:
            if other.number == number:
                ledger.fail(f"attempt {number} of {key} runs twice")
            if other.number > number:
                if not ledger.lives.lost(ledger.process, other.begun - UNDERWAY):
                    ledger.fail(f"attempt {number} of {key} came after attempt {other.number}")
            else:
                last = other
                self._check_over(key, number, other)
        self._check_number(key, number, last)
        worker = self._workers.get((key, number), "")
        attempt = Attempt(number, ledger.process, self.losses, worker, limited, ledger.time())
        attempt.given_up = any(other.number > number for other in before)
        before.append(attempt)
        before.sort(key=lambda each: each.number)
        return attempt

    def _check_disk(self, key: Key, number: int) -> None:
        """What begins has been started on disk."""
        workflow_id, _, activity_id = key
        pending = self._pending(self._ledger.on_disk(workflow_id, "an activity began"), key)
        if pending is None:  # over while the task was on its way to the worker
            if not self._was_scheduled(workflow_id, activity_id):
                self._ledger.fail(f"attempt {number} of {key} began, but the activity is not on disk")
        elif pending.attempt < number or (pending.attempt == number and pending.status != "started"):
            self._ledger.fail(f"attempt {number} of {key} began, but the disk says {pending.status}, {pending.attempt}")

    def _check_over(self, key: Key, number: int, earlier: Attempt) -> None:
        """An earlier attempt is over, or its worker may have been taken for lost."""
        if earlier.end == "hung":
            earlier.given_up = True
        if earlier.end in ("detached", "reported") and not self._ledger.elsewhere.may_be_over(key, earlier):
            self._ledger.fail(f"attempt {number} of {key} began although attempt {earlier.number} goes on elsewhere")
        if earlier.end not in ("returned", "running"):
            return
        lives, several = self._ledger.lives, self._ledger.several
        if several and (earlier.limited or lives.lost(earlier.process, earlier.begun)):
            earlier.given_up = True
        elif not earlier.given_up:
            self._ledger.fail(f"attempt {number} of {key} began although attempt {earlier.number} is {earlier.end}")

    def _check_number(self, key: Key, number: int, last: Attempt | None) -> None:
        """Attempts are counted, and backoffs kept. With several nodes many attempts are never seen to begin."""
        ledger = self._ledger
        if last is None:
            if number > 1 + self.losses and not ledger.several:
                ledger.fail(f"the first attempt of {key} has the number {number}")
            return
        # An attempt that was started on disk, but whose worker died before it began, is never seen here.
        if number > last.number + 1 + self.losses - last.losses and not ledger.several:
            ledger.fail(f"attempt {number} of {key} came after attempt {last.number}")
        if ledger.several and ledger.lives.lost(last.process, last.begun):
            return  # what it came to in the end was not heard
        # By the true time, or by the wall clock of any process since: each may have one that is set otherwise.
        at, by_the_clock = last.ended
        clocks = [ledger.clock(), *(clock for died, clock in self._deaths if died >= at)]
        waited = max(ledger.time() - at, *(clock - by_the_clock for clock in clocks))
        shortest = BACKOFF * (1 - RETRY_JITTER) - (CLOCKS_AGREE if ledger.several else 1e-6)
        if last.end == "raised" and number == last.number + 1 and waited < shortest:
            ledger.fail(f"attempt {number} of {key} began {waited:.3f} s after a failure")

    def _pending(self, state: State | None, key: Key) -> PendingActivity | None:
        """What is stored of an activity that has no outcome there."""
        _, run_id, activity_id = key
        if state is None or state.started.run_id != run_id or activity_id not in state.activity_ids:
            return None
        return state.activities[state.activity_ids[activity_id]]

    def _was_scheduled(self, workflow_id: str, activity_id: str) -> bool:
        events = self._ledger.history(workflow_id)
        return any(isinstance(e, ActivityTaskScheduled) and e.activity_id == activity_id for e in events)

    # --- Losses -----------------------------------------------------------------------------------------
    def process_died(self, process: int) -> None:
        """What ran there is lost."""
        self.losses += 1
        self._ledger.elsewhere.note_what_is_kept()
        self._deaths.append((self._ledger.time(), self._ledger.clock()))
        self._lose(lambda attempt: attempt.process == process)

    def worker_died(self, worker: str) -> None:
        """What it ran is lost."""
        self.losses += 1
        self._ledger.elsewhere.note_what_is_kept()
        self._lose(lambda attempt: attempt.worker == worker)

    def _lose(self, lost: Callable[[Attempt], bool]) -> None:
        """Nobody runs these any more. What had ended, but isn't on disk, is lost too."""
        for key, attempts in self.of.items():
            for attempt in attempts:
                if not lost(attempt):
                    continue
                if attempt.end in ("running", "hung"):
                    attempt.end = "killed"
                elif attempt.end in ("returned", "raised", "held", "cancelled"):
                    pending = self._pending(self._ledger.stored(key[0]), key)
                    if pending is not None and pending.status == "started" and pending.attempt == attempt.number:
                        attempt.end = "unacknowledged"

    # --- The end ----------------------------------------------------------------------------------------
    def check_history(self, workflow_id: str, history: list[HistoryEvent]) -> None:
        """What a history says of activities is what happened."""
        first = history[0]
        assert isinstance(first, WorkflowExecutionStarted)
        run_id = first.original_run_id or first.run_id  # whose events these are, until a reset
        scheduled: dict[int, str] = {}
        started: dict[int, int] = {}
        for event in history:
            if isinstance(event, ActivityTaskScheduled):
                scheduled[event.id] = event.activity_id
            elif isinstance(event, ActivityTaskStarted):
                started[event.id] = event.attempt
            elif isinstance(event, WorkflowTaskFailed):
                run_id = event.new_run_id or run_id
            elif isinstance(event, ActivityTaskCompleted):
                key = workflow_id, run_id, scheduled[event.scheduled_event_id]
                number = started[event.started_event_id]
                ends = [attempt.end for attempt in self.of.get(key, ()) if attempt.number == number]
                if ends not in (["returned"], ["unacknowledged"], ["reported"]):
                    self._ledger.fail(f"the history says that attempt {number} of {key} returned; it is {ends}")

    def check_end(self) -> None:
        """Nothing returned twice, unless it had to be begun again."""
        for key, attempts in self.of.items():
            if sum(attempt.end == "returned" and not attempt.given_up for attempt in attempts) > 1:
                self._ledger.fail(f"{key} returned more than once: {attempts}")
