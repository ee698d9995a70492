"""`compile` and `load`: the place that knows capture, passes and runtime; data flows from one to the next."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .artifact import read_artifact
from .calls import mismatches, parameters_of
from .capture import Captured, capture, describe_arguments, describe_call, keeping, unmoved
from .choice.calibrate import Effort
from .choice.choose import SEQUENTIAL
from .compiled import Compiled
from .deciding import Deciding, Progress
from .errors import ArtifactError, CaptureError, CausalityError, ScheduleError, UsageError
from .live import Live
from .modes import as_recorded, casts_repeated
from .passes.chain import chain
from .passes.dependence import prove
from .passes.outputs import collect_outputs
from .plan import Bits, Equality, Method, Plan, Schedule, Tolerance, in_a_row
from .planning import sound_plan
from .program import Recurrence
from .proof import NO_PROOF, Proof, Refusal
from .randomness import kept
from .respelled import confirm_respelled
from .rules.verify import verify
from .runtime.recurrent import make_recurrent
from .schedules import parse_schedule
from .stored.cache import Asked, PlanCache, plan_cache
from .stored.circumstances import circumstances, fingerprint, remembered
from .sweepable import obstacle
from .trees import flatten, unflatten
from .unrolled import as_layers


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
    """``function``, whose sequential loop is marked by `fori_loop`, as a callable with the same answer.

    ``example_args`` (and ``example_kwargs``) are the first signature: shapes, dtypes, device, constants and modes; the
    choice of schedule is calibrated on them. Other signatures are compiled when they are first called, and at most
    ``max_signatures`` are kept (`Compiled.variants`).

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
        faults = list(mismatches(wanted, given))
        if faults:
            raise UsageError("\n  ".join([f"calibration[{k}] is not a call like the example", *faults]))
        found.append(tuple(t.detach() for t in tensors))
    return tuple(found)


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
    cache: PlanCache | None
    effort: Effort
    inputs: tuple[tuple[Tensor, ...], ...] = ()  # of further calls, to calibrate on; of the first signature only

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        """For another signature, in the middle of a call."""
        with torch.inference_mode(False):
            leaves, tree = flatten((args, kwargs))
            args, kwargs = unflatten(tree, [_recordable(leaf) for _, leaf in leaves])
            return self.compile(args, kwargs, lambda what, done, of: None)

    @kept()  # the states of random generators
    def compile(self, args: tuple[Any, ...], kwargs: dict[str, Any], say: Progress) -> Compiled:
        """For one signature, that of this call. What runs of the function move is put back."""
        try:
            with casts_repeated():
                told = _told_apart(args, kwargs)
                loose = self.equality if isinstance(self.equality, Tolerance) else None
                report = partial(say, "capture")
                captured = capture(self.function, *told, report, tolerance=loose)
                if captured.small_loop and isinstance(chain(captured.program), Refusal):
                    captured = capture(self.function, *told, share=0.0, tolerance=loose)
            with unmoved(self.function):
                return self._compiled(captured, args, kwargs, say)
        except CaptureError as error:
            if self.insist:
                raise
            return _uncaptured(self.function, self.equality, (args, kwargs), str(error))

    def _compiled(self, captured: Captured, args: tuple[Any, ...], kwargs: dict[str, Any], say: Progress) -> Compiled:
        """What was captured, proved and with its schedules. Raises: `CaptureError`, `ScheduleError`."""
        live, found = self._planned(captured, args, kwargs)
        rolled = live
        if self.wanted is None or self.wanted.method is not Method.SEQUENTIAL:
            straight = as_layers(live.captured, [own for own, _ in found], partial(self._again, args, kwargs))
            live, found = (live, found) if straight is None else self._planned(straight, args, kwargs)
        plan, proofs = in_a_row([plan for plan, _ in found]), tuple(proof for _, proof in found)
        measured = None
        if self.wanted is not None and self.wanted.method is Method.SEQUENTIAL:
            plan = in_a_row([replace(p, why="sequential execution was asked for by name") for p in plan.parts])
        elif not self.insist or any(part.refusal is None for part in plan.parts):
            timed = partial(live.estimated_seconds, args, kwargs)
            weights = {f"{k}.{name}": t for k, own in enumerate(live.all_weights()) for name, t in own.items()}
            ask = partial(self._asked, plan, weights, live.captured.replays[0].arguments)
            deciding = Deciding(live, timed, self.wanted, self.effort, self.inputs, sound_plan, say, rolled)
            choice = partial(deciding.chosen, plan, proofs)
            plan, measured = remembered(self.cache, ask, choice, _name(self.function))
        return Compiled(verify(self._agreed(plan)), proofs, prove, live, measured=measured)

    def _again(self, args: tuple[Any, ...], kwargs: dict[str, Any], share: float) -> Captured:
        """The function captured another time."""
        with casts_repeated():
            return capture(self.function, *_told_apart(args, kwargs), share=share)

    def _planned(
        self, captured: Captured, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Live, list[tuple[Plan, Proof]]]:
        """The function with its plans, of which the schedules are still sequential, and their proofs."""
        live = Live(self.function, _collecting(captured))
        confirm_respelled(live, args, kwargs, self.equality)
        device = torch.device(_device_of((args, kwargs)))
        with as_recorded(device):
            both = zip(live.captured.parts, live.all_weights(), strict=True)
            return live, [sound_plan(part, weights, self.equality, device, self.wanted) for part, weights in both]

    def _asked(self, plan: Plan, weights: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Asked:
        """What the plan cache is asked: every option counts, but for those that have no part in the choice."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        counted = {name: value for name, value in options.items() if name not in ("function", "insist", "cache")}
        given = {f"{k}.{j}": t for k, call in enumerate(self.inputs) for j, t in enumerate(call)}
        counted["inputs"] = fingerprint(given)  # by value: they were chosen to be calibrated on
        return Asked(plan, circumstances(counted, weights, inputs))

    def _agreed(self, plan: Plan) -> Plan:
        """``plan``, if a refusal in it is to be lived with. Raises: `CausalityError`."""
        sequential = self.wanted is not None and self.wanted.method is Method.SEQUENTIAL
        refusals = [part.refusal for part in plan.parts if part.refusal is not None]
        if len(refusals) < len(plan.parts) or sequential or not self.insist:
            return plan
        what = "no parallel schedule is" if self.wanted is None else f"schedule {self.wanted} is not"
        raise CausalityError(f"{what} sound for this function\n{refusals[0]}")


def _collecting(captured: Captured) -> Captured:
    """The same, its loops carrying only what they have to."""
    rest = None if captured.rest is None else _collecting(captured.rest)
    return replace(keeping(captured, *collect_outputs(captured.program)), rest=rest)


def _name(function: Callable[..., Any]) -> str:
    """For people: ``package.module:attribute``; of an object that is called, its class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


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
    stored = tuple({name: t.to(where) for name, t in part.items()} for part in weights)
    compiled = Compiled(plan, (NO_PROOF,) * len(plan.parts), prove, stored=stored)
    compiled.prove_stored(os.fspath(path))
    for part in plan.parts:
        loop = part.program.loop if part.program else None
        if isinstance(loop, Recurrence) and part.schedule.method is not Method.SEQUENTIAL:
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


def _uncaptured(
    function: Callable[..., Any], equality: Equality, call: tuple[tuple[Any, ...], dict[str, Any]], reason: str
) -> Compiled:
    """What could not be captured runs as it is."""
    plan = Plan(None, SEQUENTIAL, equality, _device_of(call), refusal=reason, why="the function could not be captured")
    try:
        signature = describe_call(function, *call)
    except CaptureError:
        signature = None
    return Compiled(verify(plan), (NO_PROOF,), prove, function=function, called_as=signature)


def _equality(equality: Equality | str) -> Equality:
    if isinstance(equality, Bits | Tolerance):
        return equality
    if equality != "bits":
        raise ScheduleError(f'equality is "bits" or ffc.tolerance(rtol, atol), not {equality!r}')
    return Bits()


def _device_of(call: Any) -> str:
    return next((leaf.device.type for _, leaf in flatten(call)[0] if isinstance(leaf, Tensor)), "cpu")
