"""Elementwise operators, and those that look at shapes only."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...proof import Latest
from ..latest import Interpretation, Rule
from .common import joined, last, named, never, rank_of


def elementwise(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """An element depends on the elements at its own place, after broadcasting.

    So does a product with a constant zero: its sign is that of the other factor.
    """
    return joined((it.of(ref) for ref in node.refs()), rank_of(node))


def overwritten(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``copy``, ``fill``: of the first argument only shape and dtype are kept."""
    return joined([it.of(args[1])], rank_of(node))


def log_sigmoid(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...]:
    """The result, and a buffer of its own that is empty on some devices."""
    latest = it.of(args[0])
    return latest, np.full((1,) * rank_of(node, 1), last(latest), np.int32)


def prelu(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """The weight is a number for each entry of axis 1, or one for all."""
    state, weight = it.of(args[0]), it.of(args[1])
    return np.maximum(state, last(weight))


def nothing(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """The values do not depend on the input, only the shape does."""
    return never(rank_of(node))


_ELEMENTWISE = """
    alias.default clone.default detach.default lift_fresh_copy.default _to_copy.default
    add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar rsub.Tensor mul.Scalar mul.Tensor div.Tensor div.Scalar
    div.Tensor_mode div.Scalar_mode floor_divide.default remainder.Scalar remainder.Tensor remainder.Scalar_Tensor
    fmod.Scalar fmod.Tensor addcmul.default addcdiv.default lerp.Scalar lerp.Tensor xlogy.Tensor logaddexp.default
    logaddexp2.default atan2.default hypot.default
    neg.default abs.default sqrt.default rsqrt.default reciprocal.default square.default sign.default sgn.default
    signbit.default frac.default round.default round.decimals floor.default ceil.default trunc.default
    pow.Tensor_Scalar pow.Scalar pow.Tensor_Tensor
    minimum.default maximum.default fmin.default fmax.default clamp.default clamp.Tensor clamp_min.default
    clamp_min.Tensor clamp_max.default clamp_max.Tensor nan_to_num.default heaviside.default
    eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
    ge.Scalar logical_and.default logical_or.default logical_not.default logical_xor.default isnan.default
    isinf.default isfinite.default isposinf.default isneginf.default
    bitwise_and.Tensor bitwise_and.Scalar bitwise_or.Tensor bitwise_or.Scalar bitwise_xor.Tensor bitwise_xor.Scalar
    bitwise_not.default __lshift__.Scalar __rshift__.Scalar bitwise_left_shift.Tensor bitwise_right_shift.Tensor
    exp.default exp2.default expm1.default log.default log1p.default log2.default log10.default sin.default
    cos.default tan.default tanh.default sinh.default cosh.default asin.default acos.default atan.default
    asinh.default acosh.default atanh.default sinc.default erf.default erfc.default erfinv.default lgamma.default
    digamma.default special_ndtri.default special_log_ndtr.default sigmoid.default logit.default
    relu.default hardtanh.default softplus.default silu.default gelu.default elu.default celu.default selu.default
    leaky_relu.default mish.default hardsigmoid.default hardswish.default softshrink.default hardshrink.default
    threshold.default _prelu_kernel.default
"""

_NOTHING = """
    zeros_like.default ones_like.default full_like.default new_zeros.default new_ones.default new_full.default
    zeros.default ones.default full.default arange.default arange.start arange.start_step scalar_tensor.default
    eye.default eye.m linspace.default zero.default fill.Scalar
"""

TABLE: dict[str, Rule] = {
    **named(elementwise, _ELEMENTWISE),
    **named(overwritten, "copy.default fill.Tensor"),
    **named(log_sigmoid, "log_sigmoid_forward.default"),
    **named(prelu, "prelu.default"),
    **named(nothing, _NOTHING),
}
