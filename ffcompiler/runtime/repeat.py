"""Runs a repeated map: one step after the other, until a step leaves the whole state as it is.

Every step is made by the reference's own calls, so that nothing has to be proved of them, and no state occurs that does
not occur in the loop. From the same bits in the same layout the same calls give the same bits again: one step that
changes nothing tells what all later ones do (docs/repeated.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..plan import Bits, Equality
from ..program import RepeatedMap
from .graphs import GraphCall, graph_call
from .guard import SLACK, Guard
from .record import Certificate, Ending, RunRecord, Sweep
from .solve import Solution
from .unmoved import Look, look
from .watch import Clock

Env = Mapping[str, Tensor]
State = tuple[Tensor, ...]

LOOKS = 0.04
"""The share of the reference's cost that looks at the state may have."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A `RepeatedMap` compiled for one device. Holds no state of any run, so threads may share it."""

    loop: RepeatedMap
    invariant: GraphCall
    body: GraphCall

    @property
    def blocks(self) -> int:
        return self.loop.blocks

    def constants(self, env: Env) -> Env:
        """``env`` with what no step changes; a loop without steps computes nothing."""
        return self.invariant.extend(env) if self.blocks else env

    def steps(self, env: Env) -> Callable[[State], State]:
        """One step as a function of the state. ``env`` is looked up here, once for all steps."""
        names = [value.name for value in self.loop.carry]
        given = [None if name in names else env[name] for name in self.body.inputs]
        slots = [(place, names.index(name)) for place, name in enumerate(self.body.inputs) if name in names]
        order = [self.body.outputs.index(ref) for ref in self.loop.body.outputs]
        function = self.body.function

        def step(state: State) -> State:
            arguments = list(given)
            for place, leaf in slots:
                arguments[place] = state[leaf]
            made = function(*arguments)
            return tuple(made[place] for place in order)

        return step

    def finish(self, env: Env, state: State, done: int = 0) -> State:
        """The state after all steps, of which ``done`` have been made: step by step, without a look."""
        step = self.steps(env)
        for _ in range(done, self.blocks):
            state = step(state)
        return state


def make_repeat(loop: RepeatedMap, device: torch.device) -> Repeat:
    """What running ``loop`` needs."""
    return Repeat(loop, graph_call(loop.invariant, device), graph_call(loop.body, device))


# ---------------------------------------------------------------------------------------------------- a run


@dataclass(slots=True)
class StepGuard(Guard):
    """The same for steps, of which each counts: unlike a sweep, it is known beforehand how far it gets.

    Of ``costs``, ``sweep`` is one step of the captured loop, and ``certify`` one with a look.
    """

    @property
    def every(self) -> int:
        """One look in so many steps: all looks together then have their share of the reference's cost at most."""
        if self.costs is None:
            return 1
        one, share = self.costs.certify - self.costs.sweep, LOOKS * self.reference
        if one >= share:
            return max(1, self.blocks)
        return max(1, math.ceil(one * self.blocks / share))

    def allows_step(self, done: int, looks: bool) -> bool:
        """Whether step ``done`` keeps the promise, whatever comes after it."""
        if self.costs is None:
            return True
        return self.spent + self.cost(looks) + self.rest(done + 1) <= SLACK * self.reference

    def why_step(self, done: int, looks: bool) -> str:
        """What was spent, and what step ``done`` would have needed."""
        begun = f"after step {done} of {self.blocks}" if done else "no step is worth its cost"
        rest = self.rest(done + 1)
        need = f"{self.spent:.3g} s spent + {self.cost(looks):.3g} s for a step + {rest:.3g} s for the rest"
        total = self.spent + self.cost(looks) + rest
        return f"{begun}: {need} would be {total:.4g} s, above {SLACK} of the reference's {self.reference:.4g} s"

    def _captured_step(self) -> float:
        assert self.costs is not None
        return self.costs.sweep


@dataclass(slots=True)
class RepeatRun:
    """One run; all of its state belongs to the call."""

    repeat: Repeat
    equality: Equality
    guard: StepGuard
    every: int  # steps from look to look
    env: Env
    record: RunRecord
    clock: Clock = time.perf_counter
    observe: Callable[[Sweep], None] | None = None

    def run(self, init: State) -> Solution:
        """Step until the state repeats, the steps are over, or the guard says stop."""
        state, step, blocks = init, self.repeat.steps(self.env), self.repeat.blocks
        for k in range(blocks):
            looks = (k + 1) % self.every == 0 and k + 1 < blocks
            if not self.guard.allows_step(k, looks):
                return self._end(state, k, Ending.GUARD, self.guard.why_step(k, looks))
            started = self.clock()
            after = step(state)
            found = look(state, after, self.equality) if looks else Look(False)
            self.guard.charge(looks, 0.0)  # a step cannot stall: it is the reference's own
            self._note(k, found, self.clock() - started)
            if found.same:
                # under a tolerance what was measured is how far a step moves the old state: that is what is kept
                kept = after if isinstance(self.equality, Bits) else state
                if kept is init:  # which may be an argument, and the loop gives something of its own
                    kept = tuple(t.clone() for t in init)
                return self._end(kept, blocks, Ending.SWEEPS, self._found(k + 1))
            state = after
        return self._end(state, blocks, Ending.SWEEPS)

    def _found(self, step: int) -> str:
        what = "left the state as it was" if isinstance(self.equality, Bits) else "moved nothing beyond the tolerance"
        return f"step {step} of {self.repeat.blocks} {what}"

    def _note(self, k: int, found: Look, seconds: float) -> None:
        end = self.repeat.blocks if found.same else k + 1
        sweep = Sweep(k, end, end, True, seconds, found.change if found.same else None, found.change)
        self.record.sweeps.append(sweep)
        if self.observe is not None:
            self.observe(sweep)

    def _end(self, state: State, done: int, ending: Ending, detail: str = "") -> Solution:
        record = self.record
        record.certified, record.ending, record.detail = done, ending, detail
        record.spent, record.reference = self.guard.spent, self.guard.reference
        return Solution(state[0], done, ending, detail, state[1:])


# ---------------------------------------------------------------------------------------------------- what is claimed

METHOD = "every step was made by the reference's own calls"
UNCHANGED = "{}, bit for bit, so all later steps do too; every step was made by the reference's own calls"
NEAR = "{}, and the later ones were not made; this bounds the residual of each step, not the error"


def claim(repeat: Repeat, equality: Equality, record: RunRecord) -> Certificate:
    """The certificate of a run."""
    exact = isinstance(equality, Bits)
    found = bool(record.detail) and record.ending is Ending.SWEEPS
    method = (UNCHANGED if exact else NEAR).format(record.detail) if found else METHOD
    looks = [(sweep.lo, sweep.change) for sweep in record.sweeps if sweep.change is not None]
    residual = max((sweep.residual or 0.0 for sweep in record.sweeps), default=0.0)
    return Certificate(
        str(equality),
        method,
        record.certified,
        repeat.blocks - record.certified,
        len(record.sweeps),
        residual=None if exact else residual,
        estimated_error=None if exact else estimated_error(residual, looks),
    )


def estimated_error(residual: float, looks: Sequence[tuple[int, float]]) -> float:
    """``residual / (1 - rate)`` with the measured contraction per step; infinite where there is none.

    ``looks``: after which step how far it had moved.
    """
    rates = [(b / a) ** (1 / (j - i)) for (i, a), (j, b) in pairwise(looks) if 0 < a < math.inf and b >= 0]
    rate = sorted(rates)[len(rates) // 2] if rates else 0.0
    return residual / (1.0 - rate) if rate < 1.0 else math.inf
