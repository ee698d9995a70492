"""Reading the program of a plan text: arguments, weights, graphs, the loop and its tables, results."""

from __future__ import annotations

import ast
import re

from ..graph import EMPTY_GRAPH, Graph, Ref, Value
from ..program import (
    AnyLoop,
    ArrayLoop,
    Axis,
    Chain,
    Check,
    Draw,
    DrawPlace,
    Leaf,
    Loop,
    Overwrite,
    PerStep,
    Program,
    Recurrence,
    Region,
    RepeatedMap,
    Result,
    Signature,
    Weight,
    WeightKind,
)
from .layout import Table, each, progression
from .syntax import (
    Section,
    Sections,
    Unreadable,
    graph,
    integer,
    needed,
    node,
    number,
    reference,
    string,
    tensor_type,
)

MAX_TABLE = 10_000_000  # entries that a shortened table may expand to
_LOOPS = {"loop", "array_loop", "recurrence", "repeated_map", "invariant", "shared", "tail", "besides", "ahead", "body"}
_AROUND = {"arguments", "weights", "draws", "prologue", "overwrites", "chain", "epilogue", "checks", "left", "results"}
SECTIONS = frozenset(_AROUND | _LOOPS)


def is_block(key: str) -> bool:
    """Whether a section is one of a chain's blocks."""
    return re.fullmatch(r"block(0|[1-9]\d{0,6})", key) is not None


def read_program(sections: Sections) -> Program:
    """The inverse of ``Program.__str__``."""
    arguments, results = needed(sections, "arguments"), needed(sections, "results")
    modes = tuple(mode for tree in arguments.statements for mode in _mode(tree))
    return Program(
        Signature(_leaves(arguments), _tree(arguments), modes),
        tuple(map(_weight, sections["weights"].statements)) if "weights" in sections else (),
        graph(needed(sections, "prologue")),
        _loop(sections),
        graph(needed(sections, "epilogue")),
        Result(_leaves(results), _tree(results), _leaves(sections["left"]) if "left" in sections else ()),
        _overwrites(sections["overwrites"]) if "overwrites" in sections else (),
        _draws(sections["draws"]) if "draws" in sections else (),
        _checks(sections["checks"]) if "checks" in sections else (),
    )


def _tree(section: Section) -> str:
    for tree in section.statements:
        match tree:
            case ast.Assign(targets=[ast.Name(id="tree")], value=value):
                return string(value)
    raise Unreadable("there is no line tree = '...'", section.line)


def _mode(tree: ast.stmt) -> list[tuple[str, str]]:
    match tree:
        case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="modes"), slice=what)], value=state):
            return [(string(what), string(state))]
    return []


def _leaves(section: Section) -> tuple[Leaf, ...]:
    return tuple(leaf for tree in section.statements for leaf in _leaf(tree, section.comment(tree)))


def _leaf(tree: ast.stmt, path: str) -> list[Leaf]:
    match tree:
        case ast.Expr(value=ast.Name(id=name)):
            return [Leaf(path, _name(name), None)]
        case ast.AnnAssign(target=ast.Name(id=name), annotation=type_, value=value):
            return [Leaf(path, _name(name), tensor_type(type_), None if value is None else string(value))]
        case ast.AnnAssign(
            target=ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(output))),
            annotation=type_,
            value=None,
        ):
            return [Leaf(path, f"{name}.{output}", tensor_type(type_))]
        case ast.Assign(targets=[ast.Name(id="tree") | ast.Subscript(value=ast.Name(id="modes"))]):
            return []
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return [Leaf(path, _name(name), None, string(value))]
    raise Unreadable("expected a leaf: name: type, or _ = 'constant'", tree)


def _name(name: str) -> str | None:
    return None if name == "_" else name


def _weight(tree: ast.stmt) -> Weight:
    match tree:
        case ast.AnnAssign(
            target=ast.Name(id=name),
            annotation=type_,
            value=ast.Call(func=ast.Name(id=kind), args=[path]),
        ) if kind in {known.value for known in WeightKind}:
            return Weight(name, WeightKind(kind), string(path), tensor_type(type_))
    raise Unreadable("expected name: type = parameter('path')", tree)


def _overwrites(section: Section) -> tuple[Overwrite, ...]:
    return tuple(_overwrite(tree, section.comment(tree)) for tree in section.statements)


