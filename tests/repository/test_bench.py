"""The benchmark runs, whatever it measures; and its report says what the figures say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine, report
from bench.marks import Marks
from bench.options import WORKLOADS, options, parser
from bench.results import Result, Results, load
from bench.workloads import percentile
from tests.repository.files import ROOT

SIZES = {"n1": 5, "n2": 2, "n3": 2, "n4": 20, "n5": 2, "n6": 5, "n7": 3, "settle": 0, "crash-limit": 60}
SMALL = ["--loop", "asyncio", *(f"--{name}={size}" for name, size in SIZES.items())]


def test_perdure_runs_all_workloads(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "bench.peers.perdure", "--out", str(out), "--data", str(tmp_path), *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = load(out)
    assert [r for r in results if "failed" in r] == []
    assert [r["workload"] for r in results] == ["cold", "W1", "W2", "W3", "W4", "W5", "W6", "W7"]
    crash = results[-1]
    assert (crash["completed"], crash["steps_seen"]) == (3, 30)
    assert list(tmp_path.iterdir()) == [out], "a run leaves its folder behind"


def result(workload: str, figures: Result, peer: str = "perdure", variant: str = "sqlite") -> Result:
    return {"peer": peer, "variant": variant, "workload": workload, "repetition": 0} | figures


def test_the_report_compares_medians_with_budgets() -> None:
    results = [result("W1", {"per_s": per_s}) for per_s in (3000.0, 4500.0, 5000.0)]
    results += [result("W3", {"p50_ms": 1.51}), result("W2", {"failed": "OSError: no"})]
    lines = report.render(results).splitlines()
    assert "| sqlite | W1 workflows/s | ≥ 4,000 | 4,500 (3,000–5,000) | yes |" in lines
    assert "| sqlite | W3 p50 ms | ≤ 1.5 | 1.51 | NO |" in lines
    assert "| sqlite | W2 steps/s | ≥ 10,000 | – | – |" in lines
    assert "- perdure sqlite W2: OSError: no" in lines


def test_the_report_has_a_row_for_each_system() -> None:
    results = [result("W4", {"seconds": 0.1}), result("W4", {"seconds": 3.0}, "dbos", "sqlite-wal, polls often")]
    lines = report.render(results).splitlines()
    assert "| perdure sqlite | – | – | – | – | – | 0.100 | – |" in lines
    assert "| dbos sqlite-wal, polls often | SQLite in WAL mode, synchronous=FULL: flushed |" in lines


def test_marks_tell_what_ran_twice(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks")
    assert marks.count() == 0
    marks.path.write_text("S a 1\nS a 1\nE a 1\nS a 2\nZ w6-1\nZ warm6-1\n")
    assert (marks.count(), marks.count("Z w6-"), marks.in_flight()) == (6, 1, 2)
    assert marks.steps() == {"steps_seen": 1, "started_twice": 1, "finished_twice": 0}


def test_options_are_handed_on_whole() -> None:
    given = options(
        parser(["sqlite", "memory"]).parse_args(["--variant", "memory", "--workloads", "w1,W6", "--n1", "7"])
    )
    assert (given.workloads, given.label) == (("w1", "w6"), "memory")
    again = options(parser(["sqlite", "memory"]).parse_args(given.arguments(n1=8)))
    assert (again.n1, again.workloads, again.variant) == (8, given.workloads, given.variant)


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser(["sqlite"]).parse_args(["--workloads", "w1,w9"])
    assert "no such workload: w9" in capsys.readouterr().err
    assert "w9" not in WORKLOADS


def test_results_are_added_line_by_line(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "r.jsonl", "perdure", "sqlite", 2)
    results.put("W1", {"per_s": 1.23456789, "n": 3})
    results.failed("W2", OSError("no"))
    assert load(tmp_path / "new" / "r.jsonl") == [
        result("W1", {"per_s": 1.234568, "n": 3}) | {"repetition": 2},
        result("W2", {"failed": "OSError: no"}) | {"repetition": 2},
    ]


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0, 0.5, 0.99, 1)] == [1, 2, 3, 3]


def test_a_process_counts_in_the_nearest_role(tmp_path: Path) -> None:
    child = machine.spawn(["tail", "-f", "/dev/null"], tmp_path / "log")
    try:
        trees = machine.trees({"client": [os.getpid()], "server": [child.pid]})
        assert os.getpid() in trees["client"]
        assert child.pid not in trees["client"]
        assert trees["server"] == [child.pid]
    finally:
        machine.kill(child)
    assert child.returncode == -signal.SIGKILL
