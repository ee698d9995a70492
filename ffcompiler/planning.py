"""From captured program to plan: which system it is, the proof of it, and the runs that both must reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .alike import alike
from .capture import Captured
from .confirm import confirm, interference, untold
from .errors import CaptureError
from .passes.chain import chain
from .passes.checks import checks_in_the_way
from .passes.dependence import prove
from .passes.partition import NOT_WRITTEN, partition
from .passes.recurrence import recurrence
from .passes.repeated import repeated
from .plan import Equality, Method, Plan, Schedule
from .probe import best_alignment
from .program import Chain
from .proof import NO_PROOF, Proof, Refusal
from .runtime.runner import Runner
from .sweepable import by_levels, sweepable, together


def sound_plan(
    captured: Captured,
    weights: Mapping[str, Tensor],
    equality: Equality,
    device: torch.device,
    wanted: Schedule | None = None,
) -> tuple[Plan, Proof]:
    """The plan with its system and proof, its schedule still sequential; or with the refusal that says why not.

    ``wanted``: the only schedule that is asked for, if it is.
    """
    plan, proof = _planned(captured, weights, equality, device, wanted)
    assert plan.program is not None
    later = [] if captured.rest is None else [part.program for part in captured.rest.parts]
    tested = checks_in_the_way(plan.program, equality, device.type, later)
    if tested is None or plan.refusal is not None:
        return plan, proof
    return replace(plan, refusal=str(tested), premises=()), NO_PROOF


def _planned(
    captured: Captured,
    weights: Mapping[str, Tensor],
    equality: Equality,
    device: torch.device,
    wanted: Schedule | None,
) -> tuple[Plan, Proof]:
    arguments = captured.replays[0].arguments
    base = Plan(captured.program, Schedule(Method.SEQUENTIAL), equality, device.type, padded=captured.padded)
    confirm(Runner(base, NO_PROOF, device), captured, weights)
    if isinstance(captured.program.loop, Chain):
        return _chained(captured, base, weights), NO_PROOF
    program = partition(captured.program)
    if captured.padded and not isinstance(program, Refusal) and program.loop.collected:
        program = Refusal("the steps leave more than the array that they write, or test values")
    if isinstance(program, Refusal) and captured.padded:  # only of array loops premises say that padding is not seen
        return replace(base, refusal=f"{program}\nin the loop whose array grows, padded"), NO_PROOF
    if isinstance(program, Refusal):
        found = _repeated(captured, base, weights) or _recurrent(captured, base, weights, program, wanted)
        return found, NO_PROOF
    plan = replace(base, program=program)
    with torch.no_grad():
        execution = Runner(plan, NO_PROOF, device).begin(arguments, weights, captured.replays[0].generators)
    proof = prove(program, execution.env)
    if isinstance(proof, Refusal) and plan.array is not None and plan.array.collected:
        return _recurrent(captured, base, weights, proof, wanted), NO_PROOF
    if isinstance(proof, Refusal):
        return replace(plan, refusal=str(proof)), NO_PROOF
    proved = replace(plan, premises=proof.premises)
    runner = Runner(proved, proof, device)
    confirm(runner, captured, weights)
    if (untold_ := untold(runner, captured, weights)) is not None:
        return _recurrent(captured, base, weights, untold_, wanted), NO_PROOF
    leak = interference(runner, captured, proof, weights)
    if leak is not None:
        return replace(plan, refusal=str(leak)), NO_PROOF
    return replace(proved, align=_alignment(runner, captured, weights)), proof


def _chained(captured: Captured, base: Plan, weights: Mapping[str, Tensor]) -> Plan:
    """The plan of a function without a loop. There is nothing to prove. Raises: `CaptureError` if it is no chain."""
    program = chain(captured.program)
    if isinstance(program, Refusal):
        raise CaptureError(f"{captured.no_loop}\n  {program}")
    plan = replace(base, program=program)
    confirm(Runner(plan, NO_PROOF, torch.device(plan.device)), captured, weights)
    return _together(captured, plan, weights)


def _together(captured: Captured, plan: Plan, weights: Mapping[str, Tensor]) -> Plan:
    """The plan of a chain with the blocks that one call may compute."""
    program = plan.program
    assert program is not None and isinstance(program.loop, Chain)
    asked = replace(plan, program=replace(program, loop=replace(program.loop, together=alike(program.loop.graphs))))
    found = together(Runner(asked, NO_PROOF, torch.device(plan.device)), captured, weights)
    return replace(plan, program=replace(program, loop=replace(program.loop, together=found)))


def _repeated(captured: Captured, base: Plan, weights: Mapping[str, Tensor]) -> Plan | None:
    """The plan of a loop whose steps are all the same map; None if this is none. There is nothing to prove."""
    program = repeated(captured.program)
    if isinstance(program, Refusal):
        return None
    plan = replace(base, program=program)
    confirm(Runner(plan, NO_PROOF, torch.device(plan.device)), captured, weights)
    return plan


def _recurrent(
    captured: Captured, base: Plan, weights: Mapping[str, Tensor], no_array: Refusal, wanted: Schedule | None
) -> Plan:
    """The plan of a loop that carries its whole state from step to step, or one that says why it is not to be swept."""
    program = recurrence(captured.program, base.device)
    why: Refusal | None
    if isinstance(program, Refusal):
        why = program
    else:
        plan = replace(base, program=program)
        runner = Runner(plan, NO_PROOF, torch.device(plan.device))
        confirm(runner, captured, weights)
        why = sweepable(runner, captured, weights, base.equality)
        if why is not None and wanted is not None and wanted.method is Method.WAVEFRONT:
            why = by_levels(Runner(replace(plan, schedule=wanted), NO_PROOF, runner.device), captured, weights, why)
        if why is None:
            return plan
    if NOT_WRITTEN in str(no_array):
        return replace(base, refusal=f"{why}\nthe loop is a recurrence, since {no_array}")
    return replace(base, refusal=f"{no_array}\nas a recurrence over its whole state: {why}")


def _alignment(runner: Runner, captured: Captured, weights: Mapping[str, Tensor]) -> int:
    replay = captured.replays[0]
    with torch.no_grad():
        execution = runner.begin(replay.arguments, weights, replay.generators)
        return best_alignment(runner, execution, replay.final[0])
