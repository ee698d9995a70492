"""The rules that loops obey: tables and steps, what is carried, and the positions that an array loop writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

from ..alike import LEAST, alike
from ..graph import EMPTY_GRAPH, Ref, Step, TensorType, Value
from ..ops import DRAWS
from ..program import AnyLoop, ArrayLoop, Axis, Chain, DrawPlace, Program
from .graphs import atoms
from .scopes import (
    Fault,
    Scope,
    Subject,
    after_loop,
    before_loop,
    carried_values,
    first_values,
    results,
    stacked,
    type_of,
)

MAX_STEPS = 10_000_000
MAX_AXES = 4  # dimensions that one write indexes

Faults = Iterator[Fault]


def tables_have_an_entry_per_step(subject: Subject) -> Faults:
    """``lo <= hi``, and every table has ``hi - lo`` numbers."""
    if subject.program is None:
        return
    loop = subject.program.loop
    steps = loop.hi - loop.lo
    if not 0 <= steps <= MAX_STEPS:
        yield Fault(f"the loop runs from {loop.lo} to {loop.hi}", f"a loop has 0 to {MAX_STEPS} steps")
    for t, table in enumerate(loop.tables):
        if len(table) != steps:
            yield Fault(f"step[{t}] has {len(table)} entries for {steps} steps", "give one entry per step")
        if any(type(entry) not in {int, float} for entry in table):
            yield Fault(f"step[{t}] has an entry that is neither int nor float", "tables hold numbers only")


def steps_stand_in_loops(subject: Subject) -> Faults:
    """``step[t]`` names a table of the loop and stands in a body or a tail: only those run once per step."""
    count = len(subject.program.loop.tables) if subject.program else 0
    for scope, i, node in subject.nodes():
        for arg in atoms(node):
            if isinstance(arg, Step) and not scope.per_step:
                yield Fault(f"{arg} stands in {scope.name}", "only a body or a tail runs per step", scope, i)
            elif isinstance(arg, Step) and not 0 <= arg.table < count:
                yield Fault(f"{arg} names none of the {count} tables", "add the table to the loop", scope, i)


def draws_read_no_tensor(subject: Subject) -> Faults:
    """A draw is an admitted operator with one result, made from constants alone, in the order of the function."""
    if subject.program is None:
        return
    order = list(DrawPlace)
    places = [order.index(draw.place) for draw in subject.program.draws]
    if places != sorted(places):
        yield Fault("draws of a step stand before those before the loop, or after those after it", "sort them")
    for draw in subject.program.draws:
        node = draw.node
        if node.op not in DRAWS:
            yield Fault(f"{node.op[:100]!a} of {node.name!a} is no admitted draw", "see docs/ops.md")
        if any(type(arg) not in {int, float} for arg in (*node.args, *node.kwargs)) or node.types[1:] != ():
            yield Fault(f"the draw {node.name!a} is given more than numbers", "draw by numbers alone, one result")
        if node.types[:1] in ((), (None,)):
            yield Fault(f"the draw {node.name!a} has no result", "draw one tensor")


# ---------------------------------------------------------------------------------------------------- the carry


def carry_begins_with_its_type(subject: Subject) -> Faults:
    """``init`` refers to values that exist before the loop and have the shape and dtype of the carry."""
    if subject.program is None:
        return
    loop, before = subject.program.loop, before_loop(subject.program)
    carry, init = carried_values(loop), first_values(loop)
    if len(carry) != len(init):
        yield Fault(f"{len(carry)} values are carried and {len(init)} begin", "give one initial value for each")
    for value, ref in zip(carry, init, strict=False):
        if not _alike(type_of(ref, before), value.type):
            what = f"{value.name!a} is {value.type} and begins as {str(ref)!a}, which is {type_of(ref, before)}"
            yield Fault(what, "begin with a value from before the loop, of the same shape and dtype")


def steps_are_handed_stacks(subject: Subject) -> Faults:
    """What steps are handed stands, for all of them, in a value from before the loop."""
    if subject.program is None:
        return
    loop, before = subject.program.loop, before_loop(subject.program)
    for given in loop.inputs:
        stack, wanted = type_of(given.stack, before), stacked(given.value.type, loop)
        if not _alike(stack, wanted):
            what = f"{given.value.name!a} is a step's part of {str(given.stack)!a}, which is {stack}"
            yield Fault(what, f"hand over a value from before the loop, {wanted}")


def body_returns_the_carry(subject: Subject) -> Faults:
    """The outputs of a body have the shapes and dtypes of what is carried, in order, then of what is collected."""
    for scope in subject.scopes:
        if scope.name != "body" or subject.program is None:
            continue
        loop, types = subject.program.loop, _output_types(scope)
        carry = carried_values(loop)
        types, kept = types[: len(carry)], types[len(carry) :]
        yield from _left(scope, loop.collected, kept, loop)
        if len(carry) != len(types):
            yield Fault(f"{len(carry)} values are carried and {len(types)} returned", "return the next carry", scope)
        for value, type_ in zip(carry, types, strict=False):
            if not _alike(type_, value.type):
                what = f"{value.name!a} is {value.type} and the body returns {type_}"
                yield Fault(what, "the carry keeps its shape and dtype from step to step", scope)


def _left(scope: Scope, collected: Sequence[Value], kept: Sequence[TensorType | None], loop: AnyLoop) -> Faults:
    """What steps leave besides the carry has, for all of them, the type of what is collected."""
    if len(kept) != len(collected):
        yield Fault(f"{len(collected)} values are collected and {len(kept)} returned", "return each", scope)
    for value, type_ in zip(collected, kept, strict=False):
        if type_ is None or not _alike(stacked(type_, loop), value.type):
            what = f"{value.name!a} is {value.type} and each step returns {type_}"
            yield Fault(what, "collect the values of all steps along a new first dimension", scope)


def _output_types(scope: Scope) -> list[TensorType | None]:
    environment = {**scope.outside, **{node.name: node.types for node in scope.graph.nodes}}
    return [type_of(ref, environment) for ref in scope.graph.outputs]


def _alike(a: TensorType | None, b: TensorType) -> bool:
    return a is not None and (a.dtype, a.shape) == (b.dtype, b.shape)


def overwrites_are_made_from_weights(subject: Subject) -> Faults:
    """What steps write into a weight exists before the loop, has its type, and is made from weights alone."""
    if subject.program is None or not subject.program.overwrites:
        return
    program, before = subject.program, before_loop(subject.program)
    types = {weight.name: weight.type for weight in program.weights}
    written = [write.weight for write in program.overwrites]
    for write in program.overwrites:
        if write.weight not in types or written.count(write.weight) > 1:
            yield Fault(f"{write.weight!a} is overwritten", "name each weight that steps write, once")
        elif type_of(write.value, before) != types[write.weight]:
            what = f"{str(write.value)!a}, which is {type_of(write.value, before)}, is written into {write.weight!a}"
            yield Fault(what, f"write {types[write.weight]}, a value from before the loop")
        elif write.value not in program.prologue.outputs and write.value.name not in types:
            yield Fault(f"{str(write.value)!a} is not handed on by the prologue", "add it to the prologue's outputs")
        elif odd := _sources(program, write.value) - set(types):
            yield Fault(f"{str(write.value)!a} is made from {min(odd)!a}", "make what steps write from weights alone")


def checks_look_at_booleans(subject: Subject) -> Faults:
    """What a check looks at is a boolean that a run has at hand: given, left by the loop, or handed on by a graph."""
    if subject.program is None or not subject.program.checks:
        return
    program = subject.program
    known = {**after_loop(program), **results(program.epilogue)}
    inside = {**results(program.prologue), **results(program.epilogue)}
    handed = {*program.prologue.outputs, *program.epilogue.outputs}
    for check in program.checks:
        kind = type_of(check.value, known)
        if kind is None or kind.dtype != "bool":
            yield Fault(f"{str(check.value)!a}, which is {kind}, is tested", "test a boolean that a run makes")
        elif check.value.name in inside and check.value not in handed:
            yield Fault(f"{str(check.value)!a} is tested and not handed on", "add it to the outputs of its graph")


def _sources(program: Program, value: Ref) -> set[str]:
    """The arguments and weights that a value of the prologue is made from."""
    reads = {node.name: [ref.name for ref in node.refs()] for node in program.prologue.nodes}
    seen: set[str] = set()
    stack = [value.name]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack += reads.get(name, [])
    return seen - set(reads)


# ---------------------------------------------------------------------------------------------------- the write


def write_stays_inside(subject: Subject) -> Faults:
    """The axes of the write ascend, lie in the carry's rank, and index it within bounds, by tables of integers."""
    loop = subject.plan.array
    if loop is None:
        return
    shape, dims = loop.carry.type.shape, [axis.dim for axis in loop.write.axes]
    if dims != sorted(set(dims)) or any(not 0 <= dim < len(shape) for dim in dims) or len(dims) > MAX_AXES:
        yield Fault(f"the write indexes dimensions {dims} of {shape}", f"name up to {MAX_AXES} dimensions, ascending")
        return
    for axis in loop.write.axes:
        if not 0 <= axis.table < len(loop.tables) or (axis.length is not None and axis.length < 1):
            yield Fault(f"the write has the axis [{axis}]", "use a table of the loop and a length of at least 1")
        elif outside := [k for k in loop.tables[axis.table] if not _fits(k, axis, shape[axis.dim])]:
            what = f"the write [{axis}] of dimension {axis.dim} is at {outside[0]!r}"
            yield Fault(what, f"write whole positions from 0 to {shape[axis.dim]}")


