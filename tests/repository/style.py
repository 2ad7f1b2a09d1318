"""Rules of style that no linter knows, as functions from a parsed file to what breaks them.

Sizes ratchet: `ratchet.json` may hold sizes over the limit, each of which must be the present one, so that it
can only be lowered.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70

_MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_UNSAFE_MODULES = frozenset({"dill", "cloudpickle", "marshal", "pickle", "shelve"})
_UNSAFE_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
_COROUTINES = frozenset({"Coroutine", "CoroutineType", "Generator"})
_SIMULATED_TIME = "# simulated time"

Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = Function | ast.ClassDef


class Source(NamedTuple):
    """A Python file: its path from the repository's root, its text, and what the text parses to."""

    path: str
    text: str
    tree: ast.Module


class Finding(NamedTuple):
    """A line, and what is wrong with it."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


Rule = Callable[[Source], Iterator[Finding]]


def parse(path: str, text: str) -> Source:
    """A file, ready for the rules."""
    return Source(path, text, ast.parse(text, path))


# --- Sizes ----------------------------------------------------------------------------------------------
def sizes(source: Source) -> Iterator[tuple[str, int, int]]:
    """(name, lines, limit) of the file and of each of its functions."""
    yield source.path, len(source.text.splitlines()), MAX_FILE_LINES
    for name, function in _functions(source.tree, ""):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        yield f"{source.path}::{name}", lines, MAX_FUNCTION_LINES


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            name = f"{prefix}{child.name}"
            if isinstance(child, Function):
                yield name, child
            yield from _functions(child, f"{name}.")
        else:
            yield from _functions(child, prefix)


def ratchet(sources: list[Source], allowed: Mapping[str, int]) -> list[str]:
    """What is too large and not allowed, and what is allowed and has become smaller."""
    over = {name: lines for source in sources for name, lines, limit in sizes(source) if lines > limit}
    found = [
        f"{name}: {lines} lines; split it where there are really two things in one"
        for name, lines in over.items()
        if lines > allowed.get(name, 0)
    ]
    for name, lines in allowed.items():
        if name not in over:
            found.append(f"{name}: not over its limit any more: take it out of ratchet.json")
        elif over[name] < lines:
            found.append(f"{name}: shrank to {over[name]} lines: lower it in ratchet.json")
    return found


# --- Rules for all files --------------------------------------------------------------------------------
def module_docstring(source: Source) -> Iterator[Finding]:
    """A module opens with what it is for."""
    if source.tree.body and ast.get_docstring(source.tree) is None:
        yield Finding(source.path, 1, "open the module with a docstring that says what it is for")


def no_markers(source: Source) -> Iterator[Finding]:
    """What is to be done is an issue, not a comment."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and (marker := _MARKERS.search(token.string)):
            yield Finding(source.path, token.start[0], f"{marker[0]} in a comment: do it, or open an issue")


# --- Rules for src/perdure ------------------------------------------------------------------------------
def nothing_unsafe(source: Source) -> Iterator[Finding]:
    """What came over the wire is never executed."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for name in {a.name.partition(".")[0] for a in node.names} | {(module or "").partition(".")[0]}:
                if name in _UNSAFE_MODULES:
                    yield Finding(source.path, node.lineno, f"{name} executes what it reads")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _UNSAFE_CALLS:
            yield Finding(source.path, node.lineno, f"{node.func.id}() executes what it is given")


def no_stubs(source: Source) -> Iterator[Finding]:
    """Nothing is announced that isn't there. What can't be there at all says why."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Raise)
            and node.exc
            and ast.unparse(node.exc).removesuffix("()") == "NotImplementedError"
        ):
            yield Finding(source.path, node.lineno, "a stub: write it, or leave it out")


def no_any_in_public_signatures(source: Source) -> Iterator[Finding]:
    """Types that users and other parts see say what they are.

    What a coroutine yields and is sent is between it and its loop: `Coroutine[Any, Any, T]` is how one is written.
    """
    for name, annotation in _public_signatures(source.tree, ""):
        if any(_names_any(part) for part in _relevant(annotation)):
            yield Finding(source.path, annotation.lineno, f"{name}: Any in a public signature: name the type")


def _names_any(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")


def _relevant(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, less what coroutines yield and are sent."""
    yield node
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in _COROUTINES and isinstance(node.slice, ast.Tuple):
        yield from _relevant(node.slice.elts[-1])
    else:
        for child in ast.iter_child_nodes(node):
            yield from _relevant(child)


def _public_signatures(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, ast.expr]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _public_signatures(child, f"{prefix}{child.name}.")
        elif isinstance(child, Function) and _is_public(child.name):
            yield from ((prefix + child.name, annotation) for annotation in _signature(child))
        elif (
            isinstance(node, ast.ClassDef)
            and isinstance(child, ast.AnnAssign)
            and _is_public(ast.unparse(child.target))
        ):
            yield prefix + ast.unparse(child.target), child.annotation


def _signature(function: Function) -> Iterator[ast.expr]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in filter(None, [*named, arguments.vararg, arguments.kwarg]):
        if argument.annotation:
            yield argument.annotation
    if function.returns:
        yield function.returns


def _is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


# --- Rules for tests ------------------------------------------------------------------------------------
def no_sleeps(source: Source) -> Iterator[Finding]:
    """A test waits for what it waits for: an event, a future, a simulated clock.

    Workflow code may sleep: its timers are durable. So may `asyncio.sleep(0)`, which only yields, and a line
    that ends in `# simulated time`.
    """
    lines = source.text.splitlines()
    names = _sleep_names(source.tree)
    for call in _calls(source.tree, outside=_is_workflow_code):
        if ast.unparse(call.func) in names and not _is_zero(call) and _SIMULATED_TIME not in lines[call.lineno - 1]:
            yield Finding(source.path, call.lineno, "a sleep in a test: wait for what it waits for")


def _sleep_names(tree: ast.Module) -> set[str]:
    names = {"time.sleep", "asyncio.sleep", "anyio.sleep"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "asyncio", "anyio"):
            names |= {a.asname or a.name for a in node.names if a.name == "sleep"}
    return names


def _calls(node: ast.AST, outside: Callable[[_Definition], bool]) -> Iterator[ast.Call]:
    """The calls below a node, less those in functions and classes of a kind."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition) and outside(child):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _calls(child, outside)


def _is_workflow_code(definition: _Definition) -> bool:
    """Whether it is decorated as a workflow, or calls what only workflow code may call."""
    decorators = (d.func if isinstance(d, ast.Call) else d for d in definition.decorator_list)
    if any(ast.unparse(decorator) in ("workflow", "perdure.workflow") for decorator in decorators):
        return True
    own = (call for line in definition.body for call in _calls(ast.Module([line], []), lambda _: True))
    return any(ast.unparse(call.func).startswith("workflow.") for call in own)


def _is_zero(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0


RULES: dict[str, tuple[Rule, ...]] = {
    "": (module_docstring, no_markers),
    "src": (nothing_unsafe, no_stubs, no_any_in_public_signatures),
    "tests": (no_sleeps,),
}
"""Rules by the folder that they hold for; the empty one stands for all."""


def check(source: Source) -> Iterator[Finding]:
    """What breaks a rule in a file."""
    for folder, rules in RULES.items():
        if source.path.startswith(folder):
            for rule in rules:
                yield from rule(source)
