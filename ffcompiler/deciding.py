"""The schedules of all parts of a plan, chosen after calibration on the example inputs; what the refused ones miss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from .capture import Captured
from .choice.alternatives import LOOSE, alternatives, exponent, rounding_alone
from .choice.batches import with_larger_batches
from .choice.calibrate import QUICK, Effort, Example, calibrate
from .choice.choose import choose, to_try
from .choice.devices import on_devices, others_in_use
from .choice.several import PartSeconds, inputs_of_parts, measure_parts, worth_it
from .choice.timing import Left, heap_aside
from .errors import ScheduleError
from .live import Live
from .modes import as_recorded
from .plan import Alternative, Bits, Convergence, Costs, Equality, Method, Plan, Schedule, in_a_row, tolerance
from .proof import Proof

Progress = Callable[[str, int, int], None]
Planned: TypeAlias = Callable[[Captured, Mapping[str, Tensor], Equality, torch.device], tuple[Plan, Proof]]
ASIDE = 0.2
"""The share of the budget for what other demands would give, of which nothing is decided."""
ELSEWHERE = 0.1
"""And for what they would take with more samples, or on another device."""
HANDING = 0.2
"""And for what further inputs become on their way through the parts of a function."""


@dataclass(frozen=True, slots=True)
class Deciding:
    """What a choice is made with. ``wanted`` None: the schedule that is found best.

    ``timed``: seconds of the function, of which about so many are run. ``inputs``: of further calls, to calibrate on.
    ``planned`` plans a part anew, for another equality. ``rolled``: the function as it is compiled under a tolerance,
    where that is as a loop over its layers.
    """

    live: Live
    timed: Callable[[float], float]
    wanted: Schedule | None
    effort: Effort
    inputs: tuple[tuple[Tensor, ...], ...]
    planned: Planned
    say: Progress
    rolled: Live

    @heap_aside()
    def chosen(self, plan: Plan, proofs: Sequence[Proof]) -> Plan:
        """The plan with its schedules. Raises: `ScheduleError` if no part can have the one that was asked for."""
        examples, effort = self._examples(plan, proofs)
        if plan.rest is None:
            return self._part(0, plan, proofs[0], examples[0], effort)
        refused = all(part.refusal is not None for part in plan.parts)
        if refused and self.timed(QUICK) > ASIDE * self.effort.budget:  # nothing to decide, and too long to be told of
            return plan
        seconds = measure_parts(plan, proofs, examples, self.timed)
        parts = self._parts(plan, proofs, examples, seconds, effort)
        return in_a_row(parts) if refused or self.wanted is not None else worth_it(parts, seconds)

    def _examples(self, plan: Plan, proofs: Sequence[Proof]) -> tuple[list[Example], Effort]:
        """What each part is run on, and what is left of the effort once further inputs have come to it."""
        handover, parts = self.live.handover(plan), enumerate(self.live.captured.parts)
        examples = [
            Example(part.replays[0], partial(self.live.weights, k), self.timed, handover=handover) for k, part in parts
        ]
        examples[0] = replace(examples[0], looks=partial(self.live.now, plan.device))
        if not self.inputs or self.wanted is not None:
            return examples, self.effort
        left = Left(self.effort.budget)
        others = inputs_of_parts(plan, proofs, examples, self.inputs, left.share(HANDING))
        examples = [replace(example, others=own) for example, own in zip(examples, others, strict=True)]
        return examples, replace(self.effort, budget=max(left(), 0.0))

    def _parts(
        self,
        plan: Plan,
        proofs: Sequence[Proof],
        examples: Sequence[Example],
        seconds: Sequence[PartSeconds],
        effort: Effort,
    ) -> list[Plan]:
        """Each decided by itself, with its share of the effort."""
        whole = sum(own.reference for own in seconds)
        faults: list[ScheduleError] = []
        parts = []
        for k, (part, proof, example, own) in enumerate(zip(plan.parts, proofs, examples, seconds, strict=True)):
            shared = replace(example, seconds=own.share)
            share = replace(effort, budget=effort.budget * own.reference / whole if whole else 0.0)
            try:
                parts.append(self._part(k, part, proof, shared, share))
            except ScheduleError as fault:  # the schedule that was asked for is none for this loop
                faults.append(fault)
                parts.append(replace(part, why=str(fault)))
        if faults and all(part.schedule.method is Method.SEQUENTIAL for part in parts):
            raise faults[0]
        return parts

    def _part(self, k: int, plan: Plan, proof: Proof, example: Example, effort: Effort) -> Plan:
        """One part with its schedule; a refused one with what would be possible otherwise."""
        if plan.refusal is not None:
            return self._loosened(self.live.captured.parts[k], plan, example, effort)
        schedules = to_try(plan, proof, self.wanted)
        if self.wanted is not None:  # what is asked for by name is run, whatever it takes
            effort = replace(effort, memory_limit=None, by_name=True)
        found = calibrate(plan, proof, example, schedules, self.say, effort)
        chosen = choose(plan, self.wanted, found)
        if found.outlook is None or chosen.refusal is not None:
            return chosen
        others: tuple[Alternative, ...] = ()
        if isinstance(plan.equality, Bits):
            others = self._rolled(chosen, example, effort)
            others = others or alternatives(chosen, proof, example.replay, example.weights(), ASIDE * effort.budget)
        tried, left = [c.schedule for c in chosen.candidates[1:]], Left(ELSEWHERE * effort.budget)
        larger = with_larger_batches(found.outlook, found.certifying, tried, example, left)
        devices = on_devices(found.outlook, example, others_in_use(plan.device), left)
        return replace(chosen, alternatives=(*others, *larger, *devices))

    def _rolled(self, plan: Plan, example: Example, effort: Effort) -> tuple[Alternative, ...]:
        """What a tolerance would give where under it the function is another system: a loop over its layers."""
        captured = self.rolled.captured
        if self.rolled is self.live or captured.rest is not None:
            return ()
        own = replace(example, replay=captured.replays[0], weights=self.rolled.weights)
        return self._loosely(captured, plan, own, effort)[0]

    def _loosened(self, captured: Captured, plan: Plan, example: Example, effort: Effort) -> Plan:
        """``plan`` with what a tolerance would give, where nothing but the rounding of operators is in its way."""
        if not rounding_alone(plan):
            return plan
        others, convergence = self._loosely(captured, plan, example, effort)
        return replace(plan, alternatives=others, convergence=convergence)

    def _loosely(
        self, captured: Captured, plan: Plan, example: Example, effort: Effort
    ) -> tuple[tuple[Alternative, ...], Convergence | None]:
        """What sweeps under a tolerance give of a part, and how it forgets."""
        weights, device = example.weights(), torch.device(plan.device)
        with as_recorded(device):
            loose, proof = self.planned(captured, weights, tolerance(*LOOSE), device)
        if loose.refusal is not None or loose.system is None:
            return (), None
        priced = replace(loose, costs=Costs(example.seconds(QUICK) / loose.system.blocks, 0.0, 0.0, 0.0))
        known = (priced, proof, example.replay, weights, 2 * ASIDE * effort.budget)
        rate = exponent(*known)
        return alternatives(*known), None if rate is None else Convergence(lyapunov=rate)
