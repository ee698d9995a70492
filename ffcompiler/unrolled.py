"""Stacks of layers that no sweep may solve as a loop: as chains of their layers they can be (docs/chains.md).

A loop's sweep evaluates the step for all layers at once, which rounds otherwise than the layers one by one. A chain's
makes the recorded calls, and so has their bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .capture import Captured
from .errors import CaptureError
from .passes.chain import chain
from .plan import Plan
from .program import Program, WeightKind
from .proof import Refusal


def as_layers(captured: Captured, plans: Sequence[Plan], again: Callable[[float], Captured]) -> Captured | None:
    """The function captured as a graph without loops, if none of ``plans`` can be solved, and all loops are stacks.

    ``again`` captures it with a loop only where that makes so large a share of its calls. None where it stays as it is.
    """
    if not all(plan.refusal is not None for plan in plans) or not all(is_stack(p.program) for p in captured.parts):
        return None
    try:
        straight = again(math.inf)
    except CaptureError:
        return None
    return straight if straight.no_loop and not isinstance(chain(straight.program), Refusal) else None


def is_stack(program: Program) -> bool:
    """Whether the steps of the loop have parameters of their own, as the layers of a network have."""
    own = {weight.name for weight in program.weights if weight.kind is WeightKind.PARAMETER}
    stacks = {
        node.name
        for node in program.prologue.nodes
        if node.op == "aten.stack.default" and all(ref.name in own for ref in node.refs())
    }
    return any(given.stack.name in stacks for given in program.loop.inputs)
