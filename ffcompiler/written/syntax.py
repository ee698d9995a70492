"""Reading the parts of plan text: sections, numbers, arguments, types, nodes, graphs.

Python's parser turns lines into a syntax tree and the functions here turn trees into values, each the inverse of a
``__str__`` in `graph.py`. Nothing is evaluated. A tree of another form raises `Unreadable` with its line.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ..graph import Arg, Graph, Node, Ref, Step, Symbol, SymbolKind, TensorType, Value, contiguous
from .layout import part_line


class Unreadable(Exception):
    """Text that is not the text of a plan, and the line it stands on."""

    def __init__(self, why: str, at: int | ast.AST) -> None:
        super().__init__(why)
        self.line: int = at if isinstance(at, int) else getattr(at, "lineno", 1)


# ---------------------------------------------------------------------------------------------------- sections


@dataclass(frozen=True)
class Section:
    """A line that starts at the margin and the indented lines below it; ``line`` is the number of the first."""

    key: str
    line: int
    lines: tuple[str, ...]

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """The statements of a ``title:`` section or of a function, with the line numbers of the whole text."""
        title = self.lines[0] if self.lines[0].startswith("def ") else "if 1:"
        match python("\n".join([title, *self.lines[1:]]), self.line).body:
            case [ast.If(body=body)]:
                return body
            case [ast.FunctionDef() as function]:
                return [function]
        raise Unreadable("expected a section or a function", self.line)

    def comment(self, tree: ast.stmt) -> str:
        """The text of the comment after a statement."""
        last, column = tree.end_lineno or tree.lineno, tree.end_col_offset or 0
        rest = self.lines[last - self.line].encode()[column:].decode().strip()
        return unquoted(rest.removeprefix("#").strip(), last) if rest else ""


Sections = Mapping[str, Section]


def parts(text: str) -> list[Sections]:
    """The sections of each part of a text, their lines counted through the whole."""
    lines = text.split("\n")
    cuts = [i for i, line in enumerate(lines) if line.startswith("==== ")]
    for part, cut in enumerate(cuts, 2):
        if lines[cut].rstrip() != part_line(part, len(cuts) + 1):
            raise Unreadable(f"expected {part_line(part, len(cuts) + 1)!r}", cut + 1)
    spans = pairwise([-1, *cuts, len(lines)])
    return [split("\n".join([*[""] * (start + 1), *lines[start + 1 : end]])) for start, end in spans]


def split(text: str) -> Sections:
    """The sections of a text by their first word (of a function: its name)."""
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if line and line[0] != " "]
    if not starts:
        raise Unreadable("expected a section", len(lines))
    sections: dict[str, Section] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        title = re.match(r"(?:def )?([a-z_]+[0-9]*)", lines[start])
        if title is None or title[1] in sections or any(line.strip() for line in lines[: starts[0]]):
            raise Unreadable("expected a section that is not there yet", start + 1)
        body = tuple(lines[start:end])
        sections[title[1]] = Section(title[1], start + 1, body)
    return sections


def needed(sections: Sections, key: str) -> Section:
    if key in sections:
        return sections[key]
    raise Unreadable(f"there is no section {key!r}", min((section.line for section in sections.values()), default=1))


def python(text: str, line: int) -> ast.Module:
    """The syntax tree of ``text``, which begins at ``line`` of the whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as fault:
        raise Unreadable(f"not the text of a plan ({fault.msg})", line + (fault.lineno or 1) - 1) from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as fault:
        raise Unreadable(f"not the text of a plan ({fault})", line) from None
    ast.increment_lineno(tree, line - 1)
    return tree


def expression(text: str, line: int) -> ast.expr:
    match python(text.strip(), line).body:
        case [ast.Expr(value=tree)]:
            return tree
    raise Unreadable("expected an expression", line)


def unquoted(text: str, line: int) -> str:
    """Text as `layout.one_line` prints it: as it stands, or a string literal."""
    return string(expression(text, line)) if text[:1] in {"'", '"'} else text


# ---------------------------------------------------------------------------------------------------- words


def string(tree: ast.expr) -> str:
    match tree:
        case ast.Constant(value=str(text)):
            return text
    raise Unreadable("expected a string", tree)


