"""Levels: blocks of equal depth depend on none of each other, so that each level is final after one evaluation.

before:  ArrayLoop in the order of the user's loop
after:   the same steps, sorted by level; any order in which each step comes after those it reads has the same answer
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PASSES = 16
"""The levels are a fixed point that is reached from below; where it takes more passes, the steps keep their order."""


def by_level(reads: Sequence[int], largest_label: Callable[[Sequence[int]], list[int]]) -> tuple[tuple[int, ...], ...]:
    """The steps sorted by level, and the end of each level in that order.

    ``reads``: the latest step that each step reads; ``largest_label(labels)``: the largest label among all steps that
    each step reads. A step's level is one more than the largest level of a step that it reads.
    """
    blocks = len(reads)
    in_order = tuple(range(blocks)), tuple(range(1, blocks + 1))
    levels: list[int] = []
    for latest in reads:
        levels.append(0 if latest < 0 else levels[latest] + 1)
    if max(levels, default=0) + 1 == blocks:
        return in_order
    for _ in range(PASSES):
        deeper = [label + 1 for label in largest_label(levels)]
        if deeper == levels:
            break
        levels = [max(a, b) for a, b in zip(levels, deeper, strict=True)]
    else:
        return in_order
    order = tuple(sorted(range(blocks), key=lambda k: (levels[k], k)))
    ends = tuple(n for n in range(1, blocks + 1) if n == blocks or levels[order[n - 1]] != levels[order[n]])
    return order, ends
