"""Which schedules are considered for a plan, and which one is taken: pure functions of what was measured.

The same measurements give the same plan: ties go to the earlier candidate (docs/decision.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from ..errors import ScheduleError
from ..plan import Bits, Candidate, Convergence, Costs, Equality, Method, Plan, Schedule
from ..program import Chain, Recurrence, RepeatedMap
from ..proof import Proof
from ..runtime.guard import Guard, Handover
from ..runtime.stacked.waves import has_alike_layers
from ..schedules import candidates_for, candidates_for_chain, candidates_for_recurrence
from ..stacks import ONE_LAYER, stack_of
from .convergence import Run, Shape, Trace, quantile, simulate
from .memory import predicted_bytes
from .repetition import simulate_steps

SEQUENTIAL = Schedule(Method.SEQUENTIAL)
CAPTURED = Schedule(Method.CAPTURED)
JACOBI = Schedule(Method.JACOBI)
NEAR = 1.05
"""Candidates this close to the fastest are as good: the first of them is taken, so that noise does not decide."""
WORTH = 1.1
"""So many times as fast as single steps sweeps have to be: on other inputs they may need more of them."""
MARGIN = 1.25
"""What was not run must be predicted so many times as fast as the best that was: a prediction can be off."""
HOPELESS = 2.0
"""A candidate that is predicted to take so many times as long as the best known one is not run."""
RUNS = 3
"""So many candidates are run at most, where all are predicted and the reference takes what was thought."""
RARE = 0.1
"""So often, it is taken, an input needs more sweeps than the example, such as `Trace.harder` has them."""
UNBEGUN = "the guard would begin no sweep"


@dataclass(frozen=True, slots=True)
class Calibration:
    """``costs`` in seconds; ``wrong`` says which candidate certified other bits than the reference's, if any did.

    ``outlook``: what candidates were predicted from, with ``certifying`` sweeps as the runs needed them; None of a
    schedule that was asked for by name. ``harder``: by schedule, seconds that an input takes more which needs more
    sweeps than the example.
    """

    costs: Costs
    reference_seconds: float
    candidates: tuple[Candidate, ...]
    wrong: str | None = None
    convergence: Convergence | None = None
    outlook: Outlook | None = None
    certifying: Mapping[bool, int] = field(default_factory=dict)
    harder: Mapping[Schedule, float] = field(default_factory=dict)


def to_try(plan: Plan, proof: Proof, wanted: Schedule | None) -> tuple[Schedule, ...]:
    """The schedules that are considered. Raises: `ScheduleError` for one that this kind of system does not have."""
    swept = _swept(plan, proof, wanted)
    return swept if wanted is not None or plan.padded or isinstance(plan.system, RepeatedMap) else (CAPTURED, *swept)


def _swept(plan: Plan, proof: Proof, wanted: Schedule | None) -> tuple[Schedule, ...]:
    """Those of sweeps."""
    if isinstance(plan.system, RepeatedMap):
        if wanted is not None and wanted != JACOBI:
            raise ScheduleError(
                f"every step of the loop is the same map of its whole state: there is no {wanted} of that, "
                "only jacobi, which stops when the state repeats, and sequential"
            )
        return (JACOBI,)
    if isinstance(plan.system, Recurrence):
        if wanted is not None and wanted.windows:
            raise ScheduleError(f"{wanted}: the sweeps of a recurrence compute their window only, with any schedule")
        if wanted is not None and wanted.method is Method.WAVEFRONT and stack_of(plan.system).depth < 2:
            raise ScheduleError(ONE_LAYER)
        waves = (Schedule(Method.WAVEFRONT),) if wanted is None and has_alike_layers(plan.system) else ()
        return (*candidates_for_recurrence(plan.system.blocks), *waves) if wanted is None else (wanted,)
    if isinstance(plan.system, Chain):
        return _for_chain(plan.system, plan.equality) if wanted is None else (_of_chain(wanted, plan.equality),)
    if wanted is not None and wanted.method is Method.JACOBI_GS:
        return (_of_array(wanted, plan.equality),)
    return candidates_for(*_shape(plan), proof.wave is not None) if wanted is None else (wanted,)


def _of_array(wanted: Schedule, equality: Equality) -> Schedule:
    """``wanted``, runs in order, if an array can be solved by it. Raises: `ScheduleError`."""
    if wanted.windows:
        raise ScheduleError(
            f"{wanted}: what a window leaves out would change within the sweep, as runs go on; use it without windows"
        )
    return _with_bits(wanted, equality)


def _with_bits(wanted: Schedule, equality: Equality) -> Schedule:
    """``wanted``, which leaves no residual. Raises: `ScheduleError`."""
    if wanted.method is Method.JACOBI_GS and not isinstance(equality, Bits):
        raise ScheduleError(
            f"{wanted}: blocks that run in order within a sweep leave no residual to be held against a tolerance "
            'where they read more than the one before; use equality="bits", or jacobi'
        )
    return wanted


def _for_chain(system: Chain, equality: Equality) -> tuple[Schedule, ...]:
    tried = candidates_for_chain(system.blocks, len(system.levels))
    return tuple(s for s in tried if s.method is not Method.JACOBI_GS or isinstance(equality, Bits))


def _of_chain(wanted: Schedule, equality: Equality) -> Schedule:
    """``wanted``, if the blocks of a chain can be solved by it. Raises: `ScheduleError`."""
    if wanted.windows:
        raise ScheduleError(f"{wanted}: the blocks of a chain are computed whole; use it without windows")
    return _with_bits(wanted, equality)


def _shape(plan: Plan) -> tuple[int, int]:
    """Blocks in the array, and in a row of it."""
    loop = plan.array
    assert loop is not None
    return loop.blocks, loop.row


# ---------------------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True, slots=True)
class Outlook:
    """What predictions are made from: all of it measured. ``shape`` is that of the system by a schedule's order."""

    plan: Plan
    proof: Proof
    shape: Callable[[Schedule], Shape]
    costs: Costs
    reference_seconds: float
    traces: tuple[Trace, ...] = ()
    memory_limit: int | None = None

    def predict(self, schedule: Schedule, certifying: Mapping[bool, int]) -> Candidate | None:
        """The candidate as it is expected to run; None where there is no trace to tell from.

        ``certifying``: for schedules without and with windows, how many sweeps certify after the others.
        """
        if not schedule.sweeps:
            return self._of_steps(schedule)
        if not self.traces:
            return None
        run, blocks = self._simulated(schedule, certifying, self.traces), self.shape(schedule).blocks
        note = _speed(self.reference_seconds / run.seconds)
        if run.certified < blocks:
            note = f"predicted to stop at block {run.certified} of {blocks}: guard" if run.sweeps else UNBEGUN
        memory = self.bytes_of(schedule)
        return Candidate(schedule, run.seconds, run.sweeps, note, run.certifying, run.seconds, False, memory)

    def harder(self, schedule: Schedule, certifying: Mapping[bool, int]) -> float:
        """Seconds that an input takes more which needs more sweeps: much where the guard then ends the run.

        The levels of a chain are those of its graph, whatever the input.
        """
        by_levels = isinstance(self.plan.system, Chain) and isinstance(self.plan.equality, Bits)
        if not schedule.sweeps or not self.traces or by_levels:
            return 0.0
        usual = self._simulated(schedule, certifying, self.traces)
        harder = self._simulated(schedule, certifying, [trace.harder() for trace in self.traces])
        return max(harder.seconds - usual.seconds, 0.0)

    def _simulated(self, schedule: Schedule, certifying: Mapping[bool, int], traces: Sequence[Trace]) -> Run:
        """The run that stands for those on all inputs."""
        shape = replace(self.shape(schedule), certifying=certifying.get(schedule.windows, 1))
        run_of = simulate_steps if isinstance(self.plan.system, RepeatedMap) else simulate
        runs = [run_of(schedule, shape, trace, self.costs) for trace in traces]
        return runs[quantile([run.seconds for run in runs])]

    def _of_steps(self, schedule: Schedule) -> Candidate:
        """The recorded calls, step by step: what a loaded artifact has for its reference."""
        assert self.plan.system is not None
        seconds = Guard(self.costs, self.plan.system.blocks, handover=Handover.LOADED).reference
        return Candidate(schedule, seconds, 0, _speed(self.reference_seconds / seconds), 0, seconds, False)

    def bytes_of(self, schedule: Schedule) -> int | None:
        """Predicted memory of a run by sweeps; step by step it is what the function needs."""
        return predicted_bytes(self.plan, self.proof, schedule) if schedule.sweeps else None

    def too_large(self, schedule: Schedule) -> bool:
        """Whether a run would need more memory than it may."""
        return self.memory_limit is not None and (self.bytes_of(schedule) or 0) > self.memory_limit


