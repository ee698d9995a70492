"""How each operator passes dependence on: the table `RULES`, and the rules in it.

A rule gives, for every element of the result, the largest ``latest`` of the input elements that it can depend on, bits
of zeros and NaN included. Too large is sound and costs speed; too small is wrong. `docs/ops.md` shows how to add one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph import Node, Ref
from ..proof import Latest
from .latest import NEVER, Interpretation, Rule

# ---------------------------------------------------------------------------------------------------- elementwise


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


# ---------------------------------------------------------------------------------------------------- products


def matmul(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``a @ b`` of matrices: over the summed axis, entries where the constant factor is zero are left out."""
    a, b = args[:2]
    la, lb = it.of(a), it.of(b)
    if it.is_constant(b):
        return _product(it, node, a, la, it.nonzero(b))
    if it.is_constant(a):
        return _product(it, node, b, lb.T, it.nonzero(a).T).T
    return np.maximum(_over(la, 1), _over(lb, 0))


def _product(it: Interpretation, node: Node, state: Ref, latest: Latest, nonzero: npt.NDArray[np.bool_]) -> Latest:
    """Latest of ``state @ w`` from where ``w`` ([K, N]) is not zero; ``latest`` is [M or 1, K or 1]."""
    if not nonzero.all():
        it.require_finite(state, node)
    inner = np.broadcast_to(latest, (latest.shape[0], nonzero.shape[0]))
    return np.stack([_max_over(row, nonzero) for row in inner])


def _over(latest: Latest, axis: int | tuple[int, ...], keep: bool = True) -> Latest:
    """The maximum over some axes."""
    return np.asarray(latest.max(axis=axis, keepdims=keep), np.int32)


def _max_over(row: npt.NDArray[np.int32], nonzero: npt.NDArray[np.bool_]) -> Latest:
    """For each column of ``nonzero`` the largest entry of ``row`` where it is True; -1 where it is nowhere True."""
    order = np.argsort(-row, kind="stable")
    sorted_nonzero = nonzero[order]
    first = sorted_nonzero.argmax(axis=0)
    return np.where(sorted_nonzero.any(axis=0), row[order][first], NEVER).astype(np.int32)


def addmm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``bias + a @ b``; with other than unit factors, as everything."""
    if dict(node.kwargs).get("beta", 1) != 1 or dict(node.kwargs).get("alpha", 1) != 1:
        return it.everything(node)
    bias = it.of(args[0])
    return np.maximum(matmul(it, node, args[1:]), bias.reshape((1,) * (2 - bias.ndim) + bias.shape))


def linear(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``input @ weight.T + bias`` over the last axis, with any leading axes."""
    state, weight = args[:2]
    if not it.is_constant(weight) or len(it.shape(weight)) != 2:
        return it.everything(node)
    latest = it.of(state)
    product = _product(it, node, state, latest.reshape(-1, latest.shape[-1]), it.nonzero(weight).T)
    result = product.reshape(*latest.shape[:-1], product.shape[-1])
    return np.maximum(result, it.of(args[2])) if len(args) > 2 and isinstance(args[2], Ref) else result


