"""The values of the compiler: program, system, schedule, premise, plan (graphs: `graph.py`). No torch in here.

Everything is a frozen dataclass of tuples: a plan prints (`str(plan)`), compares, and reads back equal
(`ffcompiler.text.parse`). `ffcompiler.verify.verify` states what makes one valid.

How a function is held:

    Program
      prologue   Graph, run once: from arguments and weights to the loop's first state and what the steps read
      loop       Loop       any loop: one body graph per step; runs sequentially
                 ArrayLoop  a loop that writes one position of an array per step, split into
                              invariant  work that depends on neither the state nor the step: once per call
                              shared     S: depends on the state, not on the step (``model(x)``): once per sweep
                              tail       T_i: the rest, slices and arithmetic of position i: once per position
      epilogue   Graph, run once: from the last state to the results

All graphs of a program share one name space, so the environment of a run is a dictionary from name to tensor.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from .graph import Graph, Ref, TensorType, Value
from .layout import columns, comment, item, one_line, section, table_text

# ---------------------------------------------------------------------------------------------------- programs


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
    """One leaf of the arguments or results: a tensor (``type``) or a constant (``constant``, as ``repr`` text)."""

    path: str
    name: str | None
    type: TensorType | None
    constant: str | None = None

    def __str__(self) -> str:
        """``x: float32[100, 784]  # args[0]`` for a tensor, ``_ = '3'  # args[1]`` for the constant 3."""
        type_ = "" if self.type is None else f": {self.type}"
        constant = "" if self.constant is None else f" = {self.constant!r}"
        return f"{self.name or '_'}{type_}{constant}{comment(self.path)}"


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
    """What the function returns: for each leaf a value of the program or a constant, and the tree."""

    leaves: tuple[Leaf, ...]
    tree: str

    def __str__(self) -> str:
        return section("results", [*map(str, self.leaves), f"tree = {self.tree!r}"])


@dataclass(frozen=True, slots=True)
class Loop:
    """``for k, i in enumerate(range(lo, hi)): carry = body(carry)``, with ``tables[t][k]`` for ``Step(t)``."""

    lo: int
    hi: int
    tables: tuple[tuple[int | float, ...], ...]
    carry: tuple[Value, ...]
    init: tuple[Ref, ...]
    carry_tree: str
    body: Graph

    def __str__(self) -> str:
        names = ", ".join(value.name for value in self.carry)
        starts = [f"{value} = {ref}" for value, ref in zip(self.carry, self.init, strict=True)]
        lines = [*_steps_text(self), *starts, f"tree = {self.carry_tree!r}", f"{names or '_'} = body()"]
        return "\n\n".join([section("loop", lines), self.body.text("body")])


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
    """A triangular system: step ``k`` writes ``write`` of the carry with ``tail(k)``, read from ``shared(carry)``."""

    lo: int
    hi: int
    tables: tuple[tuple[int | float, ...], ...]
    carry: Value
    init: Ref
    carry_tree: str
    write: Region
    invariant: Graph
    shared: Graph
    tail: Graph  # one output: the written value, of the region's shape

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
        head = section("array_loop", [*_steps_text(self), start, f"tree = {self.carry_tree!r}", write])
        graphs = [self.invariant.text("invariant"), self.shared.text("shared"), self.tail.text("tail")]
        return "\n\n".join([head, *graphs])


def _steps_text(loop: Loop | ArrayLoop) -> list[str]:
    tables = [f"step[{t}] = {table_text(table)}" for t, table in enumerate(loop.tables)]
    return [f"steps = range({loop.lo}, {loop.hi})", *tables]


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
class Program:
    signature: Signature
    weights: tuple[Weight, ...]
    prologue: Graph
    loop: Loop | ArrayLoop
    epilogue: Graph
    result: Result
    overwrites: tuple[Overwrite, ...] = ()

    def __str__(self) -> str:
        weights = [section("weights", map(str, self.weights))] if self.weights else []
        overwrites = [section("overwrites", map(str, self.overwrites))] if self.overwrites else []
        graphs = [self.prologue.text("prologue"), *overwrites, str(self.loop), self.epilogue.text("epilogue")]
        return "\n\n".join([str(self.signature), *weights, *graphs, str(self.result)])


# ---------------------------------------------------------------------------------------------------- schedules


class Method(Enum):
    SEQUENTIAL = "sequential"  # the reference itself, step by step
    GAUSS_SEIDEL = "gauss-seidel"  # one block at a time, from the graph
    JACOBI = "jacobi"  # all blocks at once
    GS_JACOBI = "gs-jacobi"  # groups of `block` in order, Jacobi inside a group
    SLIDING = "sliding"  # the `block` blocks after the front
    WAVEFRONT = "wavefront"  # one level after the other: blocks that depend on none of each other


