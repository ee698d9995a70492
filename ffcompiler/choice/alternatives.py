"""What other demands would give, in numbers: a Jacobi run, and how far each of its sweeps still moved the state.

The sweep after which no element moves by more than so much is the one after which a run under that tolerance ends. A
state of few levels (8-bit pixels) is run as well, each new value rounded to them. Figures for `explain`, measured on
the example inputs; no decision rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from ..capture import Replay
from ..modes import as_recorded
from ..plan import Alternative, Bits, Costs, Equality, Method, Plan, Schedule, Tolerance
from ..program import ArrayLoop, Recurrence, RepeatedMap
from ..proof import Proof
from ..runtime.record import Sweep
from ..runtime.repeat import State
from ..runtime.runner import Runner
from .lyapunov import largest_exponent
from .pixels import PIXELS, Levels, levels_of, on_levels, step_on_levels
from .repetition import repetition
from .timing import Left

TOLERANCES = (1e-3, 1e-6)
"""Absolute ones; a run goes on to the last."""
LOOSE = (0.0, TOLERANCES[-1])
FIRST = 512
"""Of a recurrence only so many blocks are swept: all others wait for as many sweeps at least."""
JACOBI = Schedule(Method.JACOBI)


class _EnoughError(Exception):
    """All is known, or there is no more time."""


@dataclass(frozen=True, slots=True)
class Moves:
    """For each sweep the largest move of an element; ``each``: seconds of a sweep over all blocks.

    ``enough``: after so many sweeps blocks are final whatever they read, which says nothing of how they converge.
    ``whole``: the sweeps went on until nothing moved beyond the last of `TOLERANCES`.
    """

    changes: tuple[float, ...]
    each: float
    enough: int
    whole: bool

    def sweeps(self, within: float) -> tuple[int, bool]:
        """After how many nothing moves by more; and whether that was seen: if not, it takes more than so many."""
        beyond = [m for m, change in enumerate(self.changes, 1) if not change <= within]
        count = (beyond[-1] if beyond else 0) + 1
        seen = self.whole or count < len(self.changes)
        return (count, True) if seen and count <= self.enough else (min(count, self.enough), False)


def rounding_alone(plan: Plan) -> bool:
    """Whether sweeps are refused only because they would not give the bits of single steps."""
    return isinstance(plan.equality, Bits) and plan.refusal is not None and "ffc.tolerance(" in plan.refusal


def alternatives(
    plan: Plan, proof: Proof, replay: Replay, weights: Mapping[str, Tensor], seconds: float
) -> tuple[Alternative, ...]:
    """Those of ``plan``, whose costs say what the function itself takes; measured in about so many seconds of sweeps.

    None for the kinds of system that have no sweeps over alike blocks, and where sweeps raise or fail a premise.
    """
    if plan.system is None or plan.system.blocks < 2 or plan.costs is None:
        return ()
    reference = plan.costs.step * plan.system.blocks
    trial = _Trial(replace(plan, equality=Tolerance(*LOOSE), costs=None), proof, replay, weights)
    with as_recorded(torch.device(plan.device)), torch.no_grad():
        if isinstance(plan.system, RepeatedMap):
            return tuple(trial.repeated(plan.costs, reference, seconds))
        if not isinstance(plan.system, ArrayLoop | Recurrence):
            return ()
        moves = trial.moves(plan.system, seconds / 2)
        if moves is None:
            return ()
        told = [_told(f"equality=ffc.tolerance(0.0, {t!r})", moves, t, reference) for t in TOLERANCES]
        told += trial.pixels(moves.each, reference, seconds / 2)
    return tuple(one for one in told if math.isfinite(one.seconds))


def exponent(plan: Plan, proof: Proof, replay: Replay, weights: Mapping[str, Tensor], seconds: float) -> float | None:
    """The Lyapunov exponent of a recurrence on the example inputs."""
    trial = _Trial(plan, proof, replay, weights)
    with as_recorded(torch.device(plan.device)):
        runner = trial.runner(JACOBI)
        return largest_exponent(runner, runner.begin(replay.arguments, weights, replay.generators), Left(seconds))


@dataclass(frozen=True, slots=True)
class _Trial:
    plan: Plan
    proof: Proof
    replay: Replay
    weights: Mapping[str, Tensor]

    def runner(self, schedule: Schedule) -> Runner:
        return Runner(replace(self.plan, schedule=schedule), self.proof, torch.device(self.plan.device), guarded=False)

    def moves(self, system: ArrayLoop | Recurrence, seconds: float) -> Moves | None:
        blocks = system.blocks
        first = min(FIRST, blocks) if isinstance(system, Recurrence) else blocks
        schedule = JACOBI if first == blocks else Schedule(Method.GS_JACOBI, first)
        made = self._sweeps(schedule, lambda sweeps: sweeps[-1].front >= first or _seconds(sweeps) > seconds)
        if made is None or not made:
            return None
        whole = made[-1].front >= first
        if first < blocks:
            several = self._sweeps(JACOBI, lambda sweeps: len(sweeps) > 2 or _seconds(sweeps) > seconds)
            each = several[-1].seconds if several else math.inf
        else:
            each = median(sweep.seconds for sweep in made)
        changes = tuple(sweep.change or 0.0 for sweep in made)
        enough = blocks if first == blocks else first // 2
        return Moves(changes, each, enough, whole)

    def pixels(self, each: float, reference: float, seconds: float) -> Iterator[Alternative]:
        """Of an array loop: sweeps, of ``each`` so many seconds, that write nothing but levels."""
        levels = levels_of(self.replay.final)
        if levels is None or not isinstance(self.plan.system, ArrayLoop):
            return
        trial = replace(self, plan=replace(self.plan, equality=levels.same))
        made = trial._sweeps(JACOBI, lambda sweeps: _seconds(sweeps) > seconds, levels)
        if made:
            whole = made[-1].front >= self.plan.system.blocks
            yield Alternative(PIXELS, len(made), len(made) * each, reference, whole)

    def repeated(self, costs: Costs, reference: float, seconds: float) -> Iterator[Alternative]:
        """Of a repeated map, whose steps are its sweeps: one that moves little enough ends it."""
        runner = self.runner(JACOBI)
        execution = runner.begin(self.replay.arguments, self.weights, self.replay.generators)
        assert runner.repeat is not None and not execution.otherwise
        step, levels = runner.repeat.steps(execution.env), levels_of(self.replay.final)
        demands: list[tuple[str, Callable[[State], State], Equality]] = [
            (f"equality=ffc.tolerance(0.0, {t!r})", step, Tolerance(0.0, t)) for t in TOLERANCES
        ]
        if levels is not None:
            demands.append((PIXELS, step_on_levels(step, levels), Bits()))
        for change, of, equality in demands:
            trace = repetition(of, runner.repeat.blocks, execution.init, equality, Left(seconds / len(demands)))
            sweeps = trace.sweeps if trace.whole else len(trace.runs[0].fronts)
            yield Alternative(change, sweeps, costs.once + sweeps * costs.sweep, reference, trace.whole)

    def _sweeps(
        self, schedule: Schedule, end: Callable[[list[Sweep]], bool], levels: Levels | None = None
    ) -> list[Sweep] | None:
        """The sweeps up to the first at which ``end`` says so; None if they end before, and not at the last block.

        ``levels``: what an array loop writes is rounded to them.
        """
        made: list[Sweep] = []

        def watch(sweep: Sweep) -> None:
            made.append(sweep)
            if end(made):
                raise _EnoughError

        runner = self.runner(schedule)
        execution = runner.begin(self.replay.arguments, self.weights, self.replay.generators)
        if levels is None:
            runner.sweep(execution, watch)
        else:
            solve = runner.solver(execution, watch)
            assert runner.system is not None
            solve.system = on_levels(runner.system, levels)
            solve.run(execution.init[0])
        ended = bool(made) and (end(made) or made[-1].front == execution.record.blocks)
        return made if ended else None


def _seconds(sweeps: Sequence[Sweep]) -> float:
    return sum(sweep.seconds for sweep in sweeps)


def _told(change: str, moves: Moves, within: float, reference: float) -> Alternative:
    sweeps, seen = moves.sweeps(within)
    return Alternative(change, sweeps, sweeps * moves.each, reference, seen)
