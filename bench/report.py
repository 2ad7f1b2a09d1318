"""Results as Markdown: Perdure beside its budgets, and all systems beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.results import Result


class Column(NamedTuple):
    """One figure of one workload, and how it is shown."""

    workload: str
    figure: str
    title: str
    digits: int


class Budget(NamedTuple):
    """What a figure may be at most, or must be at least."""

    column: Column
    at_least: bool
    bound: float

    def met(self, value: float) -> bool:
        """Whether the figure is within the budget."""
        return value >= self.bound if self.at_least else value <= self.bound


W1, W2 = Column("W1", "per_s", "W1 workflows/s", 0), Column("W2", "per_s", "W2 steps/s", 0)
W3, W4 = Column("W3", "p50_ms", "W3 p50 ms", 2), Column("W4", "seconds", "W4 s", 3)
W5, W6 = Column("W5", "p50_ms", "W5 p50 ms", 2), Column("W6", "per_s", "W6 starts/s", 0)
W6_MEMORY = Column("W6", "memory_bytes_each", "W6 memory, bytes each", 0)
W6_DISK = Column("W6", "disk_bytes_each", "W6 disk, bytes each", 0)
W7 = Column("W7", "goes_on_after_s", "W7 goes on after, s", 2)
COLD = Column("cold", "seconds", "import and first workflow, s", 2)

ON_SQLITE = (
    Budget(W1, True, 4000),
    Budget(W2, True, 10000),
    Budget(W3, False, 1.5),
    Budget(W4, False, 0.3),
    Budget(W5, False, 1.5),
    Budget(W6, True, 6000),
    Budget(W6_MEMORY, False, 100),
    Budget(W6_DISK, False, 1024),
    Budget(W7, False, 1.0),
    Budget(COLD, False, 0.3),
)
"""Embedded, over a file."""

ON_POSTGRESQL = (Budget(W1, True, 800), Budget(W2, True, 2500), Budget(W3, False, 6))
"""One process, with the database on the same machine."""

BUDGETS = {"sqlite": ON_SQLITE, "postgresql": ON_POSTGRESQL}

SPEED = (COLD, W1, W2, W3, Column("W3", "p99_ms", "W3 p99 ms", 2), W4, W5)
COST = (
    Column("W1", "cpu_total_ms", "W1 CPU ms/workflow", 3),
    Column("W2", "cpu_total_ms", "W2 CPU ms/step", 3),
    Column("W1", "memory_mib", "W1 memory MiB", 0),
    Column("W1", "flushes_per", "W1 flushes/workflow", 3),
    Column("W2", "flushes_per", "W2 flushes/step", 3),
    Column("W3", "flushes_per", "W3 flushes/workflow", 1),
    Column("W3", "kib_written_per", "W3 KiB written/workflow", 1),
    Column("W1", "other_cores", "W1 foreign load", 1),
    Column("W3", "other_cores", "W3 foreign load", 1),
)
DATABASE = (
    Column("W1", "db_statements_per", "W1 statements/workflow", 2),
    Column("W1", "db_wal_bytes_per", "W1 log bytes/workflow", 0),
    Column("W1", "db_ms_per", "W1 ms in statements/workflow", 3),
    Column("W2", "db_statements_per", "W2 statements/step", 2),
    Column("W2", "db_wal_bytes_per", "W2 log bytes/step", 0),
)
SLEEPERS = (
    Column("W6", "started", "started", 0),
    W6,
    Column("W6", "parked_per_s", "parked/s", 0),
    W6_MEMORY,
    W6_DISK,
    Column("W6", "idle_cpu_percent", "idle CPU %", 1),
)
CRASH = (
    Column("W7", "n", "workflows", 0),
    Column("W7", "completed", "completed", 0),
    Column("W7", "in_flight_at_kill", "steps in flight", 0),
    Column("W7", "started_twice", "started twice", 0),
    Column("W7", "finished_twice", "finished twice", 0),
    W7,
    Column("W7", "all_done_after_s", "all done after, s", 1),
)

TABLES = (
    ("Speed", SPEED), ("Cost", COST), ("Cost for the database", DATABASE), ("W6: sleepers", SLEEPERS),
    ("W7: kill -9", CRASH),
)  # fmt: skip
"""What is shown, where there are figures for it."""

DURABILITY = {
    ("perdure", "sqlite"): "SQLite, WAL, synchronous=FULL: a commit is flushed",
    ("perdure", "postgresql"): "PostgreSQL, synchronous_commit=on: flushed",
    ("dbos", "postgresql"): "PostgreSQL, synchronous_commit=on: flushed",
    ("absurd", "postgresql"): "PostgreSQL, synchronous_commit=on: flushed",
    ("dbos", "sqlite"): "SQLite as DBOS opens it, rollback journal, synchronous=FULL: flushed",
    ("dbos", "sqlite-wal"): "SQLite in WAL mode, synchronous=FULL: flushed",
    ("temporal", "memory"): "in the server's memory: nothing is durable",
    ("temporal", "sqlite"): "SQLite, as the dev server sets it up: flushed",
    ("restate", "workflow"): "RocksDB, flushed by the log server",
}


def values(results: Sequence[Result], column: Column) -> list[float]:
    """A figure's values over all repetitions."""
    rows = (r for r in results if r["workload"] == column.workload and "failed" not in r)
    return [float(r[column.figure]) for r in rows if column.figure in r]


