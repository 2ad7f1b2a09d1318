"""What the documents say holds: links lead somewhere, commands exist, and the quick start runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repository.files import ROOT, relative

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"\bmake ([a-z]+)\b")
_MENTIONED_FILE = re.compile(r"`((?:src|tests|examples|bench|docs|tools)/[\w./-]+)`")


def documents() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(p for f in ("docs", "examples", "bench") for p in (ROOT / f).rglob("*.md"))]
    return sorted(found)


def anchor(heading: str) -> str:
    """The fragment under which a heading is found."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken(path: Path, text: str, root: Path) -> Iterator[str]:
    """Links to files and headings that aren't there, and mentioned paths that don't exist."""
    for target in _LINK.findall(_FENCE.sub("", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, fragment = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            yield f"{target}: no such file"
        elif fragment and fragment not in map(anchor, re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)):
            yield f"{target}: no such heading"
    yield from (f"{name}: no such file" for name in _MENTIONED_FILE.findall(text) if not (root / name).exists())


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_links_and_paths(path: Path) -> None:
    assert list(broken(path, path.read_text(), ROOT)) == []


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_make_commands_exist(path: Path) -> None:
    code = "\n".join(
        [*re.findall(r"`([^`\n]+)`", path.read_text()), *(body for _, body in _FENCE.findall(path.read_text()))]
    )
    assert set(_MAKE.findall(code)) <= targets((ROOT / "Makefile").read_text())


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_python_in_documents_compiles(path: Path) -> None:
    for language, body in _FENCE.findall(path.read_text()):
        if language == "python":
            compile(body, relative(path), "exec")


@pytest.mark.parametrize("name", ["cancellation", "sagas"])
def test_the_program_of_a_guide_runs(name: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text()
    script = next(body for language, body in _FENCE.findall(text) if language == "python")
    (tmp_path / "app.py").write_text(script)
    ran = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    says = re.search(r"^# prints (.*)$", script, re.MULTILINE)
    assert says is not None
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == says[1]


def test_the_quick_start_runs(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    script = next(body for language, body in _FENCE.findall(readme) if language == "python")
    (tmp_path / "app.py").write_text(script)
    first, again = (
        subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    says = re.search(r"^# prints (.*)$", script, re.MULTILINE)
    assert says is not None
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == says[1]
    assert again.stdout == first.stdout, again.stderr


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One heading, `code`\n")
    text = "[a](b.md) [b](b.md#one-heading-code) [c](c.md) [d](b.md#two) [e](https://x.example) `src/no.py` `src`"
    found = list(broken(tmp_path / "a.md", text, tmp_path))
    assert found == ["c.md: no such file", "b.md#two: no such heading", "src/no.py: no such file"]
