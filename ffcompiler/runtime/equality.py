"""Bits: equal as integers, or both NaN; -0 differs from +0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(t: Tensor) -> Tensor:
    """The elements as integers of the same size."""
    if t.dtype.is_complex:
        t = torch.view_as_real(t)
    return t if t.dtype == torch.bool else t.view(_INTEGERS[t.element_size()])


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one type differ in bits; two NaN are equal, whatever their payload."""
    different = bits(a) != bits(b)
    if a.dtype.is_floating_point:
        different &= ~(a.isnan() & b.isnan())
    return different


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Same shape, dtype and bits."""
    return a.shape == b.shape and a.dtype == b.dtype and not bool(differs(a, b).any())


@dataclass(frozen=True, slots=True)
class Difference:
    """How one result differs from the reference's: elements, the first place, the largest distances."""

    output: int
    elements: int
    of: int
    where: tuple[int, ...]
    got: str
    expected: str
    largest_ulp: int | None
    largest_absolute: float

    def __str__(self) -> str:
        ulp = "" if self.largest_ulp is None else f" ({self.largest_ulp} ulp at most)"
        return (
            f"output {self.output} differs at {self.where}: plan {self.got}, reference {self.expected}; "
            f"{self.elements} of {self.of} elements, largest difference {self.largest_absolute:.3g}{ulp}"
        )


def compare(output: int, got: Tensor, expected: Tensor) -> Difference | None:
    """The difference between two tensors of the same type; None if their bits are the same."""
    different = differs(got, expected)
    if different.dim() > got.dim():  # complex: real and imaginary part
        different = different.any(-1)
    if not bool(different.any()):
        return None
    where = tuple(int(i) for i in different.nonzero()[0])
    gap = (got.to(torch.float64) - expected.to(torch.float64)).abs().nan_to_num(nan=torch.inf)
    return Difference(
        output,
        int(different.sum()),
        got.numel(),
        where,
        f"{got[where].item()!r}",
        f"{expected[where].item()!r}",
        _largest_ulp(got, expected) if got.dtype.is_floating_point else None,
        float(gap.max()),
    )


def _largest_ulp(a: Tensor, b: Tensor) -> int:
    """The largest distance in representable numbers between elements that are both finite."""
    finite = a.isfinite() & b.isfinite()
    if not bool(finite.any()):
        return 0
    return int((_ordered(a)[finite] - _ordered(b)[finite]).abs().max())


def _ordered(t: Tensor) -> Tensor:
    """Integers in the order of the floats, so that neighbours differ by one."""
    raw = bits(t).to(torch.int64)
    lowest = -(1 << (8 * t.element_size() - 1))
    return torch.where(raw < 0, lowest - raw, raw)
