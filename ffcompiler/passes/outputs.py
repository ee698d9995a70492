"""Arrays that steps only write: what each step leaves is collected, and put into the array after the loop.

before:  out, h = loop:  h' = f(h, x[t]);  out' = out with out[t] = g(h')
after:   h, ys = loop:   h' = f(h, x[t]);  collect g(h');        epilogue:  out[lo:hi] = ys

An array that is carried but never read would make every state as large as the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import networkx as nx

from ..graph import Arg, Graph, Node, Ref, TensorType, Value, contiguous
from ..program import Axis, Loop, Program
from .partition import NotAWriteError, Write, data_flow, written_part


def collect_outputs(program: Program) -> tuple[Program, tuple[int, ...]]:
    """The program without such arrays among its carried values, and the numbers of those that are left."""
    left = list(range(len(program.loop.carry))) if isinstance(program.loop, Loop) else []
    for leaf in reversed(left[:]):
        found = _collected(program, leaf)
        if found is not None:
            program = found
            left.pop(leaf)
    return program, tuple(left)


def _collected(program: Program, leaf: int) -> Program | None:
    """``program`` with one carried array collected; None if steps read it, or write it in no simple order."""
    loop = program.loop
    assert isinstance(loop, Loop)
    if len(loop.carry) < 2:
        return None
    try:
        write = written_part(program, loop, leaf)
    except NotAWriteError:
        return None
    order = _progression([_row(write, axis) for axis in write.axes])
    if order is None or write.axes[0].length not in (None, 1) or _reads(loop, leaf, write.value):
        return None
    return _moved(program, loop, leaf, write, order)


def _row(write: Write, axis: Axis) -> tuple[int, ...]:
    """Where each step writes along an axis."""
    return tuple(int(v) for v in write.tables[axis.table])


def _progression(rows: Sequence[tuple[int, ...]]) -> range | None:
    """One axis, along which the steps write at equal distances."""
    if len(rows) != 1 or not rows[0]:
        return None
    (row,) = rows
    step = row[1] - row[0] if len(row) > 1 else 1
    found = range(row[0], row[0] + step * len(row), step) if step else None
    return found if found is not None and tuple(found) == row else None


def _reads(loop: Loop, leaf: int, value: Ref) -> bool:
    """Whether anything that a step gives, besides the array itself, is made from the array."""
    carry = loop.carry[leaf].name
    outputs = [value, *(ref for i, ref in enumerate(loop.body.outputs) if i != leaf)]
    flow = data_flow(loop.body.nodes)
    made = nx.descendants(flow, carry) if carry in flow else set()
    return any(ref.name in made or ref.name == carry for ref in outputs)


def _moved(program: Program, loop: Loop, leaf: int, write: Write, order: range) -> Program:
    (axis,) = write.axes
    array, kind = loop.carry[leaf], _type_of(loop, write.value)
    shape = (len(order), *kind.shape)
    ys = Value(f"{array.name}_steps", TensorType(kind.dtype, shape, contiguous(shape)))
    outputs = [ref for i, ref in enumerate(loop.body.outputs) if i != leaf]
    body = _needed(replace(loop.body, outputs=(*outputs, write.value)))
    trees = [part for i, part in enumerate(loop.carry) if i != leaf]
    rolled = replace(
        loop,
        tables=write.tables,
        carry=tuple(trees),
        init=tuple(ref for i, ref in enumerate(loop.init) if i != leaf),
        carry_tree=f"[{','.join(['0'] * len(trees))}]",
        body=body,
        collected=(*loop.collected, ys),
    )
    source = _source(loop, leaf)
    nodes = _put(array, loop.init[leaf], ys, axis, order, source)
    after = program.epilogue
    inputs = [value for value in after.inputs if value.name != array.name]
    first = next((v for v in inputs if v.name == loop.init[leaf].name), Value(loop.init[leaf].name, array.type))
    listed = tuple(dict.fromkeys((*inputs, first, ys)))
    return replace(program, loop=rolled, epilogue=Graph(listed, (*nodes, *after.nodes), after.outputs))


def _put(array: Value, init: Ref, ys: Value, axis: Axis, order: range, source: str) -> list[Node]:
    """The array, from its first contents and what the steps left."""
    nodes: list[Node] = []

    def call(name: str, op: str, args: tuple[Arg, ...], kind: TensorType) -> Ref:
        nodes.append(Node(name, f"aten.{op}", args, (), (kind,), source))
        return Ref(name)

    value, shape = Ref(ys.name), ys.type.shape
    if axis.length is not None:  # the written slices keep their dimension, of length 1
        shape = (*shape[: axis.dim + 1], *shape[axis.dim + 2 :])
        strides = contiguous(ys.type.shape)
        kept = (*strides[: axis.dim + 1], *strides[axis.dim + 2 :])
        kind = TensorType(ys.type.dtype, shape, kept)
        value = call(f"{array.name}_slices", "select.int", (value, axis.dim + 1, 0), kind)
    if order.step < 0:
        kind = TensorType(ys.type.dtype, shape, contiguous(shape))
        value, order = call(f"{array.name}_order", "flip.default", (value, (0,)), kind), order[::-1]
    dims = [*range(1, axis.dim + 1), 0, *range(axis.dim + 1, len(shape))]
    strides = contiguous(shape)
    kind = TensorType(ys.type.dtype, tuple(shape[d] for d in dims), tuple(strides[d] for d in dims))
    value = call(f"{array.name}_parts", "permute.default", (value, tuple(dims)), kind)
    where = (axis.dim, order.start, order[-1] + 1, order.step)
    call(array.name, "slice_scatter.default", (init, value, *where), array.type)
    return nodes


def _type_of(loop: Loop, ref: Ref) -> TensorType:
    types = {node.name: node.types for node in loop.body.nodes}
    types |= {value.name: (value.type,) for value in loop.body.inputs}
    kind = types[ref.name][ref.output or 0]
    assert kind is not None
    return kind


def _needed(body: Graph) -> Graph:
    """``body`` without what its outputs do not need."""
    flow = data_flow(body.nodes)
    names = {ref.name for ref in body.outputs}
    names |= set().union(*(nx.ancestors(flow, name) for name in names if name in flow))
    return Graph(
        tuple(value for value in body.inputs if value.name in names),
        tuple(node for node in body.nodes if node.name in names),
        body.outputs,
    )


def _source(loop: Loop, leaf: int) -> str:
    out = loop.body.outputs[leaf].name
    return next((node.source for node in loop.body.nodes if node.name == out), "")
