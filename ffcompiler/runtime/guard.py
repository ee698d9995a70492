"""Whether a run may go on: however it ends, it costs little more than the reference (docs/schedules.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TypeAlias

from ..plan import Costs

SLACK = 1.05
"""A run may cost this much of the reference at most, in calibrated cost."""
KEEP = 4
"""Sweeps that a window which may end anywhere leaves room for."""
SAVED = 1 / 3
"""So much of a sweep's cost has to be saved by halving its window: of small steps a short one costs as much."""
STALL = 8.0
"""What a sweep takes beyond so many times its calibrated cost is charged too (denormals can cost 200 times)."""

SHARED = 16
"""Blocks that share one window where they are computed one after the other: each is made once, for all runs to come."""

Window: TypeAlias = int | tuple[int, int]
"""The blocks of a sweep that is priced by them: how many, or, of unlike ones, from which to before which."""


class Handover(Enum):
    """Who does the rest of a run that ends early."""

    RESUMED = "the function itself, whose loop begins at the certified front"
    CAPTURED = "the captured loop, from the certified front; or the function from its beginning, where that costs less"
    CACHED = "block after block, in windows or as the captured loop does; or the function from its beginning"
    ONWARD = "the captured loop, from the certified front, there being no way back"
    LOADED = "the captured loop, which is also the reference"


class Way(Enum):
    """How the rest of a loop over a padded array is done."""

    WINDOWS = "the rest went on in windows, block after block"
    STEPS = "the rest went on step by step"
    ANEW = "the function began anew"


