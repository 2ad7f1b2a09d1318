"""The engine, broken on purpose: each mutation must be caught by the simulator.

A check that can't fail proves nothing. So every guarantee that the simulator watches over is broken here in some
way that a real bug could, and `test_mutations.py` shows that it is noticed, and after how many seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.engine.core import decide as decide_module
from perdure.engine.core import effects as fx
from perdure.engine.core import evolve, retries
from perdure.engine.core import inputs as i
from perdure.engine.core.deadlines import Deadlines
from perdure.engine.core.decisions import activities, messages, resets, wake, workflow_tasks
from perdure.engine.core.decisions.postponing import updates_given
from perdure.engine.core.execution import Execution
from perdure.engine.core.transition import Transition
from perdure.engine.node import committer as committer_module
from perdure.engine.node import performing
from perdure.engine.node.committer import Committer
from perdure.engine.node.dispatch import AttachedWorker, Backlog
from perdure.engine.node.live import Live, settle
from perdure.engine.node.node import Node
from perdure.engine.node.offers import Offers
from perdure.engine.node.performing import Performing
from perdure.engine.node.queries import Queries
from perdure.engine.node.serving import Serving
from perdure.model import records as r
from perdure.model import requests as q
from perdure.model import tasks as t
from perdure.model.state import OutboxEntry

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """One way to break the engine: what it does wrong, and which guarantee that breaks.

    `seed` is one that has noticed it, and is tried before all others: few seeds notice some of them.
    """

    name: str
    breaks: str
    apply: Callable[[Patch], None]
    seed: int = 0


def nothing(*_: object) -> None:
    """Takes the place of something that matters."""


def zero(*_: object) -> int:
    """Takes the place of a number, or of a truth."""
    return 0


def reply_before_commit(patch: Patch) -> None:
    def reply(self: Serving, live: Live, work: Any, value: object) -> None:
        settle(work.answer, value)

    patch.setattr(Serving, "reply", reply)


def hand_over_before_commit(patch: Patch) -> None:
    act = Serving.act

    def act_at_once(self: Serving, live: Live, effects: list[fx.Effect]) -> None:
        performing: Performing = self._node.performing
        for effect in effects:
            if isinstance(effect, fx.HandOver):
                performing.perform(live, [effect])
            else:
                act(self, live, [effect])

    patch.setattr(Serving, "act", act_at_once)


def drop_buffered_signal(patch: Patch) -> None:
    flush = Transition.flush

    def forgetful(self: Transition) -> bool:
        before = self.state.buffered
        self.state.buffered[:] = [event for event in before if type(event).__name__ != "WorkflowExecutionSignaled"]
        return flush(self)

    patch.setattr(Transition, "flush", forgetful)


def forget_retry_count(patch: Patch) -> None:
    original = evolve.RECORDS[r.ActivityAttemptFailed]

    def failed(state: Any, record: r.ActivityAttemptFailed) -> None:
        original(state, record)
        state.activities[record.scheduled_event_id].attempt = 1

    patch.setitem(evolve.RECORDS, r.ActivityAttemptFailed, failed)


def reuse_a_token(patch: Patch) -> None:
    original = evolve.RECORDS[r.ActivityAttemptFailed]

    def failed(state: Any, record: r.ActivityAttemptFailed) -> None:
        original(state, record)
        state.activities[record.scheduled_event_id].attempt -= 1

    patch.setitem(evolve.RECORDS, r.ActivityAttemptFailed, failed)


def skip_deduplication(patch: Patch) -> None:
    signal = messages.signal

    def undeduplicated(tx: Transition, request: q.SignalWorkflow) -> None:
        signal(tx, request)
        tx.dedup = ()

    patch.setitem(decide_module.DECISIONS, q.SignalWorkflow, undeduplicated)


def take_unknown_for_committed(patch: Patch) -> None:
    async def settle_blindly(self: Committer, writes: list[Any]) -> list[str]:
        return ["taken"] * len(writes)

    patch.setattr(Committer, "_settle", settle_blindly)


def take_unknown_for_lost(patch: Patch) -> None:
    async def settle_blindly(self: Committer, writes: list[Any]) -> list[str]:
        return ["stale"] * len(writes)

    def forget(self: Serving, live: Live) -> list[Any]:
        return []

    patch.setattr(Committer, "_settle", settle_blindly)
    patch.setattr(Serving, "discard", forget)


def ignore_refusal(patch: Patch) -> None:
    def refused(self: Node, live: Live, row: Any, verdict: str) -> None:
        self._taken(live, row)

    patch.setattr(Node, "_refused", refused)


def forget_to_decide_again(patch: Patch) -> None:
    def decide_again(self: Serving, chain: Any, works: list[Any]) -> None:
        """The inputs of a refused row are dropped."""

    patch.setattr(Serving, "decide_again", decide_again)


def lose_lost_workers(patch: Patch) -> None:
    patch.setitem(decide_module.DECISIONS, i.WorkersLost, nothing)


def never_lower_wake_at(patch: Patch) -> None:
    wake_at = Committer._wake_at

    def stuck(self: Committer, live: Live, execution: Execution, now: int) -> int | None:
        return None if live.wake_at else wake_at(self, live, execution, now)

    patch.setattr(Committer, "_wake_at", stuck)


def lose_timers_on_restart(patch: Patch) -> None:
    rebuild = Deadlines._rebuild

    def without_timers(self: Deadlines) -> None:
        timers, self._state.timers = self._state.timers, {}
        rebuild(self)
        self._state.timers = timers

    patch.setattr(Deadlines, "_rebuild", without_timers)


def accept_stale_tokens(patch: Patch) -> None:
    def lenient(execution: Any, token: t.ActivityToken) -> Any:
        activity = execution.state.activities.get(token.scheduled_event_id)
        if activity is None:
            raise activities.NotFound("gone")
        return activity

    patch.setattr(activities, "attempt", lenient)


def close_without_looking(patch: Patch) -> None:
    patch.setattr(workflow_tasks, "unseen", zero)


def retry_at_once(patch: Patch) -> None:
    patch.setattr(retries, "backoff", zero)


def forget_fields_in_snapshots(patch: Patch) -> None:
    encode = committer_module.encode_state

    def partial(state: Any) -> bytes:
        timers, state.timers = state.timers, {}
        try:
            return encode(state)
        finally:
            state.timers = timers

    patch.setattr(committer_module, "encode_state", partial)
    patch.setattr(committer_module, "SNAPSHOT_MINIMUM", 64)


def never_time_out(patch: Patch) -> None:
    patch.setattr(activities, "timed_out", nothing)
    patch.setattr(wake, "timed_out", nothing)


def forget_holds(patch: Patch) -> None:
    note = Transition.note

    def noting(self: Transition, record: r.PrivateRecord) -> None:
        note(self, record)
        if isinstance(record, r.ActivityHeld):
            self.private.pop()

    patch.setattr(Transition, "note", noting)


def drop_the_outbox(patch: Patch) -> None:
    def send(self: Performing, live: Live, effect: fx.Send) -> None:
        """Nothing is delivered; the entry stays in the journal."""

    def forget(tx: Transition, entry: OutboxEntry) -> None:
        tx.note(r.OutboxSettled(entry.added.entry_id))

    patch.setitem(performing.EFFECTS, fx.Send, send)
    patch.setattr(wake, "resend", forget)


def forget_the_backlog(patch: Patch) -> None:
    as_write = Committer._as_write

    def without(self: Committer, live: Live, row: Any, now: int, commit_id: str) -> Any:
        row.backlog_added.clear()
        return as_write(self, live, row, now, commit_id)

    patch.setattr(Committer, "_as_write", without)


def lose_query_answers(patch: Patch) -> None:
    def answered(self: Queries, message: t.QueryAnswer) -> None:
        """Nobody hears of it."""

    patch.setattr(Queries, "answered", answered)


def read_what_is_not_on_disk(patch: Patch) -> None:
    def in_reach(self: Queries, live: Live, worker: AttachedWorker) -> bool:
        return True

    patch.setattr(Queries, "_in_reach", in_reach)


def forget_queries_of_lost_workers(patch: Patch) -> None:
    def worker_gone(self: Queries, worker: AttachedWorker) -> None:
        """Nobody else is asked."""

    patch.setattr(Queries, "worker_gone", worker_gone)


def forget_tasks_of_lost_workers(patch: Patch) -> None:
    def task_lost(self: Serving, live: Live) -> None:
        """Nobody else is given it."""

    patch.setattr(Serving, "task_lost", task_lost)


def forget_who_saw_what_was_refused(patch: Patch) -> None:
    def depends(self: Serving, live: Live, work: Any) -> None:
        """It is not decided again."""

    patch.setattr(Serving, "depends", depends)


def never_read_the_backlog(patch: Patch) -> None:
    patch.setattr(Backlog, "wants_page", False)


def forget_what_goes_on_when_full(patch: Patch) -> None:
    def full(self: Node, lives: Sequence[Live], error: Exception) -> None:
        for live in lives:
            for work in self.serving.discard(live):
                self.serving.fail(work, error)

    patch.setattr(Node, "_full", full)


def give_updates_before_signals(patch: Patch) -> None:
    send_task = Offers.send_task

    def send(self: Offers, live: Live, execution: Execution, *args: Any, **kwargs: Any) -> None:
        execution.updates = updates_given(execution.state)
        send_task(self, live, execution, *args, **kwargs)

    patch.setattr(Offers, "send_task", send)


def give_again_by_kind(patch: Patch) -> None:
    patch.setattr(resets, "receive", Transition.arrive)


MUTATIONS = [
    Mutation("reply before the commit", "1: acknowledged means on disk", reply_before_commit),
    Mutation(
        "hand an activity over before the commit", "1: nothing leaves before it is on disk", hand_over_before_commit
    ),
    Mutation("drop a buffered signal", "1: an acknowledged signal survives", drop_buffered_signal),
    Mutation("forget a retry count", "3: a retry count survives", forget_retry_count),
    Mutation("reuse a token", "2: an attempt runs once", reuse_a_token),
    Mutation("don't deduplicate signals", "2: a repeated request takes effect once", skip_deduplication),
    Mutation("take an unknown commit for committed", "1: acknowledged means on disk", take_unknown_for_committed),
    Mutation("take an unknown commit for lost, and go on", "1: memory is what the disk says", take_unknown_for_lost),
    Mutation("ignore that the store refused a row", "1: acknowledged means on disk", ignore_refusal),
    Mutation("drop the inputs of a refused row", "5: a run goes on", forget_to_decide_again),
    Mutation("don't notice lost workers", "5: a run goes on", lose_lost_workers),
    Mutation("don't lower a wake-up time", "3: a timer survives", never_lower_wake_at),
    Mutation("lose timers when a run is loaded", "3: a timer survives", lose_timers_on_restart),
    Mutation("accept the outcome of an old attempt", "2: an old token is refused", accept_stale_tokens),
    Mutation("close without looking at what arrived", "1: an acknowledged signal is seen", close_without_looking),
    Mutation("retry without a backoff", "3: a backoff is kept", retry_at_once),
    Mutation("leave the timers out of snapshots", "3: a timer survives", forget_fields_in_snapshots),
    Mutation("never time out", "5: a run goes on", never_time_out, 18),
    Mutation("don't journal a hold", "3: a hold survives", forget_holds),
    Mutation("don't deliver to other executions", "5: a run goes on", drop_the_outbox),
    Mutation("don't store the backlog", "4: what waits is on disk", forget_the_backlog),
    Mutation(
        "read a history before it is on disk",
        "1: no reply is older than what was acknowledged",
        read_what_is_not_on_disk,
        287,
    ),
    Mutation("lose the answer of a query", "6: every request is answered", lose_query_answers),
    Mutation("forget the queries of a lost worker", "6: every request is answered", forget_queries_of_lost_workers),
    Mutation("forget the workflow tasks of a lost worker", "5: a run goes on", forget_tasks_of_lost_workers),
    Mutation("forget who saw what was refused", "6: every request is answered", forget_who_saw_what_was_refused),
    Mutation("drop what goes on by itself when the store is full", "5: a run goes on", forget_what_goes_on_when_full),
    Mutation("never read the backlog", "5: a run goes on", never_read_the_backlog),
    Mutation(
        "give updates before the signals before them", "1: messages keep their order", give_updates_before_signals, 274
    ),
    Mutation("give messages again by their kind", "1: messages keep their order", give_again_by_kind, 3),
]
