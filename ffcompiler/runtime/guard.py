"""Whether a run may go on: however it ends, it costs little more than the reference (docs/schedules.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ..plan import Costs

SLACK = 1.05
"""A run may cost this much of the reference at most, in calibrated cost."""
KEEP = 4
"""Sweeps that a window which may end anywhere leaves room for."""
SAVED = 1 / 3
"""So much of a sweep's cost has to be saved by halving its window: of small steps a short one costs as much."""
STALL = 8.0
"""A sweep that takes this many times its calibrated cost is charged what it took (denormals can cost 200 times)."""

Window: TypeAlias = int | tuple[int, int]
"""The blocks of a sweep that is priced by them: how many, or, of unlike ones, from which to before which."""


class Handover(Enum):
    """Who does the rest of a run that ends early."""

    RESUMED = "the function itself, whose loop begins at the certified front"
    CAPTURED = "the captured loop, from the certified front; or the function from its beginning, where that costs less"
    ONWARD = "the captured loop, from the certified front, there being no way back"
    LOADED = "the captured loop, which is also the reference"


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
    spent: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.spent = self.costs.once + self._drawn if self.costs else 0.0

    @property
    def _drawn(self) -> float:
        assert self.costs is not None
        return self.costs.draws if self.drawn is None else self.drawn

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
            return self.costs.once + inside * (self.blocks - certified) / self.blocks + self.costs.after
        captured = self._captured(certified)
        return min(captured, self.reference) if self.handover is Handover.CAPTURED else captured

    def anew(self, certified: int) -> bool:
        """Whether the function from its beginning costs less than the captured loop from the certified front."""
        if self.costs is None or self.handover is not Handover.CAPTURED or certified >= self.blocks:
            return False
        return self._captured(certified) > self.reference

    def allows(self, certified: int, exact: bool, window: Window | None = None) -> bool:
        """Whether one more sweep keeps the promise; an uncertified one must leave room for its certificate."""
        if self.costs is None:
            return True
        return self.spent + self._ahead(exact, window) + self.rest(certified) <= SLACK * self.reference

    def narrowed(self, certified: int, exact: bool, lo: int, hi: int) -> int:
        """Where a window that may end anywhere had better end: so many sweeps of it are left before the run ends.

        All blocks of a long window are often final at once, and until then the run lives on its slack. When that runs
        short, fewer blocks that become final release what the next ones need, if sweeps over fewer cost less.
        """
        if self.costs is None:
            return hi
        left = SLACK * self.reference - self.spent - self.rest(certified)
        while hi - lo > 1 and KEEP * (cost := self.cost(exact, hi - lo)) > left:
            half = lo + (hi - lo) // 2
            if self.cost(exact, half - lo) > (1 - SAVED) * cost:
                break
            hi = half
        return hi

    def charge(self, exact: bool, seconds: float, window: Window | None = None) -> None:
        """A sweep was made, or begun, and took so long."""
        if self.costs is not None:
            cost = self.cost(exact, window)
            self.spent += cost if seconds <= STALL * cost else seconds

    def why(self, certified: int, exact: bool, window: Window | None, sweeps: int) -> str:
        """What was spent, and what one more sweep would have needed."""
        ahead, rest = self._ahead(exact, window), self.rest(certified)
        need = f"{self.spent:.3g} s spent + {ahead:.3g} s for a sweep + {rest:.3g} s for the rest"
        more = f"{self.spent + ahead + rest:.4g} s, above {SLACK} of the reference's {self.reference:.4g} s"
        if not sweeps:
            return f"no sweep is worth its cost: {need} would be {more}"
        return f"after sweep {sweeps}, at block {certified} of {self.blocks}: {need} would be {more}"

    def cost(self, exact: bool, window: Window | None = None) -> float:
        """Seconds of a sweep, as calibrated."""
        assert self.costs is not None
        if isinstance(window, tuple):
            return self.costs.part(*window)
        if window is not None:
            return self.costs.window(window)
        if exact:
            return self.costs.certify
        return self.costs.fill if self.fills and self.costs.fill else self.costs.sweep

    def _ahead(self, exact: bool, window: Window | None) -> float:
        assert self.costs is not None
        return self.cost(exact, window) + (0.0 if exact else self.costs.certify)

    def _captured(self, done: int) -> float:
        """Seconds of the captured loop from step ``done`` on, and of what comes after it."""
        assert self.costs is not None
        if self.costs.blocks:
            return sum(self.costs.blocks[done:]) + self.costs.after
        return self._captured_step() * (self.blocks - done) + self.costs.after

    def _captured_step(self) -> float:
        """Where it was not measured: a step of the reference without what it draws and what comes after it."""
        assert self.costs is not None
        if self.costs.captured is not None:
            return self.costs.captured
        return max(self.costs.step - (self._drawn + self.costs.after) / max(self.blocks, 1), 0.0)