def _speed(ratio: float) -> str:
    return f"{ratio:.3g}x the reference's speed"


def next_to_run(
    known: Sequence[Candidate], predicted: Sequence[Candidate], reference_seconds: float, limit: int = RUNS
) -> Candidate | None:
    """The best predicted candidate, if running it can change the choice: not one that the guard never begins."""
    begun = [c for c in predicted if c.sweeps or not c.schedule.sweeps]
    if sum(1 for c in known if c.schedule.sweeps) >= limit or not begun:
        return None
    best = min(begun, key=lambda c: c.seconds)
    fastest = min([reference_seconds, *(c.seconds for c in known)])
    return best if best.seconds * bias(known) <= HOPELESS * fastest else None


def bias(candidates: Sequence[Candidate]) -> float:
    """How many times as long as predicted those took that were run: the median, and 1 at least."""
    ratios = [c.seconds / c.predicted for c in candidates if c.measured and c.predicted and c.schedule.sweeps]
    return max(1.0, median(ratios)) if ratios else 1.0


# ---------------------------------------------------------------------------------------------------- the choice


def choose(plan: Plan, wanted: Schedule | None, calibration: Calibration) -> Plan:
    """The plan with the schedule that was asked for, or the fastest one; never one that certified wrong bits."""
    sequential = Candidate(SEQUENTIAL, calibration.reference_seconds, 0, "the reference")
    costs, convergence = calibration.costs, calibration.convergence
    plan = replace(plan, costs=costs, convergence=convergence, candidates=(sequential, *calibration.candidates))
    if calibration.wrong is not None:
        return replace(
            plan, premises=(), refusal=f"on the example inputs a parallel run went wrong: {calibration.wrong}"
        )
    if wanted is not None:
        return replace(plan, schedule=wanted, why="the schedule was asked for by name")
    best, harder = best_of(sequential, calibration.candidates, calibration.harder), calibration.harder
    told = tuple(_told(c, best, harder) for c in plan.candidates)
    return replace(plan, schedule=best.schedule, why=_why(best, plan.candidates, harder), candidates=told)


