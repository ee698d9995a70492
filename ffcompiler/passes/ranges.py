"""What is known of an element's value beside what it depends on: between which numbers it lies.

Masks of attention need it: a score that is known to lie far below another of its row has the weight 0, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
ROOM = 2.0**-7
"""Relative room for the rounding of one operator in the coarsest dtype, bfloat16."""


@dataclass(frozen=True, slots=True)
class Range:
    """Under the premises every element lies in ``low .. high``; from -inf to inf it may be anything, NaN too.

    Arrays of the tensor's rank; a dimension along which all entries agree may have size 1.
    """

    low: Floats
    high: Floats

    @property
    def unknown(self) -> Bools:
        return np.asarray((self.low == -np.inf) & (self.high == np.inf))

    @property
    def fixed(self) -> Bools:
        """Where the element is one number, known up to the sign of zero."""
        return np.asarray(self.low == self.high)

    @property
    def zero(self) -> Bools:
        """Where the element is +0 or -0."""
        return np.asarray((self.low == 0) & (self.high == 0))

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.low.shape, self.high.shape)

    def moved(self, move: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.int32]]) -> Range:
        """The range after the elements were moved by ``move``, which is given their numbers; -1 is no element of it."""
        low, high = np.broadcast_arrays(self.low, self.high)
        places = move(np.arange(low.size, dtype=np.int32).reshape(low.shape))
        return Range(
            np.where(places < 0, -np.inf, low.reshape(-1)[places]),
            np.where(places < 0, np.inf, high.reshape(-1)[places]),
        )

    def rounded(self) -> Range:
        """With room for one rounding; infinities are exact."""
        low, high = (np.where(np.isinf(bound), 0.0, np.abs(bound) * ROOM) for bound in (self.low, self.high))
        with np.errstate(over="ignore"):  # beyond the largest number lies infinity, which holds it too
            return Range(self.low - low, self.high + high)

    def fitted(self, largest: float) -> Range:
        """For a dtype whose largest number is ``largest``: beyond it elements may be infinite."""
        return Range(np.where(self.low < -largest, -np.inf, self.low), np.where(self.high > largest, np.inf, self.high))

    def sound(self) -> Range:
        """NaN in a bound says nothing of the element."""
        nan = np.isnan(self.low) | np.isnan(self.high)
        return Range(np.where(nan, -np.inf, self.low), np.where(nan, np.inf, self.high))

    def of_rank(self, rank: int) -> Range:
        lead = (1,) * (rank - self.low.ndim)
        return Range(
            self.low.reshape(lead + self.low.shape), self.high.reshape((1,) * (rank - self.high.ndim) + self.high.shape)
        )


def anything(rank: int) -> Range:
    return Range(np.full((1,) * rank, -np.inf), np.full((1,) * rank, np.inf))


def within(bound: float, rank: int) -> Range:
    """Magnitudes of at most ``bound``."""
    return Range(np.full((1,) * rank, -bound), np.full((1,) * rank, bound))


def exactly(values: Floats) -> Range:
    """Known values; NaN is not known."""
    return Range(values, values).sound()


def chosen(where: Bools, yes: Range, no: Range) -> Range:
    """``where(condition, yes, no)`` of a known condition."""
    return Range(np.where(where, yes.low, no.low), np.where(where, yes.high, no.high))
