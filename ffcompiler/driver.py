"""`compile` and `load`: the place that knows capture, passes and runtime; data flows from one to the next."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .artifact import read_artifact
from .calibrate import Calibration, calibrate
from .capture import Captured, capture
from .compiled import Compiled
from .confirm import confirm, interference
from .errors import CaptureError, CausalityError, ScheduleError, UsageError
from .live import Live
from .passes.dependence import prove
from .passes.partition import partition
from .plan import Bits, Candidate, Equality, Method, Plan, Schedule
from .probe import best_alignment
from .program import ArrayLoop
from .proof import NO_PROOF, Proof, Refusal
from .runtime.runner import Runner
from .schedules import candidates_for, parse_schedule
from .trees import flatten
from .verify import verify

Progress = Callable[[str, int, int], None]
SEQUENTIAL = Schedule(Method.SEQUENTIAL)
NEAR = 1.05
"""Candidates this close to the fastest are as good: the first of them is taken, so that noise does not decide."""


def compile(  # noqa: A001 - the verb users expect: ffc.compile
    function: Callable[..., Any],
    example_args: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    equality: Equality | str = "bits",
    schedule: Schedule | str = "auto",
    progress: Progress | None = None,
) -> Compiled:
    """``function``, whose sequential loop is marked by `fori_loop`, as a callable with the same answer.

    ``example_args`` (and ``example_kwargs``) fix shapes, dtypes and device, and calibrate the choice of schedule.
    ``equality``: ``"bits"`` or `tolerance(rtol, atol)`. ``schedule``: ``"auto"``, or a name such as ``"jacobi"``,
    ``"gs-jacobi(98)"``, ``"sliding(98)+windows"``, ``"wavefront"``, ``"gauss-seidel"``, ``"sequential"``.

    With ``"auto"`` a function that cannot be parallelised safely becomes a `Compiled` that runs it as it is, and
    ``explain()`` says why. Evaluation is without gradients.

    Raises: `CaptureError`, `CausalityError` if a parallel schedule was asked for by name and is not sound;
    `ScheduleError` for a schedule that does not exist.
    """
    say = progress or (lambda what, done, of: None)
    wanted = schedule if isinstance(schedule, Schedule) else parse_schedule(schedule)
    equal = _equality(equality)
    kwargs = dict(example_kwargs or {})
    try:
        captured = capture(function, example_args, kwargs, lambda done, of: say("capture", done, of))
        live = Live(function, captured)
        plan, proof = _sound_plan(captured, live, equal)
    except CaptureError as error:
        if wanted is not None and wanted.method is not Method.SEQUENTIAL:
            raise
        return _uncaptured(function, equal, _device_of(example_args), str(error))
    if wanted is not None and wanted.method is Method.SEQUENTIAL:
        return Compiled(verify(replace(plan, why="sequential execution was asked for by name")), proof, prove, live)
    if plan.refusal is None:
        schedules = candidates_for(*_shape(plan), proof.wave is not None) if wanted is None else (wanted,)
        calibration = calibrate(plan, proof, live, example_args, kwargs, schedules, say)
        plan = _choose(plan, wanted, calibration)
    if plan.refusal is not None and wanted is not None:
        raise CausalityError(f"schedule {wanted} is not sound for this function\n{plan.refusal}")
    return Compiled(verify(plan), proof, prove, live)


def load(path: str | os.PathLike[str], device: str | None = None, sha256: str | None = None) -> Compiled:
    """The compiled function that `Compiled.save` wrote, ready to run on ``device`` (default: the one it was made for).

    Nothing in the file is executed. The dependence proof is made again from the weights in it, never believed.

    Raises: `ArtifactError` for any file that is not such an artifact; `UsageError` if the device is not there.
    """
    plan, weights = read_artifact(path, sha256)
    where = _available(device or plan.device)
    if where.type != plan.device:
        plan = _moved(plan, where.type)
    weights = {name: t.to(where) for name, t in weights.items()}
    loop = plan.program.loop if plan.program else None
    if plan.refusal is not None or not isinstance(loop, ArrayLoop):
        return Compiled(plan, NO_PROOF, prove, stored=weights)
    compiled = Compiled(plan, NO_PROOF, prove, stored=weights)
    compiled.prove_stored(os.fspath(path))
    return compiled


def _moved(plan: Plan, device: str) -> Plan:
    """The plan on another kind of device, where its costs and the check of its kernels' rounding do not hold."""
    why = f"made on {plan.device} and loaded on {device}: compile on {device} to solve in parallel there"
    return replace(plan, device=device, schedule=SEQUENTIAL, costs=None, candidates=(), why=why)


