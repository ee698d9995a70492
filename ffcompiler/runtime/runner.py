"""Runs a plan: prologue, constants, premises, sweeps, the sequential rest, epilogue. Run state belongs to the call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..graph import Graph, Ref
from ..plan import Bits, Method, Plan, Tolerance
from ..program import ArrayLoop, Chain, Loop, Program, Recurrence, RepeatedMap
from ..proof import Proof
from ..randomness import States, set_states, state_of
from ..rules.scopes import left
from .blocks import Blocks
from .chained import Chained, make_chained
from .checks import Checks, Late, make_checks
from .draws import Draws, make_draws
from .graphs import GraphCall, graph_call
from .guard import STALL, Guard, Handover
from .magnitude import Reach
from .overwrites import Overwrites, make_overwrites
from .premises import Zeros
from .record import Certificate, RunRecord, Sweep
from .recurrent import Recurrent, make_recurrent
from .repeat import Repeat, RepeatRun, StepGuard, claim, make_repeat
from .rest import finished, ready, shared_windows
from .runs import ALONE, Runs
from .solve import Solution, Solve, always_certifies
from .steps import Steps, make_steps
from .system import System, by_levels, make_system
from .watch import Clock

Observe = Callable[[Sweep], None]


@dataclass(slots=True)
class Execution:
    """One call in progress: the environment before the loop, and the first state."""

    env: Mapping[str, Tensor]
    init: tuple[Tensor, ...]
    record: RunRecord
    solution: Solution | None = None
    drawn_from: States = field(default_factory=dict)  # where random generators were before the call's draws
    drawing_seconds: float = 0.0
    otherwise: str = ""  # which of the function's tests on values came out otherwise: then this is not its program


@dataclass(slots=True)
class Runner:
    """A plan compiled for one device. Holds no state of any run, so threads may share it."""

    plan: Plan
    proof: Proof
    device: torch.device
    guarded: bool = True
    clock: Clock = time.perf_counter
    handover: Handover = Handover.RESUMED
    rehearsal: bool = False  # what is made once for all runs is not charged to these
    surprises: Late = field(init=False, default_factory=Late)  # of a padded loop: runs that cost more than foreseen
    program: Program = field(init=False)
    system: System | None = field(init=False, default=None)  # its blocks are the steps of the reference, in order
    recurrent: Recurrent | None = field(init=False, default=None)
    solving: Blocks | None = field(init=False, default=None)  # the one of them, its blocks in the schedule's order
    repeat: Repeat | None = field(init=False, default=None)
    chained: Chained | None = field(init=False, default=None)
    draws: Draws = field(init=False)
    checks: Checks = field(init=False)
    _steps: Steps | None = field(init=False, default=None)
    _epilogue: GraphCall = field(init=False)
    _zeros: Zeros = field(init=False)
    overwrites: Overwrites = field(init=False)

    def __post_init__(self) -> None:
        assert self.plan.program is not None
        self.program = self.plan.program
        self.draws = make_draws(self.program, self.device)
        self.checks = make_checks(self.program, self.device, (test.name for test in self.proof.unseen))
        self._epilogue = graph_call(self.program.epilogue, self.device)
        self._zeros = Zeros(self.proof, self.device)
        self.overwrites = make_overwrites(self.program, self.device)
        runs = Runs(self.plan.schedule.run)
        match self.program.loop:
            case ArrayLoop():
                self.system = make_system(self.program.loop, self.proof, self.device, self.plan.align, runs=runs)
                self.solving = self.system
                if self.plan.schedule.method is Method.WAVEFRONT and self.proof.wave is not None:
                    self.solving = by_levels(self.system, self.proof.wave, self.plan.align)
            case RepeatedMap():
                self.repeat = make_repeat(self.program.loop, self.device)
            case Recurrence():
                self.recurrent = self.solving = make_recurrent(
                    self.program.loop,
                    self.device,
                    runs,
                    self.plan.schedule.method is Method.WAVEFRONT,
                    isinstance(self.plan.equality, Bits),
                )
                self._steps = self.recurrent.steps
            case Chain():
                self.chained = self.solving = make_chained(
                    self.program.loop, self.device, runs, loose=isinstance(self.plan.equality, Tolerance)
                )
            case Loop():
                self._steps = make_steps(self.program.loop, self.device)

    # ------------------------------------------------------------------------------------------ parts of a run

    def begin(
        self,
        arguments: Sequence[Tensor],
        weights: Mapping[str, Tensor],
        generators: States | None = None,
    ) -> Execution:
        """Draw all random numbers, run the prologue and the work that no step changes.

        ``generators``: states of random generators to begin from, in place of those in which they are.
        """
        drawn, drawn_from, seconds = self._drawn(generators or {}) if self.draws else ({}, {}, 0.0)
        names = [leaf.name for leaf in self.program.signature.leaves if leaf.name is not None]
        env: Mapping[str, Tensor] = {**dict(zip(names, arguments, strict=True)), **weights, **drawn}
        env, otherwise = self.checks.prologue(env)
        loop = self.program.loop
        record = RunRecord(str(self.plan.schedule), loop.hi - loop.lo)
        if not otherwise:
            env, otherwise = self._constants(env)
        if otherwise:
            return Execution(env, (), record, None, drawn_from, seconds, otherwise)
        inits = (loop.init,) if isinstance(loop, ArrayLoop) else loop.init
        return Execution(env, tuple(env[ref.key] for ref in inits), record, None, drawn_from, seconds)

    def _constants(self, env: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
        """``env`` with the work that no step changes, and why this is not the function's program, if it is not."""
        system = self.system or self.recurrent or self.repeat
        if system is None:
            return env, ""
        try:
            return system.constants(env), ""
        except AssertionError:  # our own logic
            raise
        except Exception as error:
            if not self.checks.after:
                raise
            return env, _raised(error)

    def _drawn(self, generators: States) -> tuple[dict[str, Tensor], States, float]:
        """The random numbers of a call, where their generator was before, and the seconds that it took."""
        set_states(generators)
        before = {self.device: state_of(self.device)}
        started = self.clock()
        return self.draws(), before, self.clock() - started

    def broken_patterns(self, execution: Execution) -> list[str]:
        """Values that no longer have the zeros that the proof used."""
        return self._zeros.broken(execution.env)

    def sweep(self, execution: Execution, observe: Observe | None = None) -> Solution:
        """Solve by sweeps as far as they go; sets `Execution.solution`."""
        if self.repeat is not None:
            return self._repeated(self.repeat, execution, observe)
        assert self.proof.premises == self.plan.premises, "the proof is not this plan's"
        solve = self.solver(execution, observe)
        if self.recurrent is not None or self.chained is not None:
            solution = solve.run(execution.init)
            execution.env = solve.env
        else:
            solution = self._in_steps(solve.run(execution.init[0]), execution.init[0])
            if self.handover is Handover.CACHED:
                assert self.system is not None
                system = replace(self.system, runs=ALONE)
                solution, foreseen = finished(system, solve, solution, execution.init[0])
                whole = solution.certified == self.system.blocks
                self.surprises.note(whole or not foreseen, "" if foreseen else solution.detail)
        execution.solution = solution
        record = execution.record
        record.certified, record.ending, record.detail = solution.certified, solution.ending, solution.detail
        return solution

    def _repeated(self, repeat: Repeat, execution: Execution, observe: Observe | None) -> Solution:
        guard = self.guard(self._drawing(execution))
        assert isinstance(guard, StepGuard)
        equality, env, record = self.plan.equality, execution.env, execution.record
        run = RepeatRun(repeat, equality, guard, guard.every, env, record, self.clock, observe)
        execution.solution = run.run(execution.init)
        return execution.solution

    def rehearse(self) -> None:
        """Make what runs need that hand over, and do not pay for."""
        if self.handover is Handover.CACHED and self.system is not None and self.system.windowed is not None:
            self.system.windowed.rehearse(shared_windows(self.system.blocks))

    def _in_steps(self, solution: Solution, init: Tensor) -> Solution:
        """The solution in terms of the reference's steps: of a partial one, those before the first that is missing.

        What is known of later steps is let go: that the reference computed them from finite values is not.
        """
        assert self.solving is not None and self.system is not None
        done = self.solving.steps_done(solution.certified)
        if not self.solving.levels or solution.certified == self.solving.blocks:
            return solution
        return replace(solution, certified=done, state=self.system.reset_from(solution.state, init, done))

    def solver(self, execution: Execution, observe: Observe | None = None) -> Solve:
        """The solve loop of this execution, not yet started."""
        assert self.solving is not None
        system = self.system
        limits = {name: system.bounds.get(name, math.inf) for name in system.finite} if system is not None else {}
        return Solve(
            self.solving,
            self.plan.schedule,
            self.plan.equality,
            self.guard(self._drawing(execution)),
            execution.env,
            execution.record,
            self.clock,
            observe,
            Reach(system.loop, limits) if system is not None and limits else None,
            time.process_time if self.clock is time.perf_counter and self.device.type == "cpu" else None,
            self.rehearsal,
        )

    def guard(self, drawn: float | None = None) -> Guard:
        """That of a run which has just begun, all its random numbers drawn in so many seconds; of one to come."""
        costs = self.plan.costs if self.guarded else None
        if self.repeat is not None:
            return StepGuard(costs, self.repeat.blocks, drawn, self.handover)
        assert self.solving is not None
        run = self.plan.schedule.run if self.chained is None else 1  # a chain's blocks cost the same in any order
        waves = self.recurrent is not None and self.recurrent.waves is not None
        guard = Guard(costs, self.solving.blocks, drawn, self.handover, self.plan.schedule.windows, run, waves)
        if self.handover is Handover.CACHED and self.system is not None:
            guard.cached = ready(self.system.windowed, self.system.blocks)
            guard.careful = self.surprises.too_often
        return guard

    def hindrance(self) -> str:
        """Why the guard allows no first sweep; empty if it allows one."""
        guard = self.guard()
        if isinstance(guard, StepGuard):
            return "" if guard.allows_step(0, False) else guard.why_step(0, False)
        assert self.solving is not None
        exact = always_certifies(self.solving, self.plan.schedule, self.plan.equality)
        blocks, levels = self.solving.blocks, self.solving.levels
        ahead = self.plan.schedule.ahead(0, blocks, levels)
        if self.solving.ends_anywhere:
            ahead = guard.narrowed(0, exact, 0, ahead)
        first = (0, ahead) if self.solving.priced_by_width else None
        return "" if guard.allows(0, exact, first) else guard.why(0, exact, first, 0)

    def anew(self, execution: Execution) -> bool:
        """Whether the function from its beginning costs less than what is left of the captured loop."""
        front = execution.solution.certified if execution.solution else 0
        return self.guard(self._drawing(execution)).anew(front)

    def _drawing(self, execution: Execution) -> float:
        """Seconds of its draws, as calibrated; where they took far longer, so many."""
        known = self.plan.costs.draws if self.plan.costs is not None else 0.0
        taken = execution.drawing_seconds
        return known if known and taken <= STALL * known else taken

    def resume_state(self, execution: Execution) -> tuple[int, tuple[Tensor, ...]]:
        """How many blocks are certified, and a state in which all later ones are as at the start."""
        solution = execution.solution
        front = solution.certified if solution else 0
        if self.recurrent is not None:
            return front, self.recurrent.at(solution.state, front) if solution else execution.init
        if self.system is None:
            return front, solution.states if solution else execution.init
        state = solution.state if solution else execution.init[0]
        return front, (self.system.reset_from(state, execution.init[0], front),)

    def finish(self, execution: Execution, observe: Observe | None = None) -> tuple[Tensor, ...]:
        """The final state, then what steps collected: as certified by sweeps, and step by step for the rest."""
        if self.repeat is not None:
            front, states = self.resume_state(execution)
            return self.repeat.finish(execution.env, states, front)
        if self.chained is not None:
            solution = execution.solution
            held, front = (solution.state, solution.certified) if solution else (None, 0)
            return self.chained.finish(execution.env, held, front)
        if self._steps is not None:
            front, states = self.resume_state(execution)
            kept = self._collected(execution, front)
            return self._steps.finish(execution.env, states, kept, front)
        assert self.system is not None
        solution, front, blocks = execution.solution, 0, self.system.blocks
        if solution is not None and solution.certified == blocks:
            front, state = blocks, solution.state
        else:
            front, (state,) = self.resume_state(execution)
        return self.system.finish(execution.env, state, execution.init[0], front)

    def so_far(self, execution: Execution, solution: Solution) -> list[Tensor]:
        """The results as far as sweeps have come: only if all blocks are certified those of the function."""
        whole = self.recurrent or self.chained or (self.system if self.program.loop.collected else None)
        if whole is None:
            return self.results(execution, solution.states)
        return self.results(execution, self.finish(execution)) if solution.certified == whole.blocks else []

    def _collected(self, execution: Execution, done: int) -> tuple[Tensor, ...]:
        """What the first ``done`` steps collected, from the blocks that sweeps certified."""
        if self.recurrent is None or execution.solution is None or not done or not self.recurrent.loop.collected:
            return ()
        return self.recurrent.collect(execution.env, execution.solution.state, done)

    def one_step(self, execution: Execution, before: Sequence[Tensor], k: int) -> tuple[Tensor, ...]:
        """The state after step ``k``, by the loop's own calls."""
        if self.system is not None:
            state = self.system.start_from(before[0])
            self.system.step(execution.env, state, k)
            return (state,)
        if self.repeat is not None:
            return self.repeat.steps(execution.env)(tuple(before))
        assert self._steps is not None
        return self._steps.bind(execution.env)(before, k)[: len(before)]

    def results(self, execution: Execution, state: Sequence[Tensor]) -> list[Tensor]:
        """The epilogue: the tensors of the function's result, in order, then those that it leaves besides."""
        loop = self.program.loop
        names = [ref.key for ref in loop.left] if isinstance(loop, Chain) else left(loop)
        env = {**execution.env, **dict(zip(names, state, strict=True))}
        outputs = dict(zip((ref.key for ref in self._epilogue.outputs), self._epilogue.values(env), strict=True))
        env.update(outputs)
        execution.otherwise = self.checks.failed(env)
        return [env[leaf.name] for leaf in self.program.result.named if leaf.name is not None]

    def returned(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Of results those that are returned, or handed on."""
        return list(results[: self.program.result.returned])

    def left_behind(self, results: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of results those that are left in attributes and entries, by their paths."""
        names = [leaf.path for leaf in self.program.result.left if leaf.name is not None]
        return dict(zip(names, results[self.program.result.returned :], strict=True))

    def complete(self, execution: Execution) -> list[Tensor]:
        """What remains to be run, and the results: they are the function's unless `Execution.otherwise` says so."""
        try:
            return self.results(execution, self.finish(execution))
        except AssertionError:  # our own logic
            raise
        except Exception as error:
            if not self.checks.after:
                raise
            execution.otherwise = _raised(error)
            return []

    # ------------------------------------------------------------------------------------------ certificate

    def certify(self, execution: Execution) -> Certificate:
        """What may be claimed of the result of a finished execution."""
        record = execution.record
        if self.repeat is not None:
            return claim(self.repeat, self.plan.equality, record)
        by_sweeps = execution.solution.certified if execution.solution else 0
        sweeps = [s for s in record.sweeps if s.certified]
        residual = error = None
        if isinstance(self.plan.equality, Tolerance) and by_sweeps:
            residual = max((s.residual or 0.0 for s in sweeps), default=0.0)
            in_levels = self.recurrent is not None and self.recurrent.waves is not None  # not iterated: no rate
            error = None if in_levels else estimated_error(residual, [s.change or 0.0 for s in sweeps])
        return Certificate(
            str(self.plan.equality),
            _METHOD if isinstance(self.plan.equality, Bits) else _RESIDUAL_METHOD + _PADDED * self.plan.padded,
            by_sweeps,
            record.blocks - by_sweeps,
            len(sweeps),
            tuple(str(p) for p in self.plan.premises) if by_sweeps else (),
            residual,
            error,
        )


_METHOD = "every certified block was computed by the reference's own calls from final blocks"
_RESIDUAL_METHOD = "the residual of every block was within the tolerance; this bounds the residual, not the error"
_PADDED = ", of the loop over a padded array, which computes what the function does up to rounding"


def _raised(error: Exception) -> str:
    """What is said where a program raises that its function, after other tests, may not have gone on with."""
    return f"{type(error).__name__} was raised where tests on values may have come out otherwise"


def estimated_error(residual: float, changes: Sequence[float]) -> float:
    """``residual / (1 - rate)`` with the measured contraction rate per sweep; infinite where there is none."""
    rates = [b / a for a, b in pairwise(changes) if a > 0]
    rate = sorted(rates)[len(rates) // 2] if rates else 0.0
    return residual / (1.0 - rate) if rate < 1.0 else float("inf")


def constants_of(program: Program, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What can be known before any call: weights, and prologue and invariant values that need no argument."""
    device = next((t.device for t in weights.values()), torch.device("cpu"))
    env = dict(weights)
    loop = program.loop
    assert isinstance(loop, ArrayLoop)
    with torch.no_grad():
        for graph in (program.prologue, loop.invariant):
            for node in graph.nodes:
                single = Graph((), (node,), (Ref(node.name),))
                call = graph_call(single, device)
                if len(node.types) == 1 and all(name in env for name in call.inputs):
                    env = dict(call.extend(env))
    return env
