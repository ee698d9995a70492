"""Bounds of operators that move, choose or add up elements by index."""

from __future__ import annotations

from math import prod
from typing import Any

from ...graph import Node, Ref
from .elementwise import plus, same, table, times
from .spans import UNIT, ZERO, Bounds, Rule, Span, number, union

Args = tuple[Any, ...]


def joined(b: Bounds, node: Node, args: Args) -> Span:
    """All tensors that are read, be they parts of a list."""
    return union(b.of(ref) for ref in node.refs())


def with_zeros(b: Bounds, node: Node, args: Args) -> Span:
    return union([b.of(args[0]), ZERO])


def padded(b: Bounds, node: Node, args: Args) -> Span:
    return union([b.of(args[0]), b.of(args[2])])


def replaced(b: Bounds, node: Node, args: Args) -> Span:
    """The first argument, parts of it replaced by the source: the last tensor or number that is not an index."""
    return union([b.of(args[0]), b.of(args[_SOURCE.get(node.op, 1)])])


_SOURCE = {
    "aten.index_put.default": 2,
    "aten.masked_scatter.default": 2,
    **dict.fromkeys(("aten.scatter.src", "aten.scatter.value", "aten.index_copy.default"), 3),
    **dict.fromkeys(("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor"), 3),
}


def index_put(b: Bounds, node: Node, args: Args) -> Span:
    return added(b, args[0], args[2], 1.0, args[1]) if args[3] else replaced(b, node, args)


def scatter_add(b: Bounds, node: Node, args: Args) -> Span:
    return added(b, args[0], args[3], args[4] if "index_add" in node.op else 1.0, (args[3],))


def added(b: Bounds, state: Ref, source: Ref, factor: float, counted: tuple[Any, ...]) -> Span:
    """All elements of the source may meet in one place."""
    most = max(prod(b.shape(ref)) for ref in (source, *(i for i in counted if isinstance(i, Ref))))
    terms = times(b.of(source), number(abs(factor) * most))
    return plus(b.of(state), Span(-terms.size, terms.size))


def one_hot(b: Bounds, node: Node, args: Args) -> Span:
    return UNIT


TABLE: dict[str, Rule] = {
    **table(
        same,
        """view.default _unsafe_view.default reshape.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims
        expand.default permute.default transpose.int t.default movedim.int slice.Tensor select.int narrow.default
        unsafe_split.Tensor flip.default roll.default rot90.default repeat.default diagonal.default unfold.default
        pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default reflection_pad1d.default
        reflection_pad2d.default reflection_pad3d.default replication_pad1d.default replication_pad2d.default
        replication_pad3d.default index_select.default gather.default take.default index.Tensor embedding.default
        upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec
        upsample_nearest3d.default upsample_nearest3d.vec _upsample_nearest_exact1d.default
        _upsample_nearest_exact2d.default _upsample_nearest_exact3d.default""",
    ),
    **table(joined, "cat.default stack.default"),
    **table(with_zeros, "tril.default triu.default diag_embed.default im2col.default"),
    **table(padded, "constant_pad_nd.default"),
    **table(replaced, "select_scatter.default slice_scatter.default diagonal_scatter.default"),
    **table(replaced, "scatter.src scatter.value index_copy.default masked_scatter.default"),
    **table(replaced, "index_fill.int_Scalar index_fill.int_Tensor"),
    **table(index_put, "index_put.default"),
    **table(scatter_add, "scatter_add.default index_add.default"),
    **table(one_hot, "one_hot.default"),
}
