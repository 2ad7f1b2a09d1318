"""A package that tells what its modules are for tells it of all of them, and of no others."""

from __future__ import annotations

import ast
import re

from tests.repository.files import PACKAGE, relative

_LINE = re.compile(r"^    (\w+)(\.py|/) ", re.MULTILINE)


def test_the_maps_of_packages_are_complete() -> None:
    maps = 0
    for path in sorted(PACKAGE.rglob("__init__.py")):
        told = {name for name, _ in _LINE.findall(ast.get_docstring(ast.parse(path.read_text()), clean=False) or "")}
        if len(told) < 3:
            continue
        maps += 1
        modules = {file.stem for file in path.parent.glob("*.py")} - {"__init__"}
        packages = {file.parent.name for file in path.parent.glob("*/__init__.py")}
        where = relative(path)
        assert not modules - told - {"__main__"}, f"{where} does not tell of {sorted(modules - told)}"
        assert not told - modules - packages, (
            f"{where} tells of {sorted(told - modules - packages)}, which are not there"
        )
    assert maps >= 6
