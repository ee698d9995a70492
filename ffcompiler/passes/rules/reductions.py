"""Reductions along axes."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...proof import Latest
from ..latest import Interpretation, Rule
from .common import axis_of, named, over


def softmax(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Along one axis everything depends on everything."""
    latest, dim, _ = axis_of(it, args[0], args[1])
    return over(latest, dim)


def reduce_last(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """A reduction over given axes (an int or a tuple)."""
    dims = args[1] if len(args) > 1 else None
    if dims is None or dims == ():
        return it.everything(node)
    axes = tuple(d % len(it.shape(args[0])) for d in (dims if isinstance(dims, tuple) else (dims,)))
    keep = bool(args[2]) if len(args) > 2 else bool(dict(node.kwargs).get("keepdim", False))
    return over(it.of(args[0]), axes, keep)


TABLE: dict[str, Rule] = {
    **named(softmax, "_softmax.default _log_softmax.default"),
    **named(reduce_last, "sum.dim_IntList mean.dim amax.default argmax.default"),
}
