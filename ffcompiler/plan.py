"""The values of the compiler: schedule, equality, premise, plan (graphs: `graph.py`, programs: `program.py`). No torch.

Everything is a frozen dataclass of tuples: a plan prints (`str(plan)`), compares, and reads back equal
(`ffcompiler.written.text.parse`). `ffcompiler.rules.verify.verify` states what makes one valid.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar, TypeAlias

from .errors import UsageError
from .program import ArrayLoop, Chain, Loop, Program, System
from .written.codec import LATER
from .written.layout import columns, comment, item, one_line, part_line, section

# ---------------------------------------------------------------------------------------------------- schedules


class Method(Enum):
    SEQUENTIAL = "sequential"  # the reference itself, step by step
    CAPTURED = "captured"  # its recorded calls, step by step, without the Python around them
    GAUSS_SEIDEL = "gauss-seidel"  # one block at a time, from the graph
    JACOBI = "jacobi"  # all blocks at once
    GS_JACOBI = "gs-jacobi"  # groups of `block` in order, Jacobi inside a group
    GROWING = "growing"  # groups of `block`, twice as many, four times as many .. in order, Jacobi inside a group
    JACOBI_GS = "jacobi-gs"  # all runs of `block` at once, in order inside a run
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

    @property
    def sweeps(self) -> bool:
        """Whether it is one of sweeps; the others go step by step."""
        return self.method not in (Method.SEQUENTIAL, Method.CAPTURED)

    @property
    def run(self) -> int:
        """So many blocks at a time are computed in order within a sweep."""
        return self.block or 1 if self.method is Method.JACOBI_GS else 1

    def ahead(self, front: int, blocks: int, levels: tuple[int, ...] = ()) -> int:
        """The end of the window when the blocks before ``front`` are final: ``front < ahead <= blocks``.

        ``levels``: where each level ends, with the blocks sorted by level.
        """
        match self.method, self.block:
            case ((Method.GAUSS_SEIDEL | Method.SEQUENTIAL | Method.CAPTURED), _):
                return front + 1
            case ((Method.JACOBI | Method.JACOBI_GS), _):
                return blocks
            case Method.GS_JACOBI, int(b):
                return min((front // b + 1) * b, blocks)
            case Method.GROWING, int(b):  # groups end at b, 3b, 7b ..
                return min(((1 << (front // b + 1).bit_length()) - 1) * b, blocks)
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
    """Equality up to a residual; the defaults are those of ``torch.testing.assert_close`` for float32.

    Raises: `UsageError` for what is no number of 0 or more.
    """
    given: tuple[tuple[str, object], ...] = (("rtol", rtol), ("atol", atol))
    for name, value in given:
        if not isinstance(value, int | float) or not 0.0 <= value < math.inf:
            raise UsageError(f"{name} is {value!r}; a tolerance is a number of 0 or more, as in tolerance(1e-5, 1e-6)")
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

    ``step`` is the reference's time divided by its steps, so what comes before and after them is in it.
    ``windows``: (blocks, seconds) of windowed sweeps, by ascending number of blocks.
    ``blocks``: of unlike blocks, each by itself. ``after``: what comes after the last block is solved.
    ``captured``: one step of the captured loop, which takes the rest where the function cannot begin in its middle.
    ``draws``: all random numbers of a call, which the steps of the reference draw, and so are in ``step`` too.
    ``fill``: the first windowed sweep of a run, which evaluates the whole.
    ``start``: what the first sweeps of a call take longer than later ones, their values being in no cache yet; the
    guard, which forgives more than that, does not count it.
    ``again``: of ``once`` what a function that begins in its middle does again, what comes before its loop.
    ``runs``: (blocks in a run, blocks, seconds) of sweeps that compute runs in order, by ascending numbers.
    ``together``: (blocks, seconds of the first two, of all) of unlike ones that a sweep computes in one call.
    ``waves``: (blocks, seconds) of sweeps that go through a stack level by level, by ascending number of blocks.
    """

    step: float
    sweep: float
    certify: float
    once: float
    windows: tuple[tuple[int, float], ...] = ()
    blocks: tuple[float, ...] = field(default=(), metadata=LATER)
    after: float = field(default=0.0, metadata=LATER)
    captured: float | None = field(default=None, metadata=LATER)
    fill: float = field(default=0.0, metadata=LATER)
    draws: float = field(default=0.0, metadata=LATER)
    again: float | None = field(default=None, metadata=LATER)
    start: float = field(default=0.0, metadata=LATER)
    runs: tuple[tuple[int, int, float], ...] = field(default=(), metadata=LATER)
    together: tuple[tuple[tuple[int, ...], float, float], ...] = field(default=(), metadata=LATER)
    waves: tuple[tuple[int, float], ...] = field(default=(), metadata=LATER)

    def window(self, blocks: int) -> float:
        """Seconds of a windowed sweep over so many blocks, interpolated; a whole sweep where none was measured."""
        if not self.windows:
            return self.sweep
        widest, most = self.windows[-1]
        if blocks > widest:  # wider than any that was measured: in proportion, and at most a whole sweep
            return min(most * blocks / widest, max(most, self.sweep))
        return _between(self.windows, blocks)

    def in_runs(self, run: int, blocks: int, each: float) -> float:
        """Seconds of a sweep over so many blocks that computes runs of ``run`` in order.

        Where none was measured: ``each`` for every block of a run, in which that one is computed of all runs.
        """
        measured = tuple((width, seconds) for size, width, seconds in self.runs if size == run)
        if not measured:
            return min(run, blocks) * each
        widest, most = measured[-1]
        return most * blocks / widest if blocks > widest else _between(measured, blocks)

    def wave(self, blocks: int) -> float:
        """Seconds of a sweep over so many blocks that goes through their levels; of the steps, if none was measured."""
        if not self.waves:
            return self.step * blocks
        widest, most = self.waves[-1]
        return most * blocks / widest if blocks > widest else _between(self.waves, blocks)

    def part(self, lo: int, hi: int) -> float:
        """Seconds of a sweep over blocks ``lo .. hi - 1``: of unlike ones, their share of the whole."""
        whole = self._computed(0, len(self.blocks))
        return self.sweep * self._computed(lo, hi) / whole if whole else self.window(hi - lo)

    def _computed(self, lo: int, hi: int) -> float:
        """Seconds of what a sweep over unlike blocks computes: each by itself, but for those that one call computes."""
        seconds = sum(self.blocks[lo:hi])
        for blocks, two, all_ in self.together:
            count = len(own := [k for k in blocks if lo <= k < hi])
            if count > 1:
                at_once = two + (all_ - two) * (count - 2) / max(len(blocks) - 2, 1)
                seconds += at_once - sum(self.blocks[k] for k in own)
        return max(seconds, 0.0)

    def __str__(self) -> str:
        numbers = f"step={self.step!r}, sweep={self.sweep!r}, certify={self.certify!r}, once={self.once!r}"
        others = [("windows", self.windows), ("blocks", self.blocks), ("after", self.after or None)]
        others += [("captured", self.captured), ("fill", self.fill or None), ("draws", self.draws or None)]
        others += [("start", self.start or None)]
        others += [("again", self.again), ("runs", self.runs), ("together", self.together), ("waves", self.waves)]
        known = [(key, value) for key, value in others if value not in ((), None)]
        return numbers + "".join(f", {key}={value!r}" for key, value in known)