def best_of(
    sequential: Candidate, candidates: Sequence[Candidate], harder: Mapping[Schedule, float] | None = None
) -> Candidate:
    """The fastest of those that were run, or the first one near it; one that was not only if it is clearly faster.

    What counts is the mean over inputs, of which a few are ``harder``: sweeps that the guard would end on these lose to
    ones that it lets go on. What is no faster than the function by more than noise is not taken, nor sweeps that gain
    little over single steps.
    """

    def expected(c: Candidate) -> float:
        return _expected(c, harder or {})

    able = [c for c in candidates if not c.excluded]
    run = [c for c in able if c.measured]
    steps = next((c for c in run if not c.schedule.sweeps and NEAR * c.seconds <= sequential.seconds), sequential)
    fastest = min((sequential, *run), key=expected)
    factor = MARGIN * bias(able)
    promising = [c for c in able if not c.measured and factor * expected(c) <= expected(fastest)]
    if promising:
        return min(promising, key=expected)
    if not fastest.schedule.sweeps or WORTH * expected(fastest) > steps.seconds:
        return steps
    return next(c for c in run if c.schedule.sweeps and expected(c) <= NEAR * expected(fastest))


def _expected(candidate: Candidate, harder: Mapping[Schedule, float]) -> float:
    """Seconds in the mean over inputs, of which a few need more sweeps."""
    return candidate.seconds + RARE * harder.get(candidate.schedule, 0.0)


def _why(best: Candidate, candidates: Sequence[Candidate], harder: Mapping[Schedule, float]) -> str:
    sequential = candidates[0]
    if best is sequential:
        faster = any(c.measured and c.seconds < sequential.seconds and not c.excluded for c in candidates)
        much = " by enough to count on it" if faster else ""
        return f"no parallel schedule was faster than the reference{much} on the example inputs"
    measured = "on the example inputs" if best.measured else "predicted for the example inputs"
    other = min((c for c in candidates if c is not best and not c.excluded), key=lambda c: c.seconds)
    ratio = sequential.seconds / best.seconds
    more = f", but {_longer(other, harder)}" if _is_risky(other, best, harder) else ""
    return (
        f"{best.seconds:.4g} s {measured}, {ratio:.1f}x the reference's speed; "
        f"the fastest other candidate needs {other.seconds:.4g} s{more}"
    )


def _is_risky(loser: Candidate, best: Candidate, harder: Mapping[Schedule, float]) -> bool:
    """Whether it would have won, but for inputs that need more sweeps."""
    return loser.seconds <= best.seconds and best.measured and _expected(loser, harder) > _expected(best, harder)


def _longer(candidate: Candidate, harder: Mapping[Schedule, float]) -> str:
    return f"{candidate.seconds + harder[candidate.schedule]:.3g} s on inputs that need more sweeps"


def _told(loser: Candidate, best: Candidate, harder: Mapping[Schedule, float]) -> Candidate:
    """The candidate with what it lost by."""
    if loser is best or loser.excluded:
        return loser
    return replace(loser, note=f"{loser.note}; {_lost(loser, best, harder)}")


def _lost(loser: Candidate, best: Candidate, harder: Mapping[Schedule, float]) -> str:
    ratio = loser.seconds / best.seconds
    if not loser.measured and loser.schedule.sweeps and not loser.sweeps:
        return "not run"
    if not loser.measured:
        return f"not run: predicted {ratio:.2f}x the time of {best.schedule}"
    if _is_risky(loser, best, harder):
        return f"{1.0 / ratio:.2f}x as fast as {best.schedule}, but {_longer(loser, harder)}"
    if ratio < 1.0 / NEAR and best.measured:
        return f"{1.0 / ratio:.2f}x as fast as {best.schedule}, too little to count on"
    if ratio <= NEAR and best.measured:
        return f"no faster than {best.schedule} by more than noise"
    return f"{ratio:.2f}x the time of {best.schedule}"
