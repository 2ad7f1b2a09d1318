"""Every limit has a name, a reason and a test; and the rule that says so catches what it should."""

from __future__ import annotations

import ast

from tests.repository import limits
from tests.repository.files import PACKAGE, ROOT, python_files


def test_every_limit_has_a_reason_and_a_test() -> None:
    module = PACKAGE / "limits.py"
    code = [ast.parse(path.read_text()) for path in python_files("src") if path != module]
    rules = ROOT / "tests" / "repository"
    tests = [ast.parse(path.read_text()) for path in python_files("tests") if rules not in path.parents]
    found = limits.check(ast.parse(module.read_text()), code, tests)
    assert not found, "\n".join(found)


# --- The rule itself ------------------------------------------------------------------------------------
MODULE = '''"""Bounds."""
from perdure.clock import SECOND

FIRST: Final = 1
SECOND_ONE: Final = 2 * FIRST
"""Both for one reason."""

THIRD: Final = 3

FOURTH: Final = 4

"""This is about nothing."""
'''


def test_limits_that_stand_together_have_one_reason() -> None:
    reason = "Both for one reason."
    assert limits.limits(ast.parse(MODULE)) == {"FIRST": reason, "SECOND_ONE": reason, "THIRD": "", "FOURTH": ""}


def test_what_counts_as_named() -> None:
    file = (
        '"""About DOCSTRING."""\nfrom perdure.limits import IMPORTED\nset(m, "PATCHED")\nx = limits.READ  # COMMENT\n'
    )
    assert {name for name in limits.named(ast.parse(file)) if name.isupper()} == {"PATCHED", "READ"}
    assert "MAX_ONE" in limits.named(ast.parse('raises(match="over limits.MAX_ONE, which")'))
    assert "MAX_ONE" not in limits.named(ast.parse('raises(match="limits.MAX_ONES")\ny = f"MAX_{unit}"'))


def test_what_is_missing_is_said() -> None:
    used = ast.parse("print(FIRST, SECOND_ONE, THIRD, FOURTH)")
    tree = ast.parse(MODULE)
    assert limits.check(tree, [used], [used]) == [
        f"limits.{name} has no reason: write below it, in a docstring, why it is what it is"
        for name in ("THIRD", "FOURTH")
    ]
    part = ast.parse("print(FIRST, THIRD, FOURTH)")
    assert [text.partition(":")[0] for text in limits.check(tree, [used], [part])][:1] == [
        "limits.SECOND_ONE is named in no test"
    ]
    assert [text.partition(":")[0] for text in limits.check(tree, [part], [used])][:1] == [
        "limits.SECOND_ONE is used nowhere"
    ]
