"""Whether a step left the state as it was: in every bit, or within a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import Bits, Equality, Tolerance
from .equality import bits

ALIGNED = 64
"""Bytes: kernels may round differently at addresses that lie differently to multiples of this."""


@dataclass(frozen=True, slots=True)
class Look:
    """Two states compared. ``change``: under a tolerance, the largest distance between elements of other bits."""

    same: bool
    change: float | None = None


def look(before: Sequence[Tensor], after: Sequence[Tensor], equality: Equality) -> Look:
    """Whether all later steps may be taken to leave the state as it is."""
    match equality:
        case Bits():
            return Look(all(map(_same_again, before, after)))
        case Tolerance():
            looks = [_near(a, b, equality) for a, b in zip(before, after, strict=True)]
            return Look(all(one.same for one in looks), max((one.change or 0.0 for one in looks), default=0.0))


def _same_again(a: Tensor, b: Tensor) -> bool:
    """Same bits in the same layout: no kernel can tell one from the other. A NaN is the same with its payload only."""
    return _layout(a) == _layout(b) and not any(_lazy(t) for t in (a, b)) and torch.equal(_raw(a), _raw(b))


def _layout(t: Tensor) -> tuple[object, ...]:
    return t.dtype, t.shape, t.stride(), t.data_ptr() % ALIGNED


def _lazy(t: Tensor) -> bool:
    """Whether the elements are not what stands in memory, but its conjugates or negatives."""
    return t.is_conj() or t.is_neg()


def _raw(t: Tensor) -> Tensor:
    return t.view(torch.int8) if t.dtype == torch.bool else bits(t)


def _near(before: Tensor, after: Tensor, equality: Tolerance) -> Look:
    """Whether each element has the same bits, or is as near as the tolerance says."""
    before, after = before.resolve_conj().resolve_neg(), after.resolve_conj().resolve_neg()
    moved = bits(before) != bits(after)
    if not (after.dtype.is_floating_point or after.dtype.is_complex):
        return Look(not bool(moved.any()))
    if after.dtype.is_complex:
        moved = moved.any(-1)
    gap, size = _distance(before, after, moved)
    within = (gap <= equality.atol + equality.rtol * size) & gap.isfinite()  # NaN and Inf are near nothing
    return Look(bool((within | ~moved).all()), float(gap.max()) if gap.numel() else 0.0)


def _distance(before: Tensor, after: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """How far each element moved, zero for the same bits, and its magnitude now."""
    if after.element_size() == 1:  # eight-bit floats have no arithmetic
        before, after = before.float(), after.float()
    gap = (after - before).abs()
    return torch.where(moved, gap, torch.zeros_like(gap)), after.abs()
