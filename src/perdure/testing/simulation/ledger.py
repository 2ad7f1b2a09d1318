"""The world outside of the engine: what was asked, acknowledged and done, and the guarantees held against it.

A ledger outlives the simulated processes. Whatever reaches it has left the engine; so it is compared at once
with what is on disk at that moment (guarantees 1 and 4), and at the end with what should have come of it
(2, 3 and 5).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perdure.engine.core.evolve import fold, rebuild
from perdure.engine.storage.api import ChainKey, RunKey, StoredRun
from perdure.engine.storage.memory import MemoryStore
from perdure.model.events import HistoryEvent, WorkflowExecutionSignaled, WorkflowExecutionStarted
from perdure.model.journal import decode_events, decode_state
from perdure.model.state import State
from perdure.testing.simulation.attempts import Attempts
from perdure.testing.simulation.deeds import Deeds
from perdure.testing.simulation.far import Elsewhere
from perdure.testing.simulation.lives import Lives
from perdure.testing.simulation.near import Nears

NAMESPACE = "default"
T = TypeVar("T")


class Violation(AssertionError):
    """A guarantee was broken."""


@dataclass
class Asked:
    """What the clients of one workflow want, and how far they got."""

    started: bool = False
    notes: dict[int, str] = field(default_factory=dict[int, str])  # number → "asked", "taken" or "refused"
    updates: dict[int, str] = field(default_factory=dict[int, str])
    course: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])  # "sent" or "answered", and the number
    steps: int = 0  # that somebody was told are done
    result: object = None
    done: bool = False
    paused: bool = False  # somebody may have: then queries may be answered without what was taken
    reset: bool = False  # somebody may have: then steps may be done again
    cancelled: bool = False  # somebody may have asked it to stop
    retried: bool = False  # another attempt begins from the beginning

    def sends(self, n: int) -> None:
        """A message goes out, perhaps once more."""
        if ("sent", n) not in self.course:
            self.course.append(("sent", n))


class Ledger(logging.Handler):
    """All that is known outside. It hears the engine's log, too, where an error is a violation.

    Args:
        store: the disk.
        several: whether several processes live at once.
    """

    def __init__(self, store: MemoryStore, several: bool = False) -> None:
        super().__init__()
        self.store = store
        self.several = several
        self.process = 0  # the one that makes the present step; negative: none
        self.time: Callable[[], float] = lambda: 0.0
        self.clock: Callable[[], float] = lambda: 0.0
        self.served: Callable[[], float] = lambda: 0.0  # seconds for which somebody could have answered any query
        self.asked: dict[str, Asked] = {}
        self.lives = Lives(self)
        self.attempts = Attempts(self)
        self.deeds = Deeds(self)
        self.nears = Nears(self)
        self.elsewhere = Elsewhere(self)
        self._states: dict[RunKey, tuple[int, State]] = {}
        self.errors: list[str] = []
        self.violation: Violation | None = None
        self.trace: deque[str] = deque(maxlen=10_000)

    def say(self, text: str) -> None:
        """A line of the trace."""
        who = f"p{self.process}" if self.process >= 0 else "--"
        self.trace.append(f"{self.time():10.4f} {who} {text}")

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
        return self.state(run) if run is not None else None

    def state(self, run: StoredRun) -> State:
        """The state that a store's rows describe; not to be changed."""
        known = self._states.get(run.key)
        if known is None or known[0] != run.version:
            known = self._states[run.key] = run.version, folded(run)
        return known[1]

    def on_disk(self, workflow_id: str, what: str) -> State:
        """The stored state, which must be there because somebody was told of it."""
        state = self.stored(workflow_id)
        if state is None:
            self.fail(f"{what}: {workflow_id} is not on disk")
            raise AssertionError
        return state

    def run_on_disk(self, workflow_id: str, run_id: str) -> State | None:
        """One run, as it is stored."""
        run = at_once(self.store.load_run(ChainKey(NAMESPACE, workflow_id), run_id))
        return self.state(run) if run is not None else None

    def notes_on_disk(self, workflow_id: str, state: State) -> list[int]:
        """The signals that are in the journal, in order."""
        events = [*self.history(workflow_id), *state.buffered, *state.postponed]
        return [int(e.input[0].data) for e in events if isinstance(e, WorkflowExecutionSignaled)]

    def clerks(self, workflow_id: str) -> list[str]:
        """The children of a workflow on disk that it does not wait for."""
        begins = f"{workflow_id}/leave-", f"{workflow_id}/recall-"
        ids: dict[str, None] = {}
        page = ""
        while True:
            rows, page = at_once(self.store.list(NAMESPACE, "", page, 1_000))
            ids |= dict.fromkeys(row.workflow_id for row in rows if row.workflow_id.startswith(begins))
            if not page:
                return list(ids)

    def sends(self, workflow_id: str) -> bool:
        """Whether any run of a workflow id has something on its way to another."""
        runs = {id for events in self.histories(workflow_id) if events and (id := _run_id(events[0]))}
        states = [self.run_on_disk(workflow_id, run_id) for run_id in runs]
        return any(state is not None and state.outbox for state in states)

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


def _run_id(event: HistoryEvent) -> str:
    return event.run_id if isinstance(event, WorkflowExecutionStarted) else ""


def folded(run: StoredRun) -> State:
    """The state that a store's rows describe."""
    if run.snapshot is not None:
        return fold(decode_state(run.snapshot), run.journal)
    return rebuild(*run.key, run.journal)


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
