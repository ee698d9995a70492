"""Products and convolutions: over the summed axes, entries where a constant factor is zero are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Node, Ref
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from .common import named, over


def matmul(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``a @ b`` of matrices: over the summed axis, entries where the constant factor is zero are left out."""
    a, b = args[:2]
    la, lb = it.of(a), it.of(b)
    if it.is_constant(b):
        return _product(it, node, a, la, it.nonzero(b))
    if it.is_constant(a):
        return _product(it, node, b, lb.T, it.nonzero(a).T).T
    return np.maximum(over(la, 1), over(lb, 0))


def _product(it: Interpretation, node: Node, state: Ref, latest: Latest, nonzero: npt.NDArray[np.bool_]) -> Latest:
    """Latest of ``state @ w`` from where ``w`` ([K, N]) is not zero; ``latest`` is [M or 1, K or 1]."""
    if not nonzero.all():
        it.require_finite(state, node)
    inner = np.broadcast_to(latest, (latest.shape[0], nonzero.shape[0]))
    return np.stack([_max_over(row, nonzero) for row in inner])


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
    rows = [over(np.concatenate([values[:, p], lowest], axis=1), 1, False) for p in patterns]
    return np.stack(rows, axis=1)[:, which.reshape(-1)]


TABLE: dict[str, Rule] = {
    **named(matmul, "mm.default"),
    **named(addmm, "addmm.default"),
    **named(linear, "linear.default"),
    **named(convolution, "convolution.default"),
}
