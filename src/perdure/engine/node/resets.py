"""Resets: reading what a run has been, and putting the run in memory that begins with a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from perdure.engine.core.decisions.resets import (
    NOTHING,
    Fork,
    added_by,
    counts,
    end_for_reset,
    left_by,
    point_of,
    shared_by,
)
from perdure.engine.core.deduplication import dedup_id
from perdure.engine.core.transition import Transition
from perdure.engine.node.chains import begin
from perdure.engine.node.live import Live, Work
from perdure.engine.node.places import Locate, Location
from perdure.engine.storage.api import ChainKey, RunKey
from perdure.errors import InvalidRequest, Unavailable
from perdure.limits import RESET_TRIES
from perdure.model.events import HistoryEvent, WorkflowExecutionStarted
from perdure.model.requests import ResetWorkflow, Started

if TYPE_CHECKING:
    from perdure.engine.node.node import Node
    from perdure.engine.node.serving import Serving

_WHOLE: Final = 2**62
"""An event's id that no history reaches."""


class ResetRun(Struct, frozen=True, gc=False):
    """A reset, with what was read for it. It is refused as stale where the latest run has moved on since.

    base: the run that is reset. kept, later: its events up to the point, and those after it, also of later runs.
    latest, last_event_id: the latest run, and how far its history had gone. shared: how much of it is the base's.
    """

    request: ResetWorkflow
    base: RunKey
    kept: Sequence[HistoryEvent]
    later: Sequence[HistoryEvent]
    latest: RunKey
    last_event_id: int
    shared: int


async def reset(node: Node, request: ResetWorkflow) -> Started:
    """Carry out a reset. Raises Unavailable where the run moves on faster than its history can be read."""
    if not request.request_id:
        raise InvalidRequest("a reset needs a request_id, so that a retry is recognised")
    chain = ChainKey(request.namespace, request.workflow_id)
    if await node.reading.taken(chain, [dedup_id(request)]):
        latest = await node.tell(chain, "", Locate())
        assert isinstance(latest, Location)
        return Started(latest.run_id)
    for _ in range(RESET_TRIES):
        reply = await node.tell(chain, "", await _read(node, chain, request))
        if isinstance(reply, Started):
            return reply
    raise Unavailable(f"workflow {request.workflow_id!r} moved on while it was to be reset; pause it, or try again")


async def _read(node: Node, chain: ChainKey, request: ResetWorkflow) -> ResetRun:
    latest = base = await node.tell(chain, "", Locate())
    if request.run_id:
        base = await node.tell(chain, request.run_id, Locate())
    assert isinstance(base, Location) and isinstance(latest, Location)
    events = await node.reading.whole(base.key, _WHOLE)
    point = point_of(events, request.event_id, request.to)
    later, before = events[point:], events
    for run_no in range(base.key.run_no + 1, latest.key.run_no + 1):
        following = await node.reading.whole(RunKey(*chain, run_no), _WHOLE)
        if following:
            if _first_run(following) == _first_run(events):  # else it was another start
                later += added_by(following, before, events)
            before = following
    return ResetRun(
        request,
        base.key,
        events[:point],
        later,
        latest.key,
        before[-1].id,
        shared_by(before, events),
    )


def _first_run(events: Sequence[HistoryEvent]) -> str:
    started = events[0]
    assert isinstance(started, WorkflowExecutionStarted)
    return started.first_run_id


def begin_again(serving: Serving, live: Live, work: Work) -> None:
    """End the latest run, if it is open, and begin the one that goes on in its place, by one commit."""
    input, execution = work.input, live.run
    assert isinstance(input, ResetRun)
    request, base = input.request, input.kept[0]
    assert isinstance(base, WorkflowExecutionStarted)
    moved = (live.key, execution.state.last_event_id) != (input.latest, input.last_event_id)
    if moved or (live.pending is not None and not execution.open):
        serving.reply(live, work, None)
        return
    now, is_latest = serving.clock.now(), input.base == input.latest
    run_id, same_chain = serving.ids.new_id(), execution.state.started.first_run_id == base.first_run_id
    left = left_by(execution.state, is_base=is_latest) if same_chain else NOTHING  # else it was another start
    fork = Fork(request, input.kept, input.later, run_id, live.key.run_no + 1, now, serving.retention)
    ended: Sequence[HistoryEvent] = ()
    if execution.open:
        end = Transition(execution, now)
        end_for_reset(end, request, run_id if same_chain else "", fork.spares(left), fork.takes(left))
        if same_chain:  # what was in the buffer
            ended = end.events if is_latest else [event for event in end.events if counts(event, input.shared)]
        serving.apply(live, Work(None, again=False), end)
    tx = fork.go_on(left, ended)
    new = begin(serving, live, tx)
    if live.row is not None:
        live.successor = new
    new.next_row().works.append(work)
    serving.reply(new, work, tx.reply)
