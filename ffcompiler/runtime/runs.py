"""Runs of blocks that a sweep computes in order, all at once: the inner order of ``jacobi-gs(b)`` (docs/runs.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of ``size`` blocks, cut at multiples of it; in a window a run also begins and ends where the window does.

    With ``size`` 1 each block is a run, and a sweep is one of Jacobi.
    """

    size: int = 1

    def begin(self, block: int, lo: int = 0) -> int:
        """The first block of the run that ``block`` is in, in a window that begins at ``lo``."""
        return max(block - block % self.size, lo)

    def end(self, block: int, hi: int) -> int:
        """The end of the run that ``block`` is in, in a window that ends at ``hi``."""
        return min(block - block % self.size + self.size, hi)

    def after(self, lo: int, hi: int, runs: int) -> int:
        """Where in a window the first so many runs have ended."""
        return min(self.end(lo, hi) + (runs - 1) * self.size, hi) if runs else lo

    def turns(self, lo: int, hi: int) -> Iterator[range]:
        """What is computed at once, in order: of every run of a window its first block, then its second, and so on."""
        base = lo - lo % self.size
        for first in range(base, base + self.size):
            blocks = range(first if first >= lo else first + self.size, hi, self.size)
            if blocks:
                yield blocks

    def inner(self, blocks: range, hi: int) -> int:
        """How many blocks of a turn are not the last of their run: they stand before those that are."""
        if (blocks[0] + 1) % self.size == 0:
            return 0
        return len(blocks) - (blocks[-1] == hi - 1)


ALONE = Runs()
"""Each block is a run."""
