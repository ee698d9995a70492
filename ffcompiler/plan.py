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

from dataclasses import dataclass
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

    def __str__(self) -> str:
        start, write = f"{self.carry} = {self.init}", f"{self.carry.name}[{self.write}] = tail()"
        head = section("array_loop", [*_steps_text(self), start, f"tree = {self.carry_tree!r}", write])
        graphs = [self.invariant.text("invariant"), self.shared.text("shared"), self.tail.text("tail")]
        return "\n\n".join([head, *graphs])


def _steps_text(loop: Loop | ArrayLoop) -> list[str]:
    tables = [f"step[{t}] = {table_text(table)}" for t, table in enumerate(loop.tables)]
    return [f"steps = range({loop.lo}, {loop.hi})", *tables]


@dataclass(frozen=True, slots=True)
class Program:
    signature: Signature
    weights: tuple[Weight, ...]
    prologue: Graph
    loop: Loop | ArrayLoop
    epilogue: Graph
    result: Result

    def __str__(self) -> str:
        weights = [section("weights", map(str, self.weights))] if self.weights else []
        graphs = [self.prologue.text("prologue"), str(self.loop), self.epilogue.text("epilogue")]
        return "\n\n".join([str(self.signature), *weights, *graphs, str(self.result)])


# ---------------------------------------------------------------------------------------------------- schedules


class Method(Enum):
    SEQUENTIAL = "sequential"  # the reference itself, step by step
    GAUSS_SEIDEL = "gauss-seidel"  # one block at a time, from the graph
    JACOBI = "jacobi"  # all blocks at once
    GS_JACOBI = "gs-jacobi"  # groups of `block` in order, Jacobi inside a group
    SLIDING = "sliding"  # the `block` blocks after the front


@dataclass(frozen=True, slots=True)
class Schedule:
    """How far past the front to work: ``hi = ahead(front)`` (paper, section 3; GS-Jacobi and Jacobi of the same)."""

    method: Method
    block: int | None = None

    def ahead(self, front: int, blocks: int) -> int:
        """The end of the window when the blocks before ``front`` are final: ``front < ahead <= blocks``."""
        match self.method, self.block:
            case ((Method.GAUSS_SEIDEL | Method.SEQUENTIAL), _):
                return front + 1
            case Method.JACOBI, _:
                return blocks
            case Method.GS_JACOBI, int(b):
                return min((front // b + 1) * b, blocks)
            case Method.SLIDING, int(b):
                return min(front + b, blocks)
        raise AssertionError(f"{self.method} needs a block size")

    def __str__(self) -> str:
        return self.method.value if self.block is None else f"{self.method.value}({self.block})"


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
class ZeroPattern:
    """``value`` is zero wherever it was zero when the dependence was proved; ``sha256`` fingerprints the pattern."""

    value: str
    zeros: int
    of: int
    sha256: str

    def __str__(self) -> str:
        return f"zeros({self.value}, {self.zeros}, of={self.of}, sha256={self.sha256!r})"


Premise: TypeAlias = Finite | ZeroPattern

# ---------------------------------------------------------------------------------------------------- plans


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured seconds: one step of the reference, one sweep, one certifying sweep, once-per-call work."""

    step: float
    sweep: float
    certify: float
    once: float

    def __str__(self) -> str:
        return f"step={self.step!r}, sweep={self.sweep!r}, certify={self.certify!r}, once={self.once!r}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule that was considered: predicted or measured seconds, sweeps, certifying sweeps among them, and why."""

    schedule: Schedule
    seconds: float
    sweeps: int
    note: str

    def cells(self) -> tuple[str, str, str, str]:
        """Its row in the table of candidates."""
        return str(self.schedule), repr(self.seconds), str(self.sweeps), one_line(self.note)


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

    @property
    def system(self) -> ArrayLoop | None:
        """The triangular system that sweeps can solve, if there is one."""
        loop = self.program.loop if self.program else None
        return loop if isinstance(loop, ArrayLoop) else None

    def __str__(self) -> str:
        blocks = ["\n".join(self._head())]
        if self.candidates:
            rows = [("schedule", "seconds", "sweeps", "note"), *(c.cells() for c in self.candidates)]
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
        }
        return [item(key, text) for key, text in known.items() if text is not None]
