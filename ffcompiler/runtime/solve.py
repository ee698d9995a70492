"""The one solve loop: sweeps over a window past the front, until every block is final or a sweep is not worth it.

A block is *final* when it was computed from final predecessors: by depth, or because a sweep left it and all before it
unchanged. Two fronts: the working front steers the solve; the certified front is what is claimed and handed over, is
moved only by certifying sweeps, and never moves back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..plan import Bits, Costs, Equality, Schedule, Tolerance
from .equality import bits
from .premises import totals
from .record import Ending, RunRecord, Sweep
from .system import Env, System
from .workspace import Workspace

SLACK = 1.05
"""A run may cost this much of the reference at most, in calibrated cost."""
STALL = 8.0
"""A sweep that takes this many times its calibrated cost is charged what it took (denormals can cost 200 times)."""

Clock = Callable[[], float]


@dataclass(slots=True)
class Guard:
    """Continue only while ``spent + next sweep + sequential rest <= SLACK * reference`` (in calibrated cost).

    ``spent`` begins with the once-per-call work, so a new guard also tells whether that is worth starting.
    """

    costs: Costs | None
    blocks: int
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.spent = self.costs.once if self.costs else 0.0

    @property
    def reference(self) -> float:
        return self.costs.step * self.blocks if self.costs else 0.0

    def allows(self, certified: int, exact: bool, window: int | None = None) -> bool:
        """Whether one more sweep keeps the promise; an uncertified one must leave room for its certificate.

        ``window``: the number of blocks of a windowed sweep.
        """
        if self.costs is None:
            return True
        ahead = self.costs.certify if exact else self._sweep(window) + self.costs.certify
        rest = self.costs.once + self.costs.step * (self.blocks - certified)  # handing over begins anew
        return self.spent + ahead + rest <= SLACK * self.reference

    def charge(self, exact: bool, seconds: float, window: int | None = None) -> None:
        if self.costs is not None:
            cost = self.costs.certify if exact else self._sweep(window)
            self.spent += cost if seconds <= STALL * cost else seconds

    def _sweep(self, window: int | None) -> float:
        assert self.costs is not None
        return self.costs.sweep if window is None else self.costs.window(window)


def always_certifies(system: System, schedule: Schedule, equality: Equality) -> bool:
    """Whether every sweep of a run certifies: none is windowed, and none rounds by another shape."""
    return not schedule.windows and (system.tail.exact or isinstance(equality, Tolerance))


@dataclass(slots=True)
class Solution:
    """The state after the sweeps: blocks before ``certified`` are the answer."""

    state: Tensor
    certified: int
    ending: Ending
    detail: str = ""


@dataclass(slots=True)
class Solve:
    """One run of the loop; all of its state belongs to the call."""

    system: System
    schedule: Schedule
    equality: Equality
    guard: Guard
    env: Env
    record: RunRecord
    clock: Clock = time.perf_counter
    observe: Callable[[Sweep], None] | None = None
    working: int = field(default=0, init=False)
    certified: int = field(default=0, init=False)
    reached: int = field(default=0, init=False)  # blocks that some sweep has worked on
    settled: int = field(default=0, init=False)  # blocks that are as the kept values of the workspace have them
    workspace: Workspace | None = field(default=None, init=False)
    polish: bool = field(init=False)  # certify with every sweep from now on
    quantum: int = field(init=False)

    def __post_init__(self) -> None:
        self.polish = always_certifies(self.system, self.schedule, self.equality)
        self.quantum = self.system.windowed.quantum(self.schedule) if self.system.windowed else 1

    def run(self, init: Tensor) -> Solution:
        """Solve from ``init``; `Solution.certified` blocks are final, the others are the caller's to finish."""
        state = self.system.start_from(init)
        try:
            return self._sweeps(state)
        finally:
            self.release()

    def _done(self) -> int:
        """Steps of the reference that need not be run again if the run hands over now."""
        return self.system.steps_done(self.certified)

    def release(self) -> None:
        """Give the workspace back."""
        if self.workspace is not None and self.system.windowed is not None:
            self.system.windowed.end(self.workspace)
            self.workspace = None

    def _sweeps(self, state: Tensor) -> Solution:
        blocks = self.system.blocks
        while self.certified < blocks:
            exact = self.polish or self.working >= blocks
            if not self.guard.allows(self._done(), exact, self.width()):
                if exact or self.certified == self.working or not self.guard.allows(self._done(), True):
                    return self._end(state, Ending.GUARD)
                exact = True
            try:
                held = self.sweep(state, exact)
            except AssertionError:  # our own logic, not the user's operators
                raise
            except Exception as error:  # the user's operators on states that never occur: not converged
                return self._end(state, Ending.RAISED, f"{type(error).__name__}: {error}")
            if not held:
                return self._end(state, Ending.PREMISE)
        return self._end(state, Ending.SWEEPS)

    def _end(self, state: Tensor, ending: Ending, detail: str = "") -> Solution:
        self.record.certified, self.record.spent = self.certified, self.guard.spent
        self.record.reference = self.guard.reference
        return Solution(state, self.certified, ending, detail)

    def sweep(self, state: Tensor, exact: bool) -> bool:
        """One sweep of the window, in place. False if a premise did not hold: then nothing was changed."""
        lo, hi = self._window(exact)
        if not exact and self.workspace is not None and self.system.windowed is not None:
            self.system.windowed.prepare(self.workspace, self._low(), hi)  # once for all runs, so it is not timed
        started = self.clock()
        width = None if exact else self.width()
        values, operands = self._values(state, lo, hi, exact)
        old = self.system.region.read(state, lo, hi)
        unchanged, gap, sums = self._compare(old, values, totals(operands))
        if operands and not self.system.premises_hold(operands, sums):
            return False
        # under a tolerance the residual of an unchanged block was measured on its old value: that is what is kept
        keep = 0 if gap is None else unchanged
        self.system.region.write(state, lo + keep, hi, values[keep:])
        self._settle(lo + unchanged, hi, exact, filled=width is None)
        front = self.system.final(lo + unchanged, hi)
        self._advance(front, hi, exact)
        seconds = self.clock() - started
        self.guard.charge(exact, seconds, width)
        residual = None if gap is None else float(gap[:unchanged].max()) if unchanged else 0.0
        change = None if gap is None else float(gap.max())
        self._note(Sweep(lo, hi, front, exact, seconds, residual, change))
        return True

    def _values(self, state: Tensor, lo: int, hi: int, exact: bool) -> tuple[Tensor, list[Tensor]]:
        """New values of the window, and the operands whose finiteness they rest on: a windowed sweep claims nothing."""
        windowed = self.system.windowed
        if exact or not self.schedule.windows or windowed is None:
            return self.system.update(self.env, state, lo, hi, exact)
        if self.workspace is None:
            self.workspace = windowed.begin(self.env, state)
        else:
            windowed.refresh(self.workspace, state, self._low(), hi)
        return self.system.window(self.env, self.workspace, state, lo, hi), []

    def width(self) -> int | None:
        """Blocks that the next uncertified sweep works on, if it is windowed: the first fills the workspace."""
        if self.workspace is None:
            return None
        return self._window(False)[1] - self._low()

    def _low(self) -> int:
        return self.settled - self.settled % self.quantum

    def _settle(self, changed: int, hi: int, exact: bool, filled: bool) -> None:
        """Blocks before ``changed`` are as they were in this sweep.

        A windowed sweep brings up to date what block ``hi - 1`` reads, the first everything, a certifying one nothing.
        """
        if exact:
            self.settled = min(self.settled, changed)
        elif self.workspace is not None:
            self.settled = changed if filled else min(changed, hi - 1)

    def _compare(self, old: Tensor, new: Tensor, extra: list[Tensor]) -> tuple[int, Tensor | None, list[float]]:
        """How many leading blocks are unchanged; how far each moved (under a tolerance); the numbers in ``extra``."""
        match self.equality:
            case Bits():
                unchanged, numbers = leading_equal(old, new, extra)
                return unchanged, None, numbers
            case Tolerance(rtol=rtol, atol=atol):
                gap = (new - old).abs()
                within = gap <= atol + rtol * new.abs()  # NaN is not within anything
                unchanged, numbers = _leading_false(~per_block(within).all(1), extra)
                return unchanged, per_block(gap).amax(1), numbers

    def _window(self, exact: bool) -> tuple[int, int]:
        blocks = self.system.blocks
        hi = self.schedule.ahead(self.working, blocks, self.system.levels) if self.working < blocks else blocks
        if self.schedule.windows and self.schedule.block is not None and hi < blocks:
            hi = max(hi - hi % self.quantum, self.working + 1)
        return (self.certified, max(hi, self.reached)) if exact else (self.working, hi)

    def _advance(self, front: int, hi: int, exact: bool) -> None:
        self.reached = max(self.reached, hi)
        if exact:
            assert front >= self.certified, "the certified front moved back"
            if not self.polish and front < self.working:
                self.polish = True  # the lifted tail rounds differently here: only certifying sweeps from now on
            self.certified = self.working = front
        else:
            self.working = front

    def _note(self, sweep: Sweep) -> None:
        self.record.sweeps.append(sweep)
        if self.observe is not None:
            self.observe(sweep)