def _between(measured: Sequence[tuple[int, float]], blocks: int) -> float:
    """Seconds for so many blocks, from those of fewer and of more: by ascending number of blocks, none empty."""
    below = [one for one in measured if one[0] <= blocks] or [measured[0]]
    (a, low), (b, high) = below[-1], next(one for one in measured if one[0] >= blocks)
    return low if a >= b else low + (high - low) * (blocks - a) / (b - a)


EXCLUDED = "over the memory limit"
"""So begins the note of a candidate that needs too much memory."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule that was considered: seconds, sweeps, certifying sweeps among them, and why it is or is not taken.

    ``measured``: whether it was run; if it was not, ``seconds`` are ``predicted``, which is None where there was no
    trace to predict from. ``memory``: predicted bytes at its peak, besides arguments and weights.
    """

    schedule: Schedule
    seconds: float
    sweeps: int
    note: str
    certifying: int = 0
    predicted: float | None = field(default=None, metadata=LATER)
    measured: bool = field(default=True, metadata=LATER)
    memory: int | None = field(default=None, metadata=LATER)

    COLUMNS: ClassVar = ("schedule", "seconds", "sweeps", "certifying", "measured", "predicted", "memory", "note")

    @property
    def excluded(self) -> bool:
        """Whether it may not be taken, however fast: it needs more memory than the limit."""
        return self.note.startswith(EXCLUDED)

    def cells(self) -> tuple[str, ...]:
        """Its row in the table of candidates; ``-`` is what is not known."""
        known = ("-" if value is None else repr(value) for value in (self.predicted, self.memory))
        counts = (str(self.sweeps), str(self.certifying), "yes" if self.measured else "no")
        return str(self.schedule), repr(self.seconds), *counts, *known, one_line(self.note)


