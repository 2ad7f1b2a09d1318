"""What each bound of `perdure.limits` must have: a reason beside it, code that keeps it, and a test that reaches it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

_LIMIT = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\b")


def limits(tree: ast.Module) -> dict[str, str]:
    """The limits of a module, in order, each with its reason: the docstring below it. Those that stand together,
    without a line between, have one for all; "" where there is none."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    last = 0
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.lineno > last + 1:
                waiting = []
            waiting.append(node.target.id)
            found[node.target.id] = ""
        else:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.lineno == last + 1:
                found.update(dict.fromkeys(waiting, str(node.value.value).strip()))
            waiting = []
        last = node.end_lineno or node.lineno
    return found


def named(tree: ast.Module) -> set[str]:
    """All that a file names in capitals: in its code, and in the texts there (a message that is expected, a name that
    is patched). What only a comment, a docstring or an import names is not used."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {word for node in ast.walk(tree) if id(node) not in docstrings for word in _words(node)}


def _words(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _LIMIT.findall(node.value)


def check(module: ast.Module, code: Iterable[ast.Module], tests: Iterable[ast.Module]) -> list[str]:
    """What is missing, and what to do about it."""
    kept = {name for tree in code for name in named(tree)}
    reached = {name for tree in tests for name in named(tree)}
    found: list[str] = []
    for name, reason in limits(module).items():
        if not reason:
            found.append(f"limits.{name} has no reason: write below it, in a docstring, why it is what it is")
        if name not in kept:
            found.append(f"limits.{name} is used nowhere: let the code keep it, or remove it")
        if name not in reached:
            found.append(
                f"limits.{name} is named in no test: write one that reaches it (at the limit it goes, one beyond it is "
                "refused, cut or waits; made small with monkeypatch where that helps), and that fails when the code "
                "does not keep it"
            )
    return found