@dataclass(frozen=True, slots=True)
class Schedule:
    """How far past the front to work: ``hi = ahead(front)`` (paper, section 3; GS-Jacobi and Jacobi of the same).

    With ``windows``, sweeps that do not certify compute only the elements that can have changed (docs/windows.md).
    """

    method: Method
    block: int | None = None
    windows: bool = False

    def ahead(self, front: int, blocks: int, levels: tuple[int, ...] = ()) -> int:
        """The end of the window when the blocks before ``front`` are final: ``front < ahead <= blocks``.

        ``levels``: where each level ends, with the blocks sorted by level.
        """
        match self.method, self.block:
            case ((Method.GAUSS_SEIDEL | Method.SEQUENTIAL), _):
                return front + 1
            case Method.JACOBI, _:
                return blocks
            case Method.GS_JACOBI, int(b):
                return min((front // b + 1) * b, blocks)
            case Method.SLIDING, int(b):
                return min(front + b, blocks)
            case Method.WAVEFRONT, _:
                return levels[bisect_right(levels, front)] if levels else front + 1
        raise AssertionError(f"{self.method} needs a block size")

    def __str__(self) -> str:
        """``jacobi``, ``sliding(98)``, ``sliding(98)+windows``."""
        block = "" if self.block is None else f"({self.block})"
        return f"{self.method.value}{block}{'+windows' if self.windows else ''}"


# ---------------------------------------------------------------------------------------------------- equality


@dataclass(frozen=True, slots=True)
class Bits:
    """Outputs have the bits of the reference: equal as integers, or both NaN; -0 differs from +0."""

    def __str__(self) -> str:
        return "bits"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The residual of every block is within ``atol + rtol * |value|``. This bounds the residual, not the error."""

    rtol: float
    atol: float

    def __str__(self) -> str:
        return f"tolerance(rtol={self.rtol!r}, atol={self.atol!r})"


Equality: TypeAlias = Bits | Tolerance


def tolerance(rtol: float = 1.3e-6, atol: float = 1e-5) -> Tolerance:
    """Equality up to a residual; the defaults are those of ``torch.testing.assert_close`` for float32."""
    return Tolerance(float(rtol), float(atol))


# ---------------------------------------------------------------------------------------------------- premises


@dataclass(frozen=True, slots=True)
class Finite:
    """Every element of ``value`` is finite in the sweep: ``0 * x = 0`` holds for finite ``x`` only."""

    value: str
    op: str
    source: str

    def __str__(self) -> str:
        return f"finite({self.value}, {self.op}){comment(self.source)}"


@dataclass(frozen=True, slots=True)
class Bounded:
    """Every element of ``value`` is smaller than ``bound`` in magnitude in the sweep, so that a masked score is lower.

    A mask of -1e4 hides a key only while the scores of the others are far above it (docs/attention.md).
    """

    value: str
    bound: float
    op: str
    source: str

    def __str__(self) -> str:
        return f"bounded({self.value}, {self.bound!r}, {self.op}){comment(self.source)}"


@dataclass(frozen=True, slots=True)
class ZeroPattern:
    """``value`` is zero wherever it was zero when the dependence was proved; ``sha256`` fingerprints the pattern."""

    value: str
    zeros: int
    of: int
    sha256: str

    def __str__(self) -> str:
        return f"zeros({self.value}, {self.zeros}, of={self.of}, sha256={self.sha256!r})"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """``value``, an attention mask, has the elements that it had when the dependence was proved."""

    value: str
    sha256: str

    def __str__(self) -> str:
        return f"unchanged({self.value}, sha256={self.sha256!r})"


Premise: TypeAlias = Finite | Bounded | ZeroPattern | Unchanged

# ---------------------------------------------------------------------------------------------------- plans


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured seconds: one step of the reference, one sweep, one certifying sweep, once-per-call work.

    ``windows``: (blocks, seconds) of windowed sweeps, by ascending number of blocks.
    """

    step: float
    sweep: float
    certify: float
    once: float
    windows: tuple[tuple[int, float], ...] = ()

    def window(self, blocks: int) -> float:
        """Seconds of a windowed sweep over so many blocks, interpolated; a whole sweep where none was measured."""
        if not self.windows:
            return self.sweep
        below = [w for w in self.windows if w[0] <= blocks] or [self.windows[0]]
        above = [w for w in self.windows if w[0] >= blocks] or [self.windows[-1]]
        (a, low), (b, high) = below[-1], above[0]
        if blocks > b:  # wider than any that was measured: in proportion, and at most a whole sweep
            return min(high * blocks / b, max(high, self.sweep))
        return low if a >= b else low + (high - low) * (blocks - a) / (b - a)

    def __str__(self) -> str:
        numbers = f"step={self.step!r}, sweep={self.sweep!r}, certify={self.certify!r}, once={self.once!r}"
        return numbers + (f", windows={self.windows!r}" if self.windows else "")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule that was considered: predicted or measured seconds, sweeps, certifying sweeps among them, and why."""

    schedule: Schedule
    seconds: float
    sweeps: int
    note: str
    certifying: int = 0

    def cells(self) -> tuple[str, str, str, str, str]:
        """Its row in the table of candidates."""
        return str(self.schedule), repr(self.seconds), str(self.sweeps), str(self.certifying), one_line(self.note)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run and what it rests on. ``refusal`` says why no parallel schedule is sound, if none is."""

    program: Program | None
    schedule: Schedule
    equality: Equality
    device: str
    premises: tuple[Premise, ...] = ()
    refusal: str | None = None
    why: str = ""
    costs: Costs | None = None
    candidates: tuple[Candidate, ...] = ()
    align: int = 1  # windows of products are cut at multiples of this: found to round most like the whole (a hint)

    @property
    def system(self) -> ArrayLoop | None:
        """The triangular system that sweeps can solve, if there is one."""
        loop = self.program.loop if self.program else None
        return loop if isinstance(loop, ArrayLoop) else None

    def __str__(self) -> str:
        blocks = ["\n".join(self._head())]
        if self.candidates:
            rows = [("schedule", "seconds", "sweeps", "certifying", "note"), *(c.cells() for c in self.candidates)]
            blocks.append(section("candidates", columns(rows)))
        if self.premises:
            blocks.append(section("premises", map(str, self.premises)))
        return "\n\n".join([*blocks, *([str(self.program)] if self.program else [])])

    def _head(self) -> list[str]:
        known = {
            "schedule": str(self.schedule),
            "equality": str(self.equality),
            "device": self.device,
            "why": self.why or None,
            "refusal": self.refusal,
            "costs": None if self.costs is None else str(self.costs),
            "align": None if self.align == 1 else str(self.align),
        }
        return [item(key, text) for key, text in known.items() if text is not None]
