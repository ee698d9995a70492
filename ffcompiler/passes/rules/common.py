"""What several rules need. Arrays of ``latest`` are *compact*: of size 1 along axes on which all entries agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...graph import Node, Ref
from ...proof import Latest
from ...signatures import parameters
from ..latest import NEVER, Interpretation, Rule


def named(rule: Rule, names: str) -> dict[str, Rule]:
    """The same rule for some ATen operators."""
    return {f"aten.{name}": rule for name in names.split()}


def given(node: Node, args: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema."""
    return {name: arg for (name, _), arg in zip(parameters(node.op), args, strict=True)}


def rank_of(node: Node, output: int = 0) -> int:
    kind = node.types[output]
    return 0 if kind is None else len(kind.shape)


def never(rank: int) -> Latest:
    return np.full((1,) * rank, NEVER, np.int32)


def axis_of(it: Interpretation, state: Ref, dim: int) -> tuple[Latest, int, int]:
    """``latest``, the axis as a number from 0, and its true size."""
    shape = it.shape(state)
    return it.of(state), dim % len(shape), shape[dim % len(shape)]


def axes_of(dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes as numbers from 0; None or none given means all."""
    if dims is None or dims == ():
        return tuple(range(rank))
    return tuple(d % rank for d in (dims if isinstance(dims, Sequence) else (dims,))) if rank else ()


def over(latest: Latest, axis: int | tuple[int, ...], keep: bool = True) -> Latest:
    """The maximum over some axes."""
    return np.asarray(latest.max(axis=axis, keepdims=keep, initial=NEVER), np.int32)


def last(*arrays: Latest) -> np.int32:
    """The maximum over everything."""
    return max((np.int32(a.max(initial=NEVER)) for a in arrays), default=NEVER)


def joined(arrays: Iterable[Latest], rank: int) -> Latest:
    """The elementwise maximum, aligned at the last axis as operators broadcast."""
    result = never(rank)
    for array in arrays:
        result = np.maximum(result, array.reshape((1,) * (rank - array.ndim) + array.shape))
    return result


def along(latest: Latest, shape: Sequence[int], *axes: int) -> Latest:
    """``latest`` with the true sizes along some axes, compact as it was in the others."""
    sizes = [shape[d] if d in axes else size for d, size in enumerate(latest.shape)]
    return np.broadcast_to(latest, sizes)


def where(latest: Latest, axis: int, index: Any) -> tuple[Any, ...]:
    """An index along one axis, which a compact array does not have."""
    return (slice(None),) * axis + (slice(None) if latest.shape[axis] == 1 else index,)
