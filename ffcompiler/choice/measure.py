"""Measured on the example inputs: the reference, sweeps of each kind and width, and runs of candidates to their end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..capture import Replay
from ..plan import Bits, Candidate, Convergence, Costs, Method, Plan, Schedule, Tolerance
from ..program import Chain, Recurrence, RepeatedMap
from ..proof import Proof
from ..runtime.equality import same_bits
from ..runtime.guard import Handover
from ..runtime.record import Ending, RunRecord
from ..runtime.repeat_costs import repeat_costs
from ..runtime.runner import Execution, Runner
from ..runtime.solve import Solve
from ..runtime.system import System
from .called import as_called
from .convergence import Fresh, Shape, Trace
from .lyapunov import largest_exponent
from .rest_costs import with_rest
from .run_costs import CALLS, fronts_in_runs, seconds_in_runs
from .timing import Left, elsewhere, mean_seconds, median_seconds, now
from .traces import begun, certifying_sweeps, first_guess, take_trace

PLACES = (1, 3, 5, 7)
"""In eighths of the array: where windowed sweeps are measured."""
WIDTHS = 5
"""Windows are measured at so many widths."""
SHORT = 0.2
"""Seconds: so much of a reference is run where it is timed in turns with something else."""
SLOW = 5.0
"""Seconds: candidates whose first run is faster than this are run twice, and the second counts.

