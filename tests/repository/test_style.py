"""The code follows the rules of style; and each rule catches what it should."""

from __future__ import annotations

import json

import pytest

from tests.repository import style
from tests.repository.files import ROOT, python_files, relative


@pytest.fixture(scope="module")
def sources() -> list[style.Source]:
    return [style.parse(relative(path), path.read_text()) for path in python_files()]


def test_the_code_follows_the_rules(sources: list[style.Source]) -> None:
    found = [str(finding) for source in sources for finding in style.check(source)]
    assert not found, "\n".join(found)


def test_sizes_only_shrink(sources: list[style.Source]) -> None:
    allowed = json.loads((ROOT / "tests/repository/ratchet.json").read_text())
    found = style.ratchet(sources, allowed)
    assert not found, "\n".join(found)


# --- The rules themselves -------------------------------------------------------------------------------
GOOD = {
    style.module_docstring: ['"""What it is for."""\nx = 1', ""],
    style.no_markers: ["# a comment\nx = 'TODO'"],
    style.nothing_unsafe: ["import json\njson.loads('1')", "from msgspec import json", "model.eval()"],
    style.no_stubs: ["raise ValueError('no')", "raise", "raise NotImplementedError('a simulated process has no I/O')"],
    style.no_any_in_public_signatures: [
        "def f(x: object) -> list[int]: ...",
        "def _f(x: Any) -> Any: ...",
        "def f() -> Callable[[], Coroutine[Any, Any, int]]: ...",
        "class _Hidden:\n    x: Any",
        "class C:\n    _x: Any",
        "handlers: dict[str, Any] = {}",
        "def f() -> None:\n    x: Any = 1",
    ],
    style.no_sleeps: [
        "async def test():\n    await asyncio.sleep(0)",
        "@workflow\nasync def w():\n    await asyncio.sleep(60)",
        "@workflow(name='w')\nclass W:\n    async def run(self):\n        await asyncio.sleep(60)",
        "def test():\n    @workflow\n    async def w():\n        await asyncio.sleep(60)",
        "async def helper():\n    began = workflow.now()\n    await asyncio.sleep(60)",
        "async def party():\n    await asyncio.sleep(60)  # simulated time",
        "clock.sleep(1)",
    ],
}
BAD = {
    style.module_docstring: ["x = 1", "# a comment\nx = 1"],
    style.no_markers: ["x = 1  # TODO: two", "# FIXME", "# XXX later"],
    style.nothing_unsafe: ["import pickle", "from pickle import loads", "import os, marshal", "eval('1')"],
    style.no_stubs: ["raise NotImplementedError", "def f():\n    raise NotImplementedError()"],
    style.no_any_in_public_signatures: [
        "def f(x: Any) -> None: ...",
        "def f() -> dict[str, typing.Any]: ...",
        "def f() -> Coroutine[Any, Any, Any]: ...",
        "def f(*args: Any) -> None: ...",
        "def f(**kwargs: Any) -> None: ...",
        "async def f(*, x: list[Any]) -> None: ...",
        "class C:\n    x: Any",
        "class C:\n    def __call__(self, x: Any) -> None: ...",
    ],
    style.no_sleeps: [
        "def test():\n    time.sleep(0.1)",
        "async def test():\n    await asyncio.sleep(0.01)",
        "async def test(delay):\n    await asyncio.sleep(delay)",
        "from asyncio import sleep as nap\nasync def test():\n    await nap(1)",
        "async def test():\n    @workflow\n    async def w():\n        workflow.now()\n    await asyncio.sleep(1)",
        "@activity\nasync def a():\n    await asyncio.sleep(1)",
    ],
}


def findings(rule: style.Rule, text: str) -> list[style.Finding]:
    return list(rule(style.parse("tests/test_it.py", text)))


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in GOOD.items() for text in texts])
def test_a_rule_lets_pass(rule: style.Rule, text: str) -> None:
    assert findings(rule, text) == []


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in BAD.items() for text in texts])
def test_a_rule_catches(rule: style.Rule, text: str) -> None:
    assert len(findings(rule, text)) == 1


def test_each_rule_is_shown_to_catch() -> None:
    assert {rule for rules in style.RULES.values() for rule in rules} == set(BAD) == set(GOOD)


def test_each_rule_holds_for_its_folder() -> None:
    text = "import pickle\ntime.sleep(1)"
    assert {f.message for f in style.check(style.parse("src/perdure/x.py", text))} == {
        "open the module with a docstring that says what it is for",
        "pickle executes what it reads",
    }
    assert {f.message for f in style.check(style.parse("tests/x.py", text))} == {
        "open the module with a docstring that says what it is for",
        "a sleep in a test: wait for what it waits for",
    }


LONG_FUNCTION = "class C:\n    def f(self):\n" + "        x = 1\n" * style.MAX_FUNCTION_LINES


@pytest.mark.parametrize(
    ("allowed", "says"),
    [
        ({}, ["a.py::C.f: 71 lines; split it where there are really two things in one"]),
        ({"a.py::C.f": 70}, ["a.py::C.f: 71 lines; split it where there are really two things in one"]),
        ({"a.py::C.f": 71}, []),
        ({"a.py::C.f": 72}, ["a.py::C.f: shrank to 71 lines: lower it in ratchet.json"]),
        (
            {"a.py::C.f": 71, "gone.py": 700},
            ["gone.py: not over its limit any more: take it out of ratchet.json"],
        ),
    ],
)
def test_the_ratchet_turns_one_way(allowed: dict[str, int], says: list[str]) -> None:
    assert style.ratchet([style.parse("a.py", LONG_FUNCTION)], allowed) == says


def test_long_files_are_found() -> None:
    assert style.ratchet([style.parse("a.py", "x = 1\n" * style.MAX_FILE_LINES)], {}) == []
    assert len(style.ratchet([style.parse("a.py", "x = 1\n" * (style.MAX_FILE_LINES + 1))], {})) == 1
