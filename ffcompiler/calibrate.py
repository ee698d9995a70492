"""Measure, on the example inputs: the reference, one sweep, and each candidate schedule once through."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .live import Live
from .plan import Bits, Candidate, Costs, Plan, Schedule
from .runtime.equality import same_bits
from .runtime.record import Ending, RunRecord
from .runtime.runner import Patterns, Runner

Progress = Callable[[str, int, int], None]
QUICK = 5.0
"""Seconds: what is faster than this is measured twice, and the better time counts."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """``costs`` in seconds; ``wrong`` says which candidate certified other bits than the reference's, if any did."""

    costs: Costs
    reference_seconds: float
    candidates: tuple[Candidate, ...]
    wrong: str | None = None


def calibrate(
    plan: Plan,
    patterns: Patterns,
    live: Live,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    schedules: Sequence[Schedule],
    say: Progress,
) -> Calibration:
    """Costs on this machine now, and the candidates with their measured seconds and sweeps."""
    device = torch.device(plan.device)
    trial = _Trial(plan, patterns, live, device)
    reference_seconds = _best(lambda: live.reference(args, kwargs), device)
    costs = trial.costs(reference_seconds)
    tried = []
    for position, schedule in enumerate(schedules):
        say("candidates", position, len(schedules))
        tried.append(trial.run(schedule, costs, reference_seconds))
    say("candidates", len(schedules), len(schedules))
    wrong = next((c.note for c, ok in tried if not ok), None)
    return Calibration(trial.refined(costs), reference_seconds, tuple(c for c, _ in tried), wrong)


@dataclass(slots=True)
class _Trial:
    plan: Plan
    patterns: Patterns
    live: Live
    device: torch.device
    records: list[RunRecord] | None = None

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.live.captured.replays[0].arguments

    def costs(self, reference_seconds: float) -> Costs:
        """From one evaluation of each kind of sweep."""
        runner = Runner(self.plan, self.patterns, self.device)
        system = runner.system
        assert system is not None
        weights = self.live.weights()
        with torch.no_grad():
            started = _now(self.device)
            execution = runner.begin(self.arguments, weights)
            runner.broken_patterns(execution)
            once = _now(self.device) - started
            state = system.start_from(execution.init[0])
            seconds = {
                exact: _median_seconds(
                    lambda exact=exact: system.update(execution.env, state, 0, system.blocks, exact), self.device
                )
                for exact in (False, True)
            }
        sweep = seconds[True] if system.tail.exact else seconds[False]
        return Costs(reference_seconds / system.blocks, sweep, seconds[True], once)

    def run(self, schedule: Schedule, costs: Costs, reference_seconds: float) -> tuple[Candidate, bool]:
        """One candidate once through (twice if quick), and whether its bits are the reference's."""
        runner = Runner(replace(self.plan, schedule=schedule, costs=costs), self.patterns, self.device)
        best: tuple[float, RunRecord] | None = None
        ok = True
        for _ in range(3 if reference_seconds < QUICK else 1):
            seconds, record, results = self._once(runner)
            if record.ending is Ending.SWEEPS and isinstance(self.plan.equality, Bits):
                expected = self.live.captured.replays[0].results
                ok = ok and all(same_bits(a, b) for a, b in zip(results, expected, strict=True))
            if best is None or seconds < best[0]:
                best = (seconds, record)
        assert best is not None
        seconds, record = best
        if record.ending is Ending.SWEEPS:
            self.records = [*(self.records or []), record]
        else:
            seconds += costs.step * (record.blocks - record.certified)
        note = _note(record, ok, reference_seconds / seconds)
        return Candidate(schedule, seconds, len(record.sweeps), note), ok

    def _once(self, runner: Runner) -> tuple[float, RunRecord, list[Tensor]]:
        weights = self.live.weights()
        with torch.no_grad():
            started = _now(self.device)
            execution = runner.begin(self.arguments, weights)
            runner.broken_patterns(execution)
            solution = runner.sweep(execution)
            results = runner.results(execution, (solution.state,))
            return _now(self.device) - started, execution.record, results

    def refined(self, costs: Costs) -> Costs:
        """The costs with those of whole sweeps, bookkeeping included, as the completed candidates measured them."""
        sweeps = [s for record in self.records or [] for s in record.sweeps]
        certify = [s.seconds for s in sweeps if s.certified]
        solve = [s.seconds for s in sweeps if not s.certified]
        certifying = statistics.median(certify) if certify else costs.certify
        return replace(costs, certify=certifying, sweep=statistics.median(solve) if solve else certifying)


def _note(record: RunRecord, ok: bool, speedup: float) -> str:
    if not ok:
        return "its certified bits are not the reference's"
    if record.ending is not Ending.SWEEPS:
        return f"stopped at block {record.certified} of {record.blocks}: {record.ending.name.lower()}"
    certifying = sum(1 for s in record.sweeps if s.certified)
    return f"{speedup:.1f}x the reference's speed, {certifying} certifying sweeps"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _best(call: Callable[[], Any], device: torch.device) -> float:
    """The better of two times, or the only one of a slow call."""
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < QUICK):
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