The first run also makes the windows that occur, hundreds where the front moves by single positions.
"""
LEVELS = (32, 256)
"""Steps: over so many are sweeps measured that go through the levels of a stack."""


TO_THE_END = (Ending.SWEEPS, Ending.CAPTURED)
"""Runs that end so have all results."""


@dataclass(frozen=True, slots=True)
class Example:
    """What is measured: a recorded run with its results, the weights, and how long the reference takes.

    ``seconds`` times the reference on the same arguments: of one that takes longer than the seconds it is given, some
    steps, and the rest extrapolated.
    """

    replay: Replay
    weights: Callable[[], Mapping[str, Tensor]]
    seconds: Callable[[float], float]
    others: tuple[Replay, ...] = ()  # further inputs, of which only arguments and generators count
    handover: Handover = Handover.RESUMED
    looks: Callable[[], object] = tuple  # what every call looks at before it begins: whether anything has changed


@dataclass(frozen=True, slots=True)
class Once:
    """Seconds of one run of a candidate, with the steps that sweeps have left over, and its record."""

    seconds: float
    record: RunRecord


@dataclass(slots=True)
class Trial:
    plan: Plan
    proof: Proof
    example: Example
    device: torch.device
    runners: dict[Schedule, Runner] = field(default_factory=dict)  # of candidates, with the windows that they made
    times: dict[Schedule, list[Once]] = field(default_factory=dict)  # of their runs
    shapes: dict[bool, Shape] = field(default_factory=dict)  # of the blocks in order, and sorted by level

    def _begin(self, runner: Runner, weights: Mapping[str, Tensor]) -> Execution:
        """The run whose results are known: on the same arguments, with the same random numbers."""
        known = self.example.replay
        return runner.begin(known.arguments, weights, known.generators)

    def costs(self, reference_seconds: float, schedules: Sequence[Schedule]) -> Costs:
        """From a few sweeps of each kind, bookkeeping included, on the first state; windows at a few widths.

        What calls take besides is told from `called` ones.
        """
        runner = Runner(replace(self.plan, schedule=Schedule(Method.JACOBI)), self.proof, self.device, guarded=False)
        system, repeat = runner.system, runner.repeat
        weights = self.example.weights()
        with torch.no_grad():
            execution = self._begin(runner, weights)
            if repeat is not None:
                clock, state = partial(now, self.device), execution.init
                again = partial(self.example.seconds, SHORT)
                equality, env = self.plan.equality, execution.env
                return repeat_costs(repeat, env, state, equality, reference_seconds, clock, again)
            if runner.solving is not None and runner.solving.priced_by_width:
                return self._recurrence_costs(reference_seconds, schedules)
            assert system is not None
            certify = self._sweep_seconds(runner, execution, True, reference_seconds)
            sweep = certify if system.exact else self._sweep_seconds(runner, execution, False, reference_seconds)
            measured = [self._window_seconds(s, reference_seconds) for s in _few([s for s in schedules if s.windows])]
        windows = {width: seconds for width, seconds, _ in measured}
        fill = statistics.median([fill for _, _, fill in measured] or [0.0])
        step = reference_seconds / system.blocks
        costs = Costs(step, sweep, certify, 0.0, tuple(sorted(windows.items())), fill=fill)
        return self._with_runs(costs, schedules, reference_seconds)

    def rest(self, costs: Costs) -> Costs:
        """``costs`` as a call has them, with what the guard has to know besides."""
        runner = Runner(replace(self.plan, schedule=Schedule(Method.JACOBI)), self.proof, self.device, guarded=False)
        with torch.no_grad():
            execution = self._begin(runner, self.example.weights())
            return self.called(with_rest(costs, runner, execution, self.example.replay, partial(now, self.device)))

    def called(self, costs: Costs) -> Costs:
        """``costs`` as a call has them, and what it takes besides its sweeps."""
        runner = Runner(replace(self.plan, schedule=Schedule(Method.JACOBI)), self.proof, self.device, guarded=False)
        with torch.no_grad():
            return as_called(costs, runner, partial(self._called, runner, self.example.weights()))

    def _called(self, runner: Runner, weights: Mapping[str, Tensor]) -> Execution:
        """A run begun as a call begins it, which has its weights from what it looks at."""
        self.example.looks()
        execution = self._begin(runner, weights)
        runner.broken_patterns(execution)
        return execution

    def _recurrence_costs(self, reference_seconds: float, schedules: Sequence[Schedule]) -> Costs:
        """A sweep costs what its window has: seconds at the widths that the schedules have, and of a whole sweep."""
        blocks = self._blocks
        levels = self.plan.system.levels if isinstance(self.plan.system, Chain) else ()
        few = _few([s for s in schedules if s.block is not None and s.method is not Method.JACOBI_GS])
        others = [s for s in schedules if s.block is None or s.method is Method.JACOBI_GS]
        if isinstance(self.plan.system, Recurrence):  # one by levels has prices of its own
            others = [s for s in others if s.method is not Method.WAVEFRONT]
        widths = {s.ahead(0, blocks, levels): s for s in (*few, *others)} | {blocks: Schedule(Method.JACOBI)}
        seconds: dict[int, float] = {}
        for width, schedule in sorted(widths.items()):
            runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
            execution = self._begin(runner, self.example.weights())
            seconds[width] = self._sweep_seconds(runner, execution, True, reference_seconds)
        step, widths_ = reference_seconds / blocks, tuple(sorted(seconds.items()))
        waves = self._costs_by_levels(schedules, reference_seconds)
        costs = Costs(step, seconds[blocks], seconds[blocks], 0.0, widths_, waves=waves)
        return costs if isinstance(self.plan.system, Chain) else self._with_runs(costs, schedules, reference_seconds)

    def _costs_by_levels(
        self, schedules: Sequence[Schedule], reference_seconds: float
    ) -> tuple[tuple[int, float], ...]:
        """Of sweeps that go through the levels of a stack: over the last few steps."""
        if not isinstance(self.plan.system, Recurrence):
            return ()
        found = set[tuple[int, float]]()
        for schedule in (s for s in schedules if s.method is Method.WAVEFRONT):
            runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
            execution = self._begin(runner, self.example.weights())
            for width in sorted({min(width, self._blocks) for width in LEVELS}):
                front = self._blocks - width
                found.add((width, self._sweep_seconds(runner, execution, True, reference_seconds, front)))
        return tuple(sorted(found))

    def _with_runs(self, costs: Costs, schedules: Sequence[Schedule], reference_seconds: float) -> Costs:
        """With sweeps that compute runs in order: of a recurrence over all blocks, and over the last few runs.

        Of an array the shared part is evaluated on the whole, whatever the window.
        """
        found: list[tuple[int, int, float]] = []
        for schedule in (s for s in schedules if s.run > 1):
            runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
            execution = self._begin(runner, self.example.weights())
            for front in fronts_in_runs(runner.recurrent) if runner.recurrent is not None else {0}:
                seconds = self._seconds_in_runs(runner, execution, reference_seconds, front)
                found.append((schedule.run, self._blocks - front, seconds))
        return replace(costs, runs=tuple(sorted(found)))

    def _seconds_in_runs(self, runner: Runner, execution: Execution, reference_seconds: float, front: int) -> float:
        system = runner.recurrent
        if system is None or system.runs.size <= CALLS:
            return self._sweep_seconds(runner, execution, True, reference_seconds, front)
        try:
            return seconds_in_runs(system, execution, self.plan.equality, front, self.device)
        except Exception:  # as for other sweeps
            return 2 * reference_seconds

    @property
    def _blocks(self) -> int:
        assert self.plan.system is not None
        return self.plan.system.blocks

    def _window_seconds(self, schedule: Schedule, reference_seconds: float) -> tuple[int, float, float]:
        """Blocks and seconds of a windowed sweep at some places of the array; seconds of the one that fills buffers.

        In turns: a sweep over the same place again would find weights and values in the processor's cache.
        """
        runner = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)
        assert runner.system is not None
        execution = self._begin(runner, self.example.weights())
        solve = runner.solver(execution)
        state = runner.system.start_from(execution.init[0])
        fronts = [0] if schedule.method is Method.JACOBI else [runner.system.blocks * k // 8 for k in PLACES]
        try:
            solve.sweep(state, False)  # makes the workspace
            solve.release()
            started = now(self.device)
            _restart(solve).sweep(state, False)  # fills it
            fill = now(self.device) - started
            widths = [_restart(solve, front).width() or 1 for front in fronts]
            sweeps = [lambda front=front: _restart(solve, front).sweep(state, False) for front in fronts]
            seconds = mean_seconds(sweeps, self.device)
            return round(statistics.mean(widths)), seconds, fill
        except Exception:  # as for whole sweeps
            return runner.system.blocks, 2 * reference_seconds, 2 * reference_seconds
        finally:
            solve.release()

    def _sweep_seconds(
        self, runner: Runner, execution: Execution, exact: bool, reference_seconds: float, front: int = 0
    ) -> float:
        """The median of a few sweeps over the whole array, or what is after ``front`` of it.

        A sweep that raises or fails a premise ends the look.
        """
        try:
            solve, state = begun(runner, execution), first_guess(runner, execution)
            solve.sweep(state, exact)  # not counted: first call
            return median_seconds(lambda: _restart(solve, front).sweep(state, exact), self.device)
        except Exception:  # speculation on states that never occur: priced such that no sweep is started here
            return 2 * reference_seconds

    def shape(self, schedule: Schedule) -> Shape:
        """What simulation has to know of the system, its blocks in the schedule's order."""
        by_levels = schedule.method is Method.WAVEFRONT
        if by_levels not in self.shapes:
            self.shapes[by_levels] = self._shape(schedule)
        return self.shapes[by_levels]

    def _shape(self, schedule: Schedule) -> Shape:
        if isinstance(self.plan.system, RepeatedMap):
            return Shape(self.plan.system.blocks, handover=self.example.handover)
        solving = Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False).solving
        assert solving is not None
        exact = solving.exact or isinstance(self.plan.equality, Tolerance)
        row = self.plan.array.row if self.plan.array is not None else 1
        order = solving.order if isinstance(solving, System) else ()
        handover = self.example.handover
        return Shape(solving.blocks, exact, solving.priced_by_width, solving.levels, order, row, handover=handover)

    def traces(self, left: Left) -> tuple[Trace, ...]:
        """Of the example and of further inputs, as far as there is time; of a chain's bits its levels tell all."""
        system = self.plan.system
        if isinstance(system, Chain) and isinstance(self.plan.equality, Bits):
            return (Trace(system.blocks, (Fresh(0, system.levels),)),)
        inputs = (self.example.replay, *self.example.others)
        weights = self.example.weights()
        found = [take_trace(self.plan, self.proof, known, weights, left.share(1 / len(inputs))) for known in inputs]
        return tuple(trace for trace in found if trace is not None)

    def certifying(self, left: Left) -> dict[bool, int]:
        """Sweeps that certify after others, for schedules without and with windows."""
        known, weights = self.example.replay, self.example.weights()
        counts = (certifying_sweeps(self.plan, self.proof, known, weights, w, left) for w in (False, True))
        return dict(zip((False, True), counts, strict=True))

    def convergence(self, traces: Sequence[Trace], left: Left) -> Convergence | None:
        """What is said of how the system converges: of a chain's bits nothing, their levels are seen in its graph."""
        if isinstance(self.plan.system, Chain) and isinstance(self.plan.equality, Bits):
            return None
        lyapunov = None
        if isinstance(self.plan.system, Recurrence):
            runner = Runner(self.plan, self.proof, self.device, guarded=False)
            with torch.no_grad():
                lyapunov = largest_exponent(runner, self._begin(runner, self.example.weights()), left)
        return Convergence(tuple(t.sweeps for t in traces), any(not t.whole for t in traces), lyapunov)

    def run(self, schedule: Schedule, costs: Costs, reference_seconds: float) -> tuple[Candidate, bool]:
        """One candidate through to the end, and whether its bits are the reference's."""
        plan = replace(self.plan, schedule=schedule, costs=costs)
        runner = Runner(plan, self.proof, self.device, handover=self.example.handover, rehearsal=True)
        with torch.no_grad():
            runner.rehearse()
        self.runners[schedule] = runner
        known, ok = self.example.replay, True
        runs: list[Once] = []
        for _ in range(2):
            seconds, record, results = self._once(runner)
            if record.ending in TO_THE_END and isinstance(self.plan.equality, Bits) and known.complete:
                ok = ok and all(same_bits(a, b) for a, b in zip(results, known.results, strict=True))
            runs.append(Once(self._whole(seconds, record, costs), record))
            far = isinstance(self.plan.system, Recurrence) and schedule.sweeps and 2 * record.certified < record.blocks
            if far or seconds > SLOW:
                break  # once is enough to know
        self.times[schedule] = runs[1:] or runs
        return self._found(schedule, reference_seconds, ok), ok

    def _found(self, schedule: Schedule, reference_seconds: float, ok: bool) -> Candidate:
        """By the median of its runs but for the first, which also makes the windows that occur."""
        middle = sorted(self.times[schedule], key=lambda run: run.seconds)[(len(self.times[schedule]) - 1) // 2]
        record, seconds = middle.record, middle.seconds
        note = _note(record, ok, reference_seconds / seconds)
        certifying = sum(1 for s in record.sweeps if s.certified)
        return Candidate(schedule, seconds, len(record.sweeps), note, certifying)

    def was_ended(self, schedule: Schedule) -> bool:
        """Whether the guard ended its last run."""
        return self.times[schedule][-1].record.ending is Ending.GUARD

    def last(self, schedule: Schedule) -> float:
        """Seconds of its last run."""
        return self.times[schedule][-1].seconds

    def again(self, candidate: Candidate, reference_seconds: float) -> Candidate:
        """The same candidate once more."""
        runner = self.runners[candidate.schedule]
        assert runner.plan.costs is not None
        seconds, record, _ = self._once(runner)
        self.times[candidate.schedule].append(Once(self._whole(seconds, record, runner.plan.costs), record))
        found = self._found(candidate.schedule, reference_seconds, True)
        return replace(found, predicted=candidate.predicted, memory=candidate.memory)

    def _whole(self, seconds: float, record: RunRecord, costs: Costs) -> float:
        """With the steps that sweeps have left over: of a padded loop all, since the function begins anew then."""
        left = 0 if record.ending in TO_THE_END else record.blocks - record.certified
        return seconds + costs.step * (record.blocks if left and self.example.handover is Handover.CACHED else left)

    def _once(self, runner: Runner) -> tuple[float, RunRecord, list[Tensor]]:
        weights = self.example.weights()
        elsewhere(self.device)
        with torch.no_grad():
            started = now(self.device)
            execution = self._called(runner, weights)
            if runner.plan.schedule.sweeps:
                results = runner.so_far(execution, runner.sweep(execution))
            else:
                results, execution.record.ending = runner.complete(execution), Ending.CAPTURED
            return now(self.device) - started, execution.record, results


def _few(schedules: Sequence[Schedule]) -> list[Schedule]:
    """The narrowest and the widest window, and some between: others are interpolated."""
    order = sorted(schedules, key=lambda s: (s.block or (1 if s.method is Method.GAUSS_SEIDEL else math.inf), str(s)))
    places = {round(k * (len(order) - 1) / (WIDTHS - 1)) for k in range(WIDTHS)} if order else set()
    return [order[place] for place in sorted(places)]


def _restart(solve: Solve, front: int = 0) -> Solve:
    """Back to a front, so that every counted sweep does the same work."""
    solve.certified, solve.reached = front if solve.polish else 0, 0
    solve.working, solve.settled = front, max(front - 1, 0)
    return solve


def _note(record: RunRecord, ok: bool, speedup: float) -> str:
    if not ok:
        return "its certified bits are not the reference's"
    if record.ending not in TO_THE_END:
        return f"stopped at block {record.certified} of {record.blocks}: {record.ending.name.lower()}"
    speed = f"{speedup:.1f}x the reference's speed"
    return f"{record.detail}, {speed}" if record.detail else speed
