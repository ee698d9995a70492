"""Programs as values: how a function is held. Graphs: `graph.py`; what is planned for a program: `plan.py`. No torch.

    Program
      draws      random numbers, drawn in the function's own order before anything is computed
      prologue   Graph, run once: from arguments and weights to the loop's first state and what the steps read
      loop       Loop         any loop: one body graph per step; runs sequentially
                 ArrayLoop    a loop that writes one position of an array per step, split into
                                invariant  work that depends on neither the state nor the step: once per call
                                shared     S: depends on the state, not on the step (``model(x)``): once per sweep
                                tail       T_i: the rest, slices and arithmetic of position i: once per position
                                besides    what step i leaves besides, from the same: once, when the array is final
                 Recurrence   a loop that carries its whole state from step to step, split into
                                invariant  as above
                                ahead      depends on the step, not on the state: all steps at once, once per call
                                body       the rest: the next state from the last one
                 RepeatedMap  the same map of the whole state in every step, split into invariant and body
                 Chain        no loop: blocks that are graphs of their own, each on values of earlier ones
      epilogue   Graph, run once: from the last state to the results
      checks     how the function's tests on values came out: where one comes out otherwise, this is not its program

All graphs of a program share one name space, so the environment of a run is a dictionary from name to tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from .graph import EMPTY_GRAPH, Graph, Node, Ref, TensorType, Value
from .written.codec import LATER
from .written.layout import comment, section, table_text

Tables: TypeAlias = tuple[tuple[int | float, ...], ...]
"""For each table its entry at every step."""


class WeightKind(Enum):
    PARAMETER = "parameter"  # fetched again from its module at each call
    CLOSURE = "closure"  # a tensor the function closes over; fetched again at each call
    CONSTANT = "constant"  # a literal made inside the function


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor the function uses without being given it; ``path`` says where it lives (``model.fc1.weight``)."""

    name: str
    kind: WeightKind
    path: str
    type: TensorType

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.kind.value}({self.path!r})"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the arguments or results: a tensor (``type``) or a constant (``constant``, as ``repr`` text).

    ``name`` is the key of the value in an environment: of one result of an operator that has several, ``e2.0``.
    """

    path: str
    name: str | None
    type: TensorType | None
    constant: str | None = None

    def __str__(self) -> str:
        """``x: float32[100, 784]  # args[0]`` for a tensor, ``_ = '3'  # args[1]`` for the constant 3."""
        type_ = "" if self.type is None else f": {self.type}"
        constant = "" if self.constant is None else f" = {self.constant!r}"
        name, dot, output = (self.name or "_").partition(".")
        return f"{name}{f'[{output}]' if dot else ''}{type_}{constant}{comment(self.path)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of the function: leaves in pytree order, the tree as torch's JSON text, and the call's modes."""

    leaves: tuple[Leaf, ...]
    tree: str
    modes: tuple[tuple[str, str], ...] = ()  # (what, state): "training model" -> "False", "autocast" -> "off"

    def __str__(self) -> str:
        modes = [f"modes[{what!r}] = {state!r}" for what, state in self.modes]
        return section("arguments", [*map(str, self.leaves), *modes, f"tree = {self.tree!r}"])


@dataclass(frozen=True, slots=True)
class Result:
    """What the function returns: for each leaf a value of the program or a constant, and the tree.

    ``left``: what it leaves besides, in attributes and entries, by path. One without a name is no value of the program.
    """

    leaves: tuple[Leaf, ...]
    tree: str
    left: tuple[Leaf, ...] = field(default=(), metadata=LATER)

    @property
    def named(self) -> tuple[Leaf, ...]:
        """The values that a run gives: what is returned, then what is left."""
        return tuple(leaf for leaf in (*self.leaves, *self.left) if leaf.name is not None)

    @property
    def returned(self) -> int:
        """How many of them, the first ones, are returned."""
        return sum(1 for leaf in self.leaves if leaf.name is not None)

    def mapped(self, leaf: Callable[[Leaf], Leaf]) -> Result:
        """The same with other leaves."""
        return Result(tuple(map(leaf, self.leaves)), self.tree, tuple(map(leaf, self.left)))

    def __str__(self) -> str:
        results = section("results", [*map(str, self.leaves), f"tree = {self.tree!r}"])
        left = [section("left", map(str, self.left))] if self.left else []
        return "\n\n".join([*left, results])


