"""A state of few levels, as 8-bit pixels have: systems whose every new value is rounded to them, to be run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..plan import Tolerance
from ..runtime.lift.window import Window
from ..runtime.repeat import State
from ..runtime.system import System
from ..runtime.tail import Tail

LEVELS = 256
PIXELS = f"a state of {LEVELS} levels, as 8-bit pixels have"


@dataclass(frozen=True, slots=True)
class Levels:
    """Equally far from each other, one of them at ``low``."""

    low: float
    width: float

    @property
    def same(self) -> Tolerance:
        """Under which two elements are on the same level."""
        return Tolerance(0.0, self.width / 4)

    def of(self, t: Tensor) -> Tensor:
        """Each element on its level; whole numbers as they are."""
        if not t.dtype.is_floating_point:
            return t
        return self.low + ((t - self.low) / self.width).round() * self.width


def levels_of(answer: Sequence[Tensor]) -> Levels | None:
    """From the smallest to the largest element, of the tensor whose elements are the furthest apart; None of none."""
    floats = [leaf.double() for leaf in answer if leaf.dtype.is_floating_point and leaf.numel()]
    ends = [(leaf.min().item(), leaf.max().item()) for leaf in floats]
    low, high = max((end for end in ends if math.isfinite(end[1] - end[0])), key=lambda e: e[1] - e[0], default=(0, 0))
    return Levels(low, (high - low) / (LEVELS - 1)) if high > low else None


class _Rounded(Tail):
    """A tail whose values are on levels."""

    def __init__(self, tail: Tail, levels: Levels) -> None:
        self._tail, self._levels = tail, levels

    @property
    def exact(self) -> bool:
        """As of the tail itself."""
        return self._tail.exact

    def __call__(self, window: Window) -> Tensor:
        return self._levels.of(self._tail(window))


def on_levels(system: System, levels: Levels) -> System:
    """The same system, every value that it writes on its level."""
    return replace(system, tail=_Rounded(system.tail, levels))


def step_on_levels(step: Callable[[State], State], levels: Levels) -> Callable[[State], State]:
    """The same step of a repeated map, the state that it leaves on its levels."""
    return lambda state: tuple(map(levels.of, step(state)))
