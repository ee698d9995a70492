"""The one solve loop: sweeps over a window past the front, until every block is final or a sweep is not worth it.

A block is *final* when it was computed from final predecessors: by depth, or because a sweep left it and all before it
unchanged. Two fronts: the working front steers the solve; the certified front is what is claimed and handed over, is
moved only by certifying sweeps, and never moves back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..plan import Costs, Equality, Schedule, Tolerance
from .blocks import Blocks, Env, State, Values
from .compare import compare_blocks
from .premises import totals
from .record import Ending, RunRecord, Sweep
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

    ``drawn``: seconds in which all random numbers were drawn. The reference draws them in its steps, and the cost of a
    step includes it; those of a step that need not be run were drawn all the same.
    """

    costs: Costs | None
    blocks: int
    spent: float = 0.0
    drawn: float = 0.0

    def __post_init__(self) -> None:
        self.spent = self.costs.once if self.costs else 0.0

    @property
    def reference(self) -> float:
        return self.costs.step * self.blocks if self.costs else 0.0

    def allows(self, certified: int, exact: bool, window: int | None = None) -> bool:
        """Whether one more sweep keeps the promise; an uncertified one must leave room for its certificate.

        ``window``: the number of blocks of a sweep that is priced by it.
        """
        if self.costs is None:
            return True
        ahead = self._cost(exact, window) + (0.0 if exact else self.costs.certify)
        rest = self.costs.once + self.costs.step * (self.blocks - certified)  # handing over begins anew
        drawn = self.drawn * certified / max(self.blocks, 1)
        return self.spent + drawn + ahead + rest <= SLACK * self.reference

    def charge(self, exact: bool, seconds: float, window: int | None = None) -> None:
        if self.costs is not None:
            cost = self._cost(exact, window)
            self.spent += cost if seconds <= STALL * cost else seconds

    def _cost(self, exact: bool, window: int | None) -> float:
        assert self.costs is not None
        if window is not None:
            return self.costs.window(window)
        return self.costs.certify if exact else self.costs.sweep


def always_certifies(system: Blocks, schedule: Schedule, equality: Equality) -> bool:
    """Whether every sweep of a run certifies: none is windowed, and none rounds by another shape."""
    return not schedule.windows and (system.exact or isinstance(equality, Tolerance))


@dataclass(slots=True)
class Solution:
    """The state after the sweeps: blocks before ``certified`` are the answer."""

    state: State
    certified: int
    ending: Ending
    detail: str = ""
    more: tuple[Tensor, ...] = ()  # the other tensors of a state that has several

    @property
    def states(self) -> tuple[Tensor, ...]:
        return (self.state, *self.more)


@dataclass(slots=True)
class Solve:
    """One run of the loop; all of its state belongs to the call."""

    system: Blocks
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
    broken: str = field(default="", init=False)  # the premise that ended the run

    def __post_init__(self) -> None:
        self.polish = always_certifies(self.system, self.schedule, self.equality)
        self.quantum = self.system.windowed.quantum(self.schedule) if self.system.windowed else 1

    def run(self, init: State) -> Solution:
        """Solve from ``init``; `Solution.certified` blocks are final, the others are the caller's to finish."""
        state = self.system.start_from(init)
        try:
            self.env = self.system.prepare(self.env)
            return self._sweeps(state)
        except AssertionError:  # our own logic, not the user's operators
            raise
        except Exception as error:  # the user's operators on states that never occur: not converged
            return self._end(state, Ending.RAISED, f"{type(error).__name__}: {error}")
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

    def _sweeps(self, state: State) -> Solution:
        blocks = self.system.blocks
        while self.certified < blocks:
            exact = self.polish or self.working >= blocks
            if not self.guard.allows(self._done(), exact, self.width(exact)):
                if exact or self.certified == self.working or not self.guard.allows(self._done(), True):
                    return self._end(state, Ending.GUARD)
                exact = True
            if not self.sweep(state, exact):
                return self._end(state, Ending.PREMISE, self.broken)
        return self._end(state, Ending.SWEEPS)

    def _end(self, state: State, ending: Ending, detail: str = "") -> Solution:
        self.record.certified, self.record.spent = self.certified, self.guard.spent
        self.record.reference = self.guard.reference
        return Solution(state, self.certified, ending, detail)

    def sweep(self, state: State, exact: bool) -> bool:
        """One sweep of the window, in place. False if a premise did not hold: then nothing was changed."""
        lo, hi = self._window(exact)
        if not exact and self.workspace is not None and self.system.windowed is not None:
            self.system.windowed.prepare(self.workspace, self._low(), hi)  # once for all runs, so it is not timed
        started = self.clock()
        width = self.width(exact)
        values, operands = self._values(state, lo, hi, exact)
        found = compare_blocks(self.equality, self.system.read(state, lo, hi), values, totals(operands))
        if operands and not self.system.premises_hold(operands, found.numbers):
            self.broken = f"sweep {len(self.record.sweeps) + 1} did not meet {self.system.failed(operands)}"
            return False
        # under a tolerance the residual of an unchanged block was measured on its old value: that is what is kept
        keep = 0 if found.residual is None else found.unchanged
        if keep < hi - lo:
            self.system.write(state, lo + keep, hi, tuple(leaf[keep:] for leaf in values) if keep else values)
        self._settle(lo + found.unchanged, hi, exact, filled=width is None)
        front = self.system.final(lo + found.unchanged, hi)
        self._advance(front, hi, exact)
        seconds = self.clock() - started
        self.guard.charge(exact, seconds, width)
        self._note(Sweep(lo, hi, front, exact, seconds, found.residual, found.change))
        return True

    def _values(self, state: State, lo: int, hi: int, exact: bool) -> tuple[Values, list[Tensor]]:
        """New values of the window, and the operands whose finiteness they rest on: a windowed sweep claims nothing."""
        windowed = self.system.windowed
        if exact or not self.schedule.windows or windowed is None:
            return self.system.update(self.env, state, lo, hi, exact)
        if self.workspace is None:
            self.workspace = windowed.begin(self.env, state)
        else:
            windowed.refresh(self.workspace, state, self._low(), hi)
        return self.system.window(self.env, self.workspace, state, lo, hi), []

    def width(self, exact: bool = False) -> int | None:
        """Blocks that the next sweep works on, if that is what it costs: the first windowed one fills the workspace."""
        if self.system.priced_by_width:
            lo, hi = self._window(exact)
            return hi - lo
        if self.workspace is None or exact:
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
