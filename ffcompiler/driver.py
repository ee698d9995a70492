"""`compile` and `load`: the place that knows capture, passes and runtime; data flows from one to the next."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .artifact import read_artifact
from .calls import bind, mismatches, others_given, parameters_of
from .capture import describe_arguments
from .choice.calibrate import Effort
from .choice.choose import SEQUENTIAL
from .compiled import Compiled
from .deciding import Progress
from .errors import ArtifactError, ScheduleError, UsageError
from .passes.dependence import prove
from .plan import Bits, Equality, Method, Plan, Schedule, Tolerance, in_a_row
from .program import Recurrence
from .proof import NO_PROOF
from .recipe import Recipe
from .runtime.recurrent import make_recurrent
from .schedules import parse_schedule
from .stored.cache import plan_cache
from .sweepable import obstacle


def compile(  # noqa: A001 - the verb users expect: ffc.compile
    function: Callable[..., Any],
    example_args: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    equality: Equality | str = "bits",
    schedule: Schedule | str = "auto",
    on_unsupported: str | None = None,
    max_signatures: int = 8,
    budget: float = 5.0,
    memory_limit: float | None = None,
    calibration: Sequence[tuple[Any, ...]] = (),
    cache: bool | str | os.PathLike[str] = True,
    progress: Progress | None = None,
) -> Compiled:
    """``function``, a long chain of small steps such as a loop, as a callable with the same answer.

    ``example_args`` (and ``example_kwargs``) are the first signature: shapes, dtypes, device, constants, objects such
    as modules, and modes; the choice of schedule is calibrated on them. Other signatures are compiled when they are
    first called, and at most ``max_signatures`` are kept (`Compiled.variants`).

    ``equality``: ``"bits"`` or `tolerance(rtol, atol)`. ``schedule``: ``"auto"``, or a name such as ``"jacobi"``,
    ``"gs-jacobi(98)"``, ``"growing(64)"``, ``"sliding(98)+windows"``, ``"wavefront"``, ``"gauss-seidel"``,
    ``"sequential"``.

    ``on_unsupported``, for a function that cannot be captured, or not be parallelised safely: ``"sequential"`` gives a
    `Compiled` that runs the function as it is, and whose ``explain()`` says why; ``"raise"`` raises. By default the
    schedules ``"auto"`` and ``"sequential"`` do the former, others that are asked for by name the latter. Evaluation is
    without gradients.

    ``budget``: seconds in which costs and candidates are measured; timing the reference comes on top, and what is not
    run is predicted (docs/decision.md). ``memory_limit``: bytes that a run may need besides arguments and weights, by
    prediction. ``calibration``: arguments of further calls with the example's signature, whose convergence counts too.

    ``cache``: whether a choice that was measured before, for the same graph, weights, options, machine and versions, is
    taken from the plan cache in place of being measured again (docs/cache.md); or the folder to keep such choices in.

    Raises: `CaptureError`, `CausalityError` as said above; `ScheduleError` for a schedule that does not exist;
    `UsageError` for an argument of this function that makes no sense.
    """
    _check(example_args, schedule)
    wanted = schedule if isinstance(schedule, Schedule) else parse_schedule(schedule)
    effort, insist = _effort(budget, memory_limit), _insists(on_unsupported, wanted)
    recipe = Recipe(function, _equality(equality), wanted, insist, plan_cache(cache), effort)
    if max_signatures < 1:
        raise UsageError(f"max_signatures is {max_signatures}; it counts the signature of the example, so 1 or more")
    example = parameters_of(function).canonical(example_args, dict(example_kwargs or {}))
    inputs = [parameters_of(function).canonical(args, {}) for args in calibration]
    first = replace(recipe, inputs=_alike(function, example, inputs))
    compiled = first.compile(*example, progress or (lambda what, done, of: None))
    return compiled.vary(recipe.again, example, recipe.insist, max_signatures)


def _check(example_args: Any, schedule: Any) -> None:
    """What a type checker would say. Raises: `UsageError`."""
    if not isinstance(example_args, tuple):
        kind = type(example_args).__name__
        raise UsageError(f"example_args is a {kind}; it is the tuple of a call's arguments, as in compile(f, (x,))")
    if not isinstance(schedule, Schedule | str):
        raise UsageError(f'schedule is {schedule!r}; it is the name of one, as in "auto" or "jacobi"')


def _effort(budget: float, memory_limit: float | None) -> Effort:
    if not 0.0 <= budget < math.inf:
        raise UsageError(f"budget is {budget!r}; it counts seconds, e.g. 5.0")
    if memory_limit is not None and not 0 <= memory_limit < math.inf:
        raise UsageError(f"memory_limit is {memory_limit}; it counts bytes, so 0 or more")
    return Effort(budget, None if memory_limit is None else int(memory_limit))


def _alike(
    function: Callable[..., Any], example: tuple[tuple[Any, ...], dict[str, Any]], inputs: Sequence[Any]
) -> tuple[tuple[Tensor, ...], ...]:
    """The tensors of further calls. Raises: `UsageError` for one that is not of the example's signature."""
    if not inputs:
        return ()
    wanted, _ = describe_arguments(function, *example)
    found = []
    for k, call in enumerate(inputs):
        given, tensors = describe_arguments(function, *call)
        faults = [*mismatches(wanted, given), *others_given(bind(function, *example), *call)]
        if faults:
            raise UsageError("\n  ".join([f"calibration[{k}] is not a call like the example", *faults]))
        found.append(tuple(t.detach() for t in tensors))
    return tuple(found)


