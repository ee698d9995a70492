"""Tests in steps of an array loop of what no last array shows: settled by where all values of the reference lie.

Step *k* may test all of ``model(x)``, of which later positions are of an array that holds the first state there; no
sweep evaluates that. But each element of each of the reference's arrays is one of the first state or one of the last,
so that bounds hold for all of them (`ffcompiler/runtime/bounds/`). Where a test comes out alike within the bounds, it
came out so in every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..program import ArrayLoop
from ..proof import Unseen
from .bounds import RULES, Bounds, Span, extent, union

__all__ = ["unsettled"]


def unsettled(
    loop: ArrayLoop, tests: Sequence[Unseen], env: Mapping[str, Tensor], arrays: Sequence[Tensor]
) -> list[Unseen]:
    """Those of ``tests`` that may come out otherwise on some array between ``arrays``, the first and the last.

    ``env``: what neither the state nor the step changes.
    """
    if not tests:
        return []
    lie = {loop.carry.name: union(map(extent, arrays))}
    lie |= {handed.value.name: extent(env[handed.stack.key]) for handed in loop.inputs}
    types = {loop.carry.name: loop.carry.type, **{handed.value.name: handed.value.type for handed in loop.inputs}}
    bounds = Bounds(lie, env, RULES, {**types})
    for graph in (loop.shared, loop.tail, loop.besides):
        bounds.run(graph)
    left = {value.name: ref for value, ref in zip(loop.collected, loop.besides.outputs, strict=True)}
    return [test for test in tests if bounds.of(left[test.name]) != Span(float(test.holds), float(test.holds))]