def number(tree: ast.expr) -> int | float:
    """A number; booleans are not numbers."""
    match tree:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int(x)) | ast.Constant(value=float(x)):
            return x
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id="nan"):
            return math.nan
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -number(operand)
    raise Unreadable("expected a number", tree)


def integer(tree: ast.expr) -> int:
    value = number(tree)
    if isinstance(value, int):
        return value
    raise Unreadable("expected an integer", tree)


def integers(tree: ast.expr) -> tuple[int, ...]:
    return tuple(map(integer, tree.elts)) if isinstance(tree, ast.Tuple) else (integer(tree),)


def word(tree: ast.expr) -> str:
    if isinstance(tree, ast.Name):
        return tree.id
    raise Unreadable("expected a name", tree)


def dotted(tree: ast.expr) -> str:
    """``aten.addmm.default``"""
    return f"{dotted(tree.value)}.{tree.attr}" if isinstance(tree, ast.Attribute) else word(tree)


def keywords(call: ast.Call) -> tuple[tuple[str, ast.expr], ...]:
    for key in call.keywords:
        if key.arg is None:
            raise Unreadable("expected key=value", key.value)
    return tuple((str(key.arg), key.value) for key in call.keywords)


# ---------------------------------------------------------------------------------------------------- graphs


def argument(tree: ast.expr) -> Arg:
    """The inverse of `graph.arg_text`."""
    match tree:
        case ast.Constant(value=None | bool() | str() as value):
            return value
        case ast.Tuple(elts=items):
            return tuple(map(argument, items))
        case ast.Subscript(value=ast.Name(id="step"), slice=table):
            return Step(integer(table))
        case ast.Attribute(value=ast.Name(id=kind), attr=name) if kind in {k.value for k in SymbolKind}:
            return Symbol(SymbolKind(kind), name)
        case ast.Name(id=name) if name not in {"inf", "nan"}:
            return Ref(name)
        case ast.Subscript():
            return reference(tree)
    return number(tree)


def reference(tree: ast.expr) -> Ref:
    """``b3`` or ``b3[1]``."""
    if isinstance(tree, ast.Subscript):
        return Ref(word(tree.value), integer(tree.slice))
    return Ref(word(tree))


def tensor_type(tree: ast.expr) -> TensorType:
    """``float32[100, 512]``, or ``float32[100, 512] @ (1568, 1)`` with strides."""
    match tree:
        case ast.BinOp(left=plain, op=ast.MatMult(), right=strides):
            return TensorType(*_dtype_and_shape(plain), integers(strides))
    dtype, shape = _dtype_and_shape(tree)
    return TensorType(dtype, shape, contiguous(shape))


def _dtype_and_shape(tree: ast.expr) -> tuple[str, tuple[int, ...]]:
    match tree:
        case ast.Subscript(value=dtype, slice=shape):
            return dotted(dtype), integers(shape)
    raise Unreadable("expected a type such as float32[2, 3]", tree)


def optional_type(tree: ast.expr) -> TensorType | None:
    return None if isinstance(tree, ast.Constant) and tree.value is None else tensor_type(tree)


def node(tree: ast.stmt, source: str) -> Node:
    """``b3: float32[100, 512] = aten.addmm.default(w1, c0, b2)  # made.py:31 in forward``"""
    match tree:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=types, value=ast.Call() as call):
            results = types.elts if isinstance(types, ast.Tuple) else [types]
            kwargs = tuple((key, argument(value)) for key, value in keywords(call))
            args = tuple(map(argument, call.args))
            return Node(name, dotted(call.func), args, kwargs, tuple(map(optional_type, results)), source)
    raise Unreadable("expected name: type = op(arguments)", tree)


def graph(section: Section) -> Graph:
    """The inverse of `Graph.text`."""
    match section.statements:
        case [ast.FunctionDef(args=ast.arguments(args=inputs), body=[*nodes, ast.Return(value=ast.expr() as result)])]:
            outputs: Iterable[ast.expr] = result.elts if isinstance(result, ast.Tuple) else [result]
            return Graph(
                tuple(_input(value) for value in inputs),
                tuple(node(tree, section.comment(tree)) for tree in nodes),
                tuple(map(reference, outputs)),
            )
    raise Unreadable("expected a function that ends in a return", section.line)


def _input(tree: ast.arg) -> Value:
    if tree.annotation is None:
        raise Unreadable("expected name: type", tree)
    return Value(tree.arg, tensor_type(tree.annotation))
