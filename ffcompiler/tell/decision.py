"""The decision told to its user: the candidates with what was predicted and measured, and how the system converges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..plan import Alternative, Candidate, Convergence, Equality, Plan, Tolerance
from ..program import Recurrence, RepeatedMap

SINGLE = 2.0**-24
"""What is left of an error when nothing of it is seen in float32."""


def candidate_json(c: Candidate) -> dict[str, Any]:
    """Plain data of one candidate."""
    return {
        "schedule": str(c.schedule),
        "seconds": c.seconds,
        "measured": c.measured,
        "predicted": c.predicted,
        "sweeps": c.sweeps,
        "certifying": c.certifying,
        "memory": c.memory,
        "note": c.note,
    }


def alternative_json(one: Alternative) -> dict[str, Any]:
    """Plain data of one alternative."""
    return {**asdict(one), "schedule": None if one.schedule is None else str(one.schedule)}


def candidate_table(candidates: Sequence[Candidate]) -> list[str]:
    """One line for each: seconds, in brackets where only predicted; what was predicted of a measured one."""
    width = max(len(str(c.schedule)) for c in candidates)
    return [f"  {c.schedule!s:<{width}}  {_row(c)}" for c in candidates]


def _row(c: Candidate) -> str:
    seconds = f"{c.seconds:.4g} s" if c.measured else f"({c.seconds:.4g} s)"
    sweeps = f"{c.sweeps:>5} sweeps, {c.certifying:>4} certifying" if c.sweeps else " " * 29
    expected = f"predicted {c.predicted:.4g} s" if c.measured and c.predicted is not None else ""
    return f"{seconds:>13}  {sweeps}  {expected:<21}  {_bytes(c.memory):>11}  {c.note}"


def _bytes(memory: int | None) -> str:
    if memory is None:
        return ""
    return f"{memory / 2**20:.2f} MiB" if memory >= 2**20 else f"{memory / 2**10:.2f} KiB"


def convergence_lines(plan: Plan) -> list[str]:
    """How many sweeps plain Jacobi needs, and how a recurrence forgets."""
    known = plan.convergence
    if known is None:
        return []
    told = _of_steps if isinstance(plan.system, RepeatedMap) else _of_sweeps
    lines = [told(known, plan)] if known.sweeps else []
    if known.lyapunov is not None:
        blocks = plan.system.blocks if isinstance(plan.system, Recurrence) else None
        lines.append(_of_memory(known.lyapunov, plan.equality, blocks))
    return lines


def _of_steps(known: Convergence, plan: Plan) -> str:
    """Of a repeated map: after how many steps nothing changes any more."""
    assert plan.system is not None
    count, inputs = _counted(known)
    what = "moves nothing beyond the tolerance" if isinstance(plan.equality, Tolerance) else "leaves the state as it is"
    if known.cut:
        return f"in the steps that there was time for none {what} on {inputs}"
    if min(known.sweeps) >= plan.system.blocks:
        return f"none of the {plan.system.blocks} steps {what} on {inputs}, but for the last perhaps"
    return f"step {count} of {plan.system.blocks} {what} on {inputs}"


def _counted(known: Convergence) -> tuple[str, str]:
    """How many sweeps, and on what."""
    low, high = min(known.sweeps), max(known.sweeps)
    inputs = "the example inputs" if len(known.sweeps) == 1 else f"{len(known.sweeps)} inputs"
    return f"{low}" if low == high else f"{low} to {high}", inputs


def _of_sweeps(known: Convergence, plan: Plan) -> str:
    count, inputs = _counted(known)
    of = f" of {plan.system.blocks} blocks" if plan.system is not None else ""
    about = "about " if known.cut else ""
    cut = " (the look was cut short for its time, and what it saw was taken to go on)" if known.cut else ""
    return f"plain jacobi takes {about}{count} sweeps{of} on {inputs}{cut}"


def _of_memory(exponent: float, equality: Equality, blocks: int | None) -> str:
    """What the largest Lyapunov exponent means."""
    figure = f"the largest Lyapunov exponent is {exponent:.3g} per step"
    if exponent >= 0.0:
        return (
            f"{figure}: an error grows to {math.exp(exponent):.3g} times itself in each step, so a step is right only "
            "when the one before it is; sweeps settle about one step each, and sequential execution is as good"
        )
    left = max(equality.rtol, equality.atol, SINGLE) if isinstance(equality, Tolerance) else SINGLE
    steps = math.ceil(math.log(left) / exponent)
    what = "within the tolerance" if isinstance(equality, Tolerance) else "below the last bit of float32"
    if blocks is not None and steps >= blocks:
        return f"{figure}: an error shrinks so slowly that the loop's {blocks} steps do not forget it"
    return (
        f"{figure}: an error shrinks to {math.exp(exponent):.3g} of itself in each step and is {what} after about "
        f"{steps} steps; jacobi needs about so many sweeps, and a window should be longer"
    )
