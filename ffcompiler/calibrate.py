"""Measure, on the example inputs: the reference, one sweep, and each candidate schedule to its end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .capture import Replay
from .modes import as_recorded
from .plan import Bits, Candidate, Costs, Method, Plan, Schedule
from .program import Chain, Recurrence
from .proof import Proof
from .runtime.equality import same_bits
from .runtime.record import Ending, RunRecord
from .runtime.repeat_costs import repeat_costs
from .runtime.runner import Execution, Runner
from .runtime.solve import Solve

Progress = Callable[[str, int, int], None]
QUICK = 1.0
"""Seconds: a reference faster than this is timed whole; of a slower one this much is run, and the rest extrapolated."""
SHORT = 0.2
"""Seconds: so much of a reference is run where it is timed in turns with something else."""
SLOW = 5.0
"""Seconds: candidates whose first run is faster than this are run twice, and the better time counts.

The first run also makes the windows that occur, hundreds where the front moves by single positions.
"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """``costs`` in seconds; ``wrong`` says which candidate certified other bits than the reference's, if any did."""

    costs: Costs
    reference_seconds: float
    candidates: tuple[Candidate, ...]
    wrong: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """What is measured: a recorded run with its results, the weights, and how long the reference takes.

    ``seconds`` times the reference on the same arguments: of one that takes longer than the seconds it is given, some
    steps, and the rest extrapolated.
    """

    replay: Replay
    weights: Callable[[], Mapping[str, Tensor]]
    seconds: Callable[[float], float]


def calibrate(plan: Plan, proof: Proof, example: Example, schedules: Sequence[Schedule], say: Progress) -> Calibration:
    """Costs on this machine now, and the candidates with their measured seconds and sweeps."""
    device = torch.device(plan.device)
    trial = _Trial(plan, proof, example, device)
    reference_seconds = _reference_seconds(example)
    tried = []
    with as_recorded(device):
        costs = trial.costs(reference_seconds, schedules)
        for position, schedule in enumerate(schedules):
            say("candidates", position, len(schedules))
            tried.append(trial.run(schedule, costs, reference_seconds))
    say("candidates", len(schedules), len(schedules))
    wrong = next((c.note for c, ok in tried if not ok), None)
    return Calibration(costs, reference_seconds, tuple(c for c, _ in tried), wrong)


