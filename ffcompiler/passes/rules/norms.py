"""Normalisations: by statistics of some axes, or by constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...proof import Latest
from ..latest import Interpretation, Rule
from .common import given, joined, last, named, over, rank_of


def layer_norm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...] | Latest:
    """Statistics over the last axes; results: values, and mean and deviation where the operator gives them."""
    state, normalized, weight, bias = args[:4]
    latest = it.of(state)
    axes = tuple(range(latest.ndim - len(normalized), latest.ndim))
    statistics = over(latest, axes)
    values = joined([statistics, it.of(weight), it.of(bias)], latest.ndim)
    return values if len(node.types) == 1 else (values, *(statistics,) * (len(node.types) - 1))


def rms_norm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...] | Latest:
    return layer_norm(it, node, (*args[:3], None))


def group_norm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...] | Latest:
    """Statistics over a group of channels and all that follows them."""
    known = given(node, args)
    groups: int = known["group"] if "group" in known else known["num_groups"]
    latest, shape = it.of(args[0]), it.shape(args[0])
    flat = over(latest, tuple(range(2, latest.ndim))).reshape(latest.shape[0], -1)
    if flat.shape[1] > 1:
        flat = over(flat.reshape(len(flat), groups, -1), 2, False)
    per_channel = np.repeat(flat, shape[1] // groups, axis=1) if flat.shape[1] > 1 else flat
    values = _per_channel(it, per_channel.reshape(*per_channel.shape, *(1,) * (len(shape) - 2)), known)
    return values if len(node.types) == 1 else (values, flat, flat)


def batch_norm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...] | Latest:
    """In eval mode elementwise, by constants of the channel; in training by statistics over all but the channel."""
    known = given(node, args)
    latest = it.of(args[0])
    if known.get("training", False) or known.get("running_mean") is None:
        latest = over(latest, tuple(d for d in range(latest.ndim) if d != 1))
    values = _per_channel(it, latest, known)
    if len(node.types) == 1:
        return values
    rest = [np.full((1,) * rank_of(node, output), last(values), np.int32) for output in range(1, len(node.types))]
    return (values, *rest)


def _per_channel(it: Interpretation, latest: Latest, known: dict[str, Any]) -> Latest:
    """``latest`` joined with that of the numbers of each channel."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        own = it.of(known.get(name))
        latest = np.maximum(latest, own.reshape(1, -1, *(1,) * (latest.ndim - 2)))
    return latest


def weight_norm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...] | Latest:
    """``g * v / |v|``, the norm over all axes but one; results: the weight, the norms."""
    v, g, dim = args
    latest = it.of(v)
    norms = np.maximum(over(latest, tuple(d for d in range(latest.ndim) if d != dim % latest.ndim)), it.of(g))
    return norms if len(node.types) == 1 else (norms, norms)


TABLE: dict[str, Rule] = {
    **named(layer_norm, "native_layer_norm.default layer_norm.default"),
    **named(rms_norm, "_fused_rms_norm.default"),
    **named(group_norm, "native_group_norm.default group_norm.default"),
    **named(
        batch_norm,
        """native_batch_norm.default _native_batch_norm_legit_no_training.default _batch_norm_no_update.default
        cudnn_batch_norm.default batch_norm.default""",
    ),
    **named(weight_norm, "_weight_norm_interface.default"),
}
