"""What would change the verdict: the demands, inputs and devices under which another schedule would win, in numbers."""

from __future__ import annotations

import math

from .plan import Alternative, Bits, Method, Plan
from .program import Chain, Recurrence, RepeatedMap
from .runtime.guard import SLACK
from .stages import chain_changes

DIGITS = 6
"""An error is followed until it has shrunk by so many."""


def would_change(plan: Plan) -> list[str]:
    """Each with a number where the plan has one."""
    if plan.program is None:
        return ["what stands above under why, in the function's code"]
    if plan.refusal is not None:
        return _of_refused(plan)
    if isinstance(plan.system, Chain) and plan.schedule.method is Method.SEQUENTIAL:
        return chain_changes()
    if isinstance(plan.system, RepeatedMap):
        return _of_repeated(plan)
    if plan.schedule.method is Method.SEQUENTIAL:
        return [*_of_sequential(plan), *_measured(plan), *_elsewhere(plan)]
    return [
        "inputs on which the iteration needs more sweeps; the guard then hands the rest to the reference",
        *_measured(plan),
        *_elsewhere(plan),
    ]


def _of_refused(plan: Plan) -> list[str]:
    structure = "what stands above under why: the masks, the order of positions, or the form of the loop"
    told = [line for line in (*_measured(plan), growth(plan)) if line]
    if "ffc.tolerance(" not in (plan.refusal or ""):
        return [*told, structure]
    return [*(told or ["a tolerance, as said above; or"]), structure]


def _of_repeated(plan: Plan) -> list[str]:
    if plan.schedule.method is Method.SEQUENTIAL:
        longer = "more steps, or inputs on which the state repeats early: from there on no step has to be made"
        loose = ["a tolerance: steps that move little end it too"] if isinstance(plan.equality, Bits) else []
        return [longer, *loose]
    return ["inputs on which the state repeats later or never: then all steps are made, at the cost of the loop"]


def _of_sequential(plan: Plan) -> list[str]:
    if not isinstance(plan.system, Recurrence):
        return ["a larger array, or steps that cost more: sweeps pay when one sweep costs much less than all steps"]
    rate = plan.convergence.lyapunov if plan.convergence else None
    longer = "a longer sequence, or steps that cost more: a sweep is a few calls, however many steps it works on"
    ways = [longer, _of_guarded(plan)] if rate is None or rate < 0.0 else []  # nothing helps where errors grow
    return [line for line in (*ways, growth(plan)) if line]


def _of_guarded(plan: Plan) -> str:
    """What the guard was in the way of: runs that it stopped, or ones that it would not even begin; else nothing."""
    guarded = [candidate for candidate in plan.candidates if "guard" in candidate.note]
    limit = f"{_percent(SLACK - 1)} of the loop's time"
    if any(candidate.sweeps for candidate in guarded):
        return (
            "fewer sweeps (weights that forget faster, a looser tolerance): those that stopped at the guard had used "
            f"up what a run may risk, {limit}, before enough steps were final"
        )
    if guarded:
        return (
            f"sweeps that cost less beside all steps: a run may risk {limit} before steps are final, and one sweep "
            "with what is done once takes more"
        )
    return ""


def _elsewhere(plan: Plan) -> list[str]:
    """Another batch, another device: what the verdict rests on that is measured again there."""
    line = "another batch size or device: compile for it, the costs are measured there"
    costs, system = plan.costs, plan.system
    if costs is None or system is None or not costs.step or not costs.sweep:
        return [line]
    steps = costs.sweep / costs.step
    return [f"{line} (here a sweep over all {system.blocks} blocks costs as much as {steps:.3g} steps)"]


def _measured(plan: Plan) -> list[str]:
    """What a run under another demand showed."""
    if plan.alternatives:
        return [_told(one) for one in plan.alternatives]
    if plan.refusal is None and isinstance(plan.equality, Bits) and plan.system is not None:
        return ["a tolerance: sweeps stop earlier, and the residual is bounded"]
    return []


def _told(one: Alternative) -> str:
    """``equality=ffc.tolerance(0.0, 0.001): 25 jacobi sweeps, 0.1 s against 0.3 s: 3.0x the reference's speed``."""
    ratio = one.reference / one.seconds if one.seconds else math.inf
    more = "" if one.measured else "more than "
    sweeps = f"{more}{one.sweeps} jacobi sweep{'' if one.sweeps == 1 else 's'}"
    figures = f"{one.change}: {sweeps}, {more}{one.seconds:.3g} s against {one.reference:.3g} s"
    if ratio < 1.0:
        return f"{figures}: sequential too"
    return f"{figures}: {ratio:.1f}x the reference's speed{'' if one.measured else ' at most'}{_risk(one)}"


def _risk(one: Alternative) -> str:
    """That the guard may end those sweeps: they were made without it."""
    if one.seconds <= (SLACK - 1) * one.reference:
        return ""
    share = one.seconds / one.reference
    each = share / one.sweeps
    limit = f"{_percent(SLACK - 1)} may be risked before steps are final"
    if each > SLACK - 1:
        return f", but the guard begins none of them: one takes {_percent(each)} of the loop's time, and {limit}"
    return f", if the guard does not end them: they take {_percent(share)} of the loop's time, and {limit}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def growth(plan: Plan) -> str:
    """What would have to become of an error from step to step; nothing where that is not known, or not in the way."""
    rate = plan.convergence.lyapunov if plan.convergence else None
    if rate is None or any(one.seconds < one.reference for one in plan.alternatives):
        return ""
    if rate >= 0.0:
        return (
            f"no tolerance and no length: an error grows {math.exp(rate):.3g}x with every step, so that sweeps are "
            "right only where the steps before are"
        )
    sweeps = math.ceil(DIGITS * math.log(10) / -rate)
    return (
        f"weights that forget faster: an error shrinks to {math.exp(rate):.3g} of itself with every step on average, "
        f"which takes some {sweeps} sweeps for {DIGITS} digits, and more where the average is not met"
    )
