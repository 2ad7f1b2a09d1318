"""A history that one Python recorded is replayed by every other one that the machine has."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.model.journal import encode_event, join_events
from tests.replay.workflows import CASES
from tests.sdk.harness import REF
from tests.sdk.programs.environment import Environment
from tests.sdk.programs.generator import Generator

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
PROGRAMS = 300
ROOT = Path(__file__).parents[2]


def python(version: str) -> str:
    """The interpreter of a version, with what Perdure needs: one of those that `tools/pythons.sh` found."""
    if version == OWN:
        return sys.executable
    path = Path(sys.prefix, "pythons", version, "bin", "python")
    if not path.exists():
        pytest.skip(f"Python {version} is not installed here")
    return str(path)


def run(version: str, command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python(version), "-m", "tests.replay", command, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("recorder", VERSIONS)
def test_every_other_python_replays_it(recorder: str, tmp_path: Path) -> None:
    recorded = run(recorder, "record", tmp_path)
    assert recorded.returncode == 0, recorded.stderr
    assert {file.name.split(".")[0] for file in tmp_path.iterdir()} == set(CASES)
    replay_by_all(tmp_path)


def replay_by_all(folder: Path) -> None:
    for version in VERSIONS:
        if version == OWN or Path(sys.prefix, "pythons", version).exists():
            replayed = run(version, "replay", folder)
            assert replayed.returncode == 0, f"by {version}: {replayed.stdout}{replayed.stderr}"


def test_random_programs_do_the_same_on_every_python(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their results are the traces of all that they saw. So it is enough that one Python has recorded them."""
    caplog.set_level(logging.CRITICAL, "perdure")
    for seed in range(PROGRAMS):
        played = Environment(Generator(seed).program(), seed)
        played.play()
        encoded = join_events([encode_event(event) for event in played.history])
        (tmp_path / f"{seed}.{REF.workflow_id}.{REF.run_id}").write_bytes(encoded)
    replay_by_all(tmp_path)


def test_code_that_has_changed_does_not_fit(tmp_path: Path) -> None:
    """The comparison can fail."""
    assert run(OWN, "record", tmp_path).returncode == 0
    changed = run(OWN, "replay", tmp_path, PERDURE_TEST_CHANGED="yes")
    assert changed.returncode == 1, changed.stderr
    told = changed.stdout
    assert "the workflow's code does something else than its history says" in told  # one more activity
    assert "is now completion of the workflow" in told  # another result
