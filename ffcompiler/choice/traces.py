"""Fronts of plain Jacobi on given inputs, recorded: what `convergence.py` simulates schedules on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..capture import Replay
from ..plan import Method, Plan, Schedule
from ..proof import Proof
from ..runtime.record import RunRecord
from ..runtime.runner import Execution, Runner
from ..runtime.solve import Solve
from .convergence import Fresh, Trace
from .repetition import repetition

SHARES = (0.5, 0.25, 0.75)
"""Where Jacobi is begun anew, besides the first block: at these shares of the blocks, as far as there is time."""
EIGHTH = 8
"""Of the array: windows of so large a part are looked at for how they round."""
FEW = 8
"""Blocks: a window over fewer is not worth a run of its own."""
NARROW = 128
"""Steps of a recurrence that are looked at by themselves, before all of them."""


def take_trace(
    plan: Plan, proof: Proof, replay: Replay, weights: Mapping[str, Tensor], left: Callable[[], float]
) -> Trace | None:
    """The trace of one input, cut short where ``left()`` seconds are over; None where sweeps do not run through."""
    if plan.system is None or plan.system.blocks < 2:
        return None
    jacobi = replace(plan, schedule=Schedule(Method.JACOBI), costs=None)
    runner = Runner(jacobi, proof, torch.device(plan.device), guarded=False)
    with torch.no_grad():
        execution = runner.begin(replay.arguments, weights, replay.generators)
        if execution.otherwise:
            return None
        try:
            if runner.repeat is not None:
                step = runner.repeat.steps(execution.env)
                return repetition(step, runner.repeat.blocks, execution.init, plan.equality, left)
            return _traced(runner, execution, left)
        except AssertionError:  # our own logic, not the user's operators
            raise
        except Exception:  # the user's operators on states that never occur
            return None


def _traced(runner: Runner, execution: Execution, left: Callable[[], float]) -> Trace | None:
    """Of all blocks; where time does not suffice, of as many as a window has that was looked at first."""
    blocks = runner.plan.system.blocks if runner.plan.system else 0
    narrow = _narrow(runner, execution, left)
    solve = begun(runner, execution)
    state = first_guess(runner, execution)
    fronts = _fronts(solve, state, 0, blocks, left)
    if fronts is None:
        return None
    if not fronts or fronts[-1] < blocks:
        return Trace(blocks, (Fresh(0, fronts) if narrow is None else narrow,))
    runs = [Fresh(0, fronts)]
    for share in SHARES:
        start = int(share * blocks)
        if start < FEW or blocks - start < FEW or left() <= 0.0:
            break
        solve = begun(runner, execution)
        anew = first_guess(runner, execution)
        solve.system.write(anew, 0, start, solve.system.read(state, 0, start))
        fronts = _fronts(solve, anew, start, blocks, left)
        if fronts is None or not fronts or fronts[-1] < blocks:
            break
        runs.append(Fresh(start, fronts))
    return Trace(blocks, tuple(sorted(runs, key=lambda run: run.start)))


def _narrow(runner: Runner, execution: Execution, left: Callable[[], float]) -> Fresh | None:
    """The first steps of a recurrence by themselves, whose sweeps take little; None where that is most of it anyway."""
    blocks = runner.plan.system.blocks if runner.plan.system else 0
    if runner.recurrent is None or blocks < 4 * NARROW:
        return None
    few = Runner(
        replace(runner.plan, schedule=Schedule(Method.GS_JACOBI, NARROW)), runner.proof, runner.device, guarded=False
    )
    fronts = _fronts(begun(few, execution), first_guess(few, execution), 0, NARROW, left)
    return None if fronts is None or not fronts or fronts[-1] < NARROW else Fresh(0, fronts, NARROW)


def begun(runner: Runner, execution: Execution) -> Solve:
    """The solve loop of an execution, which has what sweeps need once per run, and keeps a record of its own."""
    solve = runner.solver(replace(execution, record=RunRecord("", 0)))
    solve.env = solve.system.prepare(solve.env)
    return solve


def first_guess(runner: Runner, execution: Execution) -> object:
    """Of all blocks."""
    assert runner.solving is not None
    return runner.solving.start_from(execution.init if runner.system is None else execution.init[0])


def _fronts(solve: Solve, state: object, start: int, end: int, left: Callable[[], float]) -> tuple[int, ...] | None:
    """The working front after each sweep up to ``end``, as far as there is time. None if a premise fails."""
    solve.working = solve.certified = start
    fronts: list[int] = []
    while solve.working < end and left() > 0.0:
        if not solve.sweep(state, solve.polish):
            return None
        fronts.append(solve.working)
    return tuple(fronts)


def certifying_sweeps(
    plan: Plan, proof: Proof, replay: Replay, weights: Mapping[str, Tensor], windows: bool, left: Callable[[], float]
) -> int:
    """How many sweeps have to certify, after blocks were guessed by windows or by lifted tails: told from the answer.

    The answer itself is computed anew, window by window. Where these round as the whole does, it stays what it is, and
    one certifying sweep is enough; elsewhere each further one mends what the last one found. 1 where nothing is known.
    """
    if plan.array is None or not replay.complete or (windows and proof.windows is None):
        return 1
    block = max(-(-plan.array.blocks // EIGHTH), 1)
    guessing = replace(plan, schedule=Schedule(Method.SLIDING, block, windows), costs=None)
    runner = Runner(guessing, proof, torch.device(plan.device), guarded=False)
    with torch.no_grad():
        execution = runner.begin(replay.arguments, weights, replay.generators)
        try:
            solve = begun(runner, execution)
            state = _guessed(runner, solve, replay.final[0], block)
            return _certified(solve, state, left)
        except AssertionError:  # our own logic
            raise
        except Exception:  # as for windows in general: there may not be room for them
            return 1


def _guessed(runner: Runner, solve: Solve, final: Tensor, block: int) -> Tensor:
    """The answer, as windowed or lifted sweeps over some blocks at a time leave it."""
    system, windowed = runner.system, solve.system.windowed
    assert system is not None
    state = system.start_from(final)
    workspace = windowed.begin(solve.env, state) if windowed is not None and solve.schedule.windows else None
    for lo in range(0, system.blocks, block):
        hi = min(lo + block, system.blocks)
        if workspace is None or windowed is None:
            values, _ = system.update(solve.env, state, lo, hi, False)
        else:
            windowed.refresh(workspace, state, max(lo - block, 0), hi)
            values = system.window(solve.env, workspace, state, lo, hi)
        system.write(state, lo, hi, values)
    if workspace is not None and windowed is not None:
        windowed.end(workspace)
    return state


def _certified(solve: Solve, state: Tensor, left: Callable[[], float]) -> int:
    """Certifying sweeps to the end; where time is over, as many as their front's speed lets expect."""
    blocks, made = solve.system.blocks, 0
    solve.working = solve.reached = blocks
    while solve.certified < blocks:
        if made and left() <= 0.0:
            return -(-made * blocks // max(solve.certified, 1))
        if not solve.sweep(state, True):
            return 1
        made += 1
    return made
