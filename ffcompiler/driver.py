"""`compile` and `load`: the place that knows capture, passes and runtime; data flows from one to the next."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .artifact import read_artifact
from .calibrate import Calibration, Example, calibrate
from .calls import parameters_of
from .capture import Captured, capture, describe_call, keeping
from .compiled import Compiled
from .confirm import confirm, interference
from .errors import ArtifactError, CaptureError, CausalityError, ScheduleError, UsageError
from .live import Live
from .modes import as_recorded, casts_repeated
from .passes.chain import chain
from .passes.dependence import prove
from .passes.outputs import collect_outputs
from .passes.partition import partition
from .passes.recurrence import recurrence
from .passes.repeated import repeated
from .plan import Bits, Candidate, Equality, Method, Plan, Schedule
from .probe import best_alignment
from .program import ArrayLoop, Chain, Recurrence, RepeatedMap
from .proof import NO_PROOF, Proof, Refusal
from .randomness import kept
from .respelled import confirm_respelled
from .runtime.recurrent import make_recurrent
from .runtime.runner import Runner
from .schedules import candidates_for, candidates_for_chain, candidates_for_recurrence, parse_schedule
from .sweepable import obstacle, sweepable
from .trees import flatten, unflatten
from .verify import verify

Progress = Callable[[str, int, int], None]
SEQUENTIAL = Schedule(Method.SEQUENTIAL)
JACOBI = Schedule(Method.JACOBI)
NEAR = 1.05
"""Candidates this close to the fastest are as good: the first of them is taken, so that noise does not decide."""


def compile(  # noqa: A001 - the verb users expect: ffc.compile
    function: Callable[..., Any],
    example_args: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    equality: Equality | str = "bits",
    schedule: Schedule | str = "auto",
    on_unsupported: str | None = None,
    max_signatures: int = 8,
    progress: Progress | None = None,
) -> Compiled:
    """``function``, whose sequential loop is marked by `fori_loop`, as a callable with the same answer.

    ``example_args`` (and ``example_kwargs``) are the first signature: shapes, dtypes, device, constants and modes; the
    choice of schedule is calibrated on them. Other signatures are compiled when they are first called, and at most
    ``max_signatures`` are kept (`Compiled.variants`).

    ``equality``: ``"bits"`` or `tolerance(rtol, atol)`. ``schedule``: ``"auto"``, or a name such as ``"jacobi"``,
    ``"gs-jacobi(98)"``, ``"sliding(98)+windows"``, ``"wavefront"``, ``"gauss-seidel"``, ``"sequential"``.

    ``on_unsupported``, for a function that cannot be captured, or not be parallelised safely: ``"sequential"`` gives a
    `Compiled` that runs the function as it is, and whose ``explain()`` says why; ``"raise"`` raises. By default the
    schedules ``"auto"`` and ``"sequential"`` do the former, others that are asked for by name the latter. Evaluation is
    without gradients.

    Raises: `CaptureError`, `CausalityError` as said above; `ScheduleError` for a schedule that does not exist;
    `UsageError` for an argument of this function that makes no sense.
    """
    wanted = schedule if isinstance(schedule, Schedule) else parse_schedule(schedule)
    recipe = Recipe(function, _equality(equality), wanted, _insists(on_unsupported, wanted))
    if max_signatures < 1:
        raise UsageError(f"max_signatures is {max_signatures}; it counts the signature of the example, so 1 or more")
    example = parameters_of(function).canonical(example_args, dict(example_kwargs or {}))
    compiled = recipe.compile(*example, progress or (lambda what, done, of: None))
    return compiled.vary(recipe.again, example, recipe.insist, max_signatures)


def _insists(on_unsupported: str | None, wanted: Schedule | None) -> bool:
    if on_unsupported not in (None, "sequential", "raise"):
        raise UsageError(f'on_unsupported is "sequential" or "raise", not {on_unsupported!r}')
    by_name = wanted is not None and wanted.method is not Method.SEQUENTIAL
    return by_name if on_unsupported is None else on_unsupported == "raise"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a function is compiled, whatever it is called with. ``wanted`` None: the schedule that is found best."""

    function: Callable[..., Any]
    equality: Equality
    wanted: Schedule | None
    insist: bool  # raise where the function cannot be captured, or no schedule that is wanted is sound

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        """For another signature, in the middle of a call."""
        with torch.inference_mode(False):
            leaves, tree = flatten((args, kwargs))
            args, kwargs = unflatten(tree, [_recordable(leaf) for _, leaf in leaves])
            return self.compile(args, kwargs, lambda what, done, of: None)

    @kept()  # the states of random generators
    def compile(self, args: tuple[Any, ...], kwargs: dict[str, Any], say: Progress) -> Compiled:
        """For one signature, that of this call."""
        try:
            with casts_repeated():
                told = _told_apart(args, kwargs)
                captured = capture(self.function, *told, lambda done, of: say("capture", done, of))
                if captured.small_loop and isinstance(chain(captured.program), Refusal):
                    captured = capture(self.function, *told, share=0.0)
            captured = keeping(captured, *collect_outputs(captured.program))
            live = Live(self.function, captured)
            confirm_respelled(live, args, kwargs, self.equality)
            with as_recorded(torch.device(_device_of((args, kwargs)))):
                plan, proof = _sound_plan(captured, live, self.equality)
        except CaptureError as error:
            if self.insist:
                raise
            return _uncaptured(self.function, self.equality, (args, kwargs), str(error))
        if self.wanted is not None and self.wanted.method is Method.SEQUENTIAL:
            plan = replace(plan, why="sequential execution was asked for by name")
        elif plan.refusal is None:
            schedules = _to_try(plan, proof, self.wanted)
            example = Example(captured.replays[0], live.weights, partial(live.estimated_seconds, args, kwargs))
            calibration = calibrate(plan, proof, example, schedules, say)
            plan = _choose(plan, self.wanted, calibration)
        return Compiled(verify(self._agreed(plan)), proof, prove, live)

    def _agreed(self, plan: Plan) -> Plan:
        """``plan``, if a refusal in it is to be lived with. Raises: `CausalityError`."""
        sequential = self.wanted is not None and self.wanted.method is Method.SEQUENTIAL
        if plan.refusal is None or sequential or not self.insist:
            return plan
        what = "no parallel schedule is" if self.wanted is None else f"schedule {self.wanted} is not"
        raise CausalityError(f"{what} sound for this function\n{plan.refusal}")


