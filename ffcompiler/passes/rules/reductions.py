"""Operators that combine elements along axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...proof import Latest
from ..latest import Interpretation, Rule
from .common import along, axes_of, axis_of, given, named, over, rank_of


def reduction(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """A reduction over some axes, or over all."""
    known, latest = given(node, args), it.of(args[0])
    reduced = over(latest, axes_of(known.get("dim"), latest.ndim), bool(known.get("keepdim", False)))
    return reduced if reduced.ndim == rank_of(node) else it.everything(node)


def reductions(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...]:
    """Several results of the same reduction: values and indices, mean and deviation."""
    return (reduction(it, node, args),) * len(node.types)


def whole_axis(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Along one axis everything depends on everything: softmax."""
    latest, axis, _ = axis_of(it, args[0], args[1])
    return over(latest, axis)


def ordered(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...]:
    """``sort``, ``topk``: values and indices, each from the whole axis."""
    latest, axis, _ = axis_of(it, args[0], given(node, args)["dim"])
    return (over(latest, axis),) * 2


def running(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``cumsum`` and the like: entry j of an axis depends on entries up to j."""
    if not it.shape(args[0]):
        return it.of(args[0])
    latest, axis, _ = axis_of(it, args[0], args[1])
    return np.maximum.accumulate(along(latest, it.shape(args[0]), axis), axis=axis)


def running_index(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...]:
    """``cummax``: values and indices."""
    return (running(it, node, args),) * 2


def halves(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``glu``: the first half of an axis, gated by the second."""
    latest, axis, size = axis_of(it, args[0], args[1])
    if latest.shape[axis] == 1:
        return latest
    return np.maximum(*np.split(along(latest, it.shape(args[0]), axis), [size // 2], axis=axis))


TABLE: dict[str, Rule] = {
    **named(
        reduction,
        """sum.default sum.dim_IntList nansum.default mean.default mean.dim amax.default amin.default max.default
        min.default argmax.default argmin.default prod.default prod.dim_int any.default any.dim any.dims all.default
        all.dim all.dims var.correction std.correction norm.Scalar norm.ScalarOpt_dim linalg_vector_norm.default
        logsumexp.default count_nonzero.default count_nonzero.dim_IntList""",
    ),
    **named(
        reductions,
        "max.dim min.dim median.dim kthvalue.default aminmax.default var_mean.correction std_mean.correction",
    ),
    **named(whole_axis, "_softmax.default _log_softmax.default softmax.int log_softmax.int"),
    **named(ordered, "sort.default sort.stable topk.default"),
    **named(running, "cumsum.default cumprod.default logcumsumexp.default"),
    **named(running_index, "cummax.default cummin.default"),
    **named(halves, "glu.default"),
}
