"""Resets: reading what a run has been, and putting the run in memory that begins with a part of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from perdure.engine.core.decisions.carrying import endings
from perdure.engine.core.decisions.resets import (
    MESSAGES,
    NOTHING,
    Fork,
    added_by,
    counts,
    earlier_updates,
    end_for_reset,
    is_copy,
    left_by,
    point_of,
    scheduled_as,
    shared_by,
    without,
)
from perdure.engine.core.deduplication import dedup_id
from perdure.engine.core.transition import Transition
from perdure.engine.node.answers import AskAnswered
from perdure.engine.node.chains import begin
from perdure.engine.node.live import Live, Work
from perdure.engine.node.places import Locate, Location
from perdure.engine.node.reading import Reading, Told
from perdure.engine.storage.api import ChainKey, RunKey
from perdure.errors import InvalidRequest, LimitExceeded, Unavailable
from perdure.limits import MAX_RESET_BYTES, RESET_TRIES
from perdure.model.events import HistoryEvent, WorkflowExecutionStarted
from perdure.model.journal import encode_event
from perdure.model.requests import ResetWorkflow, Started

if TYPE_CHECKING:
    from perdure.engine.node.node import Node
    from perdure.engine.node.serving import Serving


class ResetRun(Struct, frozen=True, gc=False):
    """A reset, with what was read for it. It is refused as stale where the latest run has moved on since.

    base: the run that is reset. kept, later: its events up to the point, and those after it, also of later runs.
    latest, last_event_id: the latest run, and how far its history had gone. shared: how much of it is the base's.
    repeats: whether the signals that were given to it again are among the others (see `added_by`).
    earlier: updates that are not for the new run (see `earlier_updates`).
    """

    request: ResetWorkflow
    base: RunKey
    kept: Sequence[HistoryEvent]
    later: Sequence[HistoryEvent]
    latest: RunKey
    last_event_id: int
    shared: int
    repeats: bool
    earlier: Collection[str]


async def reset(node: Node, request: ResetWorkflow) -> Started:
    """Carry out a reset. Raises Unavailable where the run moves on faster than its history can be read."""
    if not request.request_id:
        raise InvalidRequest("a reset needs a request_id, so that a retry is recognised")
    chain = ChainKey(request.namespace, request.workflow_id)
    if await node.reading.taken(chain, [dedup_id(request)]):
        latest = await node.tell(chain, "", Locate())
        assert isinstance(latest, Location)
        return Started(latest.run_id)
    base = await node.tell(chain, request.run_id, Locate())
    assert isinstance(base, Location)
    past = Past(node.reading, base.key)
    for _ in range(RESET_TRIES):
        latest = await node.tell(chain, "", Locate())
        assert isinstance(latest, Location)
        if not request.run_id and latest != base:  # it has continued as another, which is meant now
            base, past = latest, Past(node.reading, latest.key)
        if latest != base:
            past.answered = cast("frozenset[str]", await node.tell(chain, base.run_id, AskAnswered()))
        await past.read(latest.key)
        reply = await node.tell(chain, "", past.reset_by(request))
        if isinstance(reply, Started):
            return reply
    raise Unavailable(f"workflow {request.workflow_id!r} moved on while it was to be reset; pause it, or try again")


class Past:
    """What the runs of a chain have told, from the one that is reset to the latest; read on when there is more.

    answered: the updates that the run that is reset knows to be over.
    """

    def __init__(self, reading: Reading, base: RunKey) -> None:
        self._reading, self._base_key = reading, base
        self._base = self._before = self._latest = Told()
        self._latest_key = base
        self._between: list[HistoryEvent] = []  # what those beyond the base have added that are closed
        self._repeats = False  # one of those was begun by a reset
        self.answered: Collection[str] = ()

    async def read(self, latest: RunKey) -> None:
        """Read to the present end of what is the latest run."""
        await self._reading.read_on(self._latest_key, self._latest)
        while self._latest_key.run_no < latest.run_no:
            self._between += self._added()
            if self._latest.events:  # else it is deleted
                self._repeats = self._latest_repeats
                self._before = self._latest
            self._latest, self._latest_key = Told(), self._latest_key._replace(run_no=self._latest_key.run_no + 1)
            await self._reading.read_on(self._latest_key, self._latest)

    @property
    def _latest_repeats(self) -> bool:
        run = self._latest.events
        return self._repeats or (self._latest is not self._base and bool(run) and is_copy(run))

    def _added(self) -> list[HistoryEvent]:
        """What the latest run tells beyond the others; nothing if it belongs to another start."""
        run, base = self._latest.events, self._base.events
        if self._latest is self._base or not run or _first_run(run) != _first_run(base):
            return []
        return added_by(run, self._before.events, base, repeats=self._latest_repeats)

    def reset_by(self, request: ResetWorkflow) -> ResetRun:
        """The reset, with what it needs. Raises LimitExceeded where that is too much for one commit."""
        base, latest = self._base.events, self._latest.events or self._before.events
        point = point_of(base, request.event_id, request.to)
        earlier = earlier_updates(base, self.answered)
        later = [*base[point:], *without(earlier, [*self._between, *self._added()])]
        written = [*base[:point], *(event for event in later if request.reapply and type(event) in MESSAGES)]
        if (size := sum(len(encode_event(event)) for event in written)) > MAX_RESET_BYTES:
            raise LimitExceeded(
                f"a reset of workflow {request.workflow_id!r} would write {size} bytes at once, the history up to event"
                f" {point} and the messages that came later; limits.MAX_RESET_BYTES is {MAX_RESET_BYTES}. Reset it to "
                "an earlier event, leave the messages out (reapply=False), or start it anew"
            )
        return ResetRun(
            request,
            self._base_key,
            base[:point],
            later,
            self._latest_key,
            latest[-1].id,
            shared_by(latest, base),
            self._latest_repeats,
            earlier,
        )


def _first_run(events: Sequence[HistoryEvent]) -> str:
    started = events[0]
    assert isinstance(started, WorkflowExecutionStarted)
    return started.first_run_id


def begin_again(serving: Serving, live: Live, work: Work) -> None:
    """End the latest run, if it is open, and begin the one that goes on in its place, by one commit."""
    input = work.input
    assert isinstance(input, ResetRun)
    if live.execution is None:
        serving.missing(live, work)
        return
    execution = live.execution
    request, base = input.request, input.kept[0]
    assert isinstance(base, WorkflowExecutionStarted)
    moved = (live.key, execution.state.last_event_id) != (input.latest, input.last_event_id)
    if moved or (live.pending is not None and not execution.open):
        serving.reply(live, work, None)
        return
    now, is_latest = serving.clock.now(), input.base == input.latest
    run_id, same_chain = serving.ids.new_id(), execution.state.started.first_run_id == base.first_run_id
    left = NOTHING  # it was another start
    if same_chain:
        left = left_by(execution.state, is_base=is_latest, repeats=input.repeats, earlier=input.earlier)
    run_no = live.key.run_no + 1
    scheduled_by = scheduled_as(base, execution.state, run_no)
    fork = Fork(request, input.kept, input.later, run_id, run_no, now, serving.retention, scheduled_by)
    buffered: Sequence[HistoryEvent] = ()
    if execution.open:
        end = Transition(execution, now)
        told = end_for_reset(end, request, run_id if same_chain else "", fork.spares(left), fork.takes(left))
        if same_chain:
            buffered = told if is_latest else [event for event in told if counts(event, input.shared)]
        serving.apply(live, Work(None, again=False), end)
    tx = fork.go_on(left, buffered, endings(execution.state))
    new = begin(serving, live, tx)
    if live.row is not None:
        live.successor = new
    new.next_row().works.append(work)
    serving.reply(new, work, tx.reply)