def _told_apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with another name for a tensor each time that it is given, so that capture sees several arguments."""
    leaves, tree = flatten((args, kwargs))
    seen: set[int] = set()
    told = []
    for _, leaf in leaves:
        told.append(leaf.detach() if isinstance(leaf, Tensor) and id(leaf) in seen else leaf)
        seen.add(id(leaf))
    result: tuple[tuple[Any, ...], dict[str, Any]] = unflatten(tree, told)
    return result


def _recordable(leaf: Any) -> Any:
    """Tensors that were made in inference mode cannot be recorded outside of it: copies can."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


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
    compiled = Compiled(plan, NO_PROOF, prove, stored=weights)
    if plan.refusal is None and isinstance(loop, ArrayLoop):
        compiled.prove_stored(os.fspath(path))
    if isinstance(loop, Recurrence) and plan.schedule.method is not Method.SEQUENTIAL:
        why = obstacle(make_recurrent(loop, where), plan.equality)
        if why is not None:
            raise ArtifactError(f"{os.fspath(path)}: its schedule is not sound here\n{why}\n  compile it again")
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


def _to_try(plan: Plan, proof: Proof, wanted: Schedule | None) -> tuple[Schedule, ...]:
    """The schedules that are run on the example inputs."""
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
        if wanted is not None and wanted.method is Method.JACOBI_GS:
            raise ScheduleError(f"{wanted}: the steps of a recurrence are computed at once; e.g. gs-jacobi(16)")
        return candidates_for_recurrence(plan.system.blocks) if wanted is None else (wanted,)
    if isinstance(plan.system, Chain):
        return _for_chain(plan.system, plan.equality) if wanted is None else (_of_chain(wanted, plan.equality),)
    if wanted is not None and wanted.method is Method.JACOBI_GS:
        raise ScheduleError(f"{wanted}: only the blocks of a chain can run in order within a sweep; e.g. gs-jacobi(16)")
    return candidates_for(*_shape(plan), proof.wave is not None) if wanted is None else (wanted,)


