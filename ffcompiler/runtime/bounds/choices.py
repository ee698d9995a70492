"""Bounds of operators that choose between elements, and of what is made from constants."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from .elementwise import table
from .spans import ANY, ZERO, Bounds, Rule, Span, given, union

Args = tuple[Any, ...]


def clamped(b: Bounds, node: Node, args: Args) -> Span:
    x, *limits = (*args, None, None)[:3]
    span = b.of(x)
    lower, upper = (None if e is None else b.of(e) for e in _limits(node, limits))
    if not all(s is None or s.known for s in (span, lower, upper)):
        return ANY
    low, high = span.low, span.high
    if lower is not None:
        low, high = max(low, lower.low), max(high, lower.high)
    return Span(low, high) if upper is None else Span(min(low, upper.low), min(high, upper.high))


def _limits(node: Node, limits: list[Any]) -> tuple[Any, Any]:
    if "clamp_max" in node.op:
        return None, limits[0]
    return (limits[0], None) if "clamp_min" in node.op else (limits[0], limits[1])


def largest_of(b: Bounds, node: Node, args: Args) -> Span:
    left, right = b.of(args[0]), b.of(args[1])
    return Span(max(left.low, right.low), max(left.high, right.high)) if left.known and right.known else ANY


def smallest_of(b: Bounds, node: Node, args: Args) -> Span:
    left, right = b.of(args[0]), b.of(args[1])
    return Span(min(left.low, right.low), min(left.high, right.high)) if left.known and right.known else ANY


def chosen(b: Bounds, node: Node, args: Args) -> Span:
    return filled(b, args[2], args[0], args[1])


def masked_fill(b: Bounds, node: Node, args: Args) -> Span:
    return filled(b, args[0], args[1], args[2])


def filled(b: Bounds, scores: Any, mask: Any, fill: Any) -> Span:
    """``fill`` where the mask is true, else the scores; either may be the one that hides."""
    where = b.constant(mask)
    for hides, kept, keeps in ((fill, scores, False), (scores, fill, True)):
        lowest = _lowest(b, hides)
        if lowest is not None and lowest < -1e30 and where is not None and b.of(kept).known:
            seen = bool((where == keeps).any(-1).all()) if where.dim() else False
            return Span(b.of(kept).low, b.of(kept).high, True) if seen else ANY
    return union([b.of(scores), b.of(fill)])


def _lowest(b: Bounds, arg: Any) -> float | None:
    """The value of a filler: a number, or a constant without NaN that is at most as large everywhere."""
    values = b.constant(arg)
    if values is None:
        return float(arg) if isinstance(arg, int | float) else None
    return float(values.amax()) if values.numel() and values.dtype.is_floating_point else None


# ---------------------------------------------------------------------------------------------------- constants


def constant(low: float, high: float) -> Rule:
    return lambda b, node, args: Span(low, high)


def second(b: Bounds, node: Node, args: Args) -> Span:
    """``full``, ``fill``, ``copy``: the second argument. ``new_full``: the third, a shape stands between."""
    return b.of(args[2] if "new_full" in node.op else args[1])


def counted(b: Bounds, node: Node, args: Args) -> Span:
    """``arange``, ``linspace``, ``scalar_tensor``: between the numbers given and 0."""
    known = given(node, args)
    return union([ZERO, *(b.of(known[key]) for key in ("start", "end", "s") if key in known)])


TABLE: dict[str, Rule] = {
    **table(
        clamped, "clamp.default clamp.Tensor clamp_min.default clamp_min.Tensor clamp_max.default clamp_max.Tensor"
    ),
    **table(clamped, "hardtanh.default"),
    **table(largest_of, "maximum.default fmax.default"),
    **table(smallest_of, "minimum.default fmin.default"),
    **table(chosen, "where.self where.ScalarSelf where.ScalarOther"),
    **table(masked_fill, "masked_fill.Scalar masked_fill.Tensor"),
    **table(constant(0.0, 0.0), "zeros.default zeros_like.default new_zeros.default zero.default"),
    **table(constant(1.0, 1.0), "ones.default ones_like.default new_ones.default"),
    **table(constant(0.0, 1.0), "eye.default eye.m"),
    **table(second, "full.default full_like.default new_full.default fill.Scalar fill.Tensor copy.default"),
    **table(counted, "arange.default arange.start arange.start_step linspace.default scalar_tensor.default"),
}