def convolution(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """A convolution with a constant kernel: per tap, the input at its offset, from channels of non-zero weight."""
    state, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    if not it.is_constant(weight) or transposed or groups != 1:
        return it.everything(node)
    nonzero = it.nonzero(weight)
    if not nonzero.all():
        it.require_finite(state, node)
    spatial = len(nonzero.shape) - 2
    full = it.shape(state)
    latest = it.of(state)
    latest = np.broadcast_to(latest, (latest.shape[0], latest.shape[1], *full[2:]))
    out_shape = node.type.shape
    result = np.full((latest.shape[0], out_shape[1], *out_shape[2:]), NEVER, np.int32)
    padded = np.pad(latest, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=NEVER)
    for tap in np.ndindex(*nonzero.shape[2:]):
        mask = nonzero[(slice(None), slice(None), *tap)]
        if not mask.any():
            continue
        window = tuple(
            slice(tap[d] * dilation[d], tap[d] * dilation[d] + (out_shape[2 + d] - 1) * stride[d] + 1, stride[d])
            for d in range(spatial)
        )
        result = np.maximum(result, _through_channels(padded[(slice(None), slice(None), *window)], mask))
    return np.maximum(result, it.of(bias).reshape(1, -1, *(1,) * spatial)) if isinstance(bias, Ref) else result


def _through_channels(values: Latest, mask: npt.NDArray[np.bool_]) -> Latest:
    """For each output channel the maximum of ``values`` over the input channels that ``mask`` ([O, C]) lets through."""
    if values.shape[1] == 1:
        any_channel = mask.any(axis=1).reshape(1, -1, *(1,) * (values.ndim - 2))
        return np.where(any_channel, values, NEVER).astype(np.int32)
    patterns, which = np.unique(mask, axis=0, return_inverse=True)
    lowest = np.full((values.shape[0], 1, *values.shape[2:]), NEVER, np.int32)
    rows = [_over(np.concatenate([values[:, p], lowest], axis=1), 1, False) for p in patterns]
    return np.stack(rows, axis=1)[:, which.reshape(-1)]


# ---------------------------------------------------------------------------------------------------- moves


def select(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, dim, index = args
    latest, dim, size = _axis(it, state, dim)
    return np.asarray(latest.take(0 if latest.shape[dim] == 1 else index % size, axis=dim))


def take_slice(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, dim, start, end, step = args + (None, 0, None, None, 1)[len(args) :]
    latest, dim, _ = _axis(it, state, dim)
    where = slice(None) if latest.shape[dim] == 1 else slice(start, end, step)
    return latest[(slice(None),) * dim + (where,)]


def _axis(it: Interpretation, state: Ref, dim: int) -> tuple[Latest, int, int]:
    shape = it.shape(state)
    return it.of(state), dim % len(shape), shape[dim % len(shape)]


def transpose(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state = it.of(args[0])
    return np.swapaxes(state, *(args[1:] or (0, -1))) if state.ndim > 1 else state


def permute(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    return np.transpose(it.of(args[0]), args[1])


def reshape(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Any change of shape that keeps the order of the elements."""
    latest, shape = it.of(args[0]), it.shape(args[0])
    if (latest == latest.flat[0]).all() if latest.size else True:
        return np.full((1,) * len(node.type.shape), latest.flat[0] if latest.size else NEVER, np.int32)
    lead = 1 if latest.shape[0] == 1 and shape[:1] == node.type.shape[:1] else 0
    if lead:  # the batch axis stays: keep it compact
        return np.broadcast_to(latest, (1, *shape[1:])).reshape(1, *node.type.shape[1:])
    return np.broadcast_to(latest, shape).reshape(node.type.shape)


def expand(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    latest = it.of(args[0])
    return latest.reshape((1,) * (len(node.type.shape) - latest.ndim) + latest.shape)


def concatenate(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    parts, dim = args[0], (args[1] if len(args) > 1 else 0) % len(node.type.shape)
    if any(len(it.shape(part)) != len(node.type.shape) for part in parts):
        return it.everything(node)
    arrays = []
    for part in parts:
        latest = it.of(part)
        arrays.append(np.broadcast_to(latest, (*latest.shape[:dim], it.shape(part)[dim], *latest.shape[dim + 1 :])))
    shape = np.broadcast_shapes(*((*a.shape[:dim], 1, *a.shape[dim + 1 :]) for a in arrays))
    return np.concatenate([np.broadcast_to(a, (*shape[:dim], a.shape[dim], *shape[dim + 1 :])) for a in arrays], dim)


def pad(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Constant padding; a negative amount crops."""
    latest, amounts = it.of(args[0]), args[1]
    for index in range(len(amounts) // 2):
        dim = latest.ndim - 1 - index
        before, after = amounts[2 * index : 2 * index + 2]
        if (before, after) == (0, 0):
            continue
        size = it.shape(args[0])[dim]
        latest = np.broadcast_to(latest, (*latest.shape[:dim], size, *latest.shape[dim + 1 :]))
        latest = np.take(latest, range(max(0, -before), size - max(0, -after)), axis=dim)
        widths = [(0, 0)] * latest.ndim
        widths[dim] = (max(0, before), max(0, after))
        latest = np.pad(latest, widths, constant_values=NEVER)
    return latest


def softmax(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Along one axis everything depends on everything."""
    latest, dim, _ = _axis(it, args[0], args[1])
    return _over(latest, dim)


def reduce_last(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """A reduction over given axes (an int or a tuple)."""
    dims = args[1] if len(args) > 1 else None
    if dims is None or dims == ():
        return it.everything(node)
    axes = tuple(d % len(it.shape(args[0])) for d in (dims if isinstance(dims, tuple) else (dims,)))
    keep = bool(args[2]) if len(args) > 2 else bool(dict(node.kwargs).get("keepdim", False))
    return _over(it.of(args[0]), axes, keep)


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

RULES: dict[str, Rule] = {
    **{f"aten.{name}": elementwise for name in _ELEMENTWISE.split()},
    "aten.mm.default": matmul,
    "aten.addmm.default": addmm,
    "aten.linear.default": linear,
    "aten.convolution.default": convolution,
    "aten.select.int": select,
    "aten.slice.Tensor": take_slice,
    "aten.t.default": transpose,
    "aten.transpose.int": transpose,
    "aten.permute.default": permute,
    "aten.view.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.reshape.default": reshape,
    "aten.unsqueeze.default": reshape,
    "aten.squeeze.dim": reshape,
    "aten.squeeze.default": reshape,
    "aten.expand.default": expand,
    "aten.cat.default": concatenate,
    "aten.constant_pad_nd.default": pad,
    "aten._softmax.default": softmax,
    "aten._log_softmax.default": softmax,
    "aten.sum.dim_IntList": reduce_last,
    "aten.mean.dim": reduce_last,
    "aten.amax.default": reduce_last,
    "aten.argmax.default": reduce_last,
    "aten.zeros_like.default": nothing,
    "aten.ones_like.default": nothing,
    "aten.full_like.default": nothing,
    "aten.new_zeros.default": nothing,
    "aten.new_ones.default": nothing,
    "aten.new_full.default": nothing,
}
