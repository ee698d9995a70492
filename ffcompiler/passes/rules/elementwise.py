"""Elementwise operators, and those that look at shapes only."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from .common import named


def elementwise(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """An element depends on the elements at its own place, after broadcasting.

    So does a product with a constant zero: its sign is that of the other factor.
    """
    arrays = [it.of(ref) for ref in node.refs()]
    rank = len(node.type.shape)
    result = np.full((1,) * rank, NEVER, np.int32)
    for array in arrays:
        result = np.maximum(result, array.reshape((1,) * (rank - array.ndim) + array.shape))
    return result


def nothing(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """The values do not depend on the input, only the shape does."""
    return np.full((1,) * len(node.type.shape), NEVER, np.int32)


_ELEMENTWISE = """
    alias.default clone.default detach.default add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar div.Tensor
    div.Scalar neg.default abs.default sqrt.default sign.default minimum.default maximum.default clamp.default
    clamp_min.default clamp_max.default round.default floor.default ceil.default trunc.default relu.default
    where.self masked_fill.Scalar eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar
    gt.Tensor gt.Scalar ge.Tensor ge.Scalar logical_and.default logical_or.default logical_not.default
    _to_copy.default hardtanh.default exp.default expm1.default log.default log1p.default sin.default cos.default
    tanh.default erf.default sigmoid.default softplus.default silu.default gelu.default elu.default
    leaky_relu.default logit.default pow.Tensor_Scalar rsqrt.default reciprocal.default mul.Scalar mul.Tensor
    square.default
"""

TABLE: dict[str, Rule] = {
    **named(elementwise, _ELEMENTWISE),
    **named(
        nothing,
        "zeros_like.default ones_like.default full_like.default new_zeros.default new_ones.default new_full.default",
    ),
}
