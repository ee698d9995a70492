"""What would change the verdict: the demands, inputs and devices under which another schedule would win, in numbers."""

from __future__ import annotations

import math

from ..plan import Alternative, Bits, Plan
from ..program import Chain, Recurrence, RepeatedMap
from ..runtime.guard import SLACK
from .stages import chain_changes

DIGITS = 6
"""An error is followed until it has shrunk by so many."""


def would_change(plan: Plan) -> list[str]:
    """Each with a number where the plan has one."""
    if plan.program is None:
        return ["what stands above under why, in the function's code"]
    if plan.refusal is not None:
        return _of_refused(plan)
    if isinstance(plan.system, Chain) and not plan.schedule.sweeps:
        return [*_measured(plan), *chain_changes(plan.system)]
    if isinstance(plan.system, RepeatedMap):
        return [*_of_repeated(plan), *_measured(plan)]
    if not plan.schedule.sweeps:
        return [*_of_sequential(plan), *_measured(plan), *_batches(plan), *_devices(plan)]
    return [
        "inputs on which the iteration needs more sweeps; the guard then hands the rest to the reference",
        *_measured(plan),
        *_batches(plan),
        *_devices(plan),
    ]


def _of_refused(plan: Plan) -> list[str]:
    told = [line for line in (*_measured(plan), growth(plan)) if line]
    if "ffc.tolerance(" not in (plan.refusal or ""):
        return [*told, "what stands above under why: the masks, the order of positions, or the form of the loop"]
    return told or ["a tolerance, as said above"]


def _of_repeated(plan: Plan) -> list[str]:
    if not plan.schedule.sweeps:
        more = "more steps, or inputs on which the state repeats early: from there on no step has to be made"
    else:
        more = "inputs on which the state repeats later or never: then all steps are made, at the cost of the loop"
    known, system = plan.convergence, plan.system
    if known is None or not known.sweeps or known.cut or system is None or max(known.sweeps) >= system.blocks:
        return [more]
    made = f"{max(known.sweeps)} of {system.blocks} steps are made, whatever a step costs"
    return [more, f"no other device: {made}; and no other batch, but that the sample that repeats last counts"]


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


def _batches(plan: Plan) -> list[str]:
    """More samples at once, predicted; of other batches it is said how to measure them."""
    told = [_told_elsewhere(one) for one in plan.alternatives if one.schedule is not None and _is_batch(one)]
    how = "; predicted are copies of the example that converge as it did" if told else ""
    return [*told, f"another batch: Compiled.warm compiles for arguments of that size, and measures{how}"]


def _told_elsewhere(one: Alternative) -> str:
    """``a batch 4 times as large: sliding(98), 30 sweeps, 0.05 s against 0.9 s: 18.0x the reference's speed``."""
    if not one.sweeps:
        return f"{one.change}: sequential ({one.reference:.3g} s), the guard would begin no sweep of {one.schedule}"
    ratio = one.reference / one.seconds if one.seconds else math.inf
    figures = f"{one.change}: {one.schedule}, {_sweeps(one)}, {one.seconds:.3g} s against {one.reference:.3g} s"
    return f"{figures}: {'sequential' if ratio < 1.0 else _speed(ratio)}"


def _is_batch(one: Alternative) -> bool:
    return one.change.startswith("a batch")


def _devices(plan: Plan) -> list[str]:
    """What was measured on others; and where sweeps would gain, counted in steps, which holds wherever they run."""
    told = [_told_elsewhere(one) for one in plan.alternatives if one.schedule is not None and not _is_batch(one)]
    return [*told, *_break_even(plan)]


def _break_even(plan: Plan) -> list[str]:
    """So many steps a sweep may cost."""
    line = "another device: compile there, the costs are measured on it"
    costs, system = plan.costs, plan.system
    if costs is None or system is None or not costs.step or not costs.sweep:
        return [line]
    here = f"here a sweep over all {system.blocks} blocks costs as much as {costs.sweep / costs.step:.3g} steps"
    known = plan.convergence.sweeps if plan.convergence else ()
    if not known:
        return [f"{line} ({here})"]
    sweeps, about = max(known), "about " if plan.convergence and plan.convergence.cut else ""
    if sweeps >= system.blocks:
        return [f"no device: jacobi takes {about}as many sweeps as there are steps, {sweeps} ({here})"]
    even = f"jacobi takes {about}{sweeps} sweeps in place of {system.blocks} steps, and gains where one costs less than"
    return [f"another device: {even} {system.blocks / sweeps:.3g} steps; {here}"]


def _measured(plan: Plan) -> list[str]:
    """What a run under another demand showed."""
    demands = _demands(plan)
    if demands:
        return [_told(one, plan) for one in demands]
    chaotic = plan.convergence is not None and (plan.convergence.lyapunov or -1.0) >= 0.0
    if plan.refusal is None and isinstance(plan.equality, Bits) and plan.system is not None and not chaotic:
        return ["a tolerance: sweeps stop earlier, and the residual is bounded"]
    return []


def _demands(plan: Plan) -> list[Alternative]:
    """The alternatives that are another demand, here."""
    return [one for one in plan.alternatives if one.schedule is None]


def _told(one: Alternative, plan: Plan) -> str:
    """``equality=ffc.tolerance(0.0, 0.001): 25 jacobi sweeps, 0.1 s against 0.3 s: 3.0x the reference's speed``."""
    ratio = one.reference / one.seconds if one.seconds else math.inf
    more = "" if one.measured else "more than "
    figures = f"{one.change}: {more}{_sweeps(one, 'jacobi ')}, {more}{one.seconds:.3g} s against {one.reference:.3g} s"
    if ratio < 1.0:
        return f"{figures}: sequential too"
    risk = "" if isinstance(plan.system, RepeatedMap) else _risk(one)  # each of its steps is one of the loop
    return f"{figures}: {_speed(ratio)}{'' if one.measured else ' at most'}{risk}"


def _sweeps(one: Alternative, which: str = "") -> str:
    return f"{one.sweeps} {which}sweep{'' if one.sweeps == 1 else 's'}"


def _speed(ratio: float) -> str:
    return f"{ratio:.1f}x the reference's speed"


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
    if rate is None or any(one.measured and one.seconds < one.reference for one in _demands(plan)):
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
