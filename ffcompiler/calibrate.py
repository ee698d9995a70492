"""Measure, on the example inputs: the reference, one sweep, and each candidate schedule to its end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .live import Live
from .plan import Bits, Candidate, Costs, Method, Plan, Schedule
from .proof import Proof
from .runtime.equality import same_bits
from .runtime.record import Ending, RunRecord
from .runtime.runner import Execution, Runner
from .runtime.solve import Solve

Progress = Callable[[str, int, int], None]
QUICK = 1.0
"""Seconds: a reference faster than this is timed whole; of a slower one this much is run, and the rest extrapolated."""
SLOW = 10.0
"""Seconds: candidates for a reference faster than this are run twice, and the better time counts."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """``costs`` in seconds; ``wrong`` says which candidate certified other bits than the reference's, if any did."""

    costs: Costs
    reference_seconds: float
    candidates: tuple[Candidate, ...]
    wrong: str | None = None


def calibrate(
    plan: Plan,
    proof: Proof,
    live: Live,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    schedules: Sequence[Schedule],
    say: Progress,
) -> Calibration:
    """Costs on this machine now, and the candidates with their measured seconds and sweeps."""
    device = torch.device(plan.device)
    trial = _Trial(plan, proof, live, device)
    reference_seconds = _reference_seconds(live, args, kwargs, device)
    costs = trial.costs(reference_seconds, schedules)
    tried = []
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
    live: Live
    device: torch.device

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.live.captured.replays[0].arguments

    def costs(self, reference_seconds: float, schedules: Sequence[Schedule]) -> Costs:
        """From a few sweeps of each kind, bookkeeping included, on the first state."""
        runner = Runner(replace(self.plan, schedule=Schedule(Method.JACOBI)), self.proof, self.device, guarded=False)
        system = runner.system
        assert system is not None
        weights = self.live.weights()
        with torch.no_grad():
            execution = runner.begin(self.arguments, weights)
            once = _median_seconds(lambda: runner.broken_patterns(runner.begin(self.arguments, weights)), self.device)
            certify = self._sweep_seconds(runner, execution, True, reference_seconds)
            sweep = certify if system.tail.exact else self._sweep_seconds(runner, execution, False, reference_seconds)
            windows = dict(self._window_seconds(s, reference_seconds) for s in schedules if s.windows)
        return Costs(reference_seconds / system.blocks, sweep, certify, once, tuple(sorted(windows.items())))

    def _window_seconds(self, schedule: Schedule, reference_seconds: float) -> tuple[int, float]:
        """Blocks and seconds of a windowed sweep in the middle of the array."""
        runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
        assert runner.system is not None
        execution = runner.begin(self.arguments, self.live.weights())
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
        assert runner.system is not None
        state = runner.system.start_from(execution.init[0])
        try:
            solve.sweep(state, exact)  # not counted: first call
            return _median_seconds(lambda: _restart(solve).sweep(state, exact), self.device)
        except Exception:  # speculation on states that never occur: priced such that no sweep is started here
            return 2 * reference_seconds

    def run(self, schedule: Schedule, costs: Costs, reference_seconds: float) -> tuple[Candidate, bool]:
        """One candidate through to the end, and whether its bits are the reference's."""
        runner = Runner(replace(self.plan, schedule=schedule, costs=costs), self.proof, self.device)
        best: tuple[float, RunRecord] | None = None
        known = self.live.captured.replays[0]
        ok = True
        for _ in range(2 if reference_seconds < SLOW else 1):
            seconds, record, results = self._once(runner)
            if record.ending is Ending.SWEEPS and isinstance(self.plan.equality, Bits) and known.complete:
                expected = known.results
                ok = ok and all(same_bits(a, b) for a, b in zip(results, expected, strict=True))
            if best is None or seconds < best[0]:
                best = (seconds, record)
        assert best is not None
        seconds, record = best
        if record.ending is not Ending.SWEEPS:
            seconds += costs.step * (record.blocks - record.certified)
        note = _note(record, ok, reference_seconds / seconds)
        certifying = sum(1 for s in record.sweeps if s.certified)
        return Candidate(schedule, seconds, len(record.sweeps), note, certifying), ok

    def _once(self, runner: Runner) -> tuple[float, RunRecord, list[Tensor]]:
        weights = self.live.weights()
        with torch.no_grad():
            started = _now(self.device)
            execution = runner.begin(self.arguments, weights)
            runner.broken_patterns(execution)
            solution = runner.sweep(execution)
            results = runner.results(execution, (solution.state,))
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
    return f"{speedup:.1f}x the reference's speed"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reference_seconds(live: Live, args: tuple[Any, ...], kwargs: Mapping[str, Any], device: torch.device) -> float:
    """The best of a few times, as for the candidates; of a slow reference each extrapolated from its first steps."""
    first = live.estimated_seconds(args, kwargs, QUICK)
    if first < QUICK:
        return _best(lambda: live.reference(args, kwargs), device)
    return min(first, *(live.estimated_seconds(args, kwargs, QUICK) for _ in range(2)))


def _best(call: Callable[[], Any], device: torch.device) -> float:
    """The better of two times."""
    times: list[float] = []
    while len(times) < 2:
        started = _now(device)
        call()
        times.append(_now(device) - started)
    return min(times)


def _median_seconds(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = _now(device)
        call()
        times.append(_now(device) - started)
    return statistics.median(times)