def cell(found: Sequence[float], digits: int) -> str:
    """Median, and the extremes where there are several."""
    if not found:
        return "–"
    middle = f"{statistics.median(found):,.{digits}f}"
    if len(found) == 1:
        return middle
    return f"{middle} ({min(found):,.{digits}f}–{max(found):,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def budgets(results: Sequence[Result]) -> str:
    """Perdure's figures beside its budgets."""
    rows: list[list[str]] = []
    for variant, bounds in BUDGETS.items():
        own = [r for r in results if r["peer"] == "perdure" and r["variant"] == variant]
        for budget in bounds:
            if any(r["workload"] == budget.column.workload for r in own):  # it was run
                found = values(own, budget.column)
                bound = f"{'≥' if budget.at_least else '≤'} {budget.bound:,g}"
                verdict = "–" if not found else "yes" if budget.met(statistics.median(found)) else "NO"
                rows.append([variant, budget.column.title, bound, cell(found, budget.column.digits), verdict])
    return table(["on", "figure", "budget", "measured, median (extremes)", "met"], rows)


def comparison(results: Sequence[Result], columns: Sequence[Column]) -> str:
    """One row a system and variant, in the order in which they first ran."""
    rows: list[list[str]] = []
    for system in dict.fromkeys((r["peer"], r["variant"]) for r in results):
        own = [r for r in results if (r["peer"], r["variant"]) == system]
        cells = [cell(values(own, column), column.digits) for column in columns]
        if any(c != "–" for c in cells):
            rows.append([f"{system[0]} {system[1]}", *cells])
    return table(["system", *(column.title for column in columns)], rows)


def durability(results: Sequence[Result]) -> str:
    """What a commit of each system means here. A variant may have more words than its durability is known by."""
    rows: list[list[str]] = []
    for peer, variant in dict.fromkeys((str(r["peer"]), str(r["variant"])) for r in results):
        known = [name for owner, name in DURABILITY if owner == peer and variant.startswith(name)]
        rows.append([f"{peer} {variant}", DURABILITY[peer, max(known, key=len)] if known else "–"])
    return table(["system", "what a commit means"], rows)


def render(results: Sequence[Result]) -> str:
    """Everything that was measured."""
    parts = ["## Budgets\n", budgets(results), "\n## Durability\n", durability(results)]
    for title, columns in TABLES:
        if any(column.figure in result for column in columns for result in results):
            parts += [f"\n## {title}\n", comparison(results, columns)]
    failures = [f"- {r['peer']} {r['variant']} {r['workload']}: {r['failed']}" for r in results if "failed" in r]
    return "\n".join([*parts, *(["\n## Failed\n", *failures] if failures else [])])
