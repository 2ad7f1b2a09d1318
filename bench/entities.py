"""How fast one entity takes signals, and how fast its history is replayed.

    python -m bench.entities [--signals 100000] [--senders 200] [--data FOLDER]

Each signal is a call of its own, answered when it is on disk; so many senders wait for their answers at once. The
entity counts them: none is lost, and its history stays short. The replay is that of a full history, just before the
entity would roll over, without the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from perdure import Client, embedded, workflow
from perdure.limits import SUGGEST_CONTINUE_AS_NEW_EVENTS
from perdure.model.events import HistoryEvent
from perdure.model.journal import digest_after, encode_event
from perdure.model.tasks import START, Position, QueryTask, RunRef
from perdure.sdk.registry import REGISTRY
from perdure.sdk.workflow.runtime import WorkflowRun


@workflow(name="bench-counter", entity=True)
class Counter:
    """Counts what it is told, through all its runs."""

    count: int = 0
    runs: int = 0
    gone: bool = False

    async def run(self) -> tuple[int, int]:
        self.runs += 1
        while not self.gone:
            await workflow.idle()
        return self.count, self.runs

    @workflow.signal
    def add(self) -> None:
        self.count += 1

    @workflow.signal
    def end(self) -> None:
        self.gone = True

    @workflow.query
    def counted(self) -> int:
        return self.count


async def signals(client: Client, total: int, senders: int) -> tuple[float, int, int]:
    """Signals per second, how many were lost, and how many runs there were."""
    await client.start(Counter(), id="counter")
    counter = client.get("counter", Counter)
    left = iter(range(total))

    async def send() -> None:
        for _ in left:
            await counter.signal(Counter.add)

    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(senders)))
    seconds = time.perf_counter() - began
    await counter.signal(Counter.end)
    counted, runs = await counter.result()
    return total / seconds, total - counted, runs


async def replay(client: Client) -> float:
    """Events of a replay per second."""
    await client.start(Counter(), id="replayed")
    counter = client.get("replayed", Counter)
    while (await counter.describe()).history_length < SUGGEST_CONTINUE_AS_NEW_EVENTS - 1_000:
        await asyncio.gather(*(counter.signal(Counter.add) for _ in range(100)))
    await counter.query(Counter.counted)
    events = tuple([event async for event in counter.history()])
    return max(_replayed(events) for _ in range(5))


def _replayed(events: tuple[HistoryEvent, ...]) -> float:
    digest = 0
    for event in events:
        digest = digest_after(encode_event(event), digest)
    ref = RunRef("default", "replayed", "run")
    task = QueryTask(ref, "q", "counted", (), Position(events[-1].id, digest), events[-1].time, events)
    run = WorkflowRun(ref, REGISTRY.workflows)
    assert run.position == START
    began = time.perf_counter()
    answer = run.query(task)
    seconds = time.perf_counter() - began
    run.evict()
    assert answer.failure is None, answer.failure
    return len(events) / seconds


async def measure(total: int, senders: int, folder: Path) -> None:
    """Both figures, printed."""
    async with embedded(folder / "entities.db") as client:
        rate, lost, runs = await signals(client, total, senders)
        print(f"one entity, {senders} senders: {rate:,.0f} signals/s; {lost} of {total:,} lost; {runs} runs")
        print(f"replay of its history: {await replay(client):,.0f} events/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=100_000)
    parser.add_argument("--senders", type=int, default=200)
    parser.add_argument("--data", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.data) as folder:
        asyncio.run(measure(given.signals, given.senders, Path(folder)))


if __name__ == "__main__":
    main()
