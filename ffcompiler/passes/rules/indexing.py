"""Reading and writing by index. An index that is a constant moves elements; one that depends on the state may be any.

That a constant index stays what it is becomes a premise.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Node, Ref
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from .common import along, axis_of, joined, last, named, over, rank_of

Index = npt.NDArray[np.int64]


def known(it: Interpretation, index: Ref) -> Index | None:
    """The entries of a constant index; None where they can differ from call to call, or select by truth."""
    if not it.is_known(index) or it.type(index).dtype in ("bool", "uint8"):
        return None
    return np.asarray(it.mask(index), np.int64)


def embedding(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Rows of a table, one for each index."""
    return np.maximum(it.of(args[1])[..., None], over(it.of(args[0]), 0, False))


def one_hot(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    return it.of(args[0])[..., None]


def index_select(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Entries of one axis by a list of indices."""
    if not it.shape(args[0]):
        return it.everything(node)
    latest, axis, _ = axis_of(it, args[0], args[1])
    index = known(it, args[2])
    if index is not None:
        return latest if latest.shape[axis] == 1 else np.take(latest, index.reshape(-1), axis=axis)
    shape = [1] * latest.ndim
    shape[axis] = -1
    return np.maximum(over(latest, axis), it.of(args[2]).reshape(shape))


def gather(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``out[i, j] = state[i, index[i, j]]`` along axis 1, and so on for other axes."""
    shape = it.shape(args[0])
    if not shape:
        return it.everything(node)
    latest, axis, _ = axis_of(it, args[0], args[1])
    within = tuple(
        slice(None) if d == axis or latest.shape[d] == 1 else slice(n) for d, n in enumerate(it.shape(args[2]))
    )
    latest = latest[within]
    index = known(it, args[2])
    if index is None:
        return joined([over(latest, axis), it.of(args[2])], len(shape))
    return latest if latest.shape[axis] == 1 else np.take_along_axis(latest, index % shape[axis], axis=axis)


def take(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Elements of the flattened array."""
    latest, shape = it.of(args[0]), it.shape(args[0])
    index = known(it, args[1])
    if index is None:
        return np.maximum(last(latest), it.of(args[1]))
    return np.broadcast_to(latest, shape).reshape(-1)[index % max(prod(shape), 1)]


def index(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``state[index, :, index]``: by several index tensors that broadcast with each other."""
    state, indices = args
    found = {axis: i for axis, i in enumerate(indices) if i is not None}
    if any(it.type(i).dtype in ("bool", "uint8") for i in found.values()):
        return it.everything(node)
    latest = it.of(state)
    values = {axis: known(it, i) for axis, i in found.items()}
    exact = all(v is not None for v in values.values())
    if exact:
        return _at(along(latest, it.shape(state), *found), {a: v for a, v in values.items() if v is not None})
    rank = max(len(it.shape(i)) for i in found.values())
    chosen = _at(over(latest, tuple(found)), dict.fromkeys(found, np.zeros((1,) * rank, np.int64)))
    axes = sorted(found)
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    which = joined([it.of(i) for i in found.values()], rank)
    return np.maximum(chosen, which.reshape((1,) * first + which.shape + (1,) * (chosen.ndim - first - rank)))


def _at(latest: Latest, indices: dict[int, Index]) -> Latest:
    return np.asarray(latest[tuple(indices.get(axis, slice(None)) for axis in range(max(indices) + 1))])


def index_put(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``state[indices] = values``, or ``+=``; of values that meet in one place any may stay."""
    state, indices, values, accumulate = args
    found = {axis: i for axis, i in enumerate(indices) if i is not None}
    exact = {axis: known(it, i) for axis, i in found.items()}
    places = {axis: i for axis, i in exact.items() if i is not None}
    if len(places) < len(exact):
        return np.maximum(it.of(state), last(it.of(values), *(it.of(i) for i in found.values())))
    result = np.broadcast_to(it.of(state), it.shape(state)).copy()
    where: Any = tuple(places.get(axis, slice(None)) for axis in range(max(places, default=-1) + 1))
    if not accumulate:
        result[where] = NEVER
    np.maximum.at(result, where, it.of(values))
    return result


def scatter(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """The first argument with elements along an axis replaced by, or added to, those of another, by index."""
    state, dim, at, source = args[:4]
    shape = it.shape(state)
    where = known(it, at)
    if not shape:
        return np.maximum(it.of(state), last(it.of(at), it.of(source)))
    axis = dim % len(shape)
    if where is None:
        return np.maximum(it.of(state), _somewhere_along(axis, shape, it.shape(at), it.of(at), it.of(source)))
    result = np.broadcast_to(it.of(state), shape).copy()
    places: list[Index] = list(np.indices(where.shape))
    places[axis] = where % shape[axis]
    if "scatter_add" not in node.op:
        result[tuple(places)] = NEVER
    source = joined([it.of(source)], len(shape))
    within = tuple(slice(None) if size == 1 else slice(n) for size, n in zip(source.shape, where.shape, strict=True))
    np.maximum.at(result, tuple(places), np.broadcast_to(source[within], where.shape))
    return result


def _somewhere_along(axis: int, shape: tuple[int, ...], reach: tuple[int, ...], at: Latest, source: Latest) -> Latest:
    """What is put somewhere along ``axis``, by an unknown index of shape ``reach``: off the axis it keeps its place."""
    if len(reach) != len(shape):
        return np.full((1,) * len(shape), last(at, source), np.int32)
    put = joined([at, source], len(shape))
    within = tuple(slice(None) if size == 1 else slice(n) for size, n in zip(put.shape, reach, strict=True))
    alike = [size == 1 and n == full for size, n, full in zip(put.shape, reach, shape, strict=True)]
    sides = [1 if dim == axis or alike[dim] else size for dim, size in enumerate(shape)]
    result = np.full(sides, NEVER, np.int32)
    where = tuple(slice(None) if sides[dim] == 1 else slice(n) for dim, n in enumerate(reach))
    result[where] = over(put[within], axis)
    return result


def along_axis(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``index_copy``, ``index_add``, ``index_fill``: whole slices of an axis, by a list of indices."""
    state, dim, at, source = args[:4]
    places, shape = known(it, at), it.shape(state)
    if places is None or not shape:
        return np.maximum(it.of(state), last(it.of(at), it.of(source)))
    axis = dim % len(shape)
    result = np.broadcast_to(it.of(state), shape).copy()
    where = (slice(None),) * axis + (places.reshape(-1),)
    if "index_add" not in node.op:
        result[where] = NEVER
    np.maximum.at(result, where, joined([it.of(source)], len(shape)))
    return result


def masked_scatter(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Where the mask is true the next element of the source: which one depends on the mask before it."""
    return joined([it.of(args[0]), np.full((), last(it.of(args[1]), it.of(args[2])), np.int32)], rank_of(node))


def search(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``bucketize``, ``searchsorted``: the place of each value among sorted ones, of its own row if there are rows."""
    if "bucketize" in node.op:
        return np.maximum(it.of(args[0]), last(it.of(args[1])))
    if args[-1] is not None:  # an order of its own
        return it.everything(node)
    among, values = it.of(args[0]), it.of(args[1])
    return np.maximum(values, over(among, among.ndim - 1) if among.ndim == values.ndim else last(among))


TABLE: dict[str, Rule] = {
    **named(embedding, "embedding.default"),
    **named(one_hot, "one_hot.default"),
    **named(index_select, "index_select.default"),
    **named(gather, "gather.default"),
    **named(take, "take.default"),
    **named(index, "index.Tensor"),
    **named(index_put, "index_put.default"),
    **named(scatter, "scatter.src scatter.value scatter_add.default"),
    **named(along_axis, "index_copy.default index_add.default index_fill.int_Scalar index_fill.int_Tensor"),
    **named(masked_scatter, "masked_scatter.default"),
    **named(search, "bucketize.Tensor searchsorted.Tensor"),
}
