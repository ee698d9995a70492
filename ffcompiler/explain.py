"""Is it worth it, why, and what would change that: the plan told to its user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .plan import Bits, Candidate, Finite, Method, Plan, ZeroPattern


@dataclass(frozen=True, slots=True)
class Explanation:
    """``str()`` is the text; ``json`` the same as plain data."""

    verdict: str
    why: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    premises: tuple[str, ...]
    would_change: tuple[str, ...]

    @property
    def json(self) -> dict[str, Any]:
        data = asdict(self)
        data["candidates"] = [
            {"schedule": str(c.schedule), "seconds": c.seconds, "sweeps": c.sweeps, "note": c.note}
            for c in self.candidates
        ]
        return data

    def __str__(self) -> str:
        parts = [self.verdict, "", "why", *_bullets(self.why)]
        if self.candidates:
            parts += ["", "candidates, on the example inputs", *_table(self.candidates)]
        if self.premises:
            parts += ["", "what it rests on, checked in every run", *_bullets(self.premises)]
        parts += ["", "what would change the verdict", *_bullets(self.would_change)]
        return "\n".join(parts)


def explain(plan: Plan) -> Explanation:
    """The explanation of a plan; nothing is run."""
    return Explanation(
        _verdict(plan), tuple(_why(plan)), plan.candidates, tuple(_premises(plan)), tuple(_changes(plan))
    )


def _verdict(plan: Plan) -> str:
    if plan.schedule.method is Method.SEQUENTIAL:
        return "sequential: " + (
            "no parallel schedule is sound" if plan.refusal is not None else "the function runs as it is"
        )
    chosen = next((c for c in plan.candidates if c.schedule == plan.schedule), None)
    if chosen is None or plan.costs is None or plan.system is None:
        return str(plan.schedule)
    reference = plan.costs.step * plan.system.blocks
    return (
        f"{plan.schedule}: {chosen.sweeps} sweeps in place of {plan.system.blocks} steps, "
        f"{reference / chosen.seconds:.1f}x the reference's speed "
        f"({chosen.seconds:.4g} s against {reference:.4g} s), {plan.equality}"
    )


def _why(plan: Plan) -> list[str]:
    lines = [] if plan.refusal is None else [plan.refusal]
    lines += [plan.why] if plan.why else []
    if plan.system is not None and plan.refusal is None:
        loop = plan.system
        lines.append(
            f"{loop.blocks} steps write {loop.carry.name}[{loop.write}]; {len(loop.shared.nodes)} operators are shared "
            f"between steps, {len(loop.tail.nodes)} belong to one position, {len(loop.invariant.nodes)} run once"
        )
    return lines


def _premises(plan: Plan) -> list[str]:
    lines = []
    finite = [p for p in plan.premises if isinstance(p, Finite)]
    if finite:
        places = ", ".join(dict.fromkeys(f"{p.op} at {p.source}" for p in finite))
        lines.append(f"inputs of {places} are finite in every certifying sweep (0 times Inf is not 0)")
    zeros = [p for p in plan.premises if isinstance(p, ZeroPattern)]
    lines += [f"{p.value}: {p.zeros} of {p.of} entries are zero, and stay so" for p in zeros]
    if plan.schedule.method is not Method.SEQUENTIAL and isinstance(plan.equality, Bits):
        lines.append(
            "a kernel rounds a position alike whatever stands at positions it does not depend on (tested here)"
        )
    return lines


def _changes(plan: Plan) -> list[str]:
    if plan.program is None:
        return ["what stands above under why, in the function's code"]
    if plan.refusal is not None:
        return ["what stands above under why: the masks, the order of positions, or the form of the loop"]
    if plan.schedule.method is Method.SEQUENTIAL:
        changes = ["a larger array, or steps that cost more: sweeps pay when one sweep costs much less than all steps"]
        return changes + (["a tolerance: sweeps stop earlier"] if isinstance(plan.equality, Bits) else [])
    return [
        "inputs on which the iteration needs more sweeps; the guard then hands the rest to the reference",
        "another batch size or device: compile for it, the costs are measured there",
        *(["a tolerance: sweeps stop earlier, and the residual is bounded"] if isinstance(plan.equality, Bits) else []),
    ]


def _bullets(lines: tuple[str, ...]) -> list[str]:
    return [f"  - {line}".replace("\n", "\n    ") for line in lines]


def _table(candidates: tuple[Candidate, ...]) -> list[str]:
    width = max(len(str(c.schedule)) for c in candidates)
    return [f"  {c.schedule!s:<{width}}  {c.seconds:>10.4g} s  {c.sweeps:>5} sweeps  {c.note}" for c in candidates]
