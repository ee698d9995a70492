"""Operators that move elements: ``latest`` moves as they do."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch

from ...graph import Node
from ...proof import Latest
from ...signatures import overload
from ..latest import NEVER, Interpretation, Rule
from .common import along, axis_of, joined, last, named, rank_of, where

Shape = tuple[int, ...]

# ---------------------------------------------------------------------------------------------------- parts


def select(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    latest, axis, size = axis_of(it, args[0], args[1])
    return np.asarray(latest.take(0 if latest.shape[axis] == 1 else args[2] % size, axis=axis))


def take_slice(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, dim, start, end, step = args
    latest, axis, _ = axis_of(it, state, dim)
    return np.asarray(latest[where(latest, axis, slice(start, end, step))])


def narrow(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, dim, start, length = args
    latest, axis, size = axis_of(it, state, dim)
    start = start % size if size else 0
    return np.asarray(latest[where(latest, axis, slice(start, start + length))])


def split(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...]:
    state, length, dim = args
    latest, axis, _ = axis_of(it, state, dim)
    starts = range(0, len(node.types) * length, max(length, 1))
    return tuple(latest[where(latest, axis, slice(start, start + length))] for start in starts)


def select_scatter(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """The first argument with one index of an axis replaced by the second."""
    state, part, dim, index = args
    axis, size = dim % len(it.shape(state)), it.shape(state)[dim]
    return _scatter(it, node, args, axis, index % size, np.expand_dims(it.of(part), axis))


def slice_scatter(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """The first argument with a slice of an axis replaced by the second."""
    _, part, dim, start, end, step = args
    return _scatter(it, node, args, dim % rank_of(node), slice(start, end, step), it.of(part))


def _scatter(it: Interpretation, node: Node, args: tuple[Any, ...], axis: int, index: Any, part: Latest) -> Latest:
    latest = along(it.of(args[0]), it.shape(args[0]), axis)
    shape = np.broadcast_shapes(
        (*latest.shape[:axis], 1, *latest.shape[axis + 1 :]), (*part.shape[:axis], 1, *part.shape[axis + 1 :])
    )
    result = np.broadcast_to(latest, (*shape[:axis], latest.shape[axis], *shape[axis + 1 :])).copy()
    index = slice(index, index + 1) if isinstance(index, int) else index
    result[(slice(None),) * axis + (index,)] = part
    return result


# ---------------------------------------------------------------------------------------------------- order and shape


def transpose(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state = it.of(args[0])
    return np.swapaxes(state, *(args[1:] or (0, -1))) if state.ndim > 1 else state


def permute(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    return np.transpose(it.of(args[0]), args[1])


def move_axis(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    return np.moveaxis(it.of(args[0]), *args[1:])


def reshape(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Any change of shape that keeps the order of the elements; compact axes stay so where they stand by themselves."""
    latest, old, new = it.of(args[0]), it.shape(args[0]), node.type.shape
    if latest.size == 1 or 0 in old:
        return np.full((1,) * len(new), last(latest), np.int32)
    before: list[int] = []
    after: list[int] = []
    for i, j in _runs(old, new):
        varies = any(size > 1 for size in latest.shape[i])
        before += old[i] if varies else latest.shape[i]
        after += new[j] if varies else (1,) * len(new[j])
    return np.broadcast_to(latest, before).reshape(after)


def _runs(old: Shape, new: Shape) -> Iterator[tuple[slice, slice]]:
    """Neighbouring axes of both shapes that hold as many elements: [2, 3, 4] -> [6, 4] has 0:2 -> 0:1, 2:3 -> 1:2."""
    i = j = 0
    while i < len(old) or j < len(new):
        start, begin = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while prod(old[start:i]) != prod(new[begin:j]):
            if prod(old[start:i]) < prod(new[begin:j]):
                i += 1
            else:
                j += 1
        yield slice(start, i), slice(begin, j)


