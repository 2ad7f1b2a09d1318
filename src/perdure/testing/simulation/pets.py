"""The entities that a simulation runs: they roll over after a few events, in the midst of their messages."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

from perdure.errors import ApplicationError
from perdure.sdk.workflow import facts
from perdure.sdk.workflow.api import workflow
from perdure.testing.simulation.attempts import Step
from perdure.testing.simulation.families import child_id, clerk, look_at
from perdure.testing.simulation.script import LATE, Report, work

EVENTS = 25
"""Of a history, from which on an entity rolls over."""


@contextmanager
def rolling_over_early() -> Generator[None]:
    """Entities that are begun meanwhile live through many runs."""
    with patch.object(facts, "SUGGEST_CONTINUE_AS_NEW_EVENTS", EVENTS):
        yield


@workflow(name="simulated-pet", entity=True)
class Pet:
    """Takes messages until it is told to go, and its bell has rung; with a child that goes with it."""

    rung: int
    gone: bool
    busy: int
    noted: list[int]
    added: list[int]
    heard: list[int]

    def __init__(self, plan: list[Step]) -> None:
        self.rung = 0
        self.gone = False
        self.busy = 0
        self.noted = []
        self.added = []
        self.heard = []
        workflow.alarm("bell", after=1.0)

    async def run(self) -> Report:
        while not (self.gone and self.rung and not self.busy):
            await workflow.idle()
        return Report([self.rung], self.noted, self.added, self.heard)

    @workflow.on_alarm("bell")
    async def ring(self) -> None:
        clerk.options(id=child_id("leave-terminate")).start(Step(1, "clerk")).add_done_callback(look_at)
        await work(Step(2, "act", 5))
        self.rung += 1

    @workflow.signal
    async def note(self, n: int) -> None:
        self.heard.append(n)
        self.busy += 1
        if n >= LATE:
            await work(Step(n, "act", 5))
        self.noted.append(n)
        self.busy -= 1

    @workflow.update
    async def add(self, n: int) -> int:
        self.heard.append(n)
        result = await work(Step(n, "act", 5))
        self.added.append(n)
        return result

    @add.validator
    def _(self, n: int) -> None:
        if n < 0:
            raise ApplicationError("negative")

    @workflow.signal
    def end(self) -> None:
        self.gone = True

    @workflow.query
    def progress(self) -> Report:
        return Report([self.rung] if self.rung else [], self.noted, self.added, self.heard)