@dataclass(frozen=True, slots=True)
class Convergence:
    """How the system converges on the inputs that the choice was made with.

    ``sweeps``: of plain Jacobi to the end, for each input. ``cut``: their runs were cut short, and went on as they had
    come. ``lyapunov``: of a recurrence the largest exponent along the trajectory: an error becomes
    ``exp(lyapunov)`` times as large in each step.
    """

    sweeps: tuple[int, ...] = ()
    cut: bool = False
    lyapunov: float | None = None

    def __str__(self) -> str:
        known = [f"sweeps={self.sweeps!r}", *(["cut=True"] if self.cut else [])]
        return ", ".join(known + ([] if self.lyapunov is None else [f"lyapunov={self.lyapunov!r}"]))


@dataclass(frozen=True, slots=True)
class Alternative:
    """What another demand, or place (``change``) would give: sweeps and their seconds, against the reference's.

    ``schedule``: None of another demand, for which Jacobi was run without the guard; of another place the best one, as
    it is predicted there under the guard. ``measured``: a run showed so many sweeps to be enough; else it was cut
    short, and it takes more than these.
    """

    change: str
    sweeps: int
    seconds: float
    reference: float
    measured: bool = True
    schedule: Schedule | None = field(default=None, metadata=LATER)

    def __str__(self) -> str:
        numbers = f"sweeps={self.sweeps!r}, seconds={self.seconds!r}, reference={self.reference!r}"
        schedule = "" if self.schedule is None else f", schedule={str(self.schedule)!r}"
        return f"alternative({self.change!r}, {numbers}, measured={self.measured!r}{schedule})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run and what it rests on. ``refusal`` says why no parallel schedule is sound, if none is.

    A function with several loops in a row is planned in *parts*, each a plan of its own: the function is ``rest`` after
    this part, whose results are the arguments of the rest, in order. ``padded``: the function's own array grows from
    step to step, and the program's has all of its length from the beginning.
    """

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
    rest: Plan | None = field(default=None, metadata=LATER)
    convergence: Convergence | None = field(default=None, metadata=LATER)
    alternatives: tuple[Alternative, ...] = field(default=(), metadata=LATER)
    padded: bool = field(default=False, metadata=LATER)

    @property
    def parts(self) -> tuple[Plan, ...]:
        """This one and those that follow it: one for each loop."""
        parts = [self]
        while parts[-1].rest is not None:
            parts.append(parts[-1].rest)
        return tuple(parts)

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
        first, *others = (part._text() for part in self.parts)
        later = (f"{part_line(k, len(others) + 1)}\n\n{text}" for k, text in enumerate(others, 2))
        return "\n\n".join([first, *later])

    def _text(self) -> str:
        """Of this part alone."""
        blocks = ["\n".join(self._head())]
        if self.candidates:
            rows = [Candidate.COLUMNS, *(c.cells() for c in self.candidates)]
            blocks.append(section("candidates", columns(rows)))
        if self.alternatives:
            blocks.append(section("alternatives", map(str, self.alternatives)))
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
            "convergence": None if self.convergence is None else str(self.convergence),
            "padded": "True" if self.padded else None,
        }
        return [item(key, text) for key, text in known.items() if text is not None]


def in_a_row(parts: Sequence[Plan]) -> Plan:
    """The parts, in order, as one plan."""
    plan = replace(parts[-1], rest=None)
    for part in reversed(parts[:-1]):
        plan = replace(part, rest=plan)
    return plan