class DrawPlace(Enum):
    BEFORE = "before"  # once, before the loop
    EACH = "each"  # once in every step
    AFTER = "after"  # once, after the loop


@dataclass(frozen=True, slots=True)
class Draw:
    """Random numbers that the function draws: ``node`` is the operator that draws them, reading no tensor.

    The order of draws is that of the function: those before the loop, then step by step those of each step, then those
    after it. The value of one in each step holds all steps: ``[steps, *shape]``.
    """

    place: DrawPlace
    node: Node

    @property
    def name(self) -> str:
        return self.node.name

    def __str__(self) -> str:
        return f"{self.place.value}.{self.node}"


@dataclass(frozen=True, slots=True)
class PerStep:
    """What step ``k`` reads as ``value``: entry ``k`` of ``stack``, ``[steps, *shape]``, made before the loop."""

    value: Value
    stack: Ref

    def __str__(self) -> str:
        return f"{self.value} = {self.stack}[step]"


@dataclass(frozen=True, slots=True)
class Loop:
    """``for k, i in enumerate(range(lo, hi)): carry = body(carry)``, with ``tables[t][k]`` for ``Step(t)``.

    ``inputs``: what each step is handed besides. ``collected``: what each step leaves besides, as the body's outputs
    after the carry; after the loop the value of that name holds those of all steps, ``[steps, *shape]``.
    """

    lo: int
    hi: int
    tables: Tables
    carry: tuple[Value, ...]
    init: tuple[Ref, ...]
    carry_tree: str
    body: Graph
    inputs: tuple[PerStep, ...] = ()
    collected: tuple[Value, ...] = ()

    def __str__(self) -> str:
        return "\n\n".join([_head_text("loop", self), self.body.text("body")])


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A triangular system whose block ``k`` is the whole state after step ``k``, computed from the one before."""

    lo: int
    hi: int
    tables: Tables
    carry: tuple[Value, ...]
    init: tuple[Ref, ...]
    carry_tree: str
    invariant: Graph
    ahead: Graph  # run once per step; its results are handed to the body of the same step
    body: Graph  # the next carry, then what is collected
    inputs: tuple[PerStep, ...] = ()
    collected: tuple[Value, ...] = ()

    @property
    def blocks(self) -> int:
        return self.hi - self.lo

    def __str__(self) -> str:
        graphs = [self.invariant.text("invariant"), self.ahead.text("ahead"), self.body.text("body")]
        return "\n\n".join([_head_text("recurrence", self), *graphs])


@dataclass(frozen=True, slots=True)
class RepeatedMap:
    """The same map in every step: where a step leaves the state as it is, bit for bit, all later steps do."""

    lo: int
    hi: int
    carry: tuple[Value, ...]
    init: tuple[Ref, ...]
    carry_tree: str
    invariant: Graph
    body: Graph

    @property
    def blocks(self) -> int:
        return self.hi - self.lo

    @property
    def tables(self) -> Tables:
        """None: no step is told its number."""
        return ()

    @property
    def inputs(self) -> tuple[PerStep, ...]:
        """None, for the same reason."""
        return ()

    @property
    def collected(self) -> tuple[Value, ...]:
        """None: what steps leave besides the state is not kept."""
        return ()

    def __str__(self) -> str:
        return "\n\n".join([_head_text("repeated_map", self), self.invariant.text("invariant"), self.body.text("body")])


@dataclass(frozen=True, slots=True)
class Axis:
    """One indexed dimension of a region: entry ``table[k]`` at step ``k``; ``length`` None drops the dimension."""

    dim: int
    table: int
    length: int | None

    def __str__(self) -> str:
        start = f"step[{self.table}]"
        return start if self.length is None else f"{start}:{start} + {self.length}"


@dataclass(frozen=True, slots=True)
class Region:
    """The part of an array that one step addresses: dims of the *full* array, ascending; the others are taken whole."""

    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        """The subscript: ``:, step[0]`` for the column ``step[0]`` of a matrix."""
        at = {axis.dim: str(axis) for axis in self.axes}
        return ", ".join(at.get(dim, ":") for dim in range(max(at) + 1)) if at else "..."

    def shape(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of this part of an array of shape ``full``."""
        lengths: dict[int, int | None] = {axis.dim: axis.length for axis in self.axes}
        sizes = (lengths.get(dim, size) for dim, size in enumerate(full))
        return tuple(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class ArrayLoop:
    """A triangular system: step ``k`` writes ``write`` of the carry with ``tail(k)``, read from ``shared(carry)``.

    ``collected`` are the outputs of ``besides`` at all steps, ``[steps, *shape]``; it may read what the tail makes.
    """

    lo: int
    hi: int
    tables: Tables
    carry: Value
    init: Ref
    carry_tree: str
    write: Region
    invariant: Graph
    shared: Graph
    tail: Graph  # one output: the written value, of the region's shape
    inputs: tuple[PerStep, ...] = ()  # of the tail and of what is left besides
    besides: Graph = field(default=EMPTY_GRAPH, metadata=LATER)
    collected: tuple[Value, ...] = field(default=(), metadata=LATER)

    @property
    def blocks(self) -> int:
        """Number of blocks, which is the number of equations: one per step."""
        return self.hi - self.lo

    @property
    def row(self) -> int:
        """Consecutive steps that write one row, where the steps go through an array row by row; else 1."""
        if len(self.write.axes) < 2:
            return 1
        outer = [self.tables[axis.table] for axis in self.write.axes[:-1]]
        places = list(zip(*outer, strict=True))
        length = next((k for k, place in enumerate(places) if place != places[0]), len(places))
        in_rows = all(len(set(places[k : k + length])) == 1 for k in range(0, len(places), length))
        return length if in_rows and length < len(places) else 1

    def in_order(self, order: tuple[int, ...]) -> ArrayLoop:
        """The same steps, one after the other as ``order`` has them."""
        return replace(self, tables=tuple(tuple(row[k] for k in order) for row in self.tables))

    def __str__(self) -> str:
        start, write = f"{self.carry} = {self.init}", f"{self.carry.name}[{self.write}] = tail()"
        left = [*map(str, self.collected), f"tree = {self.carry_tree!r}", write]
        lines = [*_steps_text(self), *map(str, self.inputs), start, *left]
        graphs = [self.invariant.text("invariant"), self.shared.text("shared"), self.tail.text("tail")]
        if self.collected:
            lines.append(f"{', '.join(f'{value.name}[step]' for value in self.collected)} = besides()")
            graphs.append(self.besides.text("besides"))
        return "\n\n".join([section("array_loop", lines), *graphs])


@dataclass(frozen=True, slots=True)
class Chain:
    """A triangular system of unlike blocks: ``graphs[k]`` computes the values of block ``k`` from those before it.

    The blocks stand in order of depth: those of one level read none of each other. ``families[k]``: blocks of the same
    operators, up to weights and shapes, have the same number. ``joints``: the blocks that lead from one stage of the
    chain to the next. ``together``: blocks that one call may compute, being alike but for the values that they read
    (`alike.py`). A chain without blocks is that of a function whose graph is not cut: all of it is the epilogue.
    """

    graphs: tuple[Graph, ...] = ()
    families: tuple[int, ...] = ()
    joints: tuple[int, ...] = ()
    together: tuple[tuple[int, ...], ...] = field(default=(), metadata=LATER)

    @property
    def blocks(self) -> int:
        return len(self.graphs)

    @property
    def depths(self) -> tuple[int, ...]:
        """For each block how many come before it on the longest way to it."""
        made: dict[str, int] = {}  # by value: the depth of its block
        found = []
        for graph in self.graphs:
            found.append(max((made[value.name] + 1 for value in graph.inputs if value.name in made), default=0))
            made |= {node.name: found[-1] for node in graph.nodes}
        return tuple(found)

    @property
    def levels(self) -> tuple[int, ...]:
        """Where each level ends."""
        depths = self.depths
        return tuple(k + 1 for k, depth in enumerate(depths) if depths[k + 1 : k + 2] != (depth,))

    @property
    def left(self) -> tuple[Ref, ...]:
        """The values of all blocks."""
        return tuple(ref for graph in self.graphs for ref in graph.outputs)

    @property
    def lo(self) -> int:
        """The first block."""
        return 0

    @property
    def hi(self) -> int:
        return len(self.graphs)

    @property
    def tables(self) -> Tables:
        """None: a block has its numbers in its own graph."""
        return ()

    @property
    def carry(self) -> tuple[Value, ...]:
        """Nothing is carried: a block reads the values of any before it."""
        return ()

    @property
    def init(self) -> tuple[Ref, ...]:
        """None, since nothing is carried."""
        return ()

    @property
    def inputs(self) -> tuple[PerStep, ...]:
        """None: blocks read what they need."""
        return ()

    @property
    def collected(self) -> tuple[Value, ...]:
        """None: the values of blocks stay where they are."""
        return ()

    def __str__(self) -> str:
        lines = [f"families = {table_text(self.families)}", f"joints = {table_text(self.joints)}"]
        lines += [f"together[{i}] = {table_text(numbers)}" for i, numbers in enumerate(self.together)]
        graphs = [graph.text(f"block{k}") for k, graph in enumerate(self.graphs)]
        return "\n\n".join([section("chain", lines), *graphs])


System: TypeAlias = ArrayLoop | Recurrence | RepeatedMap | Chain
"""The triangular systems: what sweeps can solve."""
AnyLoop: TypeAlias = Loop | System


def _steps_text(loop: AnyLoop) -> list[str]:
    tables = [f"step[{t}] = {table_text(table)}" for t, table in enumerate(loop.tables)]
    return [f"steps = range({loop.lo}, {loop.hi})", *tables]


def _head_text(title: str, loop: Loop | Recurrence | RepeatedMap) -> str:
    starts = [f"{value} = {ref}" for value, ref in zip(loop.carry, loop.init, strict=True)]
    left = [*(value.name for value in loop.carry), *(f"{value.name}[step]" for value in loop.collected)]
    lines = [*_steps_text(loop), *map(str, loop.inputs), *starts, *map(str, loop.collected)]
    return section(title, [*lines, f"tree = {loop.carry_tree!r}", f"{', '.join(left) or '_'} = body()"])


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Every step of the loop writes ``value``, made by the prologue from weights alone, into ``weight``.

    From the first write on this must change nothing (`runtime/overwrites.py` looks in every call): what the loop and
    the epilogue read in place of the weight is then the same in all steps.
    """

    weight: str
    value: Ref
    source: str

    def __str__(self) -> str:
        return f"{self.weight} = {self.value}{comment(self.source)}"


@dataclass(frozen=True, slots=True)
class Check:
    """The function tested ``value``, a boolean, and went on as it did because it was ``holds``.

    A value that steps collect stands for the tests of all of them.
    """

    value: Ref
    holds: bool
    source: str

    def __str__(self) -> str:
        return f"assert {'' if self.holds else 'not '}{self.value}{comment(self.source)}"


@dataclass(frozen=True, slots=True)
class Program:
    signature: Signature
    weights: tuple[Weight, ...]
    prologue: Graph
    loop: AnyLoop
    epilogue: Graph
    result: Result
    overwrites: tuple[Overwrite, ...] = ()
    draws: tuple[Draw, ...] = ()
    checks: tuple[Check, ...] = field(default=(), metadata=LATER)

    @property
    def tested(self) -> Check | None:
        """The first check on what the steps of the loop see, if they test anything."""
        left = {value.name for value in self.loop.collected}
        return next((check for check in self.checks if check.value.name in left), None)

    def __str__(self) -> str:
        weights = [section("weights", map(str, self.weights))] if self.weights else []
        overwrites = [section("overwrites", map(str, self.overwrites))] if self.overwrites else []
        draws = [section("draws", map(str, self.draws))] if self.draws else []
        checks = [section("checks", map(str, self.checks))] if self.checks else []
        graphs = [self.prologue.text("prologue"), *overwrites, str(self.loop), self.epilogue.text("epilogue")]
        return "\n\n".join([str(self.signature), *weights, *draws, *graphs, *checks, str(self.result)])