def _available(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise UsageError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from None
    return where


def _shape(plan: Plan) -> tuple[int, int]:
    """Blocks in the array, and in a row of it."""
    loop = plan.array
    assert loop is not None
    return loop.blocks, loop.row


def _uncaptured(function: Callable[..., Any], equality: Equality, device: str, reason: str) -> Compiled:
    """What could not be captured runs as it is."""
    plan = Plan(None, SEQUENTIAL, equality, device, refusal=reason, why="the function could not be captured")
    return Compiled(verify(plan), NO_PROOF, prove, function=function)


def _equality(equality: Equality | str) -> Equality:
    if isinstance(equality, str):
        if equality != "bits":
            raise ScheduleError(f'equality is "bits" or ffc.tolerance(rtol, atol), not {equality!r}')
        return Bits()
    return equality


def _sound_plan(captured: Captured, live: Live, equality: Equality) -> tuple[Plan, Proof]:
    """The plan with its system and proof, its schedule still sequential; or with the refusal that says why not."""
    arguments = captured.replays[0].arguments
    device = arguments[0].device if arguments else torch.device("cpu")
    base = Plan(captured.program, SEQUENTIAL, equality, device.type)
    weights = live.weights()
    confirm(Runner(base, NO_PROOF, device), captured, weights)
    program = partition(captured.program)
    if isinstance(program, Refusal):
        return replace(base, refusal=str(program)), NO_PROOF
    plan = replace(base, program=program)
    with torch.no_grad():
        execution = Runner(plan, NO_PROOF, device).begin(arguments, weights)
    proof = prove(program, execution.env)
    if isinstance(proof, Refusal):
        return replace(plan, refusal=str(proof)), NO_PROOF
    proved = replace(plan, premises=proof.premises)
    runner = Runner(proved, proof, device)
    confirm(runner, captured, weights)
    leak = interference(runner, captured, proof, weights)
    if leak is not None:
        return replace(plan, refusal=str(leak)), NO_PROOF
    return replace(proved, align=_alignment(runner, captured, weights)), proof


def _alignment(runner: Runner, captured: Captured, weights: Mapping[str, Tensor]) -> int:
    replay = captured.replays[0]
    with torch.no_grad():
        return best_alignment(runner, runner.begin(replay.arguments, weights), replay.final[0])


def _choose(plan: Plan, wanted: Schedule | None, calibration: Calibration) -> Plan:
    """The plan with the schedule that was asked for, or the fastest one; never one that certified wrong bits."""
    sequential = Candidate(SEQUENTIAL, calibration.reference_seconds, 0, "the reference")
    plan = replace(plan, costs=calibration.costs, candidates=(sequential, *calibration.candidates))
    if calibration.wrong is not None:
        return replace(
            plan, premises=(), refusal=f"on the example inputs a parallel run went wrong: {calibration.wrong}"
        )
    if wanted is not None:
        return replace(plan, schedule=wanted, why="the schedule was asked for by name")
    fastest = min(plan.candidates, key=lambda c: c.seconds)
    near = [c for c in calibration.candidates if c.seconds <= NEAR * fastest.seconds]
    best = sequential if fastest is sequential else near[0]
    others = sorted(c.seconds for c in plan.candidates if c is not best)
    ratio = calibration.reference_seconds / best.seconds
    why = (
        "no parallel schedule was faster than the reference on the example inputs"
        if best is sequential
        else f"{best.seconds:.4g} s on the example inputs, {ratio:.1f}x the reference's speed; "
        f"the fastest other candidate needs {others[0]:.4g} s"
    )
    return replace(plan, schedule=best.schedule, why=why)


def _device_of(args: tuple[Any, ...]) -> str:
    return next((leaf.device.type for _, leaf in flatten(list(args))[0] if isinstance(leaf, Tensor)), "cpu")