def _overwrite(tree: ast.stmt, source: str) -> Overwrite:
    match tree:
        case ast.Assign(targets=[ast.Name(id=weight)], value=value):
            return Overwrite(weight, reference(value), source)
    raise Unreadable("expected weight = value", tree)


def _checks(section: Section) -> tuple[Check, ...]:
    return tuple(_check(tree, section.comment(tree)) for tree in section.statements)


def _check(tree: ast.stmt, source: str) -> Check:
    match tree:
        case ast.Assert(test=ast.UnaryOp(op=ast.Not(), operand=value), msg=None):
            return Check(reference(value), False, source)
        case ast.Assert(test=value, msg=None):
            return Check(reference(value), True, source)
    raise Unreadable("expected assert value, or assert not value", tree)


def _draws(section: Section) -> tuple[Draw, ...]:
    return tuple(_draw(tree, section.comment(tree)) for tree in section.statements)


def _draw(tree: ast.stmt, source: str) -> Draw:
    match tree:
        case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id=place), attr=name) as target) if place in _PLACES:
            plain = ast.AnnAssign(ast.copy_location(ast.Name(name), target), tree.annotation, tree.value, 1)
            return Draw(DrawPlace(place), node(ast.copy_location(plain, tree), source))
    raise Unreadable("expected place.name: type = op(arguments)", tree)


_PLACES = frozenset(place.value for place in DrawPlace)


# ---------------------------------------------------------------------------------------------------- loops


def _loop(sections: Sections) -> AnyLoop:
    def graphs(*keys: str) -> list[Graph]:
        return [graph(needed(sections, key)) for key in keys]

    if "array_loop" in sections:
        besides = graph(sections["besides"]) if "besides" in sections else EMPTY_GRAPH
        invariant, shared, tail = graphs("invariant", "shared", "tail")
        return _array_loop(sections["array_loop"], invariant, shared, tail, besides)
    if "recurrence" in sections:
        head = _head(sections["recurrence"])
        invariant, ahead, body = graphs("invariant", "ahead", "body")
        return Recurrence(*head, invariant, ahead, body, *_besides(sections["recurrence"]))
    if "repeated_map" in sections:
        lo, hi, _, carry, init, tree = _head(sections["repeated_map"])
        invariant, body = graphs("invariant", "body")
        return RepeatedMap(lo, hi, carry, init, tree, invariant, body)
    if "chain" in sections:
        return _chain(sections["chain"], graphs(*_blocks(sections)))
    section = needed(sections, "loop")
    (body,) = graphs("body")
    return Loop(*_head(section), body, *_besides(section))


def _blocks(sections: Sections) -> list[str]:
    """The sections of a chain's blocks, in order from 0 on."""
    return [f"block{k}" for k in range(sum(map(is_block, sections)))]


def _chain(section: Section, graphs: list[Graph]) -> Chain:
    found: dict[str, tuple[int, ...]] = {}
    together: list[tuple[int, ...]] = []
    for tree in section.statements:
        match tree:
            case ast.Assign(targets=[ast.Name(id=("families" | "joints") as name)], value=value):
                found[name] = _whole(value)
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="together"), slice=index)], value=value):
                if integer(index) != len(together):
                    raise Unreadable("blocks that are computed together must stand in order", tree)
                together.append(_whole(value))
    if found.keys() != {"families", "joints"}:
        raise Unreadable("a chain has a line families = ... and a line joints = ...", section.line)
    return Chain(tuple(graphs), found["families"], found["joints"], tuple(together))


def _whole(tree: ast.expr) -> tuple[int, ...]:
    numbers = _table(tree)
    if not all(isinstance(number, int) for number in numbers):
        raise Unreadable("expected whole numbers", tree)
    return tuple(map(int, numbers))


def _head(section: Section) -> tuple[int, int, tuple[Table, ...], tuple[Value, ...], tuple[Ref, ...], str]:
    return (*_steps(section), _tables(section), *_carry(section), _tree(section))


def _array_loop(section: Section, invariant: Graph, shared: Graph, tail: Graph, besides: Graph) -> ArrayLoop:
    lo, hi, tables, carry, init, tree = _head(section)
    if len(carry) != 1 or len(init) != 1:
        raise Unreadable("an array loop carries one array", section.line)
    write, (inputs, collected) = _write(section, carry[0].name), _besides(section)
    graphs = (invariant, shared, tail)
    return ArrayLoop(lo, hi, tables, carry[0], init[0], tree, write, *graphs, inputs, besides, collected)


