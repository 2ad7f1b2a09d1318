"""A witness at a node's door: what the node replies is compared, at that moment, with what is on disk.

What was acknowledged must be there, nothing may be told that isn't there yet (guarantee 1), and no reply may be older
than what was on disk, or had been told to anybody, when its request came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, cast

from perdure.engine.storage.api import RunKey
from perdure.errors import (
    EngineStopped,
    NotFound,
    NotRunning,
    PerdureError,
    StoreFull,
    Unavailable,
    WorkflowAlreadyStarted,
)
from perdure.limits import QUERY_ELSEWHERE, SECOND
from perdure.model import requests as q
from perdure.model.state import State
from perdure.model.tasks import ActivityTask, ToWorker, WorkerHello
from perdure.sdk.converter import decode
from perdure.testing.simulation.ledger import NAMESPACE, Asked, Ledger, at_once
from perdure.testing.simulation.script import LATE, Report

TOLD_OF_RUNS: Final = (q.DescribeWorkflow, q.GetResult, q.SignalWorkflow, q.UpdateWorkflow, q.GetHistory)
"""Requests for which only the run can be missing."""

ANSWERED: Final = QUERY_ELSEWHERE / SECOND + 2.0
"""Seconds for which somebody with the code is there, until no query is refused for want of one."""


class Before(NamedTuple):
    """What was known of a workflow when a request came.

    state: the run that is to be described, as it was on disk; only for that. run: the latest one's id; "" where there
    was none.
    """

    exists: bool
    run: str
    state: State | None
    notes: frozenset[int]
    updates: frozenset[int]
    steps: int


class Witness:
    """A Service that passes everything on to a node."""

    def __init__(self, node: q.Service, ledger: Ledger) -> None:
        self._node, self._ledger = node, ledger

    async def attach(self, hello: WorkerHello, receive: Callable[[ToWorker], None], /) -> q.WorkerLink:
        def given(message: ToWorker) -> None:
            ledger = self._ledger
            if type(message) is ActivityTask and ledger.lives.silent(ledger.process):
                ledger.fail(f"{message.token} was handed out by a node that others may have taken for lost")
            receive(message)

        return await self._node.attach(hello, given)

    async def call(self, request: q.Request[q.Reply], /) -> q.Reply:
        before = self._before(request)
        try:
            reply = await self._node.call(request)
        except (Unavailable, EngineStopped):
            raise
        except StoreFull as error:  # these clients have the patience of a person who makes room
            raise Unavailable(str(error)) from error
        except PerdureError as error:
            self._refused(request, error, before)
            raise
        self._replied(request.workflow_id, request, reply, before)
        return reply

    def _before(self, request: q.Request[q.Reply]) -> Before:
        ledger, wid = self._ledger, request.workflow_id
        asked = ledger.asked.get(wid, Asked())
        exists = at_once(ledger.store.versions([RunKey(NAMESPACE, wid, 1)])) != [0]
        latest = described = ledger.stored(wid)
        if isinstance(request, q.DescribeWorkflow) and request.run_id:
            described = ledger.run_on_disk(wid, request.run_id)
        return Before(
            exists,
            latest.started.run_id if latest is not None else "",
            described if isinstance(request, q.DescribeWorkflow) else None,
            frozenset(n for n, how in asked.notes.items() if how == "taken" and n < LATE),
            frozenset(n for n, how in asked.updates.items() if how == "completed"),
            asked.steps,
        )

    def _refused(self, request: q.Request[q.Reply], error: PerdureError, before: Before) -> None:
        ledger, wid = self._ledger, request.workflow_id
        if isinstance(error, WorkflowAlreadyStarted):
            ledger.on_disk(wid, "a start was refused")
        elif isinstance(error, NotRunning) and getattr(request, "run_id", "") in ("", before.run):
            latest = ledger.on_disk(wid, "it was said not to run")
            if latest.status == "Running" and latest.started.run_id == before.run:  # another may have begun since
                ledger.fail(f"{wid} was said not to run, but runs on disk")
        elif isinstance(request, q.QueryWorkflow) and before.exists and ledger.served() > ANSWERED:
            ledger.fail(f"a query of {wid} was refused ({error}), but somebody could answer it")
        elif isinstance(error, NotFound) and before.exists and isinstance(request, TOLD_OF_RUNS):
            ledger.fail(f"{type(request).__name__} of {wid} was refused ({error}), but it was on disk before")

    def _replied(self, wid: str, request: object, reply: object, before: Before) -> None:
        match request, reply:
            case q.StartWorkflow(message=q.StartSignal() as message), _:
                self._signalled(wid, int(message.input[0].data))
                self._ledger.asked[wid].started = True
            case q.StartWorkflow(), _:
                self._ledger.on_disk(wid, "a start was acknowledged")
                self._ledger.asked[wid].started = True
            case q.SignalWorkflow(name="note" | "parcel"), _:
                self._signalled(wid, int(request.input[0].data))
            case q.UpdateWorkflow(), q.UpdateOutcome():
                self._updated(wid, reply)
            case q.SettleAttempt(), _:
                self._settled(wid, request)
            case q.DescribeWorkflow(), q.Description():
                self._described(wid, reply, before)
            case q.GetResult(), q.Outcome():
                self._ended(wid, reply)
            case q.QueryWorkflow(), q.QueryResult() if reply.result is not None:
                self._told(wid, cast(Report, decode(reply.result, Report, "the answer")), before)
            case _:
                return

    def _signalled(self, wid: str, n: int) -> None:
        state = self._ledger.on_disk(wid, "a signal was acknowledged")
        self._ledger.asked[wid].notes[n] = "taken"
        if n not in self._ledger.notes_on_disk(wid, state):
            self._ledger.fail(f"signal {n} of {wid} was acknowledged, but is not on disk")

    def _updated(self, wid: str, outcome: q.UpdateOutcome) -> None:
        if outcome.result is None:
            return
        n = int(outcome.update_id.removeprefix("update-"))
        state = self._ledger.on_disk(wid, "an update was completed")
        finished = state.finished.get(outcome.update_id)
        # The answer may be of a run that was just reset: then the one in its place carries the update out again.
        again = state.started.original_run_id and outcome.update_id in (*state.admitted, *state.accepted)
        if (finished is None or finished.result is None) and not again:
            self._ledger.fail(f"update {n} of {wid} was completed, but is not on disk")
        if int(outcome.result.data) != n:
            self._ledger.fail(f"update {n} of {wid} gave {outcome.result.data!r}")
        self._ledger.asked[wid].updates[n] = "completed"

    def _settled(self, wid: str, asked: q.SettleAttempt) -> None:
        state = self._ledger.run_on_disk(wid, asked.run_id) if asked.run_id else None
        pending = state.activities.get(asked.scheduled_event_id) if state is not None else None
        over = pending is None or pending.attempt > asked.attempt or pending.status != "started"
        if not over and not asked.activity_id:
            self._ledger.fail(f"the end of an attempt of {wid} was acknowledged, but is not on disk: {pending}")

    def _described(self, wid: str, told: q.Description, before: Before) -> None:
        ledger = self._ledger
        now = ledger.run_on_disk(wid, told.run_id)
        if now is None:
            ledger.fail(f"{wid} was described as run {told.run_id}, which is not on disk")
            return
        if told.history_events > now.last_event_id:
            ledger.fail(f"{wid} was described with {told.history_events} events; {now.last_event_id} are on disk")
        then = before.state
        if then is None:
            return
        if now.run_no < then.run_no or (
            now.run_no == then.run_no
            and (told.history_events < then.last_event_id or (told.status == "Running" != then.status))
        ):
            ledger.fail(
                f"{wid} was described as run {now.run_no}, {told.status}, {told.history_events} events; before that, "
                f"run {then.run_no}, {then.status}, {then.last_event_id} events were on disk"
            )

    def _ended(self, wid: str, outcome: q.Outcome) -> None:
        run = self._ledger.run_on_disk(wid, outcome.run_id)
        if run is None or run.status == "Running":
            self._ledger.fail(f"{wid} gave the outcome of run {outcome.run_id}, which runs on disk, or isn't there")

    def _told(self, wid: str, report: Report, before: Before) -> None:
        ledger, steps, asked = self._ledger, len(report.results), self._ledger.asked[wid]
        if asked.paused or asked.reset or asked.cancelled or asked.retried:
            return  # what it has taken may wait, or be done again
        if steps < before.steps or not before.notes <= {*report.noted} or not before.updates <= {*report.added}:
            ledger.fail(f"{wid} answered a query with {report}; {before} was told before")
        ledger.asked[wid].steps = max(ledger.asked[wid].steps, steps)
