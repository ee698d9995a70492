"""Reading plan text back: ``parse(str(plan)) == plan``.

The head is lines of ``key         words``. Everything below it is Python syntax under section titles; Python's own
parser reads it (`syntax.py`), and nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

from .errors import InvalidPlanError
from .layout import KEY_WIDTH
from .plan import (
    Bits,
    Bounded,
    Candidate,
    Costs,
    Equality,
    Finite,
    Method,
    NoNegativeZero,
    Plan,
    Premise,
    Schedule,
    Tolerance,
    Unchanged,
    ZeroPattern,
)
from .read_program import SECTIONS, is_block, read_program
from .syntax import (
    Section,
    Sections,
    Unreadable,
    dotted,
    expression,
    integer,
    keywords,
    needed,
    number,
    reference,
    split,
    string,
    unquoted,
)

T = TypeVar("T")


def parse(text: str) -> Plan:
    """The plan that prints as ``text``.

    Raises:
        InvalidPlanError: with the line that is not the text of a plan.
    """
    try:
        return _plan(split(text))
    except Unreadable as fault:
        line = text.split("\n")[fault.line - 1] if fault.line <= text.count("\n") + 1 else ""
        message = f"line {fault.line}: {fault}: {line.strip()!a}; compare it with what str(plan) prints"
        raise InvalidPlanError(message) from None


def _plan(sections: Sections) -> Plan:
    known = {*_HEAD, "candidates", "premises", *SECTIONS}
    for key, section in sections.items():
        if key not in known and not is_block(key):
            raise Unreadable(f"unknown section {key}", section.line)
    return Plan(
        read_program(sections) if sections.keys() & SECTIONS else None,
        _head(sections, "schedule", _schedule),
        _head(sections, "equality", _equality),
        _head(sections, "device", unquoted),
        _optional(sections, "premises", _premises, ()),
        _head(sections, "refusal", unquoted) if "refusal" in sections else None,
        _head(sections, "why", unquoted) if "why" in sections else "",
        _head(sections, "costs", _costs) if "costs" in sections else None,
        _optional(sections, "candidates", _candidates, ()),
        _head(sections, "align", lambda text, line: integer(expression(text, line))) if "align" in sections else 1,
    )


_HEAD = frozenset({"schedule", "equality", "device", "why", "refusal", "costs", "align"})


def _optional(sections: Sections, key: str, read: Callable[[Section], T], default: T) -> T:
    return read(sections[key]) if key in sections else default


# ---------------------------------------------------------------------------------------------------- the head


def _head(sections: Sections, key: str, read: Callable[[str, int], T]) -> T:
    section = needed(sections, key)
    lines = list(section.lines)
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    return read("\n".join(line[KEY_WIDTH:] for line in lines), section.line)


def _schedule(text: str, line: int) -> Schedule:
    form = re.fullmatch(r"([a-z-]+)(?:\((-?\d{1,20})\))?(\+windows)?", text)
    if form is None or form[1] not in {method.value for method in Method}:
        raise Unreadable("unknown schedule", line)
    return Schedule(Method(form[1]), int(form[2]) if form[2] else None, bool(form[3]))


def _equality(text: str, line: int) -> Equality:
    return Bits() if text == "bits" else _numbers(Tolerance, text, line)


def _costs(text: str, line: int) -> Costs:
    match expression(f"costs({text})", line):
        case ast.Call(args=[]) as call:
            values = dict(keywords(call))
            windows = values.pop("windows", ast.Tuple([]))
            if list(values) == ["step", "sweep", "certify", "once"] and isinstance(windows, ast.Tuple):
                step, sweep, certify, once = map(number, values.values())
                return Costs(step, sweep, certify, once, tuple(_window(w, line) for w in windows.elts))
    raise Unreadable("not a costs", line)


def _window(tree: ast.expr, line: int) -> tuple[int, float]:
    match tree:
        case ast.Tuple(elts=[blocks, seconds]):
            return integer(blocks), number(seconds)
    raise Unreadable("not the cost of a window", line)


def _numbers(of: type[T], text: str, line: int) -> T:
    """A dataclass of numbers from ``name(field=number, ...)``."""
    match expression(text, line):
        case ast.Call(args=[]) as call:
            values = {key: number(value) for key, value in keywords(call)}
            if list(values) == [field.name for field in fields(of)]:  # type: ignore[arg-type]
                return of(**values)
    raise Unreadable(f"not a {of.__name__.lower()}", line)


def _candidates(section: Section) -> tuple[Candidate, ...]:
    rows = ((section.line + k, row.strip()) for k, row in enumerate(section.lines) if row.strip())
    return tuple(_candidate(row, line) for line, row in list(rows)[2:])


def _candidate(row: str, line: int) -> Candidate:
    cells = row.split(maxsplit=4)
    if len(cells) < 4:
        raise Unreadable("expected schedule, seconds, sweeps, certifying, note", line)
    seconds = number(expression(cells[1], line))
    sweeps, certifying = (integer(expression(cell, line)) for cell in cells[2:4])
    note = unquoted(cells[4], line) if cells[4:] else ""
    return Candidate(_schedule(cells[0], line), seconds, sweeps, note, certifying)


def _premises(section: Section) -> tuple[Premise, ...]:
    return tuple(_premise(tree, section.comment(tree)) for tree in section.statements)


def _premise(tree: ast.stmt, source: str) -> Premise:
    match tree:
        case ast.Expr(value=ast.Call(func=ast.Name(id="finite"), args=[value, op], keywords=[])):
            return Finite(reference(value).key, dotted(op), source)
        case ast.Expr(value=ast.Call(func=ast.Name(id="bounded"), args=[value, bound, op], keywords=[])):
            return Bounded(reference(value).key, number(bound), dotted(op), source)
        case ast.Expr(value=ast.Call(func=ast.Name(id="no_negative_zero"), args=[value, op], keywords=[])):
            return NoNegativeZero(reference(value).key, dotted(op), source)
        case ast.Expr(value=ast.Call(func=ast.Name(id="unchanged"), args=[value]) as call):
            match keywords(call):
                case (("sha256", sha256),):
                    return Unchanged(reference(value).key, string(sha256))
        case ast.Expr(value=ast.Call(func=ast.Name(id="zeros"), args=[value, zeros]) as call):
            match keywords(call):
                case (("of", of), ("sha256", sha256)):
                    return ZeroPattern(reference(value).key, integer(zeros), integer(of), string(sha256))
    raise Unreadable("unknown premise", tree)
