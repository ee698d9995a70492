"""The values of the compiler: schedule, equality, premise, plan (graphs: `graph.py`, programs: `program.py`). No torch.

Everything is a frozen dataclass of tuples: a plan prints (`str(plan)`), compares, and reads back equal
(`ffcompiler.text.parse`). `ffcompiler.verify.verify` states what makes one valid.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from .layout import columns, comment, item, one_line, section
from .program import ArrayLoop, Chain, Loop, Program, System

# ---------------------------------------------------------------------------------------------------- schedules


class Method(Enum):
    SEQUENTIAL = "sequential"  # the reference itself, step by step
    GAUSS_SEIDEL = "gauss-seidel"  # one block at a time, from the graph
    JACOBI = "jacobi"  # all blocks at once
    GS_JACOBI = "gs-jacobi"  # groups of `block` in order, Jacobi inside a group
    JACOBI_GS = "jacobi-gs"  # all groups of `block` at once, in order inside a group
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
            case ((Method.JACOBI | Method.JACOBI_GS), _):
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
# ``value`` is the key of a value in an environment: of one result of an operator that has several, ``b3.0``.


@dataclass(frozen=True, slots=True)
class Finite:
    """Every element of ``value`` is finite in the sweep: ``0 * x = 0`` holds for finite ``x`` only."""

    value: str
    op: str
    source: str

    def __str__(self) -> str:
        return f"finite({key_text(self.value)}, {self.op}){comment(self.source)}"


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
        return f"bounded({key_text(self.value)}, {self.bound!r}, {self.op}){comment(self.source)}"


@dataclass(frozen=True, slots=True)
class ZeroPattern:
    """``value`` is zero wherever it was zero when the dependence was proved; ``sha256`` fingerprints the pattern."""

    value: str
    zeros: int
    of: int
    sha256: str

    def __str__(self) -> str:
        return f"zeros({key_text(self.value)}, {self.zeros}, of={self.of}, sha256={self.sha256!r})"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """``value``, an attention mask, has the elements that it had when the dependence was proved."""

    value: str
    sha256: str

    def __str__(self) -> str:
        return f"unchanged({key_text(self.value)}, sha256={self.sha256!r})"


@dataclass(frozen=True, slots=True)
class NoNegativeZero:
    """No element of ``value`` is -0: added to a product with a zero weight, it would show the sign of the product."""

    value: str
    op: str
    source: str

    def __str__(self) -> str:
        return f"no_negative_zero({key_text(self.value)}, {self.op}){comment(self.source)}"


Premise: TypeAlias = Finite | Bounded | ZeroPattern | Unchanged | NoNegativeZero


def key_text(key: str) -> str:
    """The key of a value as the text of a plan has it: ``b3[0]`` for ``b3.0``."""
    name, dot, output = key.partition(".")
    return f"{name}[{output}]" if dot else name


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
    def system(self) -> System | None:
        """The triangular system that sweeps can solve, if there is one."""
        loop = self.program.loop if self.program else None
        return None if isinstance(loop, Loop) or (isinstance(loop, Chain) and not loop.graphs) else loop

    @property
    def array(self) -> ArrayLoop | None:
        """The same, if it is an array of which each step writes one position."""
        return self.system if isinstance(self.system, ArrayLoop) else None

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
