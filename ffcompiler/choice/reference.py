"""Seconds of the reference, timed at several moments of a compilation: a machine may change its speed meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from ..plan import Costs
from ..program import System
from .timing import Left, elsewhere

QUICK = 1.0
"""Seconds: a reference faster than this is timed whole; of a slower one this much is run, and the rest extrapolated."""
OFTEN = (0.05, 7), (QUICK, 3)
"""A reference that takes at most so many seconds is timed so many times to begin with."""
SHARE = 0.05
"""Of what is left of the budget, so much is taken to time the reference again."""
MOST = 3
"""And so many times at most."""


@dataclass(slots=True)
class Reference:
    """``time`` gives the seconds of one call, or as many as it would take if it is given fewer."""

    time: Callable[[float], float]
    device: torch.device
    times: list[float] = field(default_factory=list)

    @staticmethod
    def of(time: Callable[[float], float], device: torch.device) -> Reference:
        """Timed as often as it is quick. The first call, which also makes what stays, is not counted."""
        found, first = Reference(time, device), time(QUICK)
        found.look(next((often for limit, often in OFTEN if first <= limit), MOST))
        return found

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)

    def look(self, often: int = 1) -> None:
        """Time it again, coming from elsewhere."""
        for _ in range(often):
            elsewhere(self.device)
            self.times.append(self.time(QUICK))

    def again(self, left: Left) -> None:
        """Time it again, as often as a small part of what is left allows."""
        share = left.share(SHARE)
        for _ in range(MOST):
            if share() < self.times[-1]:
                return
            self.look()

    def priced(self, costs: Costs, system: System | None) -> Costs:
        """``costs`` with the steps of the reference as they are now known."""
        return replace(costs, step=self.seconds / max(system.blocks if system else 1, 1))