def expand(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    latest = it.of(args[0])
    return latest.reshape((1,) * (rank_of(node) - latest.ndim) + latest.shape)


def repeat(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    latest = expand(it, node, args)
    return np.tile(latest, [1 if size == 1 else times for size, times in zip(latest.shape, args[1], strict=True)])


def flip(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    return np.flip(it.of(args[0]), args[1])


def roll(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Along axes, or, with none given, of the flattened array."""
    state, shifts, dims = args
    latest, shape = it.of(state), it.shape(state)
    shifts, dims = ((n,) if isinstance(n, int) else n for n in (shifts, dims))
    return np.roll(latest, shifts, dims) if dims else np.roll(np.broadcast_to(latest, shape), shifts[0])


def triangle(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``tril``, ``triu``: what is cut off is zero whatever stood there."""
    latest, shape = it.of(args[0]), it.shape(args[0])
    right = np.arange(shape[-1]) - np.arange(shape[-2])[:, None]  # how far from the diagonal
    return np.where(right >= args[1] if "triu" in node.op else right <= args[1], latest, NEVER)


def diagonal(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    state, offset, dim1, dim2 = args
    shape = it.shape(state)
    return np.diagonal(along(it.of(state), shape, dim1 % len(shape), dim2 % len(shape)), offset, dim1, dim2)


def unfold(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Windows of an axis, their entries as a last axis."""
    state, dim, size, step = args
    if not it.shape(state):
        return np.broadcast_to(it.of(state), (1,))
    latest, axis, _ = axis_of(it, state, dim)
    if latest.shape[axis] == 1:
        return latest[..., None]
    windows = np.lib.stride_tricks.sliding_window_view(latest, size, axis=axis)
    return windows[(slice(None),) * axis + (slice(None, None, step),)]


# ---------------------------------------------------------------------------------------------------- joining


def concatenate(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    parts, dim = args[0], args[1] % rank_of(node)
    if any(len(it.shape(part)) != rank_of(node) for part in parts):
        return it.everything(node)
    return _joined_along(dim, [along(it.of(part), it.shape(part), dim) for part in parts])


def stack(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    axis = args[1] % rank_of(node)
    return _joined_along(axis, [np.expand_dims(it.of(part), axis) for part in args[0]])


def _joined_along(axis: int, arrays: list[Latest]) -> Latest:
    shape = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays))
    full = [np.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in arrays]
    return np.concatenate(full, axis)


def pad(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Constant padding; a negative amount crops."""
    latest, shape, amounts = it.of(args[0]), it.shape(args[0]), args[1]
    for index in range(len(amounts) // 2):
        axis = latest.ndim - 1 - index
        before, after = amounts[2 * index : 2 * index + 2]
        if (before, after) == (0, 0):
            continue
        latest = along(latest, shape, axis)
        latest = np.take(latest, range(max(0, -before), shape[axis] - max(0, -after)), axis=axis)
        widths = [(0, 0)] * latest.ndim
        widths[axis] = (max(0, before), max(0, after))
        latest = np.pad(latest, widths, constant_values=NEVER)
    return latest


# ---------------------------------------------------------------------------------------------------- by the operator


def by_itself(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """An operator that copies elements, on images ``[batch, channels, ...]``: run it on ``latest``.

    It may put zeros beside them, so it is run on ``latest + 1``, in an element type that all such operators know. Only
    the batch stays compact.
    """
    latest, shape = it.of(args[0]), it.shape(args[0])
    if latest.size == 1:
        return np.full((1,) * rank_of(node), last(latest), np.int32)
    batched = len(shape) > _IMAGE_RANK.get(node.op, 3)
    full = along(latest, shape, *range(1 if batched else 0, len(shape)))
    moved = overload(node.op)(torch.from_numpy(full.astype(np.float64) + 1), *args[1:])
    return np.asarray(moved.numpy() - 1, np.int32)


_IMAGE_RANK = {
    "aten.reflection_pad1d.default": 2,
    "aten.replication_pad1d.default": 2,
    "aten.reflection_pad3d.default": 4,
    "aten.replication_pad3d.default": 4,
    "aten.rot90.default": 99,
}
"""The rank of an input without a batch axis, where it is not 3; 99: no axis is a batch."""


def embedded_diagonal(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``diag_embed``: the last axis as a diagonal of zeros."""
    state, offset, dim1, dim2 = args
    latest, shape = it.of(state), it.shape(state)
    full = torch.from_numpy(along(latest, shape, len(shape) - 1) + 1)
    return np.asarray(torch.diag_embed(full, offset, dim1, dim2).numpy() - 1, np.int32)


def written_diagonal(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``diagonal_scatter``: the first argument with a diagonal replaced by the second."""
    state, part, offset, dim1, dim2 = args
    shape = it.shape(state)
    full = np.broadcast_to(joined([it.of(state)], len(shape)), shape)
    values = torch.from_numpy(np.broadcast_to(it.of(part), it.shape(part)).copy())
    return np.asarray(torch.diagonal_scatter(torch.from_numpy(full.copy()), values, offset, dim1, dim2).numpy())


TABLE: dict[str, Rule] = {
    **named(select, "select.int"),
    **named(take_slice, "slice.Tensor"),
    **named(narrow, "narrow.default"),
    **named(split, "unsafe_split.Tensor"),
    **named(select_scatter, "select_scatter.default"),
    **named(slice_scatter, "slice_scatter.default"),
    **named(transpose, "t.default transpose.int"),
    **named(permute, "permute.default"),
    **named(move_axis, "movedim.int"),
    **named(
        reshape,
        """view.default _unsafe_view.default reshape.default unsqueeze.default squeeze.dim squeeze.dims
        squeeze.default""",
    ),
    **named(expand, "expand.default"),
    **named(repeat, "repeat.default"),
    **named(flip, "flip.default"),
    **named(roll, "roll.default"),
    **named(triangle, "tril.default triu.default"),
    **named(diagonal, "diagonal.default"),
    **named(unfold, "unfold.default"),
    **named(concatenate, "cat.default"),
    **named(stack, "stack.default"),
    **named(pad, "constant_pad_nd.default"),
    **named(
        by_itself,
        """reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default replication_pad1d.default
        replication_pad2d.default replication_pad3d.default pixel_shuffle.default pixel_unshuffle.default
        channel_shuffle.default rot90.default im2col.default""",
    ),
    **named(embedded_diagonal, "diag_embed.default"),
    **named(written_diagonal, "diagonal_scatter.default"),
}
