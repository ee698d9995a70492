"""Views and indexing as plain slices: what operators mean in terms of ``select``, ``slice`` and their inverses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from .record import Call

aten = torch.ops.aten
Evaluate: TypeAlias = Callable[[Hashable], Any]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One view call, and the shape of what it was taken from."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    of: tuple[int, ...]


def _split_slices(value: Evaluate, call: Call) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """``split`` and ``split_with_sizes`` as one slice per result."""
    first = call.types[0]
    assert first is not None
    dim = (value(call.args[2]) if len(call.args) > 2 else 0) % len(first.shape)
    start = 0
    for part in call.types:
        assert part is not None
        yield aten.slice.Tensor, (dim, start, start + part.shape[dim])
        start += part.shape[dim]


def _unbind_selects(value: Evaluate, call: Call) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    if not call.types:  # along a dimension of size 0
        return
    first = call.types[0]
    assert first is not None
    dim = (value(call.args[1]) if len(call.args) > 1 else 0) % (len(first.shape) + 1)
    for index in range(len(call.types)):
        yield aten.select.int, (dim, index)


SPLITS: dict[Any, Callable[[Evaluate, Call], Iterator[tuple[Any, tuple[Any, ...]]]]] = {
    aten.split.Tensor: _split_slices,
    aten.split_with_sizes.default: _split_slices,
    aten.unbind.int: _unbind_selects,
}

APART: dict[Any, Callable[[Evaluate, Call], Iterator[tuple[Any, tuple[Any, ...]]]]] = {
    aten.unsafe_split.Tensor: _split_slices,
    aten.unsafe_split_with_sizes.default: _split_slices,
}
"""Parts that are written as if they shared no memory with the whole, which is not read afterwards (recurrent cells)."""


def _reshape_back(view: View, under: Any, value: Any) -> tuple[Any, tuple[Any, ...]]:
    return aten.reshape.default, (value, list(view.of))


def _permute_back(view: View, under: Any, value: Any) -> tuple[Any, tuple[Any, ...]]:
    dims = [d % len(view.of) for d in view.args[0]]
    return aten.permute.default, (value, [dims.index(d) for d in range(len(dims))])


INVERSES: dict[Any, Callable[[View, Any, Any], tuple[Any, tuple[Any, ...]]]] = {
    aten.select.int: lambda view, under, value: (aten.select_scatter.default, (under, value, *view.args)),
    aten.slice.Tensor: lambda view, under, value: (aten.slice_scatter.default, (under, value, *view.args)),
    aten.view.default: _reshape_back,
    aten._unsafe_view.default: _reshape_back,
    aten.unsqueeze.default: _reshape_back,
    aten.squeeze.default: _reshape_back,
    aten.squeeze.dim: _reshape_back,
    aten.permute.default: _permute_back,
    aten.transpose.int: lambda view, under, value: (aten.transpose.int, (value, *view.args)),
    aten.t.default: lambda view, under, value: (aten.t.default, (value,)),
    aten.alias.default: lambda view, under, value: (None, ()),
    aten.detach.default: lambda view, under, value: (None, ()),
}


def _index_of_list(value: Evaluate, shape: Shape, call: Call) -> tuple[int | None, Hashable]:
    """The only index of ``x[:, index]``-like calls; None where several dimensions are indexed."""
    indices = call.args[1]
    assert isinstance(indices, tuple)
    used = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    accumulate = len(call.args) > 3 and bool(call.args[3])
    return used[0] if len(used) == 1 and not accumulate else (None, None)


def _index_of_dim(value: Evaluate, shape: Shape, call: Call) -> tuple[int | None, Hashable]:
    return int(value(call.args[1])) % len(shape), call.args[2]


INDEXED: dict[Any, Callable[[Evaluate, Shape, Call], tuple[int | None, Hashable]]] = {
    aten.index.Tensor: _index_of_list,
    aten.index_put.default: _index_of_list,
    aten.index_select.default: _index_of_dim,
    aten.index_copy.default: _index_of_dim,
}
