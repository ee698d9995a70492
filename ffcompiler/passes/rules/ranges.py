"""Between which numbers elements lie: asked for by rules of attention, and traced back from there, mask by mask.

A rule (`masks.py`) gives a range that holds for every state under the premises it emits. No rule: anything, NaN too.

A *filler* is what a mask puts in the place of a score: -inf, or a number far below any score. A finite one hides its
key only if the scores are far above it, so they get the premise of a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from ...graph import Node, Ref
from ...signatures import complete
from ..latest import Interpretation
from ..ranges import Bools, Floats, Range, anything, chosen, exactly, within

RangeRule: TypeAlias = Callable[[Interpretation, Node, tuple[Any, ...]], Range]

FAR = 1000.0
"""Numbers below -FAR are fillers; scores are not expected there."""
UNDERFLOW = 750.0
"""``exp(-UNDERFLOW)`` is 0 in every dtype up to float64, whose smallest number is above exp(-745.2)."""
RANGES: dict[str, RangeRule] = {}


def range_of(it: Interpretation, arg: Any, rank: int) -> Range:
    """The range of an argument, broadcast to ``rank`` dimensions."""
    if isinstance(arg, bool | int | float):
        return exactly(np.full((1,) * rank, float(arg)))
    if not isinstance(arg, Ref) or not it.use_zeros:
        return anything(rank)
    if arg.key not in it.ranges:
        it.ranges[arg.key] = _find(it, arg)
    return it.ranges[arg.key].of_rank(rank)


def _find(it: Interpretation, arg: Ref) -> Range:
    if it.is_known(arg):
        return exactly(it.mask(arg).astype(np.float64))
    node = it.nodes.get(arg.name)
    rule = RANGES.get(node.op) if node is not None and arg.output is None else None
    if node is None or rule is None:
        return anything(len(it.shape(arg)))
    return rule(it, node, complete(node.op, node.args, dict(node.kwargs)))


def is_filler(values: Any) -> Any:
    return np.asarray(values) < -FAR


def room_above(fillers: Any) -> float:
    """Scores of at most this magnitude stay far above all ``fillers``; infinite if the fillers are."""
    return float((-np.max(fillers) - UNDERFLOW - 50.0) * 0.9)


def score_range(it: Interpretation, scores: Any, bound: float, node: Node) -> Range:
    """The range of the scores that a mask is laid on: what is known of them, else the premise that they are bounded.

    A bound of infinity asks for finite scores only.
    """
    rank = len(node.type.shape)
    known = range_of(it, scores, rank)
    if not known.unknown.any() or not requirable(it, scores):
        return known
    largest = largest_of(it.type(scores).dtype)
    assert largest is not None
    bound = bound if np.isinf(bound) else min(bound, largest / 4)
    reached = np.maximum(np.abs(known.low), np.abs(known.high))[~known.unknown]
    if (reached >= min(bound, largest)).any():
        return known  # masked before: a bound of all elements could not hold
    if np.isinf(bound):
        it.require_finite(scores, node)
    else:
        it.require_below(bound, scores, node)
    return chosen(known.unknown, within(min(bound, largest), rank), known)


def requirable(it: Interpretation, arg: Any) -> bool:
    """Whether a run can look at a value: one of floats, outside of the tail."""
    return isinstance(arg, Ref) and it.use_zeros and largest_of(it.type(arg).dtype) is not None


def largest_of(dtype: str) -> float | None:
    """The largest finite number of a floating dtype."""
    kind = getattr(torch, dtype)
    return float(torch.finfo(kind).max) if kind.is_floating_point else None


def condition(it: Interpretation, arg: Any, rank: int) -> Bools | None:
    """The elements of a boolean mask that no state changes; None if they are not known."""
    if it.is_known(arg):
        mask = it.mask(arg).astype(np.bool_, copy=False)
        return mask.reshape((1,) * (rank - mask.ndim) + mask.shape)
    known = range_of(it, arg, rank)
    return known.low != 0 if known.fixed.all() else None


def hides(it: Interpretation, arg: Any, sign: float) -> bool:
    """Whether an argument is an additive mask: known, with fillers, without large positive numbers or NaN."""
    if not isinstance(arg, Ref) or not it.use_zeros or it.type(arg).dtype == "bool":
        return False
    values = _fixed(it, arg)
    return values is not None and bool(is_filler(sign * values).any() and (sign * values <= FAR).all())


def _fixed(it: Interpretation, arg: Ref) -> Floats | None:
    """The elements of a tensor that no state changes; of a constant, without resting anything on them."""
    if it.is_known(arg):
        return np.asarray(it.peek(arg), np.float64)
    known = range_of(it, arg, len(it.shape(arg)))
    return known.low if known.fixed.all() else None


def room_beside(mask: Range, dtype: str) -> float:
    """Scores of at most this magnitude, with ``mask`` added, stay far above its fillers, and finite if it is."""
    fillers = is_filler(mask.high)
    most = room_above(mask.high[fillers]) / 2
    return min(most, (largest_of(dtype) or 0.0) / 8) if mask.low[~fillers].any() else most


def total(scores: Range, mask: Range, dtype: str) -> Range:
    """The range of a sum in ``dtype``, one of whose terms is known exactly.

    Adding 0 or -inf to a finite number is exact, and a small one cannot make it infinite.
    """
    with np.errstate(invalid="ignore"):
        plain = Range(scores.low + mask.low, scores.high + mask.high).sound()
    exact = mask.fixed & ((mask.low == 0) | np.isinf(mask.low))
    kind = torch.finfo(getattr(torch, dtype))
    small = np.maximum(np.abs(mask.low), np.abs(mask.high)) < kind.max * kind.eps / 8
    limited = Range(np.clip(plain.low, -kind.max, None), np.clip(plain.high, None, kind.max))
    kept = chosen(small & (np.abs(plain.low) < np.inf) & (np.abs(plain.high) < np.inf), limited, plain.rounded())
    return chosen(exact, plain, kept.fitted(kind.max))


def hidden(it: Interpretation, scores: Any, rank: int, dim: int) -> tuple[Bools, Bools]:
    """Which elements of a softmax along ``dim`` are exactly +0, and which rows are known to be free of NaN.

    An element is, if it is known to lie far below another of its row and nothing in the row is NaN or +inf: the largest
    of the row is then finite, and ``exp(x - largest)`` underflows to +0, of -inf too; a sum of at least 1 divides it.
    """
    known = range_of(it, scores, rank)
    floor = known.low.max(axis=dim, keepdims=True)
    sound = ((known.high < np.inf).all(axis=dim, keepdims=True)) & (floor > -np.inf)
    with np.errstate(invalid="ignore"):
        return sound & (known.high < floor - UNDERFLOW), sound
