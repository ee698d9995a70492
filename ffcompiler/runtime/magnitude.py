"""Whether values of the shared part are finite on the reference's own arrays, from how large its state can be.

The certificate needs it (docs/theory.md, "Premises"): the reference evaluates the shared part on arrays that no sweep
ever holds, final up to some position and as at the start after it. That the operands of zero-pattern products are
finite on all of those follows from a bound in terms of the largest magnitude at the start and at the end
(`ffcompiler/runtime/bounds/`, one rule per operator). An operator without a rule has no bound.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..program import ArrayLoop
from .bounds import RULES, Bounds, around, largest, limit

__all__ = ["largest", "unbounded"]


def unbounded(
    loop: ArrayLoop, state: float, constants: Mapping[str, Tensor], values: Mapping[str, float]
) -> str | None:
    """The first of the shared ``values`` that may reach its limit when the state's magnitude is at most ``state``.

    A value that must be finite only has the limit infinity, which that of its dtype takes the place of.
    """
    bounds = Bounds({loop.carry.name: around(state)}, constants, RULES, {loop.carry.name: loop.carry.type})
    bounds.run(loop.shared)
    for key, most in values.items():
        if key in constants and largest(constants[key]) < most:
            continue
        kind = bounds.types.get(key)
        if kind is None or not bounds.span[key].size < min(limit(kind.dtype), most):
            return key
    return None
