"""The one solve loop: sweeps over a window past the front, until every block is final or a sweep is not worth it.

A block is *final* when it was computed from final predecessors: by depth, or because a sweep left it and all before it
unchanged. Two fronts: the working front steers the solve; the certified front is what is claimed and handed over, is
moved only by certifying sweeps, and never moves back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..plan import Equality, Schedule, Tolerance
from .blocks import Blocks, Env, State, Values
from .compare import Compared, compare_blocks
from .guard import Guard, Window
from .magnitude import Reach
from .premises import totals
from .record import Ending, RunRecord, Sweep
from .watch import Clock, LeftError, Watch
from .windowed.windowed import Windowed
from .windowed.workspace import Workspace


def always_certifies(system: Blocks, schedule: Schedule, equality: Equality) -> bool:
    """Whether every sweep of a run certifies: none is windowed, and none rounds by another shape.

    Runs in order are computed by the calls that certify, whatever the system.
    """
    return not schedule.windows and (system.exact or isinstance(equality, Tolerance) or schedule.run > 1)


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
    reach: Reach | None = None
    work: Clock | None = None  # seconds in which processors worked for this process, where that can be told
    rehearsal: bool = False  # windows are made for runs to come, which this one need not pay
    makes: bool = True  # windows that are not there; else the least that is there and encloses them serves
    working: int = field(default=0, init=False)
    certified: int = field(default=0, init=False)
    reached: int = field(default=0, init=False)  # blocks that some sweep has worked on
    settled: int = field(default=0, init=False)  # blocks that are as the kept values of the workspace have them
    workspace: Workspace | None = field(default=None, init=False)
    wider: tuple[int, int] | None = field(default=None, init=False)  # what the next sweep refreshes in place of its own
    polish: bool = field(init=False)  # certify with every sweep from now on
    quantum: int = field(init=False)
    broken: str = field(default="", init=False)  # the premise, or the sweep, that ended the run

    def __post_init__(self) -> None:
        self.polish = always_certifies(self.system, self.schedule, self.equality)
        self.quantum = self.system.windowed.quantum(self.schedule) if self.system.windowed else 1

    def run(self, init: State) -> Solution:
        """Solve from ``init``; `Solution.certified` blocks are final, the others are the caller's to finish."""
        state = self.system.start_from(init)
        try:
            self.env = self.system.prepare(self.env)
            if self._reaches_too_far((init,)):
                return self._end(state, Ending.PREMISE, self.broken)
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
            making = 0.0 if exact else self._prepare()
            if not self.guard.allows(self._done(), exact, self._priced(exact), making):
                if exact or self.certified == self.working or not self.guard.allows(self._done(), True):
                    why = self.guard.why(self._done(), exact, self._priced(exact), len(self.record.sweeps), making)
                    return self._end(state, Ending.GUARD, why)
                exact = True
            try:
                if not self.sweep(state, exact):
                    return self._end(state, Ending.PREMISE, self.broken)
            except LeftError:
                return self._end(state, Ending.GUARD, self.broken)
        return self._end(state, Ending.SWEEPS)

    def _end(self, state: State, ending: Ending, detail: str = "") -> Solution:
        self.record.certified, self.record.spent = self.certified, self.guard.spent
        self.record.reference = self.guard.reference
        return Solution(state, self.certified, ending, detail)

    def sweep(self, state: State, exact: bool) -> bool:
        """One sweep of the window, in place. False if a premise did not hold: then the fronts are where they were.

        However it ends, it is paid for. Raises: `LeftError` if it takes longer than can be paid for: then the fronts
        are where they were, and certified blocks as they were.
        """
        if not exact and self.guard.costs is None:
            self._prepare()
        (lo, hi), priced = self._window(exact), self._priced(exact)
        watch = Watch(self.clock, self.work, self.guard.patience(self._done(), exact, priced))
        found, seconds = None, 0.0
        try:
            found = self._update(state, lo, hi, exact, watch)
        except LeftError as left:
            number, predicted = len(self.record.sweeps) + 1, self.guard.cost(exact, priced)
            self.broken = f"sweep {number} was left after {left.seconds:.3g} s, predicted {predicted:.3g} s"
            raise
        finally:
            seconds = self.clock() - watch.started
            self.guard.charge(exact, watch.spent(seconds), priced)
        if found is not None:
            self._note(Sweep(lo, hi, self.working, exact, seconds, found.residual, found.change))
        return found is not None

    def _prepare(self) -> float:
        """See that the calls of the next windowed sweep are there; the seconds that are missing to make them.

        If there are not enough, the sweep brings more up to date than it needs: the least for which there are calls.
        """
        windowed, workspace, self.wider = self.system.windowed, self.workspace, None
        if windowed is None or workspace is None:
            return 0.0
        low, hi = self._kept()
        if workspace.bound((low, hi)) or (self.makes and self._made(windowed, workspace, low, hi)):
            return 0.0
        wider = [(a, b) for a, b in workspace.windows() if a <= low and hi <= b]
        if not wider:
            return windowed.making
        self.wider = min(wider, key=lambda window: window[1] - window[0])
        return 0.0

    def _made(self, windowed: Windowed, workspace: Workspace, low: int, hi: int) -> bool:
        """Make the calls of a window, which all runs to come will have; False if this run cannot pay for them."""
        spare = math.inf if self.rehearsal else self.guard.spare(self._done(), False, hi - low)
        if spare < windowed.making:
            return False
        watch = Watch(self.clock, self.work, spare)
        try:
            windowed.prepare(workspace, low, hi, watch)
        except LeftError:
            pass  # it takes more than that: runs to come will not try unless they have more
        finally:
            windowed.making = watch.spent(self.clock() - watch.started)
            self.guard.pay(0.0 if self.rehearsal else windowed.making)
        return workspace.bound((low, hi))

    def _update(self, state: State, lo: int, hi: int, exact: bool, watch: Watch | None = None) -> Compared | None:
        """New values in their place, and the fronts moved; None if a premise did not hold."""
        filled = self.width(exact) is None
        values, operands = self._values(state, lo, hi, exact, watch)
        found = compare_blocks(self.equality, self.system.read(state, lo, hi), values, totals(operands))
        if operands and not self.system.premises_hold(operands, found.numbers):
            self.broken = f"sweep {len(self.record.sweeps) + 1} did not meet {self.system.failed(operands)}"
            return None
        # under a tolerance the residual of an unchanged block was measured on its old value: that is what is kept
        known = self.system.unmoved(lo, hi, found.unchanged)
        keep, written = (0, lo) if found.residual is None else (found.unchanged, known)
        if written < hi:
            self.system.write(state, written, hi, tuple(leaf[keep:] for leaf in values) if keep else values)
        front = self.system.final(known, hi)
        if exact and self.reach is not None and self._reaches_too_far(self.system.read(state, self.certified, front)):
            return None
        self._settle(known, hi, exact, filled)
        self._advance(front, hi, exact)
        return found

    def _reaches_too_far(self, values: Values) -> bool:
        """Whether, with these among its blocks, the reference may have evaluated what a premise excludes."""
        self.broken = "" if self.reach is None else self.reach.broken(self.env, values) or ""
        return bool(self.broken)

    def _values(self, state: State, lo: int, hi: int, exact: bool, watch: Watch | None) -> tuple[Values, list[Tensor]]:
        """New values of the window, and the operands whose finiteness they rest on: a windowed sweep claims nothing."""
        windowed = self.system.windowed
        if exact or not self.schedule.windows or windowed is None:
            return self.system.update(self.env, state, lo, hi, exact, watch)
        if self.workspace is None:
            self.workspace = windowed.begin(self.env, state, watch)
        else:
            windowed.refresh(self.workspace, state, *self._kept(), watch)
        return self.system.window(self.env, self.workspace, state, lo, hi, watch), []

    def _priced(self, exact: bool) -> Window | None:
        """The blocks that the next sweep works on, if they are what it costs."""
        return self._window(exact) if self.system.priced_by_width else self.width(exact)

    def width(self, exact: bool = False) -> int | None:
        """Their number, if that is what it costs: the first windowed sweep fills the workspace."""
        if self.system.priced_by_width:
            lo, hi = self._window(exact)
            return hi - lo
        if self.workspace is None or exact:
            return None
        low, hi = self._kept()
        return hi - low

    def _kept(self) -> tuple[int, int]:
        """The blocks on which the kept values that the next windowed sweep brings up to date depend."""
        return self.wider or (self._low(), self._window(False)[1])

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
        lo, hi = (self.certified, max(hi, self.reached)) if exact else (self.working, hi)
        return lo, self.guard.narrowed(self._done(), exact, lo, hi) if self.system.ends_anywhere else hi

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