def _fits(start: int | float, axis: Axis, size: int) -> bool:
    return type(start) is int and 0 <= start <= size - (axis.length or 1)


def positions_are_written_once(subject: Subject) -> Faults:
    """No two steps write the same element of the array."""
    loop = subject.plan.array
    clash = _overlap(loop) if loop else None
    if loop and clash:
        what = f"steps {clash[0]} and {clash[1]} both write into {loop.carry.name}[{loop.write}]"
        yield Fault(what, "run the loop sequentially, as a Loop")


def _overlap(loop: ArrayLoop) -> tuple[int, int] | None:
    """The first two steps that write a common element.

    The regions are boxes of one size. Cells of that size hold the start of at most one box each if none overlap, and
    boxes that overlap start in the same cell or in neighbouring ones.
    """
    sizes = [axis.length or 1 for axis in loop.write.axes]
    nearby = list(product(*((0,) if size == 1 else (-1, 0, 1) for size in sizes)))
    cells: dict[tuple[int, ...], tuple[int, list[int]]] = {}  # cell -> the step whose region starts there, and where
    for k, start in enumerate(_starts(loop)):
        cell = [at // size for at, size in zip(start, sizes, strict=True)]
        for move in nearby:
            step, other = cells.get(tuple(c + m for c, m in zip(cell, move, strict=True)), (k, None))
            if other is not None and all(abs(a - b) < size for a, b, size in zip(start, other, sizes, strict=True)):
                return loop.lo + step, loop.lo + k
        cells[tuple(cell)] = k, start
    return None


def _starts(loop: ArrayLoop) -> Iterator[list[int]]:
    for k in range(loop.blocks):
        yield [int(loop.tables[axis.table][k]) for axis in loop.write.axes]


def tail_gives_the_written_part(subject: Subject) -> Faults:
    """A tail has one output, of the written region's shape and the array's dtype."""
    loop = subject.plan.array
    for scope in subject.scopes:
        if scope.name != "tail" or loop is None:
            continue
        types, shape = _output_types(scope), loop.write.shape(loop.carry.type.shape)
        expected = TensorType(loop.carry.type.dtype, shape, ())
        if len(types) != 1 or not _alike(types[0], expected):
            what = f"the tail returns {', '.join(map(str, types))} for a region of shape {shape}"
            yield Fault(what, f"return one value: {expected.dtype}, the shape of the region", scope)


def steps_leave_what_is_collected(subject: Subject) -> Faults:
    """What an array loop keeps are the values that its steps collect, in order; where they collect none, nothing."""
    loop = subject.plan.array
    if loop is None:
        return
    if not loop.collected and loop.besides != EMPTY_GRAPH:
        yield Fault("steps keep values and collect none", "collect each of them")
    for scope in subject.scopes:
        if scope.name == "besides":
            yield from _left(scope, loop.collected, _output_types(scope), loop)


# ---------------------------------------------------------------------------------------------------- chains


def blocks_hand_on_their_own_values(subject: Subject) -> Faults:
    """Every block of a chain hands on at least one value, each its own, once; blocks stand in order of depth."""
    chain = subject.program.loop if subject.program else None
    if not isinstance(chain, Chain):
        return
    for scope in subject.scopes[1:-1]:
        own, outputs = {node.name for node in scope.graph.nodes}, scope.graph.outputs
        if not outputs or len(set(outputs)) != len(outputs) or not own >= {ref.name for ref in outputs}:
            yield Fault(f"{scope.name} hands on {', '.join(map(str, outputs))}", "hand on values of the block", scope)
    depths = chain.depths
    for k, (depth, after) in enumerate(pairwise(depths)):
        if after < depth:
            yield Fault(f"block {k + 1} has depth {after} and stands after one of depth {depth}", "sort the blocks")


def blocks_have_families(subject: Subject) -> Faults:
    """Every block of a chain has a family, numbered from 0 on as they appear; joints are blocks, in order."""
    chain = subject.program.loop if subject.program else None
    if not isinstance(chain, Chain):
        return
    if len(chain.families) != chain.blocks or _first_seen(chain.families) != chain.families:
        yield Fault(f"the families of {chain.blocks} blocks are {chain.families}", "number them as they appear")
    if list(chain.joints) != sorted(set(chain.joints)) or not set(chain.joints) <= set(range(chain.blocks)):
        yield Fault(f"the joints among {chain.blocks} blocks are {chain.joints}", "name blocks, ascending")


def blocks_together_are_alike(subject: Subject) -> Faults:
    """Blocks of a chain that are computed together are alike, several, in order; each stands among such ones once."""
    chain = subject.program.loop if subject.program else None
    if not isinstance(chain, Chain):
        return
    kinds = {k: numbers for numbers in alike(chain.graphs) for k in numbers}
    seen: set[int] = set()
    for numbers in chain.together:
        several = len(numbers) >= LEAST and list(numbers) == sorted(set(numbers)) and not seen & set(numbers)
        if not several or not set(numbers) <= set(kinds.get(numbers[0], ())):
            yield Fault(f"blocks {numbers} are computed together", "name blocks that are alike, ascending, once each")
        seen |= set(numbers)


def _first_seen(families: tuple[int, ...]) -> tuple[int, ...]:
    """The families renumbered in the order in which they appear."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(family, len(numbers)) for family in families)
