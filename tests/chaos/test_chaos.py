"""A minute of chaos; `make chaos` makes ten, with the grace that is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.checks import check
from tests.chaos.faults import plan
from tests.chaos.report import report
from tests.chaos.runner import SUSPENDED_GRACES, Broken, Chaos

SEED = 1
SECONDS = 60
GRACE = 3


@pytest.mark.timeout(600)  # a minute of faults, and as much time as a busy machine needs to end the work
def test_nothing_is_lost(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, SEED, SECONDS, GRACE)
    try:
        chaos.run()
        if findings := check(chaos):
            raise Broken(findings)
    except Broken as broken:
        raise AssertionError(report(chaos, broken)) from None
    planned = plan(SEED, SECONDS, SUSPENDED_GRACES * GRACE)
    assert {fault.kind for fault in chaos.faults} == {fault.kind for fault in planned}
