"""Is it worth it, why, and what would change that: the plan told to its user."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

from ..choice.processors import SIMULATED, Simulation
from ..plan import (
    Alternative,
    Bits,
    Bounded,
    Candidate,
    Convergence,
    Costs,
    Finite,
    Method,
    NoNegativeZero,
    Plan,
    Schedule,
    Unchanged,
    ZeroPattern,
    key_text,
)
from ..program import Chain, Recurrence, RepeatedMap
from ..proof import NO_PROOF, Proof
from ..runtime.cells import spelled_out
from ..stacks import stack_of
from ..written.layout import part_line
from .decision import alternative_json, candidate_json, candidate_table, convergence_lines
from .parts import chosen_of, seconds_of, source_of, speed, verdict_of_all
from .stages import chain_lines
from .summary import Dependence, dependence
from .would_change import would_change

CANDIDATES = "candidates, on the example inputs (in brackets: predicted, not run)"


@dataclass(frozen=True, slots=True)
class Explanation:
    """``str()`` is the text; ``json`` the same as plain data.

    Of a plan with several ``parts``, verdict and why are of the whole, and the other fields stand in its parts.
    """

    verdict: str
    why: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    premises: tuple[str, ...]
    would_change: tuple[str, ...]
    dependence: Dependence | None = None
    parts: tuple[Explanation, ...] = ()
    simulated: Simulation | None = None
    convergence: Convergence | None = None
    schedule: str = ""
    costs: Costs | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        data = asdict(replace(self, dependence=None, parts=(), simulated=None, convergence=None))
        data["candidates"] = [candidate_json(c) for c in self.candidates]
        data["alternatives"] = [alternative_json(one) for one in self.alternatives]
        data["convergence"] = None if self.convergence is None else asdict(self.convergence)
        data["dependence"] = None if self.dependence is None else self.dependence.json
        data["parts"] = [part.json for part in self.parts]
        data["simulated"] = None if self.simulated is None else self.simulated.json
        return data

    def __str__(self) -> str:
        lines = [self.verdict, "", "why", *_bullets(self.why)]
        if self.parts:
            of = len(self.parts)
            return "\n".join([*lines, *(f"\n{part_line(k, of)}\n\n{part}" for k, part in enumerate(self.parts, 1))])
        if self.dependence is not None:
            lines += ["", "dependence", *_bullets(tuple(self.dependence.lines()))]
        if self.candidates:
            lines += ["", CANDIDATES, *candidate_table(self.candidates)]
        if self.simulated is not None:
            lines += ["", SIMULATED, str(self.simulated)]
        if self.premises:
            lines += ["", "what it rests on, checked in every run", *_bullets(self.premises)]
        lines += ["", "what would change the verdict", *_bullets(self.would_change)]
        return "\n".join(lines)


def explain(plan: Plan, *proofs: Proof, simulated: Sequence[Simulation] = ()) -> Explanation:
    """The explanation of a plan and the proofs, and simulations, of its parts, in order; nothing is run."""
    sequentially = "its steps run one by one" if plan.rest else "the function runs as it is"
    proofs = (*proofs, *[NO_PROOF] * (len(plan.parts) - len(proofs)))
    parts = [_explained(part, proof, sequentially) for part, proof in zip(plan.parts, proofs, strict=True)]
    parts = [replace(part, simulated=found) for part, found in zip_longest(parts, simulated)] if simulated else parts
    if len(parts) == 1:
        return parts[0]
    why = tuple(f"part {k}{source_of(part)}: {parts[k - 1].verdict}" for k, part in enumerate(plan.parts, 1))
    return Explanation(verdict_of_all(plan.parts), why, (), (), (), parts=tuple(parts))


def _explained(plan: Plan, proof: Proof, sequentially: str) -> Explanation:
    """The explanation of one part."""
    return Explanation(
        _verdict(plan, sequentially),
        tuple(_why(plan)),
        plan.candidates,
        tuple(_premises(plan)),
        tuple(would_change(plan)),
        dependence(plan, proof),
        convergence=plan.convergence,
        schedule=str(plan.schedule),
        costs=plan.costs,
        alternatives=plan.alternatives,
    )


def _verdict(plan: Plan, sequentially: str) -> str:
    if plan.schedule.method is Method.SEQUENTIAL:
        return f"sequential: {sequentially if plan.refusal is None else 'no parallel schedule is sound'}"
    chosen, seconds = chosen_of(plan), seconds_of(plan)
    if chosen is None or seconds is None or plan.system is None:
        return str(plan.schedule)
    if not plan.schedule.sweeps:
        return f"{plan.schedule}: no sweeps, the recorded calls step by step, {speed(*seconds)}, {plan.equality}"
    if chosen.note.startswith("stopped"):
        return f"{plan.schedule}: {chosen.note}; from there the steps run one by one, {plan.equality}"
    return (
        f"{plan.schedule}: {chosen.sweeps} sweeps in place of {plan.system.blocks} steps, {speed(*seconds)}, "
        f"{plan.equality}"
    )


def _why(plan: Plan) -> list[str]:
    lines = [] if plan.refusal is None else [plan.refusal]
    lines += [plan.why] if plan.why else []
    lines += [_PADDED] if plan.padded else []
    lines += _of_windows(plan)
    lines += convergence_lines(plan)
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


_PADDED = (
    "the array that grows from step to step is padded to its last length: each step computes the beginning of what "
    "later ones do, up to rounding, so of two tokens that are nearly as likely the other can come out"
)


def _of_recurrence(loop: Recurrence) -> str:
    """What is carried, and what is taken out of the loop."""
    size = sum(math.prod(value.type.shape) for value in loop.carry)
    tensors = f"{len(loop.carry)} tensors" if len(loop.carry) > 1 else "one tensor"
    work = f"{len(loop.body.nodes)} operators in every sweep"
    ahead = f"{len(loop.ahead.nodes)} for all steps at once, ahead of the loop"
    once = f"{len(loop.invariant.nodes)} once"
    return f"{loop.blocks} steps carry {size} elements in {tensors}: {work}, {ahead}, {once}{_of_layers(loop)}"


def _of_layers(loop: Recurrence) -> str:
    """How many levels there are, if there are layers."""
    stack = stack_of(loop)
    if stack.depth < 2:
        return ""
    return f"; {stack.depth} layers, {stack.levels(loop.blocks)} levels that do not read each other"


def _of_repetition(plan: Plan, loop: RepeatedMap) -> str:
    """What is known of a map that is repeated."""
    tried = next((c for c in plan.candidates if c.schedule == Schedule(Method.JACOBI)), None)
    found = "" if tried is None or not tried.measured else f"; on the example inputs: {tried.note}"
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
    tests = dict.fromkeys((c.source, c.holds) for c in (plan.program.checks if plan.program else ()))
    lines += [f"the test on values at {at} comes out {way}, or else the function runs as it is" for at, way in tests]
    zeros = [p for p in plan.premises if isinstance(p, ZeroPattern)]
    lines += [f"{key_text(p.value)}: {p.zeros} of {p.of} entries are zero, and stay so" for p in zeros]
    unsigned = [weights.get(p.value, key_text(p.value)) for p in plan.premises if isinstance(p, NoNegativeZero)]
    if unsigned:
        lines.append(f"{', '.join(unsigned)}: no entry is -0, and stays so (it would show the sign of 0 times x)")
    if isinstance(plan.system, RepeatedMap):
        return [*lines, "a kernel gives the same bits for the same bits in the same layout"]
    if isinstance(plan.system, Chain):  # each block by its own calls: nothing else is assumed
        return lines
    if plan.schedule.sweeps and isinstance(plan.equality, Bits):
        lines.append(
            "a kernel rounds a position alike whatever stands at positions it does not depend on (tested here)"
        )
    return lines


def _bullets(lines: tuple[str, ...]) -> list[str]:
    return [f"  - {line}".replace("\n", "\n    ") for line in lines]
