"""A minute of chaos; `make chaos` makes ten, with the grace that is the default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos.checks import check
from tests.chaos.report import report
from tests.chaos.runner import Broken, Chaos

SECONDS = 60
GRACE = 3

KNOWN = re.compile(r"(a query saw \d+ notes; acknowledged were|query .*: one was told)")
"""A query is seldom answered from before a signal that was acknowledged to the same client. `make chaos` counts it."""


@pytest.mark.timeout(600)  # a minute of faults, and as much time as a busy machine needs to end the work
def test_nothing_is_lost(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, 1, SECONDS, GRACE)
    try:
        chaos.run()
        findings = check(chaos)
        if findings and all(KNOWN.match(finding.text) for finding in findings):
            pytest.xfail(f"a known defect, see docs/postgresql.md: {findings[0]}")
        if findings:
            raise Broken(findings)
    except Broken as broken:
        raise AssertionError(report(chaos, broken)) from None
    assert {fault.kind for fault in chaos.faults} >= {"kill", "suspend", "leave", "restart database", "fail over"}
