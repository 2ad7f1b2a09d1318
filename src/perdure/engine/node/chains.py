"""Chains of runs in memory: one run is followed by another, by the commit that ends it or later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.engine.core import effects as fx
from perdure.engine.core.decisions.starts import Continued
from perdure.engine.core.decisions.starts import continue_run as next_run
from perdure.engine.core.deduplication import start_id
from perdure.engine.core.queries import heir
from perdure.engine.core.transition import Transition
from perdure.engine.node.live import Live, Work
from perdure.engine.storage.api import RunKey

if TYPE_CHECKING:
    from perdure.engine.node.serving import Serving


def begin(serving: Serving, live: Live, tx: Transition) -> Live:
    """Put a new run in memory, after the one that `live` is (or in its place, if it is none)."""
    new = live
    if live.execution is not None:
        new = serving.lives[live.chain] = Live(live.chain)
        new.known = True
        new.speculative = live.speculative
        new.inbox += live.inbox
        live.inbox.clear()
        # What is asked of the latest run is the new one's to answer: it may have been left messages.
        new.inbox += [work for work in live.queries if not work.run_id]
        live.queries = [work for work in live.queries if work.run_id]
        live.gone = live.idle()
        if new.inbox:
            serving.make_ready(new)
    new.execution = tx.execution
    new.home = serving.peers.node
    new.key = RunKey(*live.chain, live.key.run_no + 1)
    serving.apply(new, Work(None, again=False), tx)
    if live is not new and live.key.run_no == 1:
        # A start is recognised by its run while that is the latest; those of later ones are remembered at once.
        remembered = start_id(live.run.state.started.request_id)
        if remembered not in live.remembered:
            new.next_row().dedup[remembered] = None
    return new


def continue_run(serving: Serving, live: Live, effect: fx.ContinueRun) -> None:
    """Begin the next run of the chain, in the commit that ends this one."""
    event = live.recent[-1]
    assert isinstance(event, Continued)
    run_no, now = live.key.run_no + 1, serving.clock.now()
    live.successor = begin(serving, live, next_run(live.run.state, event, run_no, now, serving.retention, effect))


def follow(serving: Serving, live: Live) -> None:
    """Callers who wait for updates that a run has left to another one wait for that one now."""
    state = live.run.state
    run_id, to = state.started.run_id, heir(state)
    waiting = [id for id in serving.waiting.updates_of(run_id) if id not in state.finished] if to else []
    if waiting:
        serving.waiting.move(run_id, waiting, to)
        serving.look(live.chain, to)
