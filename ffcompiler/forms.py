"""A function in several forms, each planned and decided by itself: as the loops it has, or with some of them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .choice.choose import NEAR
from .live import Live
from .plan import Method, Plan, in_a_row
from .proof import Proof
from .tell.parts import seconds_of_all


@dataclass(frozen=True, slots=True)
class Form:
    """``plans``: one for each part, their schedules still sequential."""

    live: Live
    plans: tuple[Plan, ...]
    proofs: tuple[Proof, ...]

    @property
    def plan(self) -> Plan:
        return in_a_row(self.plans)

    @property
    def refused(self) -> bool:
        """Whether no part can be solved."""
        return all(plan.refusal is not None for plan in self.plans)


@dataclass(frozen=True, slots=True)
class Choice:
    """A form with its schedules, and the day when they were measured, if that was another."""

    form: Form
    plan: Plan
    measured: str | None = None

    @property
    def share(self) -> float:
        """Seconds by those of the reference, as far as they are known; 1 if nothing is solved."""
        parts = self.plan.parts
        known = seconds_of_all(parts)
        solved = any(part.schedule.method is not Method.SEQUENTIAL for part in parts)
        return known[0] / known[1] if solved and known is not None and known[1] else 1.0


def best(choices: Sequence[Choice]) -> Choice:
    """The fastest, saying what the others would take."""
    found = choices[0]
    for choice in choices[1:]:
        if choice.share * NEAR < found.share:
            found = choice
    others = [_told(choice) for choice in choices if choice is not found]
    why = "; ".join(filter(None, [found.plan.why, *others]))
    return replace(found, plan=replace(found.plan, why=why))


def _told(choice: Choice) -> str:
    loops, way = len(choice.plan.parts), choice.plan.schedule
    what = "as one loop" if loops == 1 else f"as {loops} loops in a row"
    how = f" ({way})" if loops == 1 else ""
    return f"{what}{how} it would take {choice.share:.3g} times the reference's seconds"
