"""Operators that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from .common import axis_of, named


def select(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, dim, index = args
    latest, dim, size = axis_of(it, state, dim)
    return np.asarray(latest.take(0 if latest.shape[dim] == 1 else index % size, axis=dim))


def take_slice(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, dim, start, end, step = args + (None, 0, None, None, 1)[len(args) :]
    latest, dim, _ = axis_of(it, state, dim)
    where = slice(None) if latest.shape[dim] == 1 else slice(start, end, step)
    return latest[(slice(None),) * dim + (where,)]


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


TABLE: dict[str, Rule] = {
    **named(select, "select.int"),
    **named(take_slice, "slice.Tensor"),
    **named(transpose, "t.default transpose.int"),
    **named(permute, "permute.default"),
    **named(reshape, "view.default _unsafe_view.default reshape.default unsqueeze.default squeeze.dim squeeze.default"),
    **named(expand, "expand.default"),
    **named(concatenate, "cat.default"),
    **named(pad, "constant_pad_nd.default"),
}