def _for_chain(system: Chain, equality: Equality) -> tuple[Schedule, ...]:
    tried = candidates_for_chain(system.blocks, len(system.levels))
    return tuple(s for s in tried if s.method is not Method.JACOBI_GS or isinstance(equality, Bits))


def _of_chain(wanted: Schedule, equality: Equality) -> Schedule:
    """``wanted``, if the blocks of a chain can be solved by it. Raises: `ScheduleError`."""
    if wanted.windows:
        raise ScheduleError(f"{wanted}: the blocks of a chain are computed whole; use it without windows")
    if wanted.method is Method.JACOBI_GS and not isinstance(equality, Bits):
        raise ScheduleError(
            f"{wanted}: blocks that run in order within a sweep leave no residual to be held against a tolerance; "
            'use equality="bits", or jacobi'
        )
    return wanted


def _shape(plan: Plan) -> tuple[int, int]:
    """Blocks in the array, and in a row of it."""
    loop = plan.array
    assert loop is not None
    return loop.blocks, loop.row


def _uncaptured(
    function: Callable[..., Any], equality: Equality, call: tuple[tuple[Any, ...], dict[str, Any]], reason: str
) -> Compiled:
    """What could not be captured runs as it is."""
    plan = Plan(None, SEQUENTIAL, equality, _device_of(call), refusal=reason, why="the function could not be captured")
    try:
        signature = describe_call(function, *call)
    except CaptureError:
        signature = None
    return Compiled(verify(plan), NO_PROOF, prove, function=function, called_as=signature)


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
    if isinstance(captured.program.loop, Chain):
        return _chained(captured, base, weights), NO_PROOF
    program = partition(captured.program)
    if isinstance(program, Refusal):
        found = _repeated(captured, base, weights) or _recurrent(captured, base, weights, program)
        return found, NO_PROOF
    plan = replace(base, program=program)
    with torch.no_grad():
        execution = Runner(plan, NO_PROOF, device).begin(arguments, weights, captured.replays[0].generators)
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


def _chained(captured: Captured, base: Plan, weights: Mapping[str, Tensor]) -> Plan:
    """The plan of a function without a loop. There is nothing to prove. Raises: `CaptureError` if it is no chain."""
    program = chain(captured.program)
    if isinstance(program, Refusal):
        raise CaptureError(f"{captured.no_loop}\n  {program}")
    plan = replace(base, program=program)
    confirm(Runner(plan, NO_PROOF, torch.device(plan.device)), captured, weights)
    return plan


def _repeated(captured: Captured, base: Plan, weights: Mapping[str, Tensor]) -> Plan | None:
    """The plan of a loop whose steps are all the same map; None if this is none. There is nothing to prove."""
    program = repeated(captured.program)
    if isinstance(program, Refusal):
        return None
    plan = replace(base, program=program)
    confirm(Runner(plan, NO_PROOF, torch.device(plan.device)), captured, weights)
    return plan


def _recurrent(captured: Captured, base: Plan, weights: Mapping[str, Tensor], no_array: Refusal) -> Plan:
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
        if why is None:
            return plan
    return replace(base, refusal=f"{no_array}\nas a recurrence over its whole state: {why}")


def _alignment(runner: Runner, captured: Captured, weights: Mapping[str, Tensor]) -> int:
    replay = captured.replays[0]
    with torch.no_grad():
        execution = runner.begin(replay.arguments, weights, replay.generators)
        return best_alignment(runner, execution, replay.final[0])


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


def _device_of(call: Any) -> str:
    return next((leaf.device.type for _, leaf in flatten(call)[0] if isinstance(leaf, Tensor)), "cpu")
