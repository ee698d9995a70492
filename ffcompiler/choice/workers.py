"""Measure what a simulation of so many workers needs: the seconds of blocks, and the sweeps that schedules make."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..alike import LEAST
from ..errors import UsageError
from ..modes import as_recorded
from ..plan import Costs, Method, Plan, Schedule
from ..program import RepeatedMap
from ..proof import Proof, Prover, Refusal
from ..randomness import States, kept
from ..runtime.chained import Chained
from ..runtime.record import Ending, RunRecord, Sweep
from ..runtime.runner import Runner
from .choose import to_try
from .processors import Course, Simulation, Tasks, critical_path, even_tasks, window_tasks

Progress = Callable[[str, int, int], None]
BUDGET = 60.0
"""Seconds: a schedule that sweeps for longer is stopped, and its figures are bounds."""
REPEATS = 7
"""Times that each block is run; the best counts, because a sweep of many workers takes as long as its slowest block."""
ALONE = f"measured one by one, the best of {REPEATS}"
SHARE = "its even share of the measured seconds of a sweep, which computes them in one call"
STEP = "a step; each needs the whole state of the one before it, so further workers have nothing to do"


class _OutOfTimeError(Exception):
    """The budget is spent."""


@dataclass(frozen=True, slots=True)
class Example:
    """A call to be repeated: its tensors, the weights, and the states of random generators to begin from."""

    arguments: Sequence[Tensor]
    weights: Mapping[str, Tensor]
    generators: States = field(default_factory=dict)


def checked(processors: Sequence[int]) -> tuple[int, ...]:
    """Numbers of workers, each once. Raises: `UsageError` for one that is none."""
    for count in processors:
        if type(count) is not int or count < 1:
            raise UsageError(f"processors are whole numbers from 1 on, not {count!r}")
    return tuple(dict.fromkeys(processors))


@kept()  # the states of random generators
def simulate_workers(
    runner: Runner, prove: Prover, example: Example, processors: tuple[int, ...], progress: Progress | None = None
) -> Simulation:
    """The schedules that a plan could have, run on the example without the guard, on each number of workers.

    The plan of ``runner`` is one for which it is not `impossible`. ``prove``: where the proof waits for arguments.
    """
    say = progress or (lambda what, done, of: None)
    plan, proof = runner.plan, _proof(runner, prove, example)
    if isinstance(proof, Refusal):
        return Simulation(processors, note=f"nothing to simulate: {proof}")
    trial = _Trial(plan, proof, example, runner.device)
    schedules = [s for s in to_try(plan, proof, None) if s.sweeps]
    if runner.recurrent is not None and runner.recurrent.waves is not None and runner.recurrent.waves.recorded:
        schedules = []  # the one that it has keeps the bits, others do not
    if plan.schedule.sweeps and plan.schedule not in schedules:
        schedules.insert(0, plan.schedule)
    with as_recorded(trial.device):
        simulation = trial.blocks(processors)
        courses = []
        for done, schedule in enumerate(schedules):
            say("simulations", done, len(schedules))
            courses.append(trial.course(schedule))
    say("simulations", len(schedules), len(schedules))
    return replace(simulation, courses=tuple(courses))


def _proof(runner: Runner, prove: Prover, example: Example) -> Proof | Refusal:
    """That of the runner's plan, on the weights and arguments of the example."""
    if runner.proof.premises == runner.plan.premises:
        return runner.proof
    with as_recorded(runner.device):
        env = runner.begin(example.arguments, example.weights, example.generators).env
    found = prove(runner.program, env)
    if isinstance(found, Proof) and found.premises != runner.plan.premises:
        return Refusal("with these weights the proof rests on other premises than the plan says")
    return found


def examples_in_a_row(
    runners: Sequence[Runner], arguments: Sequence[Tensor], weights: Sequence[Mapping[str, Tensor]]
) -> list[Example]:
    """The examples of parts: what one gives, run step by step, is what the next is given."""
    examples: list[Example] = []
    for runner, own in zip(runners, weights, strict=True):
        examples.append(Example(arguments, own))
        if len(examples) < len(runners):
            with kept(), as_recorded(runner.device):
                execution = runner.begin(arguments, own)
                arguments = runner.returned(runner.results(execution, runner.finish(execution)))
    return examples


def impossible(plan: Plan) -> str | None:
    """Why there is nothing to simulate, if there is nothing."""
    if plan.system is None or plan.refusal is not None:
        return "nothing to simulate: no parallel schedule is sound, so further workers have nothing to do"
    if plan.costs is None:
        return "nothing to simulate: the plan has no costs that were measured on this device"
    return None