def _insists(on_unsupported: str | None, wanted: Schedule | None) -> bool:
    if on_unsupported not in (None, "sequential", "raise"):
        raise UsageError(f'on_unsupported is "sequential" or "raise", not {on_unsupported!r}')
    by_name = wanted is not None and wanted.sweeps
    return by_name if on_unsupported is None else on_unsupported == "raise"


def load(path: str | os.PathLike[str], device: str | None = None, sha256: str | None = None) -> Compiled:
    """The compiled function that `Compiled.save` wrote, ready to run on ``device`` (default: the one it was made for).

    Nothing in the file is executed. The dependence proof is made again from the weights in it, never believed.

    Raises: `ArtifactError` for any file that is not such an artifact; `UsageError` if the device is not there.
    """
    plan, weights = read_artifact(path, sha256)
    where = _available(device or plan.device)
    if where.type != plan.device:
        plan = _moved(plan, where.type)
    stored = tuple({name: t.to(where) for name, t in part.items()} for part in weights)
    compiled = Compiled(plan, (NO_PROOF,) * len(plan.parts), prove, stored=stored)
    compiled.prove_stored(os.fspath(path))
    for part in plan.parts:
        loop = part.program.loop if part.program else None
        if isinstance(loop, Recurrence) and part.schedule.sweeps:
            by_levels, bits = part.schedule.method is Method.WAVEFRONT, isinstance(part.equality, Bits)
            why = obstacle(make_recurrent(loop, where, by_levels=by_levels, bits=bits), part.equality)
            if why is not None:
                raise ArtifactError(f"{os.fspath(path)}: its schedule is not sound here\n{why}\n  compile it again")
    return compiled


def _moved(plan: Plan, device: str) -> Plan:
    """The plan on another kind of device, where its costs and the check of its kernels' rounding do not hold."""
    why = f"made on {plan.device} and loaded on {device}: compile on {device} to solve in parallel there"
    return in_a_row(
        [
            replace(part, device=device, schedule=SEQUENTIAL, costs=None, candidates=(), why=why, rest=None)
            for part in plan.parts
        ]
    )


def _available(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise UsageError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from None
    return where


def _equality(equality: Equality | str) -> Equality:
    if isinstance(equality, Bits | Tolerance):
        return equality
    if equality != "bits":
        raise ScheduleError(f'equality is "bits" or ffc.tolerance(rtol, atol), not {equality!r}')
    return Bits()