def _besides(section: Section) -> tuple[tuple[PerStep, ...], tuple[Value, ...]]:
    """What steps are handed besides the carry, and what they leave besides it."""
    inputs, collected = [], []
    for tree in section.statements:
        match tree:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=type_, value=None):
                collected.append(Value(name, tensor_type(type_)))
            case ast.AnnAssign(target=ast.Name(id=name), annotation=type_, value=ast.expr() as value):
                if (stack := _stack(value)) is not None:
                    inputs.append(PerStep(Value(name, tensor_type(type_)), stack))
    return tuple(inputs), tuple(collected)


def _stack(tree: ast.expr) -> Ref | None:
    """``p5`` of ``p5[step]``; None for any other value."""
    match tree:
        case ast.Subscript(value=stack, slice=ast.Name(id="step")):
            return reference(stack)
    return None


def _steps(section: Section) -> tuple[int, int]:
    for tree in section.statements:
        match tree:
            case ast.Assign(
                targets=[ast.Name(id="steps")],
                value=ast.Call(func=ast.Name(id="range"), args=[lo, hi]),
            ):
                return integer(lo), integer(hi)
    raise Unreadable("there is no line steps = range(lo, hi)", section.line)


def _tables(section: Section) -> tuple[Table, ...]:
    tables: list[Table] = []
    for tree in section.statements:
        match tree:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="step"), slice=index)], value=value):
                if integer(index) != len(tables):
                    raise Unreadable("the tables must stand in order", tree)
                tables.append(_table(value))
    return tuple(tables)


def _table(tree: ast.expr) -> Table:
    """The inverse of `layout.table_text`."""
    match tree:
        case ast.Tuple(elts=entries):
            return tuple(map(number, entries))
        case ast.Call(func=ast.Name(id="range"), args=[start, stop, *step], keywords=[]) if len(step) < 2:
            return _progression(number(start), number(stop), number(step[0]) if step else 1, tree)
        case ast.Call(func=ast.Name(id="each"), args=[base, times]):
            return _repeated(_table(base), times, runs=True)
        case ast.BinOp(left=base, op=ast.Mult(), right=times):
            return _repeated(_table(base), times, runs=False)
    raise Unreadable("expected a table of numbers", tree)


def _repeated(base: Table, tree: ast.expr, runs: bool) -> Table:
    times = integer(tree)
    if times < 0 or times * len(base) > MAX_TABLE:
        raise Unreadable(f"a table may have at most {MAX_TABLE} entries", tree)
    return each(base, times) if runs else base * times


def _progression(start: int | float, stop: int | float, step: int | float, at: ast.expr) -> Table:
    whole = all(abs(x) < 2**63 and x == int(x) for x in (start, stop, step))
    if whole and step != 0 and abs(stop - start) / abs(step) <= MAX_TABLE:
        return progression(start, stop, step)
    raise Unreadable(f"expected a range of whole numbers with at most {MAX_TABLE} entries", at)


def _carry(section: Section) -> tuple[tuple[Value, ...], tuple[Ref, ...]]:
    carry, init = [], []
    for tree in section.statements:
        match tree:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=type_, value=ast.expr() as value) if not _stack(
                value
            ):
                carry.append(Value(name, tensor_type(type_)))
                init.append(reference(value))
    return tuple(carry), tuple(init)


def _write(section: Section, carry: str) -> Region:
    for tree in section.statements:
        match tree:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=at)]) if name == carry:
                if isinstance(at, ast.Constant) and at.value is ...:
                    return Region(())
                dims = at.elts if isinstance(at, ast.Tuple) else [at]
                return Region(tuple(axis for dim, index in enumerate(dims) for axis in _axis(dim, index)))
    raise Unreadable(f"there is no line {carry}[...] = tail()", section.line)


def _axis(dim: int, tree: ast.expr) -> list[Axis]:
    match tree:
        case ast.Slice(lower=None, upper=None, step=None):
            return []
        case ast.Slice(lower=ast.expr() as lower, upper=ast.BinOp(left=start, op=ast.Add(), right=length), step=None):
            if ast.dump(lower) == ast.dump(start):
                return [Axis(dim, _step(lower), integer(length))]
        case ast.Subscript():
            return [Axis(dim, _step(tree), None)]
    raise Unreadable("expected a subscript such as [:, step[0]]", tree)


def _step(tree: ast.expr) -> int:
    match tree:
        case ast.Subscript(value=ast.Name(id="step"), slice=table):
            return integer(table)
    raise Unreadable("expected step[table]", tree)
