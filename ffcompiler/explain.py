"""Is it worth it, why, and what would change that: the plan told to its user."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from .plan import (
    Bits,
    Bounded,
    Candidate,
    Finite,
    Method,
    NoNegativeZero,
    Plan,
    Schedule,
    Unchanged,
    ZeroPattern,
    key_text,
)
from .program import Chain, Recurrence, RepeatedMap
from .proof import NO_PROOF, Proof
from .runtime.cells import spelled_out
from .stages import chain_changes, chain_lines
from .summary import Dependence, dependence


@dataclass(frozen=True, slots=True)
class Explanation:
    """``str()`` is the text; ``json`` the same as plain data."""

    verdict: str
    why: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    premises: tuple[str, ...]
    would_change: tuple[str, ...]
    dependence: Dependence | None = None

    @property
    def json(self) -> dict[str, Any]:
        data = asdict(replace(self, dependence=None))
        data["candidates"] = [
            {
                "schedule": str(c.schedule),
                "seconds": c.seconds,
                "sweeps": c.sweeps,
                "certifying": c.certifying,
                "note": c.note,
            }
            for c in self.candidates
        ]
        data["dependence"] = None if self.dependence is None else self.dependence.json
        return data

    def __str__(self) -> str:
        parts = [self.verdict, "", "why", *_bullets(self.why)]
        if self.dependence is not None:
            parts += ["", "dependence", *_bullets(tuple(self.dependence.lines()))]
        if self.candidates:
            parts += ["", "candidates, on the example inputs", *_table(self.candidates)]
        if self.premises:
            parts += ["", "what it rests on, checked in every run", *_bullets(self.premises)]
        parts += ["", "what would change the verdict", *_bullets(self.would_change)]
        return "\n".join(parts)


def explain(plan: Plan, proof: Proof = NO_PROOF) -> Explanation:
    """The explanation of a plan and its proof; nothing is run."""
    return Explanation(
        _verdict(plan),
        tuple(_why(plan)),
        plan.candidates,
        tuple(_premises(plan)),
        tuple(_changes(plan)),
        dependence(plan, proof),
    )


def _verdict(plan: Plan) -> str:
    if plan.schedule.method is Method.SEQUENTIAL:
        return "sequential: " + (
            "no parallel schedule is sound" if plan.refusal is not None else "the function runs as it is"
        )
    chosen = next((c for c in plan.candidates if c.schedule == plan.schedule), None)
    if chosen is None or plan.costs is None or plan.system is None:
        return str(plan.schedule)
    if chosen.note.startswith("stopped"):
        return f"{plan.schedule}: {chosen.note}; from there the steps run one by one, {plan.equality}"
    reference = plan.costs.step * plan.system.blocks
    return (
        f"{plan.schedule}: {chosen.sweeps} sweeps in place of {plan.system.blocks} steps, "
        f"{reference / chosen.seconds:.1f}x the reference's speed "
        f"({chosen.seconds:.4g} s against {reference:.4g} s), {plan.equality}"
    )


def _why(plan: Plan) -> list[str]:
    lines = [] if plan.refusal is None else [plan.refusal]
    lines += [plan.why] if plan.why else []
    lines += _of_windows(plan)
    if isinstance(plan.system, RepeatedMap):
        lines.append(_of_repetition(plan, plan.system))
    if isinstance(plan.system, Recurrence):
        lines.append(_of_recurrence(spelled_out(plan.system)))
    if isinstance(plan.system, Chain):
        lines += chain_lines(plan, plan.system)
    if plan.array is not None and plan.refusal is None:
        loop = plan.array
        lines.append(
            f"{loop.blocks} steps write {loop.carry.name}[{loop.write}]; {len(loop.shared.nodes)} operators are shared "
            f"between steps, {len(loop.tail.nodes)} belong to one position, {len(loop.invariant.nodes)} run once"
        )
    return lines


def _of_recurrence(loop: Recurrence) -> str:
    """What is carried, and what is taken out of the loop."""
    size = sum(math.prod(value.type.shape) for value in loop.carry)
    tensors = f"{len(loop.carry)} tensors" if len(loop.carry) > 1 else "one tensor"
    work = f"{len(loop.body.nodes)} operators in every sweep"
    ahead = f"{len(loop.ahead.nodes)} for all steps at once, ahead of the loop"
    return f"{loop.blocks} steps carry {size} elements in {tensors}: {work}, {ahead}, {len(loop.invariant.nodes)} once"


def _of_repetition(plan: Plan, loop: RepeatedMap) -> str:
    """What is known of a map that is repeated."""
    tried = next((c for c in plan.candidates if c.schedule == Schedule(Method.JACOBI)), None)
    found = "" if tried is None else f"; on the example inputs: {tried.note}"
    work = f"{len(loop.body.nodes)} operators in every step, {len(loop.invariant.nodes)} once"
    return f"every step is the same map of the whole state, {loop.blocks} times ({work}){found}"


def _of_windows(plan: Plan) -> list[str]:
    """What windows bring here, by the candidates that were tried."""
    finished = [c for c in plan.candidates if c.certifying]
    windowed = [c for c in finished if c.schedule.windows and c.schedule.method is not Method.GAUSS_SEIDEL]
    jacobi = next((c for c in finished if c.schedule == Schedule(Method.JACOBI)), None)
    if not windowed or jacobi is None:
        return []
    best = min(windowed, key=lambda c: c.seconds)
    if best.seconds < jacobi.seconds:
        plural = "" if best.certifying == 1 else "s"
        gain = f"{best.schedule} is {jacobi.seconds / best.seconds:.1f}x as fast as sweeps over the whole"
        return [f"{gain}; it needs {best.certifying} certifying sweep{plural}"]
    nothing = f"windows buy nothing here: {best.schedule} needs {best.sweeps} sweeps, jacobi {jacobi.sweeps}"
    rounding = f"; {best.certifying} of them had to certify, because windowed kernels round differently from the whole"
    return [nothing + (rounding if best.certifying > 1 else "")]


def _premises(plan: Plan) -> list[str]:
    lines = []
    finite = [p for p in plan.premises if isinstance(p, Finite)]
    if finite:
        places = ", ".join(dict.fromkeys(f"{p.op} at {p.source}" for p in finite))
        lines.append(f"inputs of {places} are finite in every certifying sweep (0 times Inf is not 0)")
    lines += [
        f"{key_text(p.value)}, at {p.op} at {p.source}, stays below {p.bound:.4g} in magnitude "
        "(the mask hides by its size only)"
        for p in plan.premises
        if isinstance(p, Bounded)
    ]
    lines += [f"{key_text(p.value)} is the mask that it was" for p in plan.premises if isinstance(p, Unchanged)]
    weights = {w.name: w.path for w in plan.program.weights} if plan.program else {}
    lines += [
        f"{weights[o.weight]} is written in every step at {o.source}; from the first time on that changes nothing"
        for o in (plan.program.overwrites if plan.program else ())
    ]
    zeros = [p for p in plan.premises if isinstance(p, ZeroPattern)]
    lines += [f"{key_text(p.value)}: {p.zeros} of {p.of} entries are zero, and stay so" for p in zeros]
    unsigned = [weights.get(p.value, key_text(p.value)) for p in plan.premises if isinstance(p, NoNegativeZero)]
    if unsigned:
        lines.append(f"{', '.join(unsigned)}: no entry is -0, and stays so (it would show the sign of 0 times x)")
    if isinstance(plan.system, RepeatedMap):
        return [*lines, "a kernel gives the same bits for the same bits in the same layout"]
    if isinstance(plan.system, Chain):  # each block by its own calls: nothing else is assumed
        return lines
    if plan.schedule.method is not Method.SEQUENTIAL and isinstance(plan.equality, Bits):
        lines.append(
            "a kernel rounds a position alike whatever stands at positions it does not depend on (tested here)"
        )
    return lines


def _changes(plan: Plan) -> list[str]:
    if plan.program is None:
        return ["what stands above under why, in the function's code"]
    if plan.refusal is not None:
        changes = ["what stands above under why: the masks, the order of positions, or the form of the loop"]
        return changes if "ffc.tolerance(" not in plan.refusal else ["a tolerance, as said above; or", *changes]
    if isinstance(plan.system, Chain) and plan.schedule.method is Method.SEQUENTIAL:
        return chain_changes()
    if isinstance(plan.system, Recurrence) and plan.schedule.method is Method.SEQUENTIAL:
        return recurrence_changes(plan)
    if plan.schedule.method is Method.SEQUENTIAL:
        changes = ["a larger array, or steps that cost more: sweeps pay when one sweep costs much less than all steps"]
        return changes + (["a tolerance: sweeps stop earlier"] if isinstance(plan.equality, Bits) else [])
    if isinstance(plan.system, RepeatedMap):
        return ["inputs on which the state repeats later or never: then all steps are made, at the cost of the loop"]
    return [
        "inputs on which the iteration needs more sweeps; the guard then hands the rest to the reference",
        "another batch size or device: compile for it, the costs are measured there",
        *(["a tolerance: sweeps stop earlier, and the residual is bounded"] if isinstance(plan.equality, Bits) else []),
    ]


def recurrence_changes(plan: Plan) -> list[str]:
    """All steps of a recurrence converge at about the same sweep; until then a run is out its slack."""
    changes = ["a longer sequence, or steps that cost more: a sweep is a few calls, however many steps it works on"]
    if any("guard" in candidate.note for candidate in plan.candidates):
        changes.append(
            "fewer sweeps (weights that forget faster, a looser tolerance): those that stopped at the guard had used "
            "up what a run may risk, 5 % of the loop's time, before enough steps were final"
        )
    return changes


def _bullets(lines: tuple[str, ...]) -> list[str]:
    return [f"  - {line}".replace("\n", "\n    ") for line in lines]


def _table(candidates: tuple[Candidate, ...]) -> list[str]:
    width = max(len(str(c.schedule)) for c in candidates)
    return [
        f"  {c.schedule!s:<{width}}  {c.seconds:>10.4g} s  {c.sweeps:>5} sweeps, {c.certifying:>4} certifying  {c.note}"
        for c in candidates
    ]