@dataclass(slots=True)
class Guard:
    """Continue only while ``spent + next sweep + rest <= SLACK * reference`` (in calibrated cost).

    ``spent`` begins with the once-per-call work, so a new guard also tells whether that is worth starting.

    ``drawn``: seconds in which all random numbers were drawn, None if they are still to be. The reference draws them in
    its steps, and the cost of a step includes it; captured steps find them drawn.
    """

    costs: Costs | None
    blocks: int
    drawn: float | None = None
    handover: Handover = Handover.RESUMED
    fills: bool = False  # the first sweep that does not certify fills buffers, and so costs more than others
    run: int = 1  # blocks that sweeps compute in order, in a call for each: windows end where such runs do
    waves: bool = False  # sweeps go through the levels of a stack: the first one over a window is mostly the last
    cached: bool = True  # the windows in which one block after the other is computed are there (`Handover.CACHED`)
    careful: bool = False  # nothing but the function from its beginning is trusted with the rest of a padded loop
    spent: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.spent = self.costs.once + self._drawn if self.costs else 0.0

    @property
    def _drawn(self) -> float:
        assert self.costs is not None
        return self.costs.draws if self.drawn is None else self.drawn

    @property
    def _again(self) -> float:
        assert self.costs is not None
        return self.costs.once if self.costs.again is None else min(self.costs.again, self.costs.once)

    @property
    def reference(self) -> float:
        """Seconds of the function; of a loaded one, of its captured loop and what comes before and after it."""
        if self.costs is None:
            return 0.0
        if self.handover is Handover.LOADED:
            return self.costs.once + self._drawn + self._captured(0)
        return self.costs.step * self.blocks

    def rest(self, certified: int) -> float:
        """What is still to be paid where the run ends with so many steps of the reference done."""
        if self.costs is None:
            return 0.0
        if certified >= self.blocks:
            return self.costs.after
        if self.handover is Handover.RESUMED:  # what comes before the loop is done again
            inside = max(self.reference - self.costs.after, 0.0)
            return self._again + inside * (self.blocks - certified) / self.blocks + self.costs.after
        if self.handover is Handover.CACHED:
            return min(self._ways(certified).values())
        captured = self._captured(certified)
        return min(captured, self.reference) if self.handover is Handover.CAPTURED else captured

    def anew(self, certified: int) -> bool:
        """Whether the function from its beginning costs less than the captured loop from the certified front."""
        if self.costs is None or self.handover is not Handover.CAPTURED or certified >= self.blocks:
            return False
        return self._captured(certified) > self.reference

    def way(self, certified: int) -> Way:
        """The cheapest one for the rest of a padded loop; where no cost is known, the one that needs nothing."""
        ways = self._ways(certified) if self.costs is not None else {Way.STEPS: 0.0}
        return min(ways, key=ways.__getitem__)

    def allows(self, certified: int, exact: bool, window: Window | None = None, making: float = 0.0) -> bool:
        """Whether one more sweep keeps the promise; an uncertified one must leave room for its certificate.

        ``making``: seconds that are needed before it can begin.
        """
        if self.costs is None:
            return True
        return self.spent + making + self._ahead(exact, window) + self.rest(certified) <= SLACK * self.reference

    def patience(self, certified: int, exact: bool, window: Window | None = None) -> float:
        """Seconds after which a sweep that has begun is left: what it is charged by then, there is room for."""
        if self.costs is None:
            return math.inf
        return max(self._room(certified), STALL * self.cost(exact, window))

    def spare(self, certified: int, exact: bool, window: Window | None = None) -> float:
        """Seconds that may pass before a sweep begins, so that it is still allowed then."""
        return math.inf if self.costs is None else self._room(certified) - self._ahead(exact, window)

    def _room(self, certified: int) -> float:
        return SLACK * self.reference - self.spent - self.rest(certified)

    def narrowed(self, certified: int, exact: bool, lo: int, hi: int) -> int:
        """Where a window that may end anywhere had better end: so many sweeps of it are left before the run ends.

        All blocks of a long window are often final at once, and until then the run lives on its slack. When that runs
        short, fewer blocks that become final release what the next ones need, if sweeps over fewer cost less.
        """
        if self.costs is None:
            return hi
        keep = 1 if self.waves else KEEP
        released = self.rest(certified) - self.rest(certified + self.run)  # by every sweep one run, at least
        left = self._room(certified) + (keep - 1) * released
        costs = [(end, self.cost(exact, end - lo)) for end in self._halved(lo, hi)]
        whole = keep * costs[0][1]
        enough = left if whole <= left else min(left, (1 - SAVED) * whole)
        fits = next((end for end, cost in costs if keep * cost <= enough), None)
        if fits is not None:
            return fits
        shorter = ((end, cost, half) for (end, cost), (_, half) in pairwise(costs))
        return next((end for end, cost, half in shorter if half > (1 - SAVED) * cost), costs[-1][0])

    def _halved(self, lo: int, hi: int) -> Iterator[int]:
        """Where a window may end: halved again and again, in whole runs."""
        yield hi
        while hi - lo > self.run:
            hi = lo + max((hi - lo) // (2 * self.run), 1) * self.run
            yield hi

    def charge(self, exact: bool, seconds: float, window: Window | None = None) -> None:
        """A sweep was made, or begun, and took so long."""
        if self.costs is not None:
            cost = self.cost(exact, window)
            self.spent += cost + max(seconds - STALL * cost, 0.0)

    def pay(self, seconds: float) -> None:
        """So long was worked for something else than a sweep."""
        if self.costs is not None:
            self.spent += seconds

    def why(self, certified: int, exact: bool, window: Window | None, sweeps: int, making: float = 0.0) -> str:
        """What was spent, and what one more sweep would have needed."""
        ahead, rest = self._ahead(exact, window), self.rest(certified)
        window_made = f" + {making:.3g} s for making its window" if making else ""
        need = f"{self.spent:.3g} s spent{window_made} + {ahead:.3g} s for a sweep + {rest:.3g} s for the rest"
        more = f"{self.spent + making + ahead + rest:.4g} s, above {SLACK} of the reference's {self.reference:.4g} s"
        if not sweeps:
            return f"no sweep is worth its cost: {need} would be {more}"
        return f"after sweep {sweeps}, at block {certified} of {self.blocks}: {need} would be {more}"

    def cost(self, exact: bool, window: Window | None = None) -> float:
        """Seconds of a sweep, as calibrated."""
        assert self.costs is not None
        if self.waves and window is not None:
            return self.costs.wave(window if isinstance(window, int) else window[1] - window[0])
        if self.run > 1:
            return self._in_runs(window[1] - window[0] if isinstance(window, tuple) else window)
        if isinstance(window, tuple):
            return self.costs.part(*window)
        if window is not None:
            return self.costs.window(window)
        if exact:
            return self.costs.certify
        return self.costs.fill if self.fills and self.costs.fill else self.costs.sweep

    def _in_runs(self, blocks: int | None) -> float:
        """Of a recurrence so many blocks count; of an array all, whatever the window."""
        assert self.costs is not None
        each = self.costs.certify if blocks is None else self.costs.window(-(-blocks // self.run))
        return self.costs.in_runs(self.run, self.blocks if blocks is None else blocks, each)

    def _ahead(self, exact: bool, window: Window | None) -> float:
        assert self.costs is not None
        return self.cost(exact, window) + (0.0 if exact else self.costs.certify)

    def _captured(self, done: int) -> float:
        """Seconds of the captured loop from step ``done`` on, and of what comes after it."""
        assert self.costs is not None
        if self.costs.blocks:
            return sum(self.costs.blocks[done:]) + self.costs.after
        return self._captured_step() * (self.blocks - done) + self.costs.after

    def _ways(self, done: int) -> dict[Way, float]:
        """Seconds of the rest of a padded loop from block ``done`` on, by how it is done."""
        assert self.costs is not None
        if self.careful:
            return {Way.ANEW: self.reference}
        ways = {Way.ANEW: self.reference, Way.STEPS: self._captured(done)}
        if self.cached and self.costs.windows:
            ways[Way.WINDOWS] = self._in_windows(done) + self.costs.after
        return ways

    def _in_windows(self, done: int) -> float:
        """All is evaluated first, then each block in the window that it shares, and all is certified at the end.

        A window brings up to date what the block before it changed, too.
        """
        assert self.costs is not None
        each = self.costs.window(min(SHARED + 1, self.blocks))
        return (self.costs.fill or self.costs.sweep) + (self.blocks - done) * each + self.costs.certify

    def _captured_step(self) -> float:
        """Where it was not measured: a step of the reference without what it draws and what comes after it."""
        assert self.costs is not None
        if self.costs.captured is not None:
            return self.costs.captured
        return max(self.costs.step - (self._drawn + self.costs.after) / max(self.blocks, 1), 0.0)