@dataclass(slots=True)
class _Trial:
    plan: Plan
    proof: Proof
    example: Example
    device: torch.device
    seconds: tuple[float, ...] = ()  # of a chain's blocks

    @property
    def _costs(self) -> Costs:
        assert self.plan.costs is not None
        return self.plan.costs

    def _runner(self, schedule: Schedule) -> Runner:
        return Runner(replace(self.plan, schedule=schedule), self.proof, self.device, guarded=False)

    def blocks(self, processors: tuple[int, ...]) -> Simulation:
        """The blocks and their seconds, without a schedule."""
        runner, system = self._runner(Schedule(Method.JACOBI)), self.plan.system
        assert system is not None
        if runner.chained is not None:
            execution = runner.begin(self.example.arguments, self.example.weights, self.example.generators)
            self.seconds = block_seconds(runner.chained, execution.env, self._now)
            path = critical_path(self.seconds, runner.chained.reads)
            return Simulation(processors, len(self.seconds), ALONE, sum(self.seconds), path=path)
        block = STEP if isinstance(system, RepeatedMap) else SHARE
        sequential = self._costs.step * system.blocks
        return Simulation(processors, system.blocks, block, sequential, self._costs.once)

    def course(self, schedule: Schedule) -> Course:
        """One schedule through to its end, or to that of the budget."""
        runner = self._runner(schedule)
        execution = runner.begin(self.example.arguments, self.example.weights, self.example.generators)
        until, record = time.monotonic() + BUDGET, execution.record
        late = False

        def watch(sweep: Sweep) -> None:
            nonlocal late
            late = time.monotonic() > until
            if late and sweep.front < record.blocks:
                raise _OutOfTimeError

        try:
            runner.sweep(execution, watch)
        except _OutOfTimeError:
            record.ending = Ending.RAISED
        return Course(str(schedule), self._sweeps(runner, schedule, record), _stopped(record, late))

    def _sweeps(self, runner: Runner, schedule: Schedule, record: RunRecord) -> tuple[Tasks, ...]:
        if runner.chained is not None:
            return tuple(window_tasks(self.seconds, s.lo, s.hi, runner.chained.runs.size) for s in record.sweeps)
        if runner.repeat is not None:
            return tuple(even_tasks(self._costs.sweep, 1) for _ in record.sweeps)
        if (part := runner.recurrent) is not None and part.waves is not None:
            return tuple(tasks for s in record.sweeps for tasks in self._levels(s.hi - s.lo, part.waves.depth))
        assert runner.solving is not None
        by_width = runner.solving.priced_by_width
        return tuple(self._shares(s, k, schedule.windows, by_width) for k, s in enumerate(record.sweeps))

    def _levels(self, steps: int, depth: int) -> tuple[Tasks, ...]:
        """A sweep that goes through a stack: each level has a block of each layer."""
        levels = steps + depth - 1
        return (even_tasks(self._costs.wave(steps) / levels, depth),) * levels

    def _shares(self, sweep: Sweep, k: int, windows: bool, by_width: bool) -> Tasks:
        """As the guard prices it: by its window, or whole, as the first one of a windowed schedule is."""
        width, costs = sweep.hi - sweep.lo, self._costs
        if by_width or (windows and k > 0 and not sweep.certified):
            return even_tasks(costs.window(width), width)
        assert self.plan.system is not None
        return even_tasks(costs.certify if sweep.certified else costs.sweep, self.plan.system.blocks)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _stopped(record: RunRecord, late: bool) -> str:
    """Why the sweeps did not reach the last block."""
    if record.ending is Ending.SWEEPS:
        return ""
    front = record.sweeps[-1].front if record.sweeps else 0
    why = f"after {BUDGET:.3g} s" if late else record.ending.name.lower()
    return f"stopped at block {front} of {record.blocks}: {why}"


def block_seconds(
    chain: Chained, env: Mapping[str, Tensor], now: Callable[[], float], turns: int = REPEATS
) -> tuple[float, ...]:
    """The least seconds of each block, on the values that it reads in the function itself."""
    state = chain.start_from(())
    times: list[list[float]] = [[] for _ in range(chain.blocks)]
    for turn in range(turns + 1):
        for k in range(chain.blocks):
            started = now()
            values, _ = chain.update(env, state, k, k + 1, True)
            seconds = now() - started
            chain.write(state, k, k + 1, values)
            if turn:  # not counted: first calls
                times[k].append(seconds)
    return tuple(map(min, times))


def together_seconds(
    chain: Chained, env: Mapping[str, Tensor], now: Callable[[], float], turns: int = REPEATS
) -> tuple[tuple[tuple[int, ...], float, float], ...]:
    """Of the blocks that are computed together the least seconds of the first two at once, and of all."""
    env, state = chain.prepare(env), chain.start_from(())
    found = []
    for family in chain.together:
        ends = (family.blocks[LEAST - 1] + 1, family.blocks[-1] + 1)
        two, all_ = (_least(partial(chain.at_once, family, env, state, 0, hi), now, turns) for hi in ends)
        found.append((family.blocks, two, all_))
    return tuple(found)


def _least(call: Callable[[], object], now: Callable[[], float], turns: int) -> float:
    call()  # not counted
    seconds = []
    for _ in range(turns):
        started = now()
        call()
        seconds.append(now() - started)
    return min(seconds)
