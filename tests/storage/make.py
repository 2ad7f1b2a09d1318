"""Makes what the storage tests write."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from perdure.clock import SECOND
from perdure.engine.storage.api import BacklogItem, QueueKey, RunKey, Store, TaskKind, Verdict, Visibility, Write
from perdure.engine.storage.sqlite import SqliteStore
from perdure.model.events import SearchValue

NOW = 1_800_000_000 * SECOND
LATER = NOW + 3600 * SECOND
NAMESPACE = "default"

_numbers = count(1)


def key(workflow_id: str, run_no: int = 1, namespace: str = NAMESPACE) -> RunKey:
    return RunKey(namespace, workflow_id, run_no)


def start(workflow_id: str, run_no: int = 1, namespace: str = NAMESPACE) -> Write:
    """A write that begins a run."""
    number = next(_numbers)
    return Write(
        key=key(workflow_id, run_no, namespace),
        run_id=f"{namespace}/{workflow_id}/{run_no}",
        expected=0,
        version=1,
        commit_id=f"commit-{number}",
        status="Running",
        wake_at=0,
        running=0,
        history=f"history-{number}".encode(),
        private=f"private-{number}".encode(),
    )


def follow(write: Write) -> Write:
    """A write that comes after another of the same run, with nothing but a journal row."""
    number = next(_numbers)
    return write._replace(
        expected=write.version,
        version=write.version + 1,
        commit_id=f"commit-{number}",
        wake_at=None,
        history=f"history-{number}".encode(),
        private=f"private-{number}".encode(),
        snapshot=None,
        visibility=None,
        dedup=(),
        backlog_added=(),
        backlog_removed=(),
        delete=False,
    )


def ending(write: Write) -> Write:
    """A write that closes a run after another of it."""
    return follow(write)._replace(status="Completed")


def seen(write: Write, start_time: int = NOW, workflow_type: str = "provision", **attributes: SearchValue) -> Write:
    """The write, listed."""
    return write._replace(
        visibility=Visibility(
            run_id=write.run_id,
            workflow_type=workflow_type,
            task_queue="default",
            status=write.status,
            start_time=start_time,
            close_time=0 if write.status == "Running" else start_time + SECOND,
            attributes=attributes or None,
        )
    )


def queue(
    name: str = "default", kind: TaskKind = "activity", namespace: str = NAMESPACE, of: str = "create_vpc"
) -> QueueKey:
    return QueueKey(namespace, kind, name, of)


def item(write: Write, sequence: int, priority: int = 0, fairness_pass: int = 0, name: str = "default") -> BacklogItem:
    """A task of a run, waiting in a queue of its namespace."""
    waiting = queue(name, namespace=write.key.namespace)
    return BacklogItem(waiting, priority, fairness_pass, sequence, write.key, write.run_id, 5, 1)


async def put(store: Store, *writes: Write, now: int = NOW) -> Sequence[Verdict]:
    """Commit writes in one group."""
    return await store.commit(writes, now)


async def ids(store: Store, query: str = "", namespace: str = NAMESPACE) -> list[str]:
    """The workflow ids that a query lists, in order."""
    rows, following = await store.list(namespace, query, "", 1_000)
    assert following == ""
    return [row.workflow_id for row in rows]


async def fill(path: Path, runs: int = 500) -> None:
    """A SQLite file with some runs."""
    store = SqliteStore(path)
    await store.open(NOW)
    await put(store, *(seen(start(f"w-{number}")) for number in range(runs)))
    await store.close()
