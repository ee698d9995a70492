"""Values in the layout that a recorded tensor had: operators may choose their kernels by strides."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import TensorType
from .equality import same_bits


def laid_out(kind: TensorType, value: Tensor) -> Tensor:
    """A copy of ``value`` with the strides of ``kind``; contiguous where elements of those that share memory differ.

    An expanded tensor (a stride of 0) is made anew from one of each, and expanded.
    """
    shared = [dim for dim, (size, stride) in enumerate(zip(kind.shape, kind.stride, strict=True)) if size > 1 > stride]
    once = value
    for dim in shared:
        once = once.narrow(dim, 0, 1)
    strides = [0 if size == 1 else stride for size, stride in zip(once.shape, kind.stride, strict=True)]
    needed = 1 + sum((size - 1) * stride for size, stride in zip(once.shape, strides, strict=True))
    if needed < once.numel() or (shared and not same_bits(once.expand(kind.shape), value)):  # windows over one memory
        return value.contiguous().clone()
    made = torch.empty_strided(once.shape, kind.stride, dtype=value.dtype, device=value.device).copy_(once)
    return made.expand(kind.shape) if shared else made
