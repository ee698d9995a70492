"""Whether values of the shared part are finite on the reference's own arrays, from how large its state can be.

The certificate needs it (docs/theory.md, "Premises"): the reference evaluates the shared part on arrays that no sweep
ever holds, final up to some position and as at the start after it. That the operands of zero-pattern products are
finite on all of those follows from a bound in terms of the largest magnitude at the start and at the end
(`ffcompiler/runtime/bounds/`, one rule per operator). An operator without a rule has no bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..plan import key_text
from ..program import ArrayLoop
from .bounds import RULES, Bounds, around, largest, limit

__all__ = ["Reach", "unbounded"]


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


@dataclass(slots=True)
class Reach:
    """How large the state can have been in the reference so far, and how large it may be.

    In step k the reference evaluates the shared part on final blocks before k and the first state from k on. So what is
    certified has to be looked at as it becomes so: where a block is too large, those before it are still good.

    ``limits``: of which shared values which magnitude may not be reached; ``cleared``: a state so large keeps to them.
    """

    loop: ArrayLoop
    limits: Mapping[str, float]
    cleared: float = -1.0

    def broken(self, env: Mapping[str, Tensor], values: Sequence[Tensor]) -> str | None:
        """What goes wrong if the state has these values too: the premise, in words."""
        most = max(map(largest, values), default=0.0)
        if most <= self.cleared:
            return None
        name = unbounded(self.loop, 2 * most, env, self.limits)  # so that it need not be told again for each new block
        self.cleared = most if name is not None else 2 * most
        name = None if name is None else unbounded(self.loop, most, env, self.limits)
        if name is None:
            return None
        bound = self.limits[name]
        held = "finite" if math.isinf(bound) else f"below {bound:.4g} in magnitude"
        return f"{key_text(name)} may not have been {held} in some step of the reference, so that step is not certified"