@dataclass(slots=True)
class _Trial:
    plan: Plan
    proof: Proof
    example: Example
    device: torch.device

    def _begin(self, runner: Runner, weights: Mapping[str, Tensor]) -> Execution:
        """The run whose results are known: on the same arguments, with the same random numbers."""
        known = self.example.replay
        return runner.begin(known.arguments, weights, known.generators)

    def costs(self, reference_seconds: float, schedules: Sequence[Schedule]) -> Costs:
        """From a few sweeps of each kind, bookkeeping included, on the first state."""
        runner = Runner(replace(self.plan, schedule=Schedule(Method.JACOBI)), self.proof, self.device, guarded=False)
        system, repeat = runner.system, runner.repeat
        weights = self.example.weights()
        with torch.no_grad():
            execution = self._begin(runner, weights)
            once = _median_seconds(lambda: runner.broken_patterns(self._begin(runner, weights)), self.device)
            if runner.draws:  # part of the cost of steps (`Guard`)
                once = max(once - _median_seconds(runner.draws, self.device), 0.0)
            if repeat is not None:
                now, state = partial(_now, self.device), execution.init
                again = partial(self.example.seconds, SHORT)
                equality, env = self.plan.equality, execution.env
                return repeat_costs(repeat, env, state, equality, reference_seconds, once, now, again)
            if runner.solving is not None and runner.solving.priced_by_width:
                return self._recurrence_costs(reference_seconds, schedules, once)
            assert system is not None
            certify = self._sweep_seconds(runner, execution, True, reference_seconds)
            sweep = certify if system.exact else self._sweep_seconds(runner, execution, False, reference_seconds)
            windows = dict(self._window_seconds(s, reference_seconds) for s in schedules if s.windows)
        return Costs(reference_seconds / system.blocks, sweep, certify, once, tuple(sorted(windows.items())))

    def _recurrence_costs(self, reference_seconds: float, schedules: Sequence[Schedule], once: float) -> Costs:
        """A sweep costs what its window has: seconds at the widths that the schedules have, and of a whole sweep."""
        blocks = self._blocks
        levels = self.plan.system.levels if isinstance(self.plan.system, Chain) else ()
        widths = {s.ahead(0, blocks, levels): s for s in schedules} | {blocks: Schedule(Method.JACOBI)}
        seconds: dict[int, float] = {}
        for width, schedule in sorted(widths.items()):
            runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
            execution = self._begin(runner, self.example.weights())
            seconds[width] = self._sweep_seconds(runner, execution, True, reference_seconds)
            if width == blocks and runner.recurrent is not None:
                prepare, env = runner.recurrent.prepare, execution.env
                once += _median_seconds(lambda: prepare(env), self.device)  # noqa: B023 - called at once
        return Costs(reference_seconds / blocks, seconds[blocks], seconds[blocks], once, tuple(sorted(seconds.items())))

    @property
    def _blocks(self) -> int:
        assert self.plan.system is not None
        return self.plan.system.blocks

    def _window_seconds(self, schedule: Schedule, reference_seconds: float) -> tuple[int, float]:
        """Blocks and seconds of a windowed sweep in the middle of the array."""
        runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
        assert runner.system is not None
        execution = self._begin(runner, self.example.weights())
        solve = runner.solver(execution)
        state = runner.system.start_from(execution.init[0])
        middle = 0 if schedule.method is Method.JACOBI else runner.system.blocks // 2
        try:
            solve.sweep(state, False)  # fills the workspace
            width = _restart(solve, middle).width() or 1
            return width, _median_seconds(lambda: _restart(solve, middle).sweep(state, False), self.device)
        except Exception:  # as for whole sweeps
            return runner.system.blocks, 2 * reference_seconds
        finally:
            solve.release()

    def _sweep_seconds(self, runner: Runner, execution: Execution, exact: bool, reference_seconds: float) -> float:
        """The median of a few sweeps over the whole array; a sweep that raises or fails a premise ends the look."""
        solve = runner.solver(replace(execution, record=RunRecord("", 0)))
        init = execution.init if runner.system is None else execution.init[0]
        state = solve.system.start_from(init)
        try:
            solve.env = solve.system.prepare(solve.env)
            solve.sweep(state, exact)  # not counted: first call
            return _median_seconds(lambda: _restart(solve).sweep(state, exact), self.device)
        except Exception:  # speculation on states that never occur: priced such that no sweep is started here
            return 2 * reference_seconds

    def run(self, schedule: Schedule, costs: Costs, reference_seconds: float) -> tuple[Candidate, bool]:
        """One candidate through to the end, and whether its bits are the reference's."""
        runner = Runner(replace(self.plan, schedule=schedule, costs=costs), self.proof, self.device)
        best: tuple[float, RunRecord] | None = None
        known = self.example.replay
        ok = True
        for _ in range(2):
            seconds, record, results = self._once(runner)
            if record.ending is Ending.SWEEPS and isinstance(self.plan.equality, Bits) and known.complete:
                expected = known.results
                ok = ok and all(same_bits(a, b) for a, b in zip(results, expected, strict=True))
            if best is None or seconds < best[0]:
                best = (seconds, record)
            far = isinstance(self.plan.system, Recurrence) and 2 * record.certified < record.blocks
            if far or seconds > SLOW:
                break  # once is enough to know
        assert best is not None
        seconds, record = best
        if record.ending is not Ending.SWEEPS:
            seconds += costs.step * (record.blocks - record.certified)
        note = _note(record, ok, reference_seconds / seconds)
        certifying = sum(1 for s in record.sweeps if s.certified)
        return Candidate(schedule, seconds, len(record.sweeps), note, certifying), ok

    def _once(self, runner: Runner) -> tuple[float, RunRecord, list[Tensor]]:
        weights = self.example.weights()
        with torch.no_grad():
            started = _now(self.device)
            execution = self._begin(runner, weights)
            runner.broken_patterns(execution)
            solution = runner.sweep(execution)
            results = runner.so_far(execution, solution)
            return _now(self.device) - started, execution.record, results


def _restart(solve: Solve, front: int = 0) -> Solve:
    """Back to a front, so that every counted sweep does the same work."""
    solve.certified = solve.reached = 0
    solve.working, solve.settled = front, max(front - 1, 0)
    return solve


def _note(record: RunRecord, ok: bool, speedup: float) -> str:
    if not ok:
        return "its certified bits are not the reference's"
    if record.ending is not Ending.SWEEPS:
        return f"stopped at block {record.certified} of {record.blocks}: {record.ending.name.lower()}"
    speed = f"{speedup:.1f}x the reference's speed"
    return f"{record.detail}, {speed}" if record.detail else speed


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reference_seconds(example: Example) -> float:
    """The best of a few times, as for the candidates."""
    return min(example.seconds(QUICK) for _ in range(3))


def _median_seconds(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = _now(device)
        call()
        times.append(_now(device) - started)
    return statistics.median(times)
