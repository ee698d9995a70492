"""Reading plan text back: ``parse(str(plan)) == plan``.

The head is lines of ``key         words``. Everything below it is Python syntax under section titles; Python's own
parser reads it (`syntax.py`), and nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import reduce
from typing import TypeVar

from ..errors import InvalidPlanError
from ..plan import (
    Alternative,
    Bits,
    Bounded,
    Candidate,
    Convergence,
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
from .layout import KEY_WIDTH
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
    parts,
    reference,
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
        return reduce(lambda rest, part: replace(part, rest=rest), reversed([*map(_plan, parts(text))]))
    except Unreadable as fault:
        line = text.split("\n")[fault.line - 1] if fault.line <= text.count("\n") + 1 else ""
        message = f"line {fault.line}: {fault}: {line.strip()!a}; compare it with what str(plan) prints"
        raise InvalidPlanError(message) from None


def _plan(sections: Sections) -> Plan:
    known = {*_HEAD, "candidates", "alternatives", "premises", *SECTIONS}
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
        convergence=_head(sections, "convergence", _convergence) if "convergence" in sections else None,
        alternatives=_optional(sections, "alternatives", _alternatives, ()),
        padded=_head(sections, "padded", _true) if "padded" in sections else False,
    )


_HEAD = frozenset({"schedule", "equality", "device", "why", "refusal", "costs", "align", "convergence", "padded"})


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


def _true(text: str, line: int) -> bool:
    if text != "True":
        raise Unreadable("only what is so is said", line)
    return True


def _equality(text: str, line: int) -> Equality:
    return Bits() if text == "bits" else _numbers(Tolerance, text, line)


def _costs(text: str, line: int) -> Costs:
    match expression(f"costs({text})", line):
        case ast.Call(args=[]) as call:
            values = dict(keywords(call))
            lists = (values.pop(key, ast.Tuple([])) for key in ("windows", "blocks", "runs", "together", "waves"))
            windows, blocks, runs, together, waves = (_items(given, line) for given in lists)
            keys = ("after", "captured", "fill", "draws", "again", "start")
            after, captured, fill, draws, again, start = (values.pop(key, None) for key in keys)
            if list(values) == ["step", "sweep", "certify", "once"]:
                step, sweep, certify, once = map(number, values.values())
                return Costs(
                    step,
                    sweep,
                    certify,
                    once,
                    tuple(_window(w, line) for w in windows),
                    tuple(map(number, blocks)),
                    0.0 if after is None else number(after),
                    None if captured is None else number(captured),
                    0.0 if fill is None else number(fill),
                    0.0 if draws is None else number(draws),
                    None if again is None else number(again),
                    0.0 if start is None else number(start),
                    tuple(_run(r, line) for r in runs),
                    tuple(_at_once(t, line) for t in together),
                    tuple(_window(w, line) for w in waves),
                )
    raise Unreadable("not a costs", line)


def _items(tree: ast.expr, line: int) -> list[ast.expr]:
    if isinstance(tree, ast.Tuple):
        return tree.elts
    raise Unreadable("not a costs", line)


def _run(tree: ast.expr, line: int) -> tuple[int, int, float]:
    match tree:
        case ast.Tuple(elts=[run, blocks, seconds]):
            return integer(run), integer(blocks), number(seconds)
    raise Unreadable("not the cost of a sweep in runs", line)


def _at_once(tree: ast.expr, line: int) -> tuple[tuple[int, ...], float, float]:
    match tree:
        case ast.Tuple(elts=[ast.Tuple(elts=blocks), two, all_]):
            return tuple(map(integer, blocks)), number(two), number(all_)
    raise Unreadable("not the cost of blocks that are computed together", line)


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
    cells = row.split(maxsplit=7)
    if len(cells) < 7 or cells[4] not in ("yes", "no"):
        raise Unreadable(f"expected {', '.join(Candidate.COLUMNS)}", line)
    seconds = number(expression(cells[1], line))
    sweeps, certifying = (integer(expression(cell, line)) for cell in cells[2:4])
    predicted = None if cells[5] == "-" else number(expression(cells[5], line))
    memory = None if cells[6] == "-" else integer(expression(cells[6], line))
    note = unquoted(cells[7], line) if cells[7:] else ""
    return Candidate(_schedule(cells[0], line), seconds, sweeps, note, certifying, predicted, cells[4] == "yes", memory)


def _alternatives(section: Section) -> tuple[Alternative, ...]:
    return tuple(map(_alternative, section.statements))


def _alternative(tree: ast.stmt) -> Alternative:
    match tree:
        case ast.Expr(value=ast.Call(func=ast.Name(id="alternative"), args=[change]) as call):
            match keywords(call):
                case (
                    ("sweeps", sweeps),
                    ("seconds", seconds),
                    ("reference", reference_),
                    ("measured", ast.Constant(value=bool(measured))),
                    *more,
                ):
                    numbers = (integer(sweeps), number(seconds), number(reference_))
                    return Alternative(string(change), *numbers, measured, _elsewhere(more, tree))
    raise Unreadable("not an alternative", tree)


def _elsewhere(more: list[tuple[str, ast.expr]], tree: ast.stmt) -> Schedule | None:
    """The schedule of an alternative, where it is another than jacobi as it was run."""
    match more:
        case []:
            return None
        case [("schedule", name)]:
            return _schedule(string(name), tree.lineno)
    raise Unreadable("not an alternative", tree)


def _convergence(text: str, line: int) -> Convergence:
    match expression(f"convergence({text})", line):
        case ast.Call(args=[]) as call:
            values = dict(keywords(call))
            cut, lyapunov = values.pop("cut", None), values.pop("lyapunov", None)
            if list(values) == ["sweeps"] and (cut is None or (isinstance(cut, ast.Constant) and cut.value is True)):
                sweeps = tuple(integer(item) for item in _items(values["sweeps"], line))
                return Convergence(sweeps, cut is not None, None if lyapunov is None else number(lyapunov))
    raise Unreadable("not a convergence", line)


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