LOOK = 64
"""Blocks that are compared first; the look doubles while all are equal, so that a sweep pays for how far it got."""


def leading_equal(old: Tensor, new: Tensor, extra: list[Tensor]) -> tuple[int, list[float]]:
    """The number of leading entries with the same bits, and the numbers in ``extra``."""
    if old.device.type != "cpu":  # one look, one transfer
        return _leading_false(_changed(old, new), extra)
    a, b = bits(old).numpy(), bits(new).numpy()  # a third of the time that torch takes for so little
    start, count, width = 0, old.shape[0], LOOK
    numbers = fetch(extra)
    while start < count:
        end = min(start + width, count)
        changed = (a[start:end] != b[start:end]).reshape(end - start, -1).any(axis=1)
        first = int(changed.argmax())
        if changed[first]:
            return start + first, numbers
        start, width = end, 2 * width
    return count, numbers


def _changed(old: Tensor, new: Tensor) -> Tensor:
    return per_block(bits(old) != bits(new)).any(1)


def per_block(t: Tensor) -> Tensor:
    """``[blocks, elements of a block]``."""
    return t.reshape(t.shape[0], -1)


def _leading_false(flags: Tensor, extra: list[Tensor]) -> tuple[int, list[float]]:
    """The number of leading False entries, and the numbers in ``extra``; off the CPU in one transfer."""
    if flags.device.type == "cpu":
        places = flags.nonzero()
        return (int(places[0, 0]) if len(places) else flags.numel()), fetch(extra)
    first, any_true, *numbers = fetch([flags.view(torch.uint8).argmax(), flags.any(), *extra])
    return (int(first) if any_true else flags.numel()), numbers


def fetch(scalars: list[Tensor]) -> list[float]:
    """The numbers in some one-element tensors, in one transfer from the device."""
    if not scalars or scalars[0].device.type == "cpu":
        return [scalar.item() for scalar in scalars]
    return torch.stack([scalar.double() for scalar in scalars]).tolist()
