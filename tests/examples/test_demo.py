"""The demo as a whole, as its reader runs it: real processes, a real kill -9, the real proof."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.provision.cloud import CallLog, Existing, Report, Resource
from examples.provision.messages import Finished
from examples.provision.progress import Step
from examples.provision.proof import Kill, prove
from examples.provision.workflow import Environment

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = ROOT / "examples" / "provision" / "spec.yaml"


@contextmanager
def demo(tmp_path: Path, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """The demo, running. Its temporary folder is made in `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.provision.demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUTF8": "1"},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def run(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Run the demo to its end. Returns its exit status and what it printed."""
    with demo(tmp_path, *arguments) as process:
        output, _ = process.communicate(timeout=120)
    return process.returncode, output


def children(output: str) -> list[int]:
    """The processes that the demo said it started."""
    return [int(pid) for pid in re.findall(r"process (\d+)", output)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_demo_proves_what_it_claims_and_cleans_up(tmp_path: Path) -> None:
    status, output = run(tmp_path)

    assert status == 0, output
    assert re.search(r"kill -9 \d+", output)
    assert "quota exceeded" in output
    assert "released with the note" in output
    assert output.count("✓ ") >= 16 + 6, "every resource, and every claim of the proof"
    assert "16 asked for, 16 exist" in output
    assert "✗" not in output
    assert "The proof holds" in output
    assert list(tmp_path.iterdir()) == []
    assert len(children(output)) == 3
    assert not [pid for pid in children(output) if is_alive(pid)]


def test_another_specification_can_be_provisioned(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "environment: tiny\n"
        "network: {name: n, cidr: 10.0.0.0/16}\n"
        "subnets: [{name: a, cidr: 10.0.1.0/24, zone: a}]\n"
        "database: {name: d, engine: postgres, storage_gb: 10}\n"
    )
    folder = tmp_path / "tmp"
    folder.mkdir()
    status, output = run(folder, "--specification", str(mine), "--seed", "5")

    assert status == 0, output
    assert "3 asked for, 3 exist" in output
    assert "Held" not in output, "one database is within the quota"


def test_a_malformed_specification_is_explained_before_anything_starts(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(SPECIFICATION.read_text().replace("storage_gb: 50", "storage_gb: lots"))
    status, output = run(tmp_path, "--specification", str(mine))

    assert status == 2
    line = 1 + SPECIFICATION.read_text().splitlines().index("  storage_gb: 50")
    assert f"mine.yaml, line {line}, database.storage_gb: expected a whole number, got text" in output
    assert "storage_gb: lots" in output
    assert "Traceback" not in output
    assert children(output) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as process:
        assert process.stdout is not None
        output = ""
        while len(children(output)) < 2:
            line = process.stdout.readline()
            assert line, output
            output += line
        process.send_signal(number)
        output += process.stdout.read()

    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not [pid for pid in children(output) if is_alive(pid)]
    assert [path.name for path in tmp_path.iterdir()] == []


# --- The proof ------------------------------------------------------------------------------------------
KILL = Kill(at=10.0, client="first")


def call(key: str, outcome: str, client: str = "first", *, ended: float = 5, heard: bool = True) -> CallLog:
    return CallLog(0, f"env/{key}", client, "networks", ended - 1, ended, outcome, heard)


def world(*calls: CallLog, existing: str = "ns", returned: str = "ns", done_at: float = 5) -> set[str]:
    """The claims that don't hold of a run with two resources, "n" and "s"."""
    kinds = {"n": "network", "s": "subnet"}
    made = [Existing(name, f"{kinds[name]}s", name, f"env/{name}") for name in existing]
    subnets = [Resource(name, "subnets", name, "ready") for name in returned[1:]]
    environment = Environment("env", Resource("n", "networks", "n", "ready"), subnets, [], [], [])
    steps = [Step("network", "n", "n", "done", 1, "", done_at), Step("subnet", "s", "s", "done", 1, "", 15)]
    plan = [Step("network", "n"), Step("subnet", "s")]
    checks = prove(plan, Finished(environment, steps), Report(list(made), list(calls), {}), KILL)
    return {check.claim.split()[0] for check in checks if not check.holds}


def test_the_proof_holds_where_all_went_well() -> None:
    assert world(call("n", "created"), call("s", "created", "second", ended=15)) == set()
    lost = call("s", "created", ended=11, heard=False)
    assert world(call("n", "created"), lost, call("s", "repeated", "second", ended=15)) == set()


def test_the_proof_fails_where_something_went_wrong() -> None:
    fine = (call("n", "created"), call("s", "created", "second", ended=15))

    assert world(*fine, existing="n") == {"All", "Nothing", "No"}, "a resource is missing"
    assert world(*fine, existing="nss") == {"All"}, "a resource exists twice"
    assert world(*fine, returned="n") == {"No"}, "an orphan"
    assert world(*fine, call("s", "created", "second", ended=16)) == {"Nothing"}, "made twice under one key"
    assert world(*fine, call("n", "repeated", "second", ended=15)) == {"What"}, "what was done ran again"
    assert world(call("n", "created"), call("s", "created", ended=11)) == {"What"}, "what was in flight did not"
    assert world(call("n", "created"), call("s", "created", heard=False)) == {"Where"}, "nobody asked again"
