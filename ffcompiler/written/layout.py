"""Small pieces of plan text: prose, comments, columns, and tables of per-step constants.

Every piece can be read back exactly (`text.py`): text that would not survive as it stands is printed as a Python
string literal, and a table is shortened only to a form that expands to the same entries, ints and floats kept apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

KEY_WIDTH = 12  # columns of "schedule    "
LINE_WIDTH = 110
INDENT = "    "


def is_plain(line: str) -> bool:
    """Whether ``line`` can stand in a text as it is."""
    return line != "" and line.isprintable() and line == line.strip() and line[0] not in "'\""


def printable(text: str) -> str:
    """``text`` with line breaks, terminal escapes and the like written as escapes: safe to print, whoever wrote it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def prose(text: str) -> str:
    """``text`` as the value of a head line; later lines are indented to the first one's column."""
    first, *rest = text.split("\n")
    if is_plain(first) and all(line.isprintable() and line.rstrip() == line != "" for line in rest):
        return ("\n" + " " * KEY_WIDTH).join([first, *rest])
    return repr(text)


def item(key: str, text: str) -> str:
    return f"{key:<{KEY_WIDTH}}{prose(text)}"


def one_line(text: str) -> str:
    return text if is_plain(text) or not text else repr(text)


def comment(text: str) -> str:
    return f"  # {one_line(text)}" if text else ""


def section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *(INDENT + line for line in lines)])


def part_line(part: int, of: int) -> str:
    """The line between the text of a part and of the one before it; the first is part 1."""
    return f"==== part {part} of {of} ===="


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with their cells aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def filled(start: str, parts: Sequence[str], end: str) -> str:
    """``start + ", ".join(parts) + end``, broken between parts where a line grows too long."""
    lines = [start]
    for i, part in enumerate(parts):
        piece = part + (", " if i < len(parts) - 1 else end)
        if len(lines[-1]) + len(piece) > LINE_WIDTH and lines[-1] != start:
            lines.append(INDENT * 2)
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines) if parts else start + end


# ---------------------------------------------------------------------------------------------------- tables

Table = tuple[int | float, ...]
T = TypeVar("T")


def table_text(table: Table) -> str:
    """The shortest simple form: a progression, a tiling ``base * n``, a run ``each(base, n)``, or the tuple.

    >>> table_text(tuple(k // 4 for k in range(12))), table_text(tuple(k % 4 for k in range(12)))
    ('each((0, 1, 2), 4)', 'range(0, 4) * 3')
    """
    words = tuple(map(repr, table))  # compared as text, which keeps 0, 0.0 and -0.0 apart
    size = len(words)
    if text := _progression(table):
        return text
    for period in (p for p in range(1, size // 2 + 1) if size % p == 0):
        if words[:period] * (size // period) == words:
            return f"{table_text(table[:period])} * {size // period}"
    run = next((k for k, word in enumerate(words) if word != words[0]), size)
    if run > 1 and each(words[::run], run) == words:
        return f"each({table_text(table[::run])}, {run})"
    return f"({words[0]},)" if size == 1 else f"({', '.join(words)})"


def each(base: Iterable[T], times: int) -> tuple[T, ...]:
    """Every entry of ``base``, repeated ``times`` times before the next."""
    return tuple(entry for entry in base for _ in range(times))


def progression(start: int | float, stop: int | float, step: int | float) -> Table:
    """``range`` that gives floats when ``start`` is one; its arguments are whole numbers."""
    whole = range(int(start), int(stop), int(step))
    return tuple(map(float, whole)) if isinstance(start, float) else tuple(whole)


def _progression(table: Table) -> str | None:
    if len(table) < 4 or not all(abs(x) < 2**53 and x == int(x) for x in (table[0], table[1], table[-1])):
        return None
    start, step = table[0], table[1] - table[0]
    stop = table[-1] + (1 if step > 0 else -1) * type(start)(1)
    if step == 0 or len(range(int(start), int(stop), int(step))) != len(table):
        return None
    if list(map(repr, progression(start, stop, step))) != list(map(repr, table)):
        return None
    return f"range({start!r}, {stop!r})" if step == 1 else f"range({start!r}, {stop!r}, {step!r})"
