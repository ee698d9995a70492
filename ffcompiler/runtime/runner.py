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
from ..program import ArrayLoop, Loop, Program
from ..proof import Proof
from .graphs import GraphCall, graph_call
from .magnitude import largest, unbounded
from .overwrites import Overwrites, make_overwrites
from .premises import Zeros
from .record import Certificate, Ending, RunRecord, Sweep
from .solve import Clock, Guard, Solution, Solve, always_certifies
from .system import System, by_levels, make_system

Observe = Callable[[Sweep], None]


@dataclass(slots=True)
class Execution:
    """One call in progress: the environment before the loop, and the first state."""

    env: Mapping[str, Tensor]
    init: tuple[Tensor, ...]
    record: RunRecord
    solution: Solution | None = None


@dataclass(slots=True)
class Runner:
    """A plan compiled for one device. Holds no state of any run, so threads may share it."""

    plan: Plan
    proof: Proof
    device: torch.device
    guarded: bool = True
    clock: Clock = time.perf_counter
    program: Program = field(init=False)
    system: System | None = field(init=False, default=None)  # its blocks are the steps of the reference, in order
    solving: System | None = field(init=False, default=None)  # the same, its blocks in the order of the schedule
    _prologue: GraphCall = field(init=False)
    _body: GraphCall | None = field(init=False, default=None)
    _epilogue: GraphCall = field(init=False)
    _zeros: Zeros = field(init=False)
    overwrites: Overwrites = field(init=False)

    def __post_init__(self) -> None:
        assert self.plan.program is not None
        self.program = self.plan.program
        self._prologue = graph_call(self.program.prologue, self.device)
        self._epilogue = graph_call(self.program.epilogue, self.device)
        self._zeros = Zeros(self.proof.patterns, self.device)
        self.overwrites = make_overwrites(self.program, self.device)
        match self.program.loop:
            case ArrayLoop():
                self.system = make_system(self.program.loop, self.proof, self.device, self.plan.align)
                self.solving = self.system
                if self.plan.schedule.method is Method.WAVEFRONT and self.proof.wave is not None:
                    self.solving = by_levels(self.system, self.proof.wave, self.plan.align)
            case Loop():
                self._body = graph_call(self.program.loop.body, self.device)

    # ------------------------------------------------------------------------------------------ parts of a run

    def begin(self, arguments: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Execution:
        """Run the prologue and the work that no step changes."""
        names = [leaf.name for leaf in self.program.signature.leaves if leaf.name is not None]
        env: Mapping[str, Tensor] = {**dict(zip(names, arguments, strict=True)), **weights}
        env = self._prologue.extend(env)
        loop = self.program.loop
        inits = (loop.init,) if isinstance(loop, ArrayLoop) else loop.init
        if self.system is not None:
            env = self.system.constants(env)
        record = RunRecord(str(self.plan.schedule), loop.hi - loop.lo)
        return Execution(env, tuple(env[ref.key] for ref in inits), record)

    def broken_patterns(self, execution: Execution) -> list[str]:
        """Values that no longer have the zeros that the proof used."""
        return self._zeros.broken(execution.env)

    def sweep(self, execution: Execution, observe: Observe | None = None) -> Solution:
        """Solve by sweeps as far as they go; sets `Execution.solution`."""
        assert self.proof.premises == self.plan.premises, "the proof is not this plan's"
        solve = self.solver(execution, observe)
        solution = self._in_steps(solve.run(execution.init[0]), execution.init[0])
        name = self._unbounded(execution, solution)
        if name is not None:
            bounds = self.system.bounds if self.system is not None else {}
            held = f"below {bounds[name]:.4g} in magnitude" if name in bounds else "finite"
            why = f"{name} may not have been {held} in some step of the reference, so nothing is certified"
            solution = replace(solution, certified=0, ending=Ending.PREMISE, detail=why)
        execution.solution = solution
        record = execution.record
        record.certified, record.ending, record.detail = solution.certified, solution.ending, solution.detail
        return solution

    def _in_steps(self, solution: Solution, init: Tensor) -> Solution:
        """The solution in terms of the reference's steps: of a partial one, those before the first that is missing.

        What is known of later steps is let go: that the reference computed them from finite values is not.
        """
        assert self.solving is not None and self.system is not None
        done = self.solving.steps_done(solution.certified)
        if not self.solving.order or solution.certified == self.solving.blocks:
            return solution
        return replace(solution, certified=done, state=self.system.reset_from(solution.state, init, done))

    def _unbounded(self, execution: Execution, solution: Solution) -> str | None:
        """A zero-pattern operand that may be infinite on an array that the reference went through; None if none may.

        In step k the reference evaluates the shared part on final blocks before k and the first state from k on.
        """
        system = self.system
        assert system is not None
        if not system.finite or solution.certified == 0:
            return None
        init = execution.init[0]
        reached = system.reset_from(solution.state, init, solution.certified)
        limits = {name: system.bounds.get(name, math.inf) for name in system.finite}
        return unbounded(system.loop, max(largest(reached), largest(init)), execution.env, limits)

    def solver(self, execution: Execution, observe: Observe | None = None) -> Solve:
        """The solve loop of this execution, not yet started."""
        assert self.solving is not None
        costs = self.plan.costs if self.guarded else None
        return Solve(
            self.solving,
            self.plan.schedule,
            self.plan.equality,
            Guard(costs, self.solving.blocks),
            execution.env,
            execution.record,
            self.clock,
            observe,
        )

    def worth_starting(self) -> bool:
        """Whether the guard allows a first sweep at all."""
        assert self.system is not None
        if not self.guarded:
            return True
        exact = always_certifies(self.system, self.plan.schedule, self.plan.equality)
        return Guard(self.plan.costs, self.system.blocks).allows(0, exact)

    def resume_state(self, execution: Execution) -> tuple[int, Tensor]:
        """How many blocks are certified, and a state in which all later ones are as at the start."""
        assert self.system is not None
        solution = execution.solution
        front = solution.certified if solution else 0
        state = solution.state if solution else execution.init[0]
        return front, self.system.reset_from(state, execution.init[0], front)

    def finish(self, execution: Execution, observe: Observe | None = None) -> tuple[Tensor, ...]:
        """The final state: what the sweeps certified, and the captured loop step by step for the rest."""
        if self.system is None:
            return self._run_body(execution)
        solution = execution.solution
        if solution is not None and solution.certified == self.system.blocks:
            return (solution.state,)
        front, state = self.resume_state(execution)
        for k in range(front, self.system.blocks):
            self.system.step(execution.env, state, k)
        return (state,)

    def _run_body(self, execution: Execution) -> tuple[Tensor, ...]:
        loop, body = self.program.loop, self._body
        assert isinstance(loop, Loop) and body is not None
        state = execution.init
        names = [value.name for value in loop.carry]
        for k in range(loop.hi - loop.lo):
            state = self.body_step({**execution.env, **dict(zip(names, state, strict=True))}, k)
        return state

    def body_step(self, env: Mapping[str, Tensor], k: int) -> tuple[Tensor, ...]:
        """One step of a loop that was not partitioned."""
        loop, body = self.program.loop, self._body
        assert body is not None
        outputs = dict(zip(body.outputs, body.values(env, [loop.tables[t][k] for t in body.tables]), strict=True))
        assert isinstance(loop, Loop)
        return tuple(outputs[ref] if ref in outputs else env[ref.key] for ref in loop.body.outputs)

    def results(self, execution: Execution, state: Sequence[Tensor]) -> list[Tensor]:
        """The epilogue: the tensors of the function's result, in order."""
        loop = self.program.loop
        names = [loop.carry.name] if isinstance(loop, ArrayLoop) else [value.name for value in loop.carry]
        env = {**execution.env, **dict(zip(names, state, strict=True))}
        outputs = dict(zip(self._epilogue.outputs, self._epilogue.values(env), strict=True))
        return [outputs[ref] for ref in self.program.epilogue.outputs]

    # ------------------------------------------------------------------------------------------ certificate

    def certify(self, execution: Execution) -> Certificate:
        """What may be claimed of the result of a finished execution."""
        record = execution.record
        by_sweeps = execution.solution.certified if execution.solution else 0
        sweeps = [s for s in record.sweeps if s.certified]
        residual = error = None
        if isinstance(self.plan.equality, Tolerance) and by_sweeps:
            residual = max((s.residual or 0.0 for s in sweeps), default=0.0)
            error = estimated_error(residual, [s.change or 0.0 for s in sweeps])
        return Certificate(
            str(self.plan.equality),
            _METHOD if isinstance(self.plan.equality, Bits) else _RESIDUAL_METHOD,
            by_sweeps,
            record.blocks - by_sweeps,
            len(sweeps),
            tuple(str(p) for p in self.plan.premises) if by_sweeps else (),
            residual,
            error,
        )


_METHOD = "every certified block was computed by the reference's own calls from final blocks"
_RESIDUAL_METHOD = "the residual of every block was within the tolerance; this bounds the residual, not the error"


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
