"""Find the triangular system in a loop: which part of the array a step writes, and what is shared between steps.

before:  Program(loop=Loop(body))
after:   Program(loop=ArrayLoop(write, invariant, shared, tail)), or a `Refusal` that says why not
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import networkx as nx

from ..graph import Arg, Graph, Node, Ref, Step, TensorType, Value
from ..program import ArrayLoop, Axis, Loop, Program, Region, Tables
from ..proof import Refusal
from ..rules.scopes import before_loop

IDENTITIES = {"aten.clone.default", "aten.alias.default", "aten.detach.default"}
Canon = tuple[object, ...]


NOT_WRITTEN = "is not its old state with one position written"
"""So it is said of a loop that nobody takes for one over an array."""


def partition(program: Program) -> Program | Refusal:
    """``program`` with its loop as a triangular system."""
    loop = program.loop
    if not isinstance(loop, Loop):
        return program
    if len(loop.carry) != 1:
        return Refusal(
            f"the loop's state is {len(loop.carry)} tensors, and not one array of which each step writes one position"
        )
    try:
        return replace(program, loop=_Partition(program, loop).array_loop())
    except NotAWriteError as refused:
        return Refusal(str(refused))


@dataclass(frozen=True, slots=True)
class Write:
    """What a step writes into one of the arrays that it carries: ``value`` at ``axes``, whose tables are here."""

    value: Ref
    axes: tuple[Axis, ...]
    tables: Tables


def written_part(program: Program, loop: Loop, leaf: int) -> Write:
    """What a step writes into its carried value ``leaf``. Raises `NotAWriteError` if it does anything else with it."""
    at = _Partition(program, loop, leaf)
    value, axes, _ = at._write(loop.body.outputs[leaf])
    return Write(value, tuple(axes), tuple(at.tables))


class NotAWriteError(Exception):
    """A step does not write one position of an array; why."""


class _Partition:
    """The analysis of one loop body."""

    def __init__(self, program: Program, loop: Loop, leaf: int = 0) -> None:
        self.loop = loop
        self.carry = loop.carry[leaf]
        self.nodes: dict[str, Node] = {node.name: node for node in loop.body.nodes}
        self.init = loop.init[leaf]
        self.init_type = outside_types(program)[self.init.name]
        self.tables = list(loop.tables)
        flow = data_flow(loop.body.nodes)
        handed = {given.value.name for given in loop.inputs}
        numbered = [n.name for n in loop.body.nodes if any(n.steps()) or any(r.name in handed for r in n.refs())]
        self.on_step = set(numbered).union(*(nx.descendants(flow, name) for name in numbered))
        self.on_carry = nx.descendants(flow, self.carry.name) if self.carry.name in flow else set()

    def array_loop(self) -> ArrayLoop:
        loop = self.loop
        value, axes, paths = self._write(loop.body.outputs[0])
        left = loop.body.outputs[1:]
        nodes = self._old_content(paths[-1])
        nodes |= self._new_content(paths[-1], value)
        order = [*(name for name in nodes if name not in self.nodes), *self.nodes]
        swept = _made_from(nodes, [value])
        needed = swept | _made_from(nodes, left)
        parts = (
            [nodes[n] for n in order if n in needed and n not in self.on_step and n not in self.on_carry],
            [nodes[n] for n in order if n in needed and n not in self.on_step and n in self.on_carry],
            [nodes[n] for n in order if n in swept and n in self.on_step],
            [nodes[n] for n in order if n in needed - swept and n in self.on_step],
        )
        types = {v.name: v.type for v in loop.body.inputs} | {self.init.name: self.init_type}
        invariant, shared, tail, besides = graphs_of(parts, value, left, types)
        read = {value.name for graph in (tail, besides) for value in graph.inputs}
        return ArrayLoop(
            loop.lo,
            loop.hi,
            tuple(self.tables),
            self.carry,
            self.init,
            loop.carry_tree,
            Region(tuple(axes)),
            invariant,
            shared,
            tail,
            tuple(given for given in loop.inputs if given.value.name in read),
            besides,
            loop.collected,
        )

    # ------------------------------------------------------------------------------------------ the write

    def _write(self, out: Ref) -> tuple[Ref, list[Axis], list[Canon]]:
        """What a step writes and where: ``out`` is the state with one region replaced."""
        dims = list(range(len(self.carry.type.shape)))
        axes: list[Axis] = []
        paths: list[Canon] = [("carry",)]
        out = self._without_rewrites(out)
        while not axes or self._is_scatter(out):
            node = self.nodes.get(out.name)
            if node is None or not self._is_scatter(out):
                raise NotAWriteError(self._not_a_write(out))
            base, value, axis, path = self._scatter(node, dims, paths[-1])
            base = self._overwritten(base, node)
            if self._canon(base) != paths[-1]:
                if axes:
                    break  # a scatter that computes the written value, not one that says where it goes
                raise NotAWriteError(self._changes_more(node, base))
            if axis is not None:
                axes.append(axis)
                if axis.length is None:
                    dims.remove(axis.dim)
            paths.append(path)
            out = value
        self._check_axes(axes)
        return out, sorted(axes, key=lambda a: a.dim), paths

    def _without_rewrites(self, out: Ref) -> Ref:
        """``out`` before parts of it were put back where they already are, as ``x[:, i] += v`` does last."""
        while self._is_scatter(out):
            node = self.nodes[out.name]
            base, value, *where = node.args
            part = self.nodes.get(value.name) if isinstance(value, Ref) else None
            view = "aten.select.int" if "select" in node.op else "aten.slice.Tensor"
            if part is None or part.op != view or part.args != (base, *where):
                break
            assert isinstance(base, Ref)
            out = base
        return out

    def _overwritten(self, base: Ref, last: Node) -> Ref:
        """``base`` before parts of it were written that ``last`` writes again, as ``x[:, i].mul_(a).add_(b)`` does."""
        while self._is_scatter(base):
            node = self.nodes[base.name]
            if (node.op, node.args[2:], node.kwargs) != (last.op, last.args[2:], last.kwargs):
                break
            assert isinstance(node.args[0], Ref)
            base = node.args[0]
        return base

    def _changes_more(self, node: Node, base: Ref) -> str:
        made = self.nodes.get(base.name)
        what = f"{made.op} at {made.source}" if made else f"{base}, which is not the step's state"
        return (
            f"the step changes more of the array than the position it writes (condition 1): {node.op} at {node.source} "
            f"writes one position of an array that is not the step's state but {what}"
        )

    def _is_scatter(self, ref: Ref) -> bool:
        node = self.nodes.get(ref.name)
        return node is not None and node.op in ("aten.select_scatter.default", "aten.slice_scatter.default")

    def _scatter(self, node: Node, dims: list[int], path: Canon) -> tuple[Ref, Ref, Axis | None, Canon]:
        base, value, dim, *where = node.args
        assert isinstance(base, Ref) and isinstance(value, Ref) and isinstance(dim, int)
        dim = dim % len(dims)
        size = self.carry.type.shape[dims[dim]]
        if node.op == "aten.select_scatter.default":
            axis: Axis | None = Axis(dims[dim], self._table(where[0], size), None)
            return base, value, axis, ("select", path, dim, self._key(where[0], size))
        start, end, step = (*where, 1) if len(where) == 2 else (*where, None, None, 1)[:3]
        if (start or 0) == 0 and isinstance(end, int) and end >= size and step == 1:
            return base, value, None, path
        if step != 1:
            raise NotAWriteError(f"the step writes every {step}-th position at {node.source}; one position is expected")
        first, last = self._row(start, size), self._row(end, size)
        lengths = {min(b, size) - a for a, b in zip(first, last, strict=True)}
        if len(lengths) != 1 or min(lengths) < 1:
            raise NotAWriteError(f"the part of the array that a step writes at {node.source} changes its size")
        axis = Axis(dims[dim], self._add_table(first), lengths.pop())
        return base, value, axis, ("slice", path, dim, self._key(start, size), self._key(end, size))

    def _not_a_write(self, out: Ref) -> str:
        node = self.nodes.get(out.name)
        if node is None:
            return "a step returns its state unchanged, or a tensor from outside; there is nothing to solve"
        return f"the state that a step returns {NOT_WRITTEN}: it is {node.op} at {node.source}"

    def _check_axes(self, axes: list[Axis]) -> None:
        if len({axis.dim for axis in axes}) != len(axes):
            raise NotAWriteError("a step writes through two slices of one dimension; index the position directly")
        positions: dict[tuple[int, ...], int] = {}
        for step in range(self.loop.hi - self.loop.lo):
            for position in _positions(axes, self.tables, step):
                first = positions.setdefault(position, step)
                if first != step:
                    raise NotAWriteError(
                        f"steps {first + self.loop.lo} and {step + self.loop.lo} both write position {position} "
                        "(condition 2: each position is written once)"
                    )

    # ------------------------------------------------------------------------------------------ numbers

    def _row(self, arg: Arg, size: int) -> tuple[int, ...]:
        """An index at every step, counted from the front."""
        steps = self.loop.hi - self.loop.lo
        row = self.tables[arg.table] if isinstance(arg, Step) else (arg,) * steps
        positions = [v for v in row if isinstance(v, int)]
        if len(positions) != steps:
            raise NotAWriteError("a step indexes its state with something other than an integer constant")
        return tuple(max(0, v + size) if v < 0 else min(v, size) for v in positions)

    def _table(self, arg: Arg, size: int) -> int:
        return self._add_table(self._row(arg, size))

    def _add_table(self, row: tuple[int, ...]) -> int:
        if row not in self.tables:
            self.tables.append(row)
        return self.tables.index(row)

    def _key(self, arg: Arg, size: int) -> tuple[int, ...]:
        return self._row(arg, size)

    # ------------------------------------------------------------------------------------------ canonical views

    def _canon(self, ref: Arg) -> Canon:
        """A name for "this view of the step's state", the same for equal views; unique names for anything else."""
        if not isinstance(ref, Ref):
            return ("constant", ref)
        if ref.name == self.carry.name:
            return ("carry",)
        node = self.nodes.get(ref.name)
        if node is None or ref.output is not None:
            return ("value", ref.name, ref.output)
        if node.op in IDENTITIES and node.type.shape == self._shape(node.args[0]):
            return self._canon(node.args[0])
        if node.op in ("aten.select.int", "aten.slice.Tensor"):
            return self._canon_view(node)
        return ("value", ref.name, ref.output)

    def _canon_view(self, node: Node) -> Canon:
        of, dim, *where = (*node.args, 0) if len(node.args) == 1 else node.args
        shape = self._shape(of)
        assert isinstance(dim, int)
        dim = dim % len(shape)
        size = shape[dim]
        if node.op == "aten.select.int":
            return ("select", self._canon(of), dim, self._key(where[0], size))
        start, end = (*where, None, None)[:2]
        end = size if end is None or (isinstance(end, int) and end > size) else end
        if node.type.shape == shape:
            return self._canon(of)
        return ("slice", self._canon(of), dim, self._key(start or 0, size), self._key(end, size))

    def _shape(self, arg: Arg) -> tuple[int, ...]:
        assert isinstance(arg, Ref)
        return self._type(arg).shape

    def _type(self, ref: Ref) -> TensorType:
        if ref.name in self.nodes:
            type_ = self.nodes[ref.name].types[ref.output or 0]
            assert type_ is not None
            return type_
        return next(v.type for v in self.loop.body.inputs if v.name == ref.name)

    # ------------------------------------------------------------------------------------------ reads

    def _old_content(self, region: Canon) -> dict[str, Node]:
        """The body's nodes, where reads of the written position itself read the loop's first state (condition 3).

        When a step reads the position that it is about to write, it sees what the loop started from; a sweep's array
        holds an iterate there. Copies of the state are the state.
        """
        nodes: dict[str, Node] = {}
        for node in self.loop.body.nodes:
            if node.name in self.on_carry and self._canon(Ref(node.name)) == region and region != ("carry",):
                node = self._from_init(node, nodes)
            elif node.op not in IDENTITIES:
                node = replace(node, args=tuple(self._uncopied(a) for a in node.args))
            nodes[node.name] = node
        return nodes

    def _uncopied(self, arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(self._uncopied(a) for a in arg)
        if not isinstance(arg, Ref) or arg.name not in self.nodes or self._canon(arg) != ("carry",):
            return arg
        return Ref(self.carry.name) if self.nodes[arg.name].type == self.carry.type else arg

    def _from_init(self, node: Node, nodes: dict[str, Node]) -> Node:
        """``node``, a chain of views of the state, as the same chain of views of the first state."""
        of, *where = node.args
        assert isinstance(of, Ref)
        if self._canon(of) == ("carry",):
            base = self.init
        else:
            inner = self._from_init(self.nodes[of.name], nodes)
            inner = replace(inner, name=f"{inner.name}_init")
            nodes[inner.name] = inner
            self.on_step.add(inner.name)
            base = Ref(inner.name)
        return replace(node, args=(base, *where))

    def _new_content(self, region: Canon, value: Ref) -> dict[str, Node]:
        """The nodes that read, of the array which a step leaves, what the step wrote, as its ``value`` by itself.

        Their types stay: what rounds by the strides of its operands is called with those of the view.
        """
        new = self._canon(self.loop.body.outputs[0])
        if new == ("carry",) or value.output is not None:
            return {}
        written, kind = _rooted(region, new), self._type(value)
        return {
            name: replace(node, op="aten.alias.default", args=(value,), kwargs=())
            for name, node in self.nodes.items()
            if self._canon(Ref(name)) == written and (node.type.shape, node.type.dtype) == (kind.shape, kind.dtype)
        }


def graphs_of(
    parts: tuple[list[Node], list[Node], list[Node], list[Node]],
    value: Ref,
    left: tuple[Ref, ...],
    outside: Mapping[str, TensorType],
) -> tuple[Graph, Graph, Graph, Graph]:
    """The invariant, shared and tail graphs, and what is left besides.

    The first two hand on what later ones read, the tail ``value``; ``left`` is the last, which may read the tail.
    """
    later: set[tuple[str, int | None]] = set()
    graphs: list[Graph] = []
    types = dict(outside)
    for part in parts:
        types |= {n.name: n.types[0] for n in part if n.types[0] is not None}
    for index in (3, 2, 1, 0):
        part = parts[index]
        own = {n.name for n in part}
        handed = {2: (value,), 3: left}.get(index)
        reads = dict.fromkeys((r.name, r.output) for n in part for r in n.refs() if r.name not in own)
        reads |= dict.fromkeys((r.name, r.output) for r in handed or () if r.name not in own)
        outputs = tuple(Ref(name, output) for name, output in sorted(later, key=str) if name in own)
        later |= set(reads)
        inputs = tuple(Value(name, types[name]) for name in dict.fromkeys(name for name, _ in reads))
        graphs.append(Graph(inputs, tuple(part), outputs if handed is None else handed))
    besides, tail, shared, invariant = graphs
    return invariant, shared, tail, besides


def _made_from(nodes: Mapping[str, Node], refs: Iterable[Ref]) -> set[str]:
    """The names of the nodes that these values are made from."""
    flow, names = data_flow(nodes.values()), {ref.name for ref in refs}
    return set(nodes) & names.union(*(nx.ancestors(flow, name) for name in names if name in flow))


def _rooted(path: Canon, root: Canon) -> Canon:
    """The same view, of something else than the step's state."""
    if path == ("carry",):
        return root
    kind, of, *where = path
    assert isinstance(of, tuple)
    return (kind, _rooted(of, root), *where)


def data_flow(nodes: Iterable[Node]) -> nx.DiGraph[str]:
    """Which value is read by which: an edge from each value to every node that reads it."""
    flow: nx.DiGraph[str] = nx.DiGraph()
    for node in nodes:
        flow.add_node(node.name)
        flow.add_edges_from((ref.name, node.name) for ref in node.refs())
    return flow


def _positions(axes: list[Axis], tables: list[tuple[int | float, ...]], step: int) -> Iterable[tuple[int, ...]]:
    positions: list[tuple[int, ...]] = [()]
    for axis in axes:
        start = int(tables[axis.table][step])
        positions = [(*p, q) for p in positions for q in range(start, start + (axis.length or 1))]
    return positions


def outside_types(program: Program) -> dict[str, TensorType]:
    """Types of arguments, weights and prologue values, as far as they are single tensors."""
    return {name: types[0] for name, types in before_loop(program).items() if len(types) == 1 and types[0] is not None}
