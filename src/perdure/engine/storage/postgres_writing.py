"""A group of writes as the parameters of one statement (`postgres_schema.COMMIT_GROUP`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from perdure.engine.storage.admission import ChainTuple
from perdure.engine.storage.api import BacklogItem, Verdict, Visibility, Write
from perdure.engine.storage.listing import attribute_values
from perdure.engine.storage.postgres_notices import encode_grown, encode_moved
from perdure.engine.storage.postgres_values import (
    attribute_columns,
    chain_key,
    queue_key,
    request_key,
    space_of,
    text,
)
from perdure.engine.storage.schema import KIND_CODES, STATUS_CODES

_encode = msgspec.msgpack.encode
_WIDTHS = {
    "writes": 12,
    "begun": 4,
    "pairs": 2,
    "gone": 1,
    "snapshots": 2,
    "seen": 12,
    "attributes": 7,
    "requests": 3,
    "added": 15,
    "removed": 5,
    "told": 3,
}
"""The sets of rows that the statement takes, in their order, and how many columns each has."""

PARAMETERS = 3 + sum(_WIDTHS.values()) + 2
CALL = f"SELECT commit_group_1({', '.join(f'${number}' for number in range(1, PARAMETERS + 1))})"


class Fit:
    """Which writes the statement can take at once.

    It takes a workflow id's only write, or the end of a run with the begin of the next; and one write's changes of each
    place in a backlog. Anything else (a run that is written twice, say) is judged first, and written in several steps.
    """

    def __init__(self) -> None:
        self._chains: dict[ChainTuple, bool] = {}  # → whether the begin of a run may follow
        self._tasks: set[tuple[object, ...]] = set()

    def add(self, write: Write) -> bool:
        """Whether one more write fits; if so, it is counted."""
        chain = write.key[:2]
        before = self._chains.get(chain)
        if before is not None and not (before and not write.expected):
            return False
        if write.backlog_added or write.backlog_removed:
            places = {item[:4] for item in (*write.backlog_added, *write.backlog_removed)}
            if not self._tasks.isdisjoint(places):
                return False
            self._tasks.update(places)
        self._chains[chain] = before is None and write.expected > 0 and not write.delete
        return True


def fits(group: Sequence[Write]) -> bool:
    """Whether the statement can take a group as it is."""
    fit = Fit()
    return all(map(fit.add, group))


def steps(writes: Iterable[Write]) -> list[list[Write]]:
    """The writes in parts that the statement can take one after another."""
    parts: list[list[Write]] = []
    fit = Fit()
    for write in writes:
        if not parts or not fit.add(write):
            fit = Fit()
            fit.add(write)
            parts.append([])
        parts[-1].append(write)
    return parts


class Rows:
    """The rows of a group, by set.

    order: the positions of the writes in the order of their keys; a row's place counts in that order, from 1.
    """

    def __init__(self, group: Sequence[Write]) -> None:
        self._sets: dict[str, list[tuple[object, ...]]] = {name: [] for name in _WIDTHS}
        keys = [(*chain_key(write.key[0], write.key[1]), write.key[2]) for write in group]
        self.order = sorted(range(len(group)), key=keys.__getitem__)
        writes = self._sets["writes"]
        first: dict[ChainTuple, int] = {}
        for place, position in enumerate(self.order, 1):
            write = group[position]
            key, run_id, expected, version, commit_id, status, wake_at, running, history, private, *_ = write
            if write.snapshot is not None:
                private = b""  # what a snapshot covers is not needed again
            code = STATUS_CODES[status]
            hot = (expected, version, code, wake_at, running, write.home)
            writes.append((*keys[position], *hot, commit_id, history, private))
            chain = key[:2]
            if not expected:
                self._sets["begun"].append((place, text(key[0]), text(key[1]), text(run_id)))
            before = first.setdefault(chain, place)
            if before != place:
                self._sets["pairs"].append((before, place))
            self._add_rare(place, write)

    def _add_rare(self, place: int, write: Write) -> None:
        sets = self._sets
        if write.dedup:
            chain = write.key[:2]
            for request_id, expires in dict(write.dedup).items():
                sets["requests"].append((place, request_key(*chain, request_id), expires))
        if write.visibility is not None and not write.delete:
            self._see(place, write, write.visibility)
        if write.snapshot is not None and not write.delete:
            sets["snapshots"].append((place, write.snapshot))
        if write.delete:
            sets["gone"].append((place,))
        if write.backlog_added or write.backlog_removed:
            added = {item[:4]: item for item in write.backlog_added}
            removed = {item[:4]: item for item in write.backlog_removed}
            sets["removed"] += [(place, *_place(item)) for item in removed.values()]
            kept = [item for key, item in added.items() if key not in removed]
            sets["added"] += [(place, *_place(item), *_task(item)) for item in kept]
        if write.notify:
            notice = encode_moved(write.key.chain)
            sets["told"] += [(place, node, notice) for node in write.notify]

    def _see(self, place: int, write: Write, seen: Visibility) -> None:
        key = write.key
        space = space_of(key.namespace)
        names = (space, text(key.namespace), text(key.workflow_id), key.run_no, text(write.run_id))
        times = (seen.start_time, seen.close_time, STATUS_CODES[seen.status])
        memo = None if seen.memo is None else _encode(seen.memo)
        self._sets["seen"].append((place, *names, *times, text(seen.workflow_type), text(seen.task_queue), memo))
        for name, value in (seen.attributes or {}).items():
            for one in attribute_values(value):
                row = (place, space, text(name), *attribute_columns(one), seen.start_time)
                self._sets["attributes"].append(row)

    def parameters(self, now: int, base: int, *, judged: bool, node: int, channel: str) -> list[object]:
        """What the statement is called with.

        Args:
            now: microseconds since the epoch.
            base: a new run gets this number plus its place.
            judged: whether it is known already that runs may begin.
            node: who commits.
            channel: where notices go.
        """
        parameters: list[object] = [now, base, judged]
        for name, width in _WIDTHS.items():
            rows = self._sets[name]
            parameters += zip(*rows, strict=True) if rows else ((),) * width
        return [*parameters, node, channel]


def request_columns(writes: Sequence[Write]) -> tuple[list[int], list[bytes], list[tuple[ChainTuple, str]]]:
    """The request ids of the writes: their shards, their keys, and what they are."""
    ids = [(write.key[:2], request_id) for write in writes for request_id, _ in write.dedup]
    return (
        [chain_key(*chain)[0] for chain, _ in ids],
        [request_key(*chain, request_id) for chain, request_id in ids],
        ids,
    )


def in_order(order: Sequence[int], taken: Sequence[int | None]) -> list[Verdict]:
    """The verdicts of a group, from the runs that the statement tells were written."""
    verdicts: list[Verdict] = ["stale"] * len(order)
    for position, run in zip(order, taken, strict=True):
        if run is not None:
            verdicts[position] = "taken"
    return verdicts


def _place(item: BacklogItem) -> tuple[bytes, int, int, int]:
    return queue_key(item.queue), item.priority, item.fairness_pass, item.sequence


def _task(item: BacklogItem) -> tuple[object, ...]:
    namespace, kind, task_queue, task_type = item.queue
    queue = (text(namespace), KIND_CODES[kind], text(task_queue), text(task_type))
    run = (text(item.run.workflow_id), item.run.run_no, text(item.run_id))
    return (*queue, *run, item.scheduled_event_id, item.attempt, encode_grown(item.queue))
