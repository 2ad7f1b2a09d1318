"""The head of a backlog in memory, whatever happens while the rest is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.engine.node import dispatch
from perdure.engine.node.dispatch import AttachedWorker, Backlog, Dispatcher, first
from perdure.engine.storage.api import BacklogItem, QueueKey, RunKey
from perdure.limits import MISSED_QUEUES
from perdure.model.tasks import EvictWorkflow, RunRef, ToWorker, WorkerHello

KEY = QueueKey("default", "activity", "default", "step")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BACKLOG_PAGE", 3)


def item(sequence: int, *, priority: int = 0) -> BacklogItem:
    return BacklogItem(KEY, priority, 0, sequence, RunKey("default", "w", 1), "run", sequence, 1)


def stored() -> Backlog:
    """One that the store has rows of."""
    backlog = Backlog()
    backlog.grew()
    return backlog


def drain(backlog: Backlog) -> list[int]:
    """Claim all of the head."""
    return [backlog.claim().sequence for _ in range(len(backlog.head))]


def test_what_is_added_is_in_order() -> None:
    backlog = Backlog()
    for each in (item(2), item(1), item(9, priority=-1)):
        backlog.add(each)
    assert drain(backlog) == [9, 1, 2]


def test_a_long_head_is_left_to_the_store() -> None:
    backlog, stored = Backlog(), [item(n) for n in range(10)]
    for each in stored:
        backlog.add(each)
    taken: list[int] = []
    while backlog:
        taken += drain(backlog)
        backlog.claims = 0
        if backlog.wants_page:
            first = 0 if backlog.read_from is None else stored.index(backlog.read_from) + 1
            page = stored[first : first + 3]
            backlog.fill(page, more=len(page) == 3)
    assert taken == list(range(10))


def test_nothing_is_missed_that_is_added_while_a_page_is_read() -> None:
    backlog = stored()
    backlog.reading = True
    backlog.add(item(7))  # after the store has answered, and before the answer is here
    backlog.fill([item(1)], more=False)
    assert drain(backlog) == [1, 7]
    assert not backlog.wants_page


def test_what_is_added_beyond_a_full_page_comes_with_its_own() -> None:
    backlog = stored()
    backlog.reading = True
    backlog.add(item(7))
    backlog.fill([item(1), item(2), item(3)], more=True)
    assert drain(backlog) == [1, 2, 3]
    assert backlog.wants_page
    assert backlog.read_from == item(3)


def test_a_page_of_what_is_claimed_already_does_not_come_again() -> None:
    backlog = stored()
    page = [item(1), item(2), item(3)]
    backlog.fill(page, more=True)
    assert drain(backlog) == [1, 2, 3]
    backlog.fill(page, more=True)
    assert not backlog.head
    assert backlog.read_from == item(3)


def test_a_claim_that_came_to_nothing_is_the_first_again() -> None:
    backlog = Backlog()
    backlog.add(item(1))
    backlog.add(item(2))
    claimed = backlog.claim()
    assert backlog, "what is claimed must not be overtaken"
    backlog.put_back(claimed)
    assert drain(backlog) == [1, 2]


def test_a_row_that_is_removed_before_it_is_claimed_is_in_no_head() -> None:
    backlog = Backlog()
    for sequence in (1, 2, 3):
        backlog.add(item(sequence))
    backlog.removed(item(2))
    backlog.removed(item(9))
    assert drain(backlog) == [1, 3]
    backlog.claims = 0
    backlog.removed(item(1))
    backlog.restore(item(1))
    assert not backlog.head, "nothing to be restored"
    backlog.restore(item(3))
    assert drain(backlog) == [3]


def attached(name: str, receive: Callable[[ToWorker], None] = lambda _: None) -> AttachedWorker:
    return AttachedWorker(WorkerHello("default", name, ("default",), 1, "", ("sample",), ("step", "another")), receive)


def test_what_a_worker_is_sent_stays_in_order_where_some_of_it_waits() -> None:
    received: list[ToWorker] = []
    worker = attached("worker", received.append)
    first, second, third, fourth = (EvictWorkflow(RunRef("default", "w", name)) for name in "abcd")
    worker.receive(first)
    worker.later(second)
    worker.receive(third)
    assert received == [first]
    worker.hand_over()
    worker.receive(fourth)
    assert received == [first, second, third, fourth]


def test_what_a_worker_is_sent_while_it_is_handed_tasks_comes_after_them() -> None:
    received: list[ToWorker] = []
    answer = EvictWorkflow(RunRef("default", "w", "answer"))

    def receive(message: ToWorker) -> None:
        received.append(message)
        if message is tasks[0]:
            worker.receive(answer)

    worker = attached("worker", receive)
    tasks = [EvictWorkflow(RunRef("default", "w", name)) for name in "ab"]
    for task in tasks:
        worker.later(task)
    worker.hand_over()
    assert received == [*tasks, answer]


def test_a_worker_that_does_not_answer_is_the_last_in_turn() -> None:
    dispatcher, key = Dispatcher(), QueueKey("default", "workflow", "default", "sample")
    one, other = attached("one"), attached("other")
    dispatcher.attach(one)
    assert not dispatcher.prefer_others(key, "one")
    dispatcher.attach(other)
    assert dispatcher.prefer_others(key, "one")
    assert dispatcher.workflow_worker(key, "") is other
    assert dispatcher.workflow_worker(key, "") is one


def test_a_worker_is_gone_once() -> None:
    dispatcher, worker = Dispatcher(), attached("one")
    dispatcher.attach(worker)
    assert dispatcher.detach(worker)
    assert not dispatcher.detach(worker)
    assert not dispatcher.lines


def waiting(sequence: int, of: str) -> BacklogItem:
    return item(sequence)._replace(queue=KEY._replace(type=of))


def test_types_of_one_queue_keep_their_order() -> None:
    one, other = Backlog(), Backlog()
    for sequence in (1, 4):
        one.add(waiting(sequence, "one"))
    for sequence in (2, 3, 5):
        other.add(waiting(sequence, "other"))
    taken: list[int] = []
    while (backlog := first((one, other))) is not None:
        taken.append(backlog.claim().sequence)
    assert taken == [1, 2, 3, 4, 5]


def test_no_type_goes_before_what_is_to_be_read_of_another() -> None:
    one, other = Backlog(), stored()
    one.add(waiting(2, "one"))
    assert first((one, other)) is None
    other.reading = True
    other.add(waiting(3, "other"))
    assert first((one, other)) is None
    other.fill([waiting(1, "other")], more=False)
    assert first((one, other)) is other


def test_a_task_overtakes_none_of_its_queue() -> None:
    dispatcher = Dispatcher()
    dispatcher.attach(attached("one"))
    assert dispatcher.activity_worker(KEY) is not None
    dispatcher.backlog(KEY._replace(type="another")).add(waiting(1, "another"))
    assert dispatcher.activity_worker(KEY) is None
    assert dispatcher.activity_worker(KEY._replace(task_queue="elsewhere")) is None, "nobody serves it"


def test_only_lines_with_workers_are_looked_at() -> None:
    dispatcher, unserved, worker = Dispatcher(), KEY._replace(task_queue="elsewhere"), attached("one")
    dispatcher.attach(worker)
    for key in (KEY, unserved):
        dispatcher.backlog(key).add(item(1)._replace(queue=key))
    assert [list(line) for line in dispatcher.waiting()] == [[KEY]]
    dispatcher.detach(worker)
    assert [list(line) for line in dispatcher.waiting()] == [[KEY]], "what was claimed for it is for others"
    assert not dispatcher.lines
    assert not list(dispatcher.waiting())
    dispatcher.attach(worker)
    assert [list(line) for line in dispatcher.waiting()] == [[KEY]], "it was kept"


def test_a_line_stays_while_something_of_it_is_under_way() -> None:
    dispatcher, worker = Dispatcher(), attached("one")
    dispatcher.attach(worker)
    backlog = dispatcher.backlog(KEY)
    backlog.grew()
    backlog.reading = True
    dispatcher.detach(worker)
    assert list(dispatcher.waiting()) and list(dispatcher.waiting())
    backlog.fill([item(1)], more=False)
    assert list(dispatcher.waiting()) and not list(dispatcher.waiting())


def test_a_backlog_that_is_empty_is_forgotten() -> None:
    dispatcher = Dispatcher()
    dispatcher.attach(attached("one"))
    for sequence in (1, 2):
        dispatcher.backlog(KEY).add(item(sequence))
    claimed = [dispatcher.backlog(KEY).claim() for _ in range(2)]
    dispatcher.backlog(KEY).claims = 0
    dispatcher.removed(claimed[0])
    assert dispatcher.backlogs, "the other's row is not gone yet"
    dispatcher.removed(claimed[1])
    assert not dispatcher.backlogs
    dispatcher.backlog(KEY).grew()
    dispatcher.backlog(KEY).fill([], more=False)
    assert not list(dispatcher.waiting()) and not dispatcher.backlogs


def test_what_nobody_takes_is_told_once_until_somebody_came(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, worker = Dispatcher(), attached("one")
    other = KEY._replace(type="unknown")
    assert dispatcher.newly_missing(KEY) and not dispatcher.newly_missing(KEY)
    dispatcher.attach(worker)
    assert dispatcher.newly_missing(other) and not dispatcher.newly_missing(KEY)
    dispatcher.detach(worker)
    assert dispatcher.newly_missing(KEY), "it came, and left again"
    assert not dispatcher.newly_missing(other), "nobody came who has that"
    assert MISSED_QUEUES >= 1_000
    monkeypatch.setattr(dispatch, "MISSED_QUEUES", 2)
    assert dispatcher.newly_missing(KEY._replace(type="third"))
    assert dispatcher.newly_missing(other), "the first of so many is forgotten"
