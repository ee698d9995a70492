"""What a mask hides among entries that grow: keys after a query's own place, whose weight will be 0.

A mask of weights and constants is known while a loop is judged; what depends on the state counts as NaN here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .case import Case
from .facts import Dim, Grown, Hidden
from .steps import BODY_TOKENS, Numbers

FAR = -1000.0
"""A score below this is hidden by its size, if the others stay far above; the proof of the program looks at that."""


def hidden_by(case: Case, dims: Sequence[Dim], facts: Sequence[Grown]) -> Hidden | None:
    """What an elementwise call hides, or leaves hidden."""
    fact = Grown(tuple(dims))
    pairs = [(r, c) for r in range(len(dims)) for c in range(len(dims)) if r != c and fact.square(r, c)]
    known = _above(case) if pairs else None
    if known is not None:
        for row, column in pairs:
            if (zero := hides(known.expand(case.out_shapes()[-1]), row, column)) is not None:
                return Hidden(row, column, zero)
    return _kept(case, facts)


def hides(known: Tensor, row: int, column: int) -> bool | None:
    """Whether all that is after the diagonal is 0 (True), or far below what else is in each row (False)."""
    square = known.movedim((row, column), (-2, -1))
    after = torch.ones(square.shape[-2:], dtype=torch.bool, device=square.device).triu(1)
    entries = square[..., after]
    if bool((entries == 0).all()):
        return True
    seen = (square.isnan() & ~after).any(-1)  # a row of which nothing is seen has equal weights everywhere
    return False if bool((entries <= FAR).all() and seen.all()) else None


def _above(case: Case) -> Tensor | None:
    """The result as far as it is fixed: NaN for what depends on the state."""
    name = str(case.call.op).removeprefix("aten.").removesuffix("_").replace("_.", ".")
    given = case.given
    if name in ("masked_fill.Scalar", "masked_fill.Tensor"):
        mask, value = _fixed(case, given["mask"]), _fixed(case, given["value"])
        return None if mask is None or value is None else torch.where(mask, value.double(), math.nan)
    if name.startswith("where."):
        mask = _fixed(case, given["condition"])
        yes, no = (_or_nan(_fixed(case, given[side])) for side in ("self", "other"))
        return None if mask is None else torch.where(mask, yes, no)
    if name in ("add.Tensor", "mul.Tensor"):
        return _of_two(case, name == "mul.Tensor")
    return None


def _of_two(case: Case, product: bool) -> Tensor | None:
    """A sum with something far below is far below; a product with 0 is 0."""
    a, b = (_fixed(case, case.given[side]) for side in ("self", "other"))
    mask = b if a is None else a
    if mask is None or (a is not None and b is not None):
        return None
    mask = mask.double()
    if product:
        return torch.where(mask == 0, mask, math.nan)
    if case.constant("alpha") != 1:
        return None
    return torch.where(mask <= FAR, mask, math.nan)


def _fixed(case: Case, value: Any) -> Tensor | None:
    """An argument that does not depend on the state."""
    if isinstance(value, Numbers):
        return torch.tensor(float(value.values[-1]), dtype=torch.float64)
    return case.concrete(value) if isinstance(value, BODY_TOKENS) else None


def _or_nan(value: Tensor | None) -> Tensor:
    return torch.tensor(math.nan, dtype=torch.float64) if value is None else value.double()


_KEEPS = {"aten.clone.default", "aten._to_copy.default", "aten.alias.default", "aten.detach.default"}
_SCALES = {"aten.mul.Tensor", "aten.div.Tensor", "aten.mul.Scalar", "aten.div.Scalar"}


def _kept(case: Case, facts: Sequence[Grown]) -> Hidden | None:
    """Copies keep what is hidden; so do finite factors of what is 0."""
    if len(facts) != 1 or facts[0].hidden is None:
        return None
    if str(case.call.op) in _KEEPS:
        return facts[0].hidden
    factor = case.given.get("other")
    if str(case.call.op) not in _SCALES or not isinstance(factor, Numbers) or not facts[0].hidden.zero:
        return None
    return facts[0].hidden if math.isfinite(factor.values[0]) and factor.values[0] != 0 else None
