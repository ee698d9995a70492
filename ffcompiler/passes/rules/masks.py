"""Ranges of what masks, softmax and the operators between them give; see `ranges.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...graph import Node, Ref
from ..latest import Interpretation
from ..ranges import Bools, Range, anything, chosen, exactly
from .common import given
from .ranges import (
    RangeRule,
    condition,
    hidden,
    hides,
    is_filler,
    largest_of,
    range_of,
    requirable,
    room_above,
    room_beside,
    score_range,
    total,
)


def masked_fill(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """The number where the mask is True, whatever stood there, be it NaN; the scores elsewhere."""
    return _select(it, node, args[1], args[2], args[0])


def where(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    return _select(it, node, *args[:3])


def _select(it: Interpretation, node: Node, mask: Any, yes: Any, no: Any) -> Range:
    rank = len(node.type.shape)
    known = condition(it, mask, rank)
    if known is None:
        return anything(rank)
    if_true, if_false = range_of(it, yes, rank), range_of(it, no, rank)
    if known.any() and _fills(known, if_true):
        if_false = score_range(it, no, room_above(np.where(known, if_true.high, -np.inf)), node)
    elif not known.all() and _fills(~known, if_false):
        if_true = score_range(it, yes, room_above(np.where(known, -np.inf, if_false.high)), node)
    return chosen(known, if_true, if_false)


def _fills(where: Bools, fill: Range) -> bool:
    return bool(is_filler(np.where(where, fill.high, -np.inf)).all())


def add(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """Scores and an additive mask."""
    return _added(it, node, args[0], args[1], 1.0 if args[2] == 1 else 0.0)


def sub(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    return _added(it, node, args[0], args[1], -1.0 if args[2] == 1 else 0.0)


def _added(it: Interpretation, node: Node, left: Any, right: Any, sign: float) -> Range:
    rank = len(node.type.shape)
    if sign == 0 or largest_of(node.type.dtype) is None:  # scaled, or not of floats
        return anything(rank)
    if hides(it, right, sign):
        scores, mask = left, _signed(range_of(it, right, rank), sign)
    elif sign > 0 and hides(it, left, 1.0):
        scores, mask = right, range_of(it, left, rank)
    else:
        first = range_of(it, left, rank) if not it.is_known(left) else range_of(it, right, rank)
        if first.unknown.all():
            return first
        return total(range_of(it, left, rank), _signed(range_of(it, right, rank), sign), node.type.dtype)
    return total(score_range(it, scores, room_beside(mask, it.type(scores).dtype), node), mask, node.type.dtype)


def _signed(r: Range, sign: float) -> Range:
    return r if sign > 0 else Range(-r.high, -r.low)


def mul(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """A known factor of 0 gives a zero, if the other factor is finite: known to be, or as a premise."""
    rank = len(node.type.shape)
    factor, other = (args[1], args[0]) if not isinstance(args[1], Ref) or it.is_known(args[1]) else args[:2]
    if isinstance(factor, Ref) and not it.is_known(factor):
        return anything(rank)
    of_other = range_of(it, other, rank)
    if not of_other.unknown.all():
        return _product(range_of(it, factor, rank), of_other, node.type.dtype)
    if not isinstance(factor, Ref) or not requirable(it, other) or (it.peek(factor) != 0).all():
        return of_other
    it.require_finite(other, node)
    of_factor = range_of(it, factor, rank)
    return chosen(of_factor.zero, of_factor, anything(rank))


def _product(a: Range, b: Range, dtype: str) -> Range:
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.stack(np.broadcast_arrays(a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high))
    return Range(corners.min(axis=0), corners.max(axis=0)).sound().rounded().fitted(largest_of(dtype) or 0.0)


def div(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """By a positive number: scores are often scaled after they were masked."""
    rank = len(node.type.shape)
    by = range_of(it, args[1], rank)
    if it.is_constant(args[0]) or not ((by.low > 1e-6) & (by.high < np.inf)).all():  # not 0 in any dtype
        return anything(rank)
    return _product(range_of(it, args[0], rank), Range(1 / by.high, 1 / by.low), node.type.dtype)


def cast(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """To another floating dtype; what may be too large for it may become infinite."""
    known = range_of(it, args[0], len(node.type.shape))
    largest = largest_of(node.type.dtype)
    if largest is None or largest_of(it.type(args[0]).dtype) is None:
        return anything(len(node.type.shape))
    if it.type(args[0]).dtype == node.type.dtype:
        return known
    return known.rounded().fitted(largest)


def triangle(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """``tril`` and ``triu`` write zeros outside of their triangle, whatever stood there."""
    rank = len(node.type.shape)
    return chosen(triangle_of(node, args[1]), range_of(it, args[0], rank), exactly(np.zeros((1,) * rank)))


def triangle_of(node: Node, diagonal: int) -> Bools:
    rows, columns = node.type.shape[-2:]
    lower = np.tri(rows, columns, diagonal, np.bool_)
    upper = ~np.tri(rows, columns, diagonal - 1, np.bool_)
    inside = lower if "tril" in node.op else upper
    return inside.reshape((1,) * (len(node.type.shape) - 2) + inside.shape)


def move(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """Elements keep their values where an operator only moves them: where to, its rule for ``latest`` knows."""
    state = args[0]
    known = range_of(it, state, len(it.shape(state)))
    if known.unknown.all():
        return anything(len(node.type.shape))
    rule = it.rules[node.op]
    return known.moved(lambda places: np.asarray(rule(replace(it, latest={state.key: places}), node, args)))


def filled(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """``full_like`` and the like: of the argument only the shape is used."""
    value = 0.0 if "zeros" in node.op else 1.0 if "ones" in node.op else given(node, args)["fill_value"]
    return range_of(it, value, len(node.type.shape))


def compared(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """A comparison of what is fixed with a number, or a negation."""
    rank = len(node.type.shape)
    known = range_of(it, args[0], rank)
    compare = _COMPARISONS[node.op.split(".")[1]]
    if not known.fixed.all() or not _same_in_every_dtype(known.low, *args[1:]):
        return anything(rank)
    return exactly(np.asarray(compare(known.low, *args[1:]), np.float64))


def _same_in_every_dtype(*numbers: Any) -> bool:
    """Whether numbers are infinite or small and whole, so that no dtype rounds them before they are compared."""
    if any(isinstance(n, Ref) for n in numbers):
        return False
    return all(bool((np.isinf(n) | ((np.abs(n) <= 256) & (np.round(n) == n))).all()) for n in map(np.asarray, numbers))


_COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "logical_not": np.logical_not,
}  # fmt: skip  # fmt: skip


def softmax(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """0 at hidden elements, up to 1 at others, up to rounding; a row that may have NaN may be anything."""
    rank = len(node.type.shape)
    zero, sound = hidden(it, args[0], rank, args[1] % rank)
    return chosen(
        sound,
        chosen(zero, exactly(np.zeros((1,) * rank)), Range(np.zeros((1,) * rank), np.full((1,) * rank, 1.01))),
        anything(rank),
    )


def safe_softmax(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """As softmax, with zeros in rows of -inf throughout."""
    rank = len(node.type.shape)
    empty = (range_of(it, args[0], rank).high == -np.inf).all(axis=args[1] % rank, keepdims=True)
    return chosen(empty, exactly(np.zeros((1,) * rank)), softmax(it, node, args))


def named(rule: RangeRule, names: str) -> dict[str, RangeRule]:
    return {f"aten.{name}": rule for name in names.split()}


TABLE: dict[str, RangeRule] = {
    **named(masked_fill, "masked_fill.Scalar masked_fill.Tensor"),
    **named(where, "where.self where.ScalarSelf where.ScalarOther"),
    **named(add, "add.Tensor add.Scalar"),
    **named(sub, "sub.Tensor sub.Scalar"),
    **named(mul, "mul.Tensor mul.Scalar"),
    **named(div, "div.Tensor div.Scalar"),
    **named(cast, "_to_copy.default"),
    **named(
        filled,
        "full_like.default zeros_like.default ones_like.default new_full.default new_zeros.default new_ones.default",
    ),
    **named(compared, "eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar logical_not.default"),
    **named(triangle, "tril.default triu.default"),
    **named(softmax, "_softmax.default"),
    **named(safe_softmax, "_safe_softmax.default"),
    **named(
        move,
        """alias.default clone.default detach.default view.default _unsafe_view.default reshape.default
        unsqueeze.default squeeze.default squeeze.dim expand.default permute.default transpose.int t.default
        slice.Tensor select.int""",
    ),
}
