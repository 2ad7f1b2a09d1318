"""Inputs that decide nothing about their run: what is asked of its state or its code, or a task of the backlog."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from perdure.engine.core import effects as fx
from perdure.engine.core.decisions.closing import failure_for_parent
from perdure.engine.core.inputs import ChildReported
from perdure.engine.core.queries import CLOSED, describe, heir, outcome, update_outcome
from perdure.engine.node import updates
from perdure.engine.node.live import Live, Work
from perdure.engine.node.places import Locate, Location
from perdure.engine.node.schedules import tell_schedule
from perdure.engine.storage.api import BacklogItem
from perdure.errors import NotFound
from perdure.model import requests as q
from perdure.model import schedules as s
from perdure.model.events import ParentRef
from perdure.model.tasks import InputWanted

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving


class AskChild(NamedTuple):
    """A run that goes on in the place of a child's parent asks what has become of the child."""

    parent: ParentRef


class AskAnswered(NamedTuple):
    """Ask which updates a run knows to be over."""


class LookAgain(NamedTuple):
    """Tell those who wait for a run what another node may have done to it."""


def tell_end(serving: Serving, live: Live, work: Work) -> None:
    """How the run ended, when it has."""
    request = work.input
    assert isinstance(request, q.GetResult) and work.answer is not None
    if live.run.open and request.wait:
        serving.waiting.for_end(live.run.ref.run_id, work.answer)
        serving.depends(live, work)  # the run itself may be refused
        serving.peers.await_news(live)
    else:
        serving.reply(live, work, outcome(live.run.state))


def tell_news(serving: Serving, live: Live, work: Work) -> None:
    """Somebody waits here for what the run, which another node serves, has done."""
    serving.peers.told(live)
    serving.peers.await_news(live)
    state = live.run.state
    closed = not live.run.open
    news: list[fx.Effect] = [fx.RunClosed()] if closed else []
    for update_id in serving.waiting.updates_of(live.run.ref.run_id):
        # Where another run has it now, that one tells what has become of it: `RunClosed` sees to it.
        gone = q.UpdateOutcome(update_id, "rejected", None, CLOSED) if closed and not heir(state) else None
        progress = update_outcome(state, update_id) or gone
        if progress is not None:
            news.append(fx.UpdateProgressed(progress))
    serving.act(live, news)


def tell_state(serving: Serving, live: Live, work: Work) -> None:
    """What can be told without the code."""
    description, unserved = describe(live.run), serving.offers.unserved(live)
    serving.reply(live, work, replace(description, unserved=unserved) if unserved else description)


def tell_parent(serving: Serving, live: Live, work: Work) -> None:
    """How a child has ended, or that it runs."""
    asked, state = work.input, live.run.state
    assert isinstance(asked, AskChild)
    parent, run_id = asked.parent, state.started.run_id
    if state.started.parent != parent:
        text = f"what became of child workflow {state.workflow_id!r} is not known any more: its id is another's by now"
        serving.reply(live, work, NotFound(text))
    elif live.run.open:
        serving.reply(live, work, q.Started(state.started.first_run_id))
    else:
        outcome = state.result, failure_for_parent(state)
        serving.reply(live, work, ChildReported(parent.run_id, parent.initiated_event_id, *outcome, run_id))


def tell_answered(serving: Serving, live: Live, work: Work) -> None:
    """The ids of updates."""
    serving.reply(live, work, frozenset(live.run.state.finished))


def tell_place(serving: Serving, live: Live, work: Work) -> None:
    """Where the rows are."""
    serving.reply(live, work, Location(live.key, live.run.ref.run_id))


def tell_stored(serving: Serving, live: Live, work: Work) -> None:
    """A worker is to hear when what it was told is on disk: at once, then, if nothing else holds it up."""
    message, execution = work.input, live.run
    assert isinstance(message, InputWanted)
    if execution.taken is not None and execution.given == message.given:
        live.wants_input = True
        serving.act(live, [fx.TellStored(execution.taken_by, message.given)])
        if live.row is not None:
            serving.dirty(live, live.row)


def ask_code(serving: Serving, live: Live, work: Work) -> None:
    """A query, to be sent when all inputs are taken."""
    live.queries.append(work)


def claim(serving: Serving, live: Live, work: Work) -> None:
    """A task of the backlog, whose turn it is."""
    assert isinstance(work.input, BacklogItem)
    serving.offers.claim(live, work.input)


ANSWERS: Final[dict[type[Any], Callable[[Serving, Live, Work], None]]] = {
    q.GetResult: tell_end,
    q.DescribeWorkflow: tell_state,
    s.DescribeSchedule: tell_schedule,
    AskChild: tell_parent,
    AskAnswered: tell_answered,
    Locate: tell_place,
    LookAgain: tell_news,
    InputWanted: tell_stored,
    updates.Follow: updates.follow,
    q.QueryWorkflow: ask_code,
    BacklogItem: claim,
}
"""What answers each of them."""
