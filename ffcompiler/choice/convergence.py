"""How many sweeps a schedule will take, told from how far plain Jacobi came in each of its sweeps.

A `Trace` holds fronts of Jacobi runs on one input, begun at several places with all blocks before final and all others
at their first guess. From it follows the *age* of a block: how many sweeps after such a beginning it is final. What a
schedule does to blocks that enter its window late is then simulated (docs/decision.md).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..plan import Costs, Method, Schedule
from ..runtime.guard import Guard, Handover, Window
from ..runtime.runs import Runs
from ..schedules import quantum

FAR = 2048
"""Blocks, or four windows: what a block does to others further on is left out."""
HARDER = 1.25
"""So many times as many sweeps, and one more at least, an input may well need that is like the example."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A Jacobi run with the blocks before ``start`` final: the front after each sweep, rising.

    ``width``: of a window of so many blocks from there on; None: of all blocks.
    """

    start: int
    fronts: tuple[int, ...]
    width: int | None = None

    def ages(self, blocks: int) -> Any:
        """Of the blocks from ``start`` on: after how many sweeps each is final.

        A run that was cut short goes on at the speed that its front had. Behind a window ages go on as in its second
        half: of a system that forgets they stay what they are, though its front stands still until the last sweep.
        """
        end = blocks if self.width is None else min(self.start + self.width, blocks)
        found = np.searchsorted(np.asarray(self.fronts), np.arange(self.start, end), side="right") + 1.0
        reached = self.fronts[-1] if self.fronts else self.start
        if reached < end:
            speed = max((reached - self.start) / max(len(self.fronts), 1), 1.0)
            found[reached - self.start :] = len(self.fronts) + np.arange(1, end - reached + 1) / speed
        if end == blocks or not len(found):
            return found
        half = len(found) // 2
        slope = (found[-1] - found[half]) / max(len(found) - 1 - half, 1)
        return np.concatenate([found, found[-1] + slope * np.arange(1, blocks - end + 1)])


@dataclass(frozen=True, slots=True)
class Trace:
    """Jacobi runs on one input, by rising start; the first starts at block 0."""

    blocks: int
    runs: tuple[Fresh, ...]

    @property
    def whole(self) -> bool:
        """Whether the run from block 0 reached the end of all blocks."""
        first = self.runs[0]
        return first.width is None and bool(first.fronts) and first.fronts[-1] >= self.blocks

    @property
    def sweeps(self) -> int:
        """Of plain Jacobi, from block 0."""
        return math.ceil(float(self.runs[0].ages(self.blocks)[-1])) if self.blocks else 0

    def harder(self) -> Trace:
        """Of an input on which every front comes as far as here in `HARDER` times as many sweeps."""
        return replace(self, runs=tuple(replace(run, fronts=_later(run.start, run.fronts)) for run in self.runs))


def _later(start: int, fronts: tuple[int, ...]) -> tuple[int, ...]:
    """The fronts of a run that needs `HARDER` times as many sweeps, one more at least; but each sweep ends a block."""
    found: list[int] = []
    while fronts and (not found or found[-1] < fronts[-1]):
        sweep = len(found) + 1
        as_many = min(int(sweep / HARDER), sweep - 1)
        front = fronts[min(as_many, len(fronts)) - 1] if as_many else start
        found.append(min(max(front, start + sweep), fronts[-1]))
    return tuple(found)


class Ages:
    """``of(p)``: the ages of the blocks from ``p`` on in a window that begins anew at ``p``.

    Between two places where runs were begun, what they show of the blocks at the same distance is interpolated.
    """

    def __init__(self, trace: Trace) -> None:
        self.blocks = trace.blocks
        self.starts = [run.start for run in trace.runs]
        self.ages = [run.ages(trace.blocks) for run in trace.runs]

    def of(self, p: int, count: int) -> Any:
        """Of the ``count`` blocks from ``p`` on, as far as there are so many."""
        count = min(count, self.blocks - p)
        k = bisect_right(self.starts, p) - 1
        here = self.ages[k][:count]
        if self.starts[k] == p or k + 1 == len(self.starts):
            return here
        there = self.ages[k + 1][:count]
        share = (p - self.starts[k]) / (self.starts[k + 1] - self.starts[k])
        mixed = here.copy()
        mixed[: len(there)] += share * (there - here[: len(there)])
        return mixed


@dataclass(frozen=True, slots=True)
class Shape:
    """What the simulation has to know of a system.

    ``exact``: every sweep that is not windowed certifies. ``by_width``: each costs what its window has. ``levels``: of
    the wavefront schedule; ``order``: then, for each block, which step it is. ``row``: blocks in a row of an array.
    ``certifying``: sweeps that certify after windowed ones have come to the end, or after ones with lifted tails.
    """

    blocks: int
    exact: bool = True
    by_width: bool = False
    levels: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    row: int = 1
    certifying: int = 1
    handover: Handover = Handover.RESUMED


@dataclass(frozen=True, slots=True)
class Run:
    """A simulated run: seconds with the sequential rest, sweeps, certifying ones, blocks that sweeps made final."""

    seconds: float
    sweeps: int
    certifying: int
    certified: int


def simulate(schedule: Schedule, shape: Shape, trace: Trace, costs: Costs, guarded: bool = True) -> Run:
    """The run of ``schedule`` that the trace of an input lets expect."""
    return _Simulated(schedule, shape, Ages(trace), costs, guarded).run()


@dataclass(slots=True)
class _Simulated:
    """`Solve` in numbers: the same windows and the same guard, fronts from the ages of blocks."""

    schedule: Schedule
    shape: Shape
    ages: Ages
    costs: Costs
    guarded: bool
    guard: Guard = field(init=False)
    runs: Runs = field(init=False)
    polish: bool = field(init=False)
    quantum: int = field(init=False)
    final_at: Any = field(init=False)  # for each block the sweep after which it is final, as far as is known
    levels: tuple[int, ...] = field(init=False)
    missing: Any = field(init=False)  # of blocks sorted by level: the first step among those from here on
    working: int = 0
    certified: int = 0
    reached: int = 0
    settled: int = 0
    filled: bool = False
    sweeps: int = 0
    certifying: int = 0
    mending: int = 0  # certifying sweeps since the working front came to the end
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.runs = Runs(self.schedule.run)
        fills, run = self.schedule.windows, 1 if self.costs.blocks else self.runs.size
        waves = self._steps and bool(self.shape.levels) and self.schedule.method is Method.WAVEFRONT
        handover = self.shape.handover
        self.guard = Guard(self.costs, self.shape.blocks, handover=handover, fills=fills, run=run, waves=waves)
        self.polish = not self.schedule.windows and (self.shape.exact or self.runs.size > 1)
        self.quantum = quantum(self.schedule, self.shape.blocks, self.shape.row) if self.schedule.windows else 1
        self.final_at = np.zeros(self.shape.blocks)
        order = np.asarray(self.shape.order, dtype=np.int64)
        self.missing = np.minimum.accumulate(order[::-1])[::-1]
        self.levels = self.shape.levels if self.schedule.method is Method.WAVEFRONT or self.shape.by_width else ()

    def run(self) -> Run:
        blocks = self.shape.blocks
        while self.certified < blocks:
            exact = self.polish or self.working >= blocks
            if self.guarded and not self.guard.allows(self._done(), exact, self._width(exact)):
                if exact or self.certified == self.working or not self.guard.allows(self._done(), True):
                    break
                exact = True
            self._sweep(exact)
        begun = self.costs.once + (self.costs.start if self.sweeps else 0.0)
        seconds = begun + self.seconds + self.guard.rest(self._done())
        return Run(seconds, self.sweeps, self.certifying, self._done())

    def _done(self) -> int:
        """Leading steps that are certified: of blocks sorted by level, those before the first step that is not."""
        if not self.shape.order or self.certified == self.shape.blocks:
            return self.certified
        return int(self.missing[self.certified])

    def _window(self, exact: bool) -> tuple[int, int]:
        blocks = self.shape.blocks
        hi = self.schedule.ahead(self.working, blocks, self.levels) if self.working < blocks else blocks
        if self.schedule.windows and self.schedule.block is not None and hi < blocks:
            hi = max(hi - hi % self.quantum, self.working + 1)
        lo, hi = (self.certified, max(hi, self.reached)) if exact else (self.working, hi)
        narrows = self.guarded and self._steps
        return lo, self.guard.narrowed(self._done(), exact, lo, hi) if narrows else hi

    @property
    def _steps(self) -> bool:
        """Whether blocks are steps of a recurrence, each of which reads the one before it and no other."""
        return self.shape.by_width and not self.costs.blocks

    def _width(self, exact: bool) -> Window | None:
        lo, hi = self._window(exact)
        if self.shape.by_width:
            return (lo, hi) if self.costs.blocks else hi - lo
        return None if not self.filled or exact else self._window(False)[1] - self.settled + self.settled % self.quantum

    def _sweep(self, exact: bool) -> None:
        lo, hi = self._window(exact)
        width = self._width(exact)
        self._charge(exact, width)
        front = self._front(lo, hi)
        if exact and not self._mended(lo):
            front = min(front, self._mending_front())
        self._enter(exact, front, hi, filled=width is None)

    def _charge(self, exact: bool, width: Window | None) -> None:
        """What the sweep takes; the guard takes one that fills the workspace for a whole one."""
        cost = self.guard.cost(exact, width)
        self.guard.charge(exact, cost, width)
        fills = not exact and self.schedule.windows and not self.filled
        self.seconds += self.costs.fill if fills and self.costs.fill else cost

    def _front(self, lo: int, hi: int) -> int:
        """The front after this sweep of a window: of levels at its end, else where blocks are not final yet."""
        if hi > self.reached:
            self._begin(self.reached, hi)
        self.sweeps += 1
        self.final_at[hi : self.reached] += 1  # what a window leaves out is a sweep later
        if self.levels and self.schedule.method is Method.WAVEFRONT:
            return hi
        if self.runs.size > 1 and not self._steps:
            return self.runs.end(lo, hi)  # at least that
        late = np.flatnonzero(self.final_at[lo:hi] > self.sweeps + 0.5)
        return max(self.runs.end(lo, hi), lo + int(late[0]) if late.size else hi)

    def _begin(self, p: int, hi: int) -> None:
        """Blocks from ``p`` on are computed for the first time: none after them is final before it has their age."""
        ages = self._in_runs(p, self.ages.of(p, max(FAR, 4 * (hi - self.working))))
        later = self.final_at[p : p + len(ages)]
        np.maximum(later, self.sweeps + ages, out=later)

    def _in_runs(self, p: int, ages: Any) -> Any:
        """Ages by sweeps that compute runs in order, from those by Jacobi of the blocks from ``p`` on (docs/runs.md).

        In so many sweeps a block is further from the first guess by as many runs as by blocks before.
        """
        if self.runs.size == 1:
            return ages
        blocks = np.arange(p, p + len(ages))
        begins = np.maximum(blocks - blocks % self.runs.size, p)
        return 1.0 + np.ceil((ages[begins - p] - 1.0) / self.runs.size)

    def _mended(self, lo: int) -> bool:
        """Whether a certifying sweep claims all that it finds: it does unless windowed kernels round otherwise."""
        self.certifying += 1
        if not self.schedule.windows and (self.shape.exact or self.runs.size > 1):
            return True
        self.mending += 1
        return self.mending >= self.shape.certifying

    def _mending_front(self) -> int:
        self.polish = self.polish or self.mending > 0
        return max(self.certified + 1, self.shape.blocks * self.mending // self.shape.certifying)

    def _enter(self, exact: bool, front: int, hi: int, filled: bool) -> None:
        """The fronts after a sweep, as `Solve` moves them."""
        changed = max(front - 1, 0)
        self.reached = max(self.reached, hi)
        if exact:
            self.certified = self.working = max(front, self.certified + 1)
            self.settled = min(self.settled, changed)
            return
        self.working = front
        if self.schedule.windows:
            self.settled = changed if not self.filled and filled else min(changed, hi - 1)
            self.filled = True


def quantile(values: Sequence[float], share: float = 0.9) -> int:
    """Which of ``values`` the given share of them does not exceed: the place of one of them, never between two."""
    order = sorted(range(len(values)), key=lambda k: (values[k], k))
    return order[max(math.ceil(share * len(order)) - 1, 0)]
