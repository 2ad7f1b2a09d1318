"""The table of layers, and a checker of the imports of `src/perdure` against it.

A file imports from its own layer or from lower ones; the engine and the SDK never import each other; and what
must be a function of its arguments (the model, the core) imports nothing that could look at the world.
Imports inside functions and under `TYPE_CHECKING` count like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LAYERS = {
    "errors": 0,
    "limits": 0,
    "clock": 0,
    "ids": 0,
    "durations": 0,
    "calendars": 0,
    "model": 1,
    "engine": 2,
    "engine.core": 2,
    "engine.storage": 2,
    "sdk": 2,
    "sdk.workflow": 2,
    "sdk.activity": 2,
    "engine.node": 3,
    "sdk.client": 3,
    "sdk.worker": 3,
    "server": 4,
    "testing": 4,
    "infra": 4,
    "agents": 4,
    "temporal": 4,
    "embedded": 5,
    "sync": 5,
    "cli": 5,
    "": 5,  # perdure/__init__.py: the public names
    "__main__": 5,
}
"""Layer of each area, named by its path below `perdure`; the longest name that fits a file is its area."""

APART = [
    ("engine", "sdk", "they meet in model.requests.Service"),
    ("sdk", "engine", "they meet in model.requests.Service"),
    ("engine.core", "engine.storage", "the core decides; the node stores"),
    ("engine.storage", "engine.core", "a store holds no business logic"),
]
"""(area, area that it never imports, why)."""

_CLOCKS_AND_DICE = frozenset({"random", "secrets", "time", "uuid"})
_SYSTEM = frozenset({"io", "logging", "os", "pathlib", "shutil", "signal", "subprocess", "tempfile"})
_CONCURRENCY = frozenset({"asyncio", "concurrent", "multiprocessing", "queue", "select", "socket", "threading"})
_WORLD = _CLOCKS_AND_DICE | _SYSTEM | _CONCURRENCY | {"datetime", "sqlite3"}

PURE = {
    "model": _WORLD,
    "engine.core": _WORLD,
    "engine.storage": _CLOCKS_AND_DICE,
    "engine.node": _CLOCKS_AND_DICE,
}
"""Modules that an area never imports: time, randomness and I/O are handed in from outside."""

ONLY_IN = {"sqlite3": "engine.storage", "asyncpg": "engine.storage", "apsw": "engine.storage"}
"""Modules that one area alone may import."""


class Violation(NamedTuple):
    """A broken rule, where it is broken, and what to do."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def inside(name: str, area: str) -> bool:
    """Whether a dotted name is the area or below it. Everything is below the empty one."""
    return not area or name == area or name.startswith(area + ".")


def area_of(name: str) -> str | None:
    """The area of a module named below `perdure`, or None where the table has none for it."""
    if not name:
        return ""
    return max((a for a in LAYERS if a and inside(name, a)), key=len, default=None)


def module_name(path: Path, package: Path) -> str:
    """The dotted name of a file below the package; a package's `__init__.py` has the package's name."""
    parts = list(path.relative_to(package).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(tree: ast.Module, path: Path, package: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of all modules that a file imports, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield from _from_import(node, path, package)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((str(name.value), node.lineno) for name in node.args[:1] if isinstance(name, ast.Constant))


def _from_import(node: ast.ImportFrom, path: Path, package: Path) -> Iterator[tuple[str, int]]:
    base = node.module or ""
    if node.level:
        here = path.relative_to(package.parent).parent.parts
        base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])
    if not inside(base, package.name):
        yield base, node.lineno
        return
    folder = package.parent.joinpath(*base.split("."))
    for alias in node.names:
        is_module = (folder / alias.name).is_dir() or (folder / f"{alias.name}.py").is_file()
        yield f"{base}.{alias.name}" if is_module else base, node.lineno


def check_file(path: Path, package: Path) -> list[Violation]:
    """What a file's imports break."""
    name = module_name(path, package)
    area = area_of(name)
    if area is None:
        return [Violation(str(path), 1, f"{name} is in no layer: put it where it belongs, or add it to LAYERS")]
    found: list[Violation] = []
    for imported, line in imports(ast.parse(path.read_text()), path, package):
        message = _broken_rule(name, area, imported, package.name)
        if message:
            found.append(Violation(str(path), line, message))
    return found


def _broken_rule(name: str, area: str, imported: str, package: str) -> str | None:
    top = imported.partition(".")[0]
    if top != package:
        if any(inside(name, pure) and top in modules for pure, modules in PURE.items()):
            return f"{area} may not import {top}: time, randomness and I/O are handed in from outside"
        if top in ONLY_IN and not inside(name, ONLY_IN[top]):
            return f"only {ONLY_IN[top]} may import {top}"
        return None
    target = imported.partition(".")[2]
    target_area = area_of(target)
    if target_area is None:
        return f"imports {imported}, which is in no layer"
    for one, other, why in APART:
        if inside(name, one) and inside(target, other):
            return f"{one} may not import {imported}: {why}"
    if LAYERS[target_area] > LAYERS[area]:
        return f"{area} (layer {LAYERS[area]}) may not import {imported} (layer {LAYERS[target_area]})"
    return None


def check_package(package: Path) -> list[Violation]:
    """What all files of a package break."""
    return [v for path in sorted(package.rglob("*.py")) for v in check_file(path, package)]
