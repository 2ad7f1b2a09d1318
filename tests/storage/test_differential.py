"""One seeded stream of operations through the store in memory and each of the others: every reply must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from perdure.engine.storage.api import BacklogItem, ChainKey, QueueKey, RunKey, Store, TaskKind, Visibility, Write
from perdure.engine.storage.memory import MemoryStore
from perdure.engine.storage.schema import STATUSES
from perdure.model.events import SearchValue
from perdure.model.payloads import Payload
from tests.storage.make import NOW
from tests.storage.places import PLACES, Place

OPERATIONS = 1_500
MOST_OPERATIONS = 15_000
"""When to give up on the rarest outcome."""

CHAINS = [ChainKey(namespace, f"workflow-{number}") for namespace in ("one", "two") for number in range(6)]
KINDS: list[TaskKind] = ["activity", "workflow"]
QUEUES = [
    QueueKey(namespace, kind, name, of)
    for namespace in ("one", "two")
    for kind in KINDS
    for name, of in (("a", "x"), ("a", "y"), ("b", "x"))
]
REQUESTS = [f"request-{number}" for number in range(12)]
QUERIES = [
    "",
    "WorkflowType = 'b'",
    "WorkflowType STARTS_WITH 'a' OR ExecutionStatus = 'Running'",
    "WorkflowId = 'workflow-3'",
    "WorkflowId > 'workflow-2' AND NOT CloseTime IS NULL",
    "env = 'x'",
    "env = 'x' AND size > 2",
    "env != 'x' AND tags = 'red'",
    "size BETWEEN 1 AND 3 OR urgent = TRUE",
    "tags IS NULL AND ExecutionStatus IN ('Running', 'Failed')",
]
EXPECTED = {
    *("taken", "stale", "duplicate", "begun", "succeeded", "closed", "deleted", "snapshot", "kept wake-up"),
    *("load", "load_run", "versions", "journal page", "taken ids", "due", "due cut", "running"),
    *("backlog", "backlog after", "backlogged_queues", "list", "list page", "forget", "reopen"),
}


class Pair:
    """The oracle and the store that is held to it, given the same random operations."""

    def __init__(self, random: Random, oracle: Store, subject: Store, place: Place) -> None:
        self.random, self.oracle, self.subject, self.place = random, oracle, subject, place
        self.now = NOW
        self.succeeded = Counter[str]()
        self.runs: dict[ChainKey, list[RunKey]] = {chain: [] for chain in CHAINS}
        self.backlog: list[BacklogItem] = []

    async def step(self) -> None:
        self.now += self.random.randrange(20)
        operations = [self.commit] * 6 + [self.read_runs, self.read_journal, self.read_due, self.read_backlog]
        operations += [self.read_list, self.read_requests, self.read_running]
        if self.random.random() < 0.01:
            await self.reopen()
        else:
            await self.random.choice(operations)()

    def note(self, outcome: str, happened: object = True) -> None:
        if happened:
            self.succeeded[outcome] += 1

    # --- Writing ----------------------------------------------------------------------------------------
    async def commit(self) -> None:
        group = [write for _ in range(self.random.choice((0, 1, 2, 5, 30))) for write in await self.writes()]
        expected = await self.oracle.commit(group, self.now)
        assert await self.subject.commit(group, self.now) == expected, group
        for write, verdict in zip(group, expected, strict=True):
            self.note(verdict)
            if verdict == "taken":
                self.remember(write)

    def remember(self, write: Write) -> None:
        runs = self.runs[write.key.chain]
        if not write.expected:
            runs.append(write.key)
            self.note("begun" if write.key.run_no == 1 else "succeeded")
        self.note("closed", write.status != "Running")
        self.note("deleted", write.delete)
        self.note("snapshot", write.snapshot is not None and write.version > 1)
        self.note("kept wake-up", write.wake_at is None and write.expected)
        self.backlog += write.backlog_added

    async def writes(self) -> list[Write]:
        """One write, or the end of a run and the begin of the next."""
        random = self.random
        chain = random.choice(CHAINS)
        [latest] = await self.oracle.load([chain])
        runs = self.runs[chain]
        run_no = latest.key.run_no if latest is not None else 0
        if latest is None or (latest.status != "Running" and random.random() < 0.6) or random.random() < 0.05:
            return [self.write(RunKey(*chain, run_no + random.choice((1, 1, 1, 1, 2))), 0)]
        key = latest.key if random.random() < 0.8 else random.choice(runs)
        [version] = await self.oracle.versions([key])
        if random.random() < 0.1:
            version = max(0, version + random.choice((-1, 1)))
        write = self.write(key, version)
        if random.random() < 0.1:
            closing = write._replace(status=random.choice(STATUSES[1:]), delete=False)
            return [closing, self.write(RunKey(*chain, run_no + 1), 0)]
        if latest.status != "Running" and version:
            return [write._replace(delete=random.random() < 0.4, status=latest.status)]
        return [write]

    def write(self, key: RunKey, expected: int) -> Write:
        random = self.random
        status = "Running" if random.random() < 0.9 else random.choice(STATUSES[1:])
        run_id = f"{key.workflow_id}-{key.run_no}"
        items = [self.item(key, run_id) for _ in range(random.choice((0, 0, 0, 1, 3)))]
        waiting = [item for item in self.backlog if item.run.chain == key.chain]
        requests = random.sample(REQUESTS, random.choice((0, 0, 0, 1, 2)))
        return Write(
            key=key,
            run_id=run_id,
            expected=expected,
            version=expected + random.choice((1, 1, 1, 2)),
            commit_id=f"{random.getrandbits(64):x}",
            status=status,
            wake_at=random.choice((None, 0, self.now + random.randrange(-50, 500))),
            running=random.choice((0, 0, 1, 2)),
            history=random.randbytes(random.choice((0, 20, 300))),
            private=random.randbytes(random.choice((0, 20))),
            snapshot=random.randbytes(50) if random.random() < 0.2 else None,
            visibility=self.visibility(run_id) if random.random() < 0.5 else None,
            dedup=[(request, self.now + random.randrange(200)) for request in requests],
            backlog_added=items,
            backlog_removed=random.sample(waiting, min(len(waiting), random.choice((0, 0, 2)))),
        )

    def item(self, key: RunKey, run_id: str) -> BacklogItem:
        random = self.random
        queue = random.choice([queue for queue in QUEUES if queue.namespace == key.namespace])
        sequence = random.randrange(6) * len(CHAINS) + CHAINS.index(key.chain)  # no other workflow id has that place
        order = random.randrange(3), random.randrange(3), sequence
        return BacklogItem(queue, *order, key, run_id, random.randrange(50), random.randrange(3))

    def visibility(self, run_id: str) -> Visibility:
        random = self.random
        attributes: dict[str, SearchValue] = {}
        choices: list[tuple[str, Sequence[SearchValue]]] = [
            ("env", ("x", "y", 3)),
            ("size", (1, 2.5, 4, True)),
            ("tags", (["red", "blue"], ["blue"], [], ["red", "red"])),
            ("urgent", (True, False)),
        ]
        for name, values in choices:
            if random.random() < 0.5:
                attributes[name] = random.choice(values)
        status = random.choice(STATUSES)
        start = NOW + random.randrange(30)
        close = 0 if status == "Running" else start + random.randrange(30)
        memo = {"note": Payload(b"1")} if random.random() < 0.3 else None
        return Visibility(run_id, random.choice(("a", "ab", "b")), "q", status, start, close, attributes, memo)

    # --- Reading ----------------------------------------------------------------------------------------
    async def read_runs(self) -> None:
        chains = self.random.choices([*CHAINS, ChainKey("one", "none")], k=5)
        loaded = await self.oracle.load(chains)
        assert await self.subject.load(chains) == loaded
        self.note("load", any(loaded))
        chain = self.random.choice(CHAINS)
        runs = [*self.runs[chain], RunKey(*chain, 99)]
        versions = await self.oracle.versions(runs)
        assert await self.subject.versions(runs) == versions
        self.note("versions", len(runs) > 1)
        run_id = f"{chain.workflow_id}-{self.random.choice(runs).run_no}"
        one = await self.oracle.load_run(chain, run_id)
        assert await self.subject.load_run(chain, run_id) == one
        self.note("load_run", one)

    async def read_journal(self) -> None:
        runs = [run for runs in self.runs.values() for run in runs]
        if not runs:
            return
        arguments = self.random.choice(runs), self.random.randrange(4), self.random.randrange(500)
        page = await self.oracle.journal(*arguments)
        assert await self.subject.journal(*arguments) == page
        self.note("journal page", page.next)

    async def read_due(self) -> None:
        limit = self.random.choice((3, 1_000))
        expected, found = await self.oracle.due(self.now, limit), await self.subject.due(self.now, limit)
        # Which come first of those that are due at the same time is nobody's business.
        assert [due.wake_at for due in found] == [due.wake_at for due in expected]
        last = expected[-1].wake_at if len(expected) == limit else None
        assert {due for due in found if due.wake_at != last} == {due for due in expected if due.wake_at != last}
        self.note("due" if last is None else "due cut", expected)

    async def read_running(self) -> None:
        runs = [run for runs in self.runs.values() for run in runs]
        after = self.random.choice([*runs, None])
        expected = await self.oracle.running(after, 4)
        assert await self.subject.running(after, 4) == expected
        self.note("running", expected)

    async def read_backlog(self) -> None:
        queue = self.random.choice(QUEUES)
        after = self.random.choice([None, *(item for item in self.backlog if item.queue == queue)])
        expected = await self.oracle.backlog(queue, after, 3)
        assert await self.subject.backlog(queue, after, 3) == expected
        self.note("backlog" if after is None else "backlog after", expected)
        queues = await self.oracle.backlogged_queues()
        assert await self.subject.backlogged_queues() == queues
        self.note("backlogged_queues", queues)

    async def read_list(self) -> None:
        query, namespace = self.random.choice(QUERIES), self.random.choice(("one", "two"))
        page, pages = "", 0
        while pages == 0 or page:
            limit = self.random.randrange(1, 8)
            expected = await self.oracle.list(namespace, query, page, limit)
            assert await self.subject.list(namespace, query, page, limit) == expected, query
            self.note("list" if pages == 0 else "list page", expected[0])
            page, pages = expected[1], pages + 1

    async def read_requests(self) -> None:
        chain = self.random.choice(CHAINS)
        expected = await self.oracle.taken(chain, REQUESTS, self.now)
        assert await self.subject.taken(chain, REQUESTS, self.now) == expected
        self.note("taken ids", expected)
        limit = self.random.randrange(1, 5)
        forgotten = await self.oracle.forget(self.now, limit)
        assert await self.subject.forget(self.now, limit) == forgotten
        self.note("forget", forgotten)

    async def reopen(self) -> None:
        await self.subject.close()
        self.subject = self.place.store()
        assert await self.subject.open(self.now) is False
        self.note("reopen")

    async def compare_all(self) -> None:
        """All that both keep, read back."""
        for chain, runs in self.runs.items():
            for run in runs:
                run_id = f"{chain.workflow_id}-{run.run_no}"
                assert await self.subject.load_run(chain, run_id) == await self.oracle.load_run(chain, run_id)
                assert await self.subject.journal(run, 0, 1 << 30) == await self.oracle.journal(run, 0, 1 << 30)
            taken = await self.oracle.taken(chain, REQUESTS, self.now)
            assert await self.subject.taken(chain, REQUESTS, self.now) == taken
        assert set(await self.subject.due(1 << 62, 10_000)) == set(await self.oracle.due(1 << 62, 10_000))
        assert await self.subject.running(None, 10_000) == await self.oracle.running(None, 10_000)
        for queue in QUEUES:
            assert await self.subject.backlog(queue, None, 10_000) == await self.oracle.backlog(queue, None, 10_000)
        for namespace in ("one", "two"):
            listed = await self.oracle.list(namespace, "", "", 10_000)
            assert await self.subject.list(namespace, "", "", 10_000) == listed


RUNS = [(kind, seed) for kind in PLACES if kind != "memory" for seed in range(4 if kind == "sqlite" else 2)]


@pytest.mark.parametrize(("kind", "seed"), RUNS)
async def test_a_store_agrees_with_the_oracle(kind: str, seed: int, tmp_path: Path) -> None:
    place = PLACES[kind](tmp_path)
    pair = Pair(Random(seed), MemoryStore(), place.store(), place)
    await pair.oracle.open(NOW)
    await pair.subject.open(NOW)
    done = 0
    while done < OPERATIONS or (not pair.succeeded.keys() >= EXPECTED and done < MOST_OPERATIONS):
        await pair.step()
        done += 1
    assert not EXPECTED - pair.succeeded.keys(), "these never happened"
    await pair.compare_all()
    await pair.subject.close()
