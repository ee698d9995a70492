"""The documentation does what it says: Python blocks run in order, one namespace per page, and relative links resolve.

Shell blocks are not run. A Python block directly after ``<!-- not run -->`` is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]
MAX_LINES = 200
NOT_RUN = "<!-- not run -->"

_FENCE = re.compile(r"^(`{3,}|~{3,})\s*([\w+-]*)")
_LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: ``line`` is that of its first line of content."""

    language: str
    line: int
    text: str
    skipped: bool


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page, in order. Raises `ValueError` for a fence that is never closed."""
    lines = text.split("\n")
    at, previous = 0, ""
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            previous = lines[at].strip() or previous
            at += 1
            continue
        start = at + 1
        end = next((k for k in range(start, len(lines)) if lines[k].rstrip() == fence[1]), None)
        if end is None:
            raise ValueError(f"the block that begins in line {at + 1} has no end")
        yield Block(fence[2], start + 1, "\n".join(lines[start:end]), previous == NOT_RUN)
        at, previous = end + 1, ""


def prose(text: str) -> list[tuple[int, str]]:
    """The numbered lines outside fenced blocks, code spans taken out."""
    inside = {k for b in blocks(text) for k in range(b.line - 1, b.line + b.text.count("\n") + 2)}
    return [(k, _CODE.sub("", line)) for k, line in enumerate(text.split("\n"), 1) if k not in inside]


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings get."""
    headings = (re.match(r"#+\s+(.*)", line) for _, line in prose(text))
    return {re.sub(r"[^\w\- ]", "", h[1].lower()).replace(" ", "-") for h in headings if h}


def python_blocks(page: Path) -> list[Block]:
    return [b for b in blocks(page.read_text(encoding="utf-8")) if b.language == "python" and not b.skipped]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=name_of)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")  # a real module, for dataclasses and pickling by name
    monkeypatch.setitem(sys.modules, "page", module)
    for block in python_blocks(page):
        padded = "\n" * (block.line - 1) + block.text  # so that a traceback shows the page's own line
        exec(compile(padded, str(page), "exec"), module.__dict__)  # noqa: S102 - our own pages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for number, line in prose(page.read_text(encoding="utf-8")):
        for target in _LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            to = (page.parent / path).resolve() if path else page
            if not to.exists():
                broken.append(f"{name_of(page)}:{number}: {target} is not there")
            elif anchor and to.suffix == ".md" and anchor not in anchors(to.read_text(encoding="utf-8")):
                broken.append(f"{name_of(page)}:{number}: {to.name} has no heading for #{anchor}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_short(page: Path) -> None:
    assert page.read_text(encoding="utf-8").count("\n") < MAX_LINES


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=name_of)
def test_every_page_ends_in_something_that_runs(page: Path) -> None:
    last = list(blocks(page.read_text(encoding="utf-8")))[-1:]
    assert last and last[0].language in {"python", "sh", "bash", "console"} and not last[0].skipped


def test_the_map_names_every_page() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "index.md" and f"({p.name})" not in text]
    assert not missing


def test_a_block_that_is_not_to_be_run_and_links_in_code_are_told_apart() -> None:
    text = f"[a](b.md) `[c](d.md)`\n\n{NOT_RUN}\n```python\n[e](f.md)\n```\n```python\n1\n```\n"
    first, second = blocks(text)
    assert (first.skipped, second.skipped, second.line) == (True, False, 8)
    assert [t for _, line in prose(text) for t in _LINK.findall(line)] == ["b.md"]
