"""A look at the clock between operators: what takes more than a run can pay for is left in its middle (docs/guard.md).

A look costs a tenth of a microsecond, where clocks are slow half of one; the smallest operator costs a few. So there is
one after each operator that works on many elements, and after every so many of the others; none after the last, when
all has been worked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]

SMALL = 2**16
"""Elements: operators that work on fewer, taken together, are not worth a look."""
FEW = 16
"""So many of them are made between two looks, at most."""


class LeftError(Exception):
    """What was watched has taken so many seconds, more than it may; never seen by a user."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"left after {seconds:.3g} s")
        self.seconds = seconds


@dataclass(slots=True)
class Watch:
    """Seconds of what begins now, and after how many of them it is left: ``limit``.

    ``work``: seconds in which processors worked for this process, where that can be told. That others had the
    processors is no fault of what is watched: the smaller one counts.
    """

    clock: Clock
    work: Clock | None = None
    limit: float = math.inf
    started: float = field(init=False)
    until: float = field(init=False)  # by the clock
    _worked: float = field(init=False)

    def __post_init__(self) -> None:
        self._worked = self.work() if self.work is not None else 0.0
        self.started = self.clock()
        self.until = self.started + self.limit

    def spent(self, seconds: float) -> float:
        """What counts of so many seconds since the beginning, now being their end."""
        return seconds if self.work is None else min(seconds, self.work() - self._worked)

    def ask(self, now: float) -> None:
        """The time is over by the clock. Raises: `LeftError` if it is over by the work too."""
        if (spent := self.spent(now - self.started)) > self.limit:
            raise LeftError(spent)


def look(watch: Watch | None) -> None:
    """Leave what is watched if its time is over. Raises: `LeftError`."""
    if watch is not None and (now := watch.clock()) > watch.until:
        watch.ask(now)


@dataclass(slots=True)
class Pace:
    """Where looks stand among operators."""

    elements: int = 0
    operators: int = 0

    def due(self, elements: int) -> bool:
        """Whether there is one after the next operator, which works on so many elements."""
        self.elements += elements
        self.operators += 1
        if self.elements < SMALL and self.operators < FEW:
            return False
        self.elements = self.operators = 0
        return True
