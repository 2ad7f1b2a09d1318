"""Three nodes that write to the same few workflows at once: every verdict must be true, and nothing lost or doubled.

What each was told is compared with what is there at the end: the journal of a run holds exactly the commits whose
writers were told "taken", each built on the one before it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from perdure.engine.storage.api import BacklogItem, ChainKey, RunKey, Shared, StoredRun, Verdict, Write
from tests.storage.make import LATER, NOW, queue
from tests.storage.places import SHARED_PLACES

CHAINS = [ChainKey("default", f"workflow-{number}") for number in range(8)]
REQUESTS = [f"request-{number}" for number in range(150)]
GROUPS = 200
EXPECTED = {"taken", "stale", "duplicate", "begun", "closed", "succeeded"}


class Node:
    """Writes groups that are built on what it has read, which the others have often changed since."""

    def __init__(self, name: str, store: Shared, seed: int) -> None:
        self.name, self.store, self.random = name, store, Random(f"{name} {seed}")
        self.told: list[tuple[Write, Verdict]] = []
        self.happened = Counter[str]()

    async def work(self) -> None:
        for number in range(GROUPS):
            chains = self.random.sample(CHAINS, self.random.randrange(1, 6))
            stored = await self.store.load(chains)
            await asyncio.sleep(0)  # where nothing waits for anything, the others get a chance here
            group: list[Write] = []
            for chain, latest in zip(chains, stored, strict=True):
                group += self.writes(chain, latest, number)
            for write, verdict in zip(group, await self.store.commit(group, NOW), strict=True):
                self.told.append((write, verdict))
                self.note(write, verdict)

    def note(self, write: Write, verdict: Verdict) -> None:
        self.happened[verdict] += 1
        if verdict == "taken":
            self.happened["begun"] += not write.expected
            self.happened["closed"] += write.status != "Running"
            self.happened["succeeded"] += write.key.run_no > 1 and not write.expected

    def writes(self, chain: ChainKey, latest: StoredRun | None, number: int) -> list[Write]:
        if latest is None or latest.status != "Running":
            run_no = 1 if latest is None else latest.key.run_no + 1
            return [self.write(RunKey(*chain, run_no), 0, number)]
        step = self.write(latest.key, latest.version, number)
        chance = self.random.random()
        if chance < 0.1:
            return [step._replace(status="Completed")]
        if chance < 0.2:
            successor = self.write(RunKey(*chain, latest.key.run_no + 1), 0, number)
            return [step._replace(status="ContinuedAsNew"), successor]
        if chance < 0.3:
            again = self.write(latest.key, latest.version + 1, number)
            return [step, again]
        return [step]

    def write(self, key: RunKey, expected: int, number: int) -> Write:
        random = self.random
        requests = random.sample(REQUESTS, random.choice((0, 0, 1)))
        commit_id = f"{self.name} {number} {key.workflow_id} {key.run_no} {expected + 1}"
        task = BacklogItem(queue(), 0, 0, random.randrange(1 << 40), key, str(key.run_no), 5, 1)
        return Write(
            key,
            run_id=f"{key.workflow_id}/{key.run_no}/{self.name}/{number}" if not expected else "",
            expected=expected,
            version=expected + 1,
            commit_id=commit_id,
            status="Running",
            wake_at=random.choice((None, NOW)),
            running=random.randrange(2),
            history=commit_id.encode(),
            private=b"",
            snapshot=b"state" if random.random() < 0.1 else None,
            dedup=[(request, LATER) for request in requests],
            backlog_added=[task] if random.random() < 0.2 else (),
        )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", SHARED_PLACES)
async def test_conflicting_nodes(kind: str, seed: int, tmp_path: Path) -> None:
    place = SHARED_PLACES[kind](tmp_path)
    nodes = [Node(name, place.shared(), seed) for name in ("one", "two", "three")]
    for node in nodes:
        await node.store.open(NOW)
        await node.store.join()
    await asyncio.gather(*(node.work() for node in nodes))
    told = [each for node in nodes for each in node.told]
    taken = [write for write, verdict in told if verdict == "taken"]
    assert sum((node.happened for node in nodes), Counter[str]()).keys() >= EXPECTED

    by_run: dict[RunKey, list[Write]] = {}
    for write in taken:
        by_run.setdefault(write.key, []).append(write)
    store = nodes[0].store
    for key, writes in by_run.items():
        writes.sort(key=lambda write: write.version)
        assert [write.version for write in writes] == list(range(1, len(writes) + 1)), key
        page = await store.journal(key, 0, 1 << 30)
        assert page.rows == [(write.version, write.history) for write in writes]
        assert all(write.status == "Running" for write in writes[:-1])
    for chain in CHAINS:
        [latest] = await store.load([chain])
        assert latest is not None
        assert {run.run_no for run in by_run if run.chain == chain} == set(range(1, latest.key.run_no + 1))
        assert all(by_run[RunKey(*chain, older)][-1].status != "Running" for older in range(1, latest.key.run_no))
        requests = [request for write in taken if write.key.chain == chain for request, _ in write.dedup]
        assert len(requests) == len(set(requests)), "a request id was taken twice"
        assert await store.taken(chain, REQUESTS, NOW) == set(requests)
        # Taken by somebody, or asked for by another write of the same group, which then falls with this one.
        asked = Counter(request for write, _ in told if write.key.chain == chain for request, _ in write.dedup)
        for write, verdict in told:
            if write.key.chain == chain and verdict == "duplicate":
                assert any(request in requests or asked[request] > 1 for request, _ in write.dedup)
    tasks = sorted(item for write in taken for item in write.backlog_added)
    assert sorted(await store.backlog(queue(), None, 1 << 20)) == tasks
    for node in nodes:
        for write, verdict in node.told[-20:]:
            assert await node.store.committed([write]) == [verdict == "taken"]
        await node.store.close()
