"""How one function is compiled for one signature: captured, planned, its schedules chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .calls import bind
from .capture import Captured, NeedsGradientsError, capture, describe_call, keeping, look, unmoved, without_last
from .choice.calibrate import Effort
from .choice.choose import SEQUENTIAL
from .compiled import Compiled
from .deciding import Deciding, Progress
from .errors import CaptureError, CausalityError, ScheduleError
from .forms import Choice, Form, best
from .fused import fused
from .given import unbound
from .live import Live
from .modes import as_recorded, casts_repeated
from .passes.chain import chain
from .passes.dependence import prove
from .passes.outputs import collect_outputs
from .passes.peel import peel_last
from .plan import Equality, Method, Plan, Schedule, Tolerance, in_a_row
from .planning import sound_plan
from .proof import NO_PROOF, Refusal
from .randomness import kept
from .respelled import confirm_respelled
from .rules.verify import verify
from .stored.cache import Asked, PlanCache
from .stored.circumstances import circumstances, fingerprint, remembered
from .trees import flatten, unflatten
from .unrolled import as_layers


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
    joined: bool = True  # loops in a row may become one

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
        """For another signature, in the middle of a call."""
        with torch.inference_mode(False):
            leaves, tree = flatten((args, kwargs))
            args, kwargs = unflatten(tree, [_recordable(leaf) for _, leaf in leaves])
            return self.compile(args, kwargs, lambda what, done, of: None)

    @kept()  # the states of random generators
    def compile(self, args: tuple[Any, ...], kwargs: dict[str, Any], say: Progress) -> Compiled:
        """For one signature, that of this call. What runs of the function move is put back."""
        return replace(self, function=bind(self.function, args, kwargs))._bound(args, kwargs, say)

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any], say: Progress) -> Compiled:
        """For a call that hands no other objects to the function than those in its reach."""
        try:
            with casts_repeated():
                told = self._told_apart(args, kwargs)
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
            return replace(
                _uncaptured(self.function, self.equality, (args, kwargs), str(error)),
                gradients=isinstance(error, NeedsGradientsError),
            )

    def _compiled(self, captured: Captured, args: tuple[Any, ...], kwargs: dict[str, Any], say: Progress) -> Compiled:
        """What was captured, proved and with its schedules. Raises: `CaptureError`, `ScheduleError`."""
        found = self._planned(captured, args, kwargs)
        form = found
        if self.wanted is None or self.wanted.sweeps:
            straight = as_layers(found.live.captured, found.plans, partial(self._again, args, kwargs))
            form = found if straight is None else self._planned(straight, args, kwargs)
        forms = [form, *self._as_one(form, args, kwargs)]
        timed = partial(form.live.estimated_seconds, args, kwargs)
        own = replace(self.effort, budget=self.effort.budget / len(forms))
        choices, faults = [], []
        for each in forms:
            deciding = Deciding(each.live, timed, self.wanted, own, self.inputs, sound_plan, say, found.live)
            try:
                choices.append(self._chosen(each, deciding))
            except ScheduleError as fault:  # the schedule that was asked for is none for this form
                faults.append(fault)
        if not choices:
            raise faults[0]
        chosen = best(choices)
        plan = verify(self._agreed(chosen.plan))
        made = Compiled(plan, chosen.form.proofs, prove, chosen.form.live, measured=chosen.measured)
        with as_recorded(made.device), torch.no_grad():
            for part in made.parts:
                part.rehearse()
        return made

    def _chosen(self, form: Form, deciding: Deciding) -> Choice:
        """The schedules of a form. Raises: `ScheduleError`."""
        plan = form.plan
        if self.wanted is not None and not self.wanted.sweeps:
            why = f"{self.wanted} execution was asked for by name"
            return Choice(form, in_a_row([replace(part, schedule=self.wanted, why=why) for part in form.plans]))
        if self.insist and form.refused:
            return Choice(form, plan)
        weights = {f"{k}.{name}": t for k, own in enumerate(form.live.all_weights()) for name, t in own.items()}
        ask = partial(self._asked, plan, weights, form.live.captured.replays[0].arguments)
        choose = partial(deciding.chosen, plan, form.proofs)
        return Choice(form, *remembered(self.cache, ask, choose, _name(self.function)))

    def _as_one(self, form: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Form]:
        """The function with loops in a row as one, if it has such, and sweeps may solve that.

        Of what is asked for by name only levels need more than one loop.
        """
        if not self.joined or (self.wanted is not None and self.wanted.method is not Method.WAVEFRONT):
            return []
        joined = fused(form.live.captured)
        if joined is None:
            return []
        try:
            made = self._planned(joined, args, kwargs)
        except (CaptureError, RuntimeError):  # it does not do what the function does: the loops stay as they are
            return []
        return [] if made.refused else [made]

    def _again(self, args: tuple[Any, ...], kwargs: dict[str, Any], share: float) -> Captured:
        """The function captured another time."""
        with casts_repeated():
            return capture(self.function, *self._told_apart(args, kwargs), share=share)

    def _told_apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with another name for a tensor that is a weight too, and each time that one is given again.

        So capture sees several arguments, and tells them from what is in the function's reach.
        """
        leaves, tree = flatten((args, kwargs))
        seen = {id(t) for t in look(self.function).tensors.values()}
        told = []
        for _, leaf in leaves:
            again = isinstance(leaf, Tensor) and id(leaf) in seen
            told.append(leaf.detach().requires_grad_(leaf.requires_grad) if again else leaf)
            seen.add(id(leaf))
        result: tuple[tuple[Any, ...], dict[str, Any]] = unflatten(tree, told)
        return result

    def _planned(self, captured: Captured, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Form:
        """The function with its plans, of which the schedules are still sequential, and their proofs."""
        live = Live(self.function, _collecting(captured))
        confirm_respelled(live, args, kwargs, self.equality)
        device = torch.device(_device_of((args, kwargs), live.all_weights()))
        with as_recorded(device):
            both = zip(live.captured.parts, live.all_weights(), strict=True)
            found = [sound_plan(part, weights, self.equality, device, self.wanted) for part, weights in both]
        return Form(live, tuple(plan for plan, _ in found), tuple(proof for _, proof in found))

    def _asked(self, plan: Plan, weights: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Asked:
        """What the plan cache is asked: every option counts, but for those that have no part in the choice."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        counted = {name: value for name, value in options.items() if name not in ("function", "insist", "cache")}
        given = {f"{k}.{j}": t for k, call in enumerate(self.inputs) for j, t in enumerate(call)}
        counted["inputs"] = fingerprint(given)  # by value: they were chosen to be calibrated on
        return Asked(plan, circumstances(counted, weights, inputs))

    def _agreed(self, plan: Plan) -> Plan:
        """``plan``, if a refusal in it is to be lived with. Raises: `CausalityError`."""
        sequential = self.wanted is not None and not self.wanted.sweeps
        refusals = [part.refusal for part in plan.parts if part.refusal is not None]
        if len(refusals) < len(plan.parts) or sequential or not self.insist:
            return plan
        what = "no parallel schedule is" if self.wanted is None else f"schedule {self.wanted} is not"
        raise CausalityError(f"{what} sound for this function\n{refusals[0]}")


def _collecting(captured: Captured) -> Captured:
    """The same, its loops carrying only what they have to."""
    rest = None if captured.rest is None else _collecting(captured.rest)
    kept = keeping(captured, *collect_outputs(captured.program))
    peeled = peel_last(kept.program)
    return replace(kept if peeled is None else without_last(kept, peeled), rest=rest)


def _name(function: Callable[..., Any]) -> str:
    """For people: ``package.module:attribute``; of an object that is called, its class."""
    function = unbound(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _recordable(leaf: Any) -> Any:
    """Tensors that were made in inference mode cannot be recorded outside of it: copies can."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def _uncaptured(
    function: Callable[..., Any], equality: Equality, call: tuple[tuple[Any, ...], dict[str, Any]], reason: str
) -> Compiled:
    """What could not be captured runs as it is."""
    device = _device_of(call, ())
    plan = Plan(None, SEQUENTIAL, equality, device, refusal=reason, why="the function could not be captured")
    try:
        signature = describe_call(function, *call)
    except CaptureError:
        signature = None
    return Compiled(verify(plan), (NO_PROOF,), prove, function=function, called_as=signature)


def _device_of(call: Any, weights: Sequence[Mapping[str, Tensor]]) -> str:
    """Where a function computes: of one that is given no tensors, where its weights are, or where it is told to."""
    leaves = [leaf for _, leaf in flatten(call)[0]]
    given = [leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)]
    others = [t.device.type for own in weights for t in own.values()]
    others += [leaf.type for leaf in leaves if isinstance(leaf, torch.device)]
    return given[0] if given else next((kind for kind in others if kind != "cpu"), "cpu")
