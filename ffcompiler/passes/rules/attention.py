"""Masks and attention: what is masked out is not depended on, as far as the mask hides it exactly.

A key is hidden from a query if its weight is exactly +0, which follows from its score (`ranges.hidden`). The weighted
sum then reads ``0 * v`` of it, which is a zero for finite ``v``: a premise, as for zeros in a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph import Node, Ref
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from ..ranges import Bools, Range, anything, exactly, within
from . import masks
from .common import given, joined, named, over, rank_of
from .ranges import (
    RANGES,
    UNDERFLOW,
    condition,
    hidden,
    hides,
    largest_of,
    range_of,
    requirable,
    room_beside,
    total,
)

# ---------------------------------------------------------------------------------------------------- masks


def masked_fill(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Where a known mask is True the number, elsewhere the element that stood there."""
    return _select(it, node, args[1], args[2], args[0])


def where(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    return _select(it, node, *args[:3])


def _select(it: Interpretation, node: Node, mask: Any, yes: Any, no: Any) -> Latest:
    """By a known condition, which becomes a premise, each element is one of the two; nothing is computed with it."""
    rank = rank_of(node)
    if_true, if_false = joined([it.of(yes)], rank), joined([it.of(no)], rank)
    matters = bool((if_true >= 0).any() or (if_false >= 0).any())
    known = condition(it, mask, rank) if matters else None
    if known is None:
        return joined((it.of(mask), if_true, if_false), rank)
    return np.where(known, if_true, if_false).astype(np.int32, copy=False)


# ---------------------------------------------------------------------------------------------------- softmax


def softmax(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """An element depends on its row but for the hidden elements, which are +0 whatever the state.

    They change neither the largest of the row nor the sum, to which they add +0.
    """
    zero, row = _row(it, node, args)
    return np.where(zero, NEVER, row).astype(np.int32, copy=False)


def log_softmax(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """As softmax; but ``x - log(sum)`` of a hidden element depends on the element itself as well."""
    zero, row = _row(it, node, args)
    return np.where(zero, np.maximum(row, it.of(args[0])), row).astype(np.int32, copy=False)


def _row(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Bools, Latest]:
    """The hidden elements, and the largest ``latest`` of each row over the others."""
    latest, rank = it.of(args[0]), rank_of(node)
    axis = args[1] % rank if rank else 0
    if rank == 0 or not (latest >= 0).any():
        return np.zeros((1,) * rank, np.bool_), over(latest, axis) if rank else latest
    zero, _ = hidden(it, args[0], rank, axis)
    known = range_of(it, args[0], rank)
    fixed = known.fixed & (known.low != 0)  # the same number whatever the state
    return zero, over(np.where(zero | fixed, NEVER, latest), axis)


# ---------------------------------------------------------------------------------------------------- products


def of_two_states(it: Interpretation, node: Node, a: Ref, b: Ref, added: Any = None) -> Latest:
    """``latest`` of ``a @ b`` ([.., M, K] and [.., K, N]), without summed-over entries where a factor is known zero.

    Attention weights are: where a key is hidden. The other factor must be finite for it, and what is ``added`` to the
    sums hold no -0, which become premises.
    """
    rank = max(len(it.shape(a)), len(it.shape(b)))
    la, lb = joined([it.of(a)], rank), joined([it.of(b)], rank)
    result = np.maximum(over(la, -1), over(lb, -2))
    if not it.may_cut(added, node):
        return result
    zero_a, zero_b = _zeros(it, a, b, rank), _zeros(it, b, a, rank)
    if zero_a is not None or zero_b is not None:
        it.require_no_negative_zero(added, node)
    if zero_a is not None:
        it.require_finite(b, node)
        result = np.minimum(result, _left_out(~zero_a, la, lb))
    if zero_b is not None:
        it.require_finite(a, node)
        turned = (np.swapaxes(lb, -1, -2), np.swapaxes(la, -1, -2))
        result = np.minimum(result, np.swapaxes(_left_out(~np.swapaxes(zero_b, -1, -2), *turned), -1, -2))
    return result


def _zeros(it: Interpretation, arg: Ref, other: Ref, rank: int) -> Bools | None:
    """Where a factor is zero whatever the state; None if nowhere, as far as is known and can be used."""
    if min(len(it.shape(arg)), len(it.shape(other))) < 2 or not requirable(it, other):
        return None
    zero = range_of(it, arg, rank).zero
    return zero if zero.any() else None


def _left_out(nonzero: Bools, left: Latest, right: Latest) -> Latest:
    """For each row of ``left`` and column of ``right`` the maximum over the summed-over entries in ``nonzero``."""
    own: Latest = over(np.where(nonzero, left, NEVER), -1)
    alike: dict[bytes, int] = {}  # columns that are the same are worked out once
    which = [alike.setdefault(right[..., j].tobytes(), j) for j in range(right.shape[-1])]
    found = {j: over(np.where(nonzero, right[..., None, :, j], NEVER), -1) for j in alike.values()}
    if len(found) == 1:
        return np.maximum(own, found[which[0]])
    others: Latest = np.concatenate([found[j] for j in which], axis=-1)
    return np.maximum(own, others)


def baddbmm_range(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Range:
    """A mask and the scores that are added to it in one call: the premise is about their factors."""
    mask, a, b, beta, alpha = args[:5]
    rank = rank_of(node)
    if beta != 1 or alpha != 1 or not hides(it, mask, 1.0):
        return anything(rank)
    of_mask = range_of(it, mask, rank)
    bound = scores_below(it, node, a, b, 1.0, room_beside(of_mask, node.type.dtype), node.type.dtype)
    return anything(rank) if bound is None else total(within(bound, rank), of_mask, node.type.dtype)


def scores_below(
    it: Interpretation, node: Node, q: Ref, k: Ref, scale: float, bound: float, dtype: str
) -> float | None:
    """``bound``, or a smaller one, as the premise of what keeps all ``scale * q . k`` below it; None if nothing can."""
    largest = largest_of(dtype)
    if largest is None or not requirable(it, q) or not requirable(it, k):
        return None
    bound = min(bound, largest / 8)
    depth = it.shape(q)[-1] or 1
    each = 0.99 * math.sqrt(min(bound / (depth * scale) if scale else math.inf, largest / 8 / depth))
    for factor in (q, k):
        if each >= (largest_of(it.type(factor).dtype) or 0.0):
            it.require_finite(factor, node)
        else:
            it.require_below(each, factor, node)
    return bound


# ---------------------------------------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class _Attention:
    """A call of the fused operator on ``q`` [.., Q, E], ``k`` [.., K, E], ``v`` [.., K, V]."""

    q: Ref
    k: Ref
    v: Ref
    mask: Ref | None
    causal: bool
    scale: float


def attention(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest | tuple[Latest, ...]:
    """Output and, of most forms, the logarithm of the sum: a query's row depends on the keys that it may see.

    A causal call, or a mask of -inf, hides keys for finite scores; a finite mask for scores that are far from it; both
    are premises on the factors, since the scores are no value of the graph. Values may be summed with weights that are
    scaled to 0 later, block by block, so sums of them must not overflow either.
    """
    call = _call(it, node, args)
    if call is None:
        return it.everything(node)
    rows = _rows(it, node, call)
    outputs = [rows, rows[..., 0]]
    rest = [np.full((1,) * rank_of(node, i), rows.max(initial=NEVER), np.int32) for i in range(2, len(node.types))]
    return rows if len(node.types) == 1 else tuple(outputs + rest)


def _call(it: Interpretation, node: Node, args: tuple[Any, ...]) -> _Attention | None:
    """The call, if it is of a form that is understood: no dropout, batch and heads of all alike, a known mask."""
    known = given(node, args)
    q, k, v = known["query"], known["key"], known["value"]
    mask = known.get("attn_mask", known.get("attn_bias"))
    causal = bool(known["is_causal"])
    shapes = [it.shape(x) for x in (q, k, v)]
    if known["dropout_p"] or len({shape[:-2] for shape in shapes}) > 1 or shapes[1][-2] != shapes[2][-2]:
        return None
    if (causal and (mask is not None or shapes[0][-2] != shapes[1][-2])) or not (mask is None or it.is_constant(mask)):
        return None
    scale = known.get("scale")
    return _Attention(q, k, v, mask, causal, shapes[0][-1] ** -0.5 if scale is None else abs(float(scale)))


def _rows(it: Interpretation, node: Node, call: _Attention) -> Latest:
    """``latest`` of the output, compact in its last axis."""
    queries = over(it.of(call.q), -1)
    keys = np.swapaxes(np.maximum(over(it.of(call.k), -1), over(it.of(call.v), -1)), -1, -2)
    seen = _seen(it, node, call)
    if seen is None:
        return np.maximum(queries, over(keys, -1))
    return np.maximum(queries, over(np.where(seen, keys, NEVER), -1))


def _seen(it: Interpretation, node: Node, call: _Attention) -> Bools | None:
    """Which keys each query sees ([.., Q, K]); None if all, as far as is known. Emits the premises.

    A finite mask hides keys after the first that is seen only: a block of hidden keys that comes first is summed with
    weight 1 and scaled to 0 later, which leaves the sign of its sum.
    """
    count, dtype = it.shape(call.k)[-2], it.type(call.q).dtype
    fused = node.op != "aten.scaled_dot_product_attention.default"
    working = "float32" if fused and dtype in ("float16", "bfloat16") else dtype  # scores are never narrower
    mask = _mask(it, call, len(it.shape(call.q)), count)
    if mask is None or (bound := _premises(it, node, call, mask, working, count)) is None:
        return None
    scores = total(within(bound, mask.low.ndim), mask, working)
    nothing = (mask.high == -np.inf).all(axis=-1, keepdims=True)  # a row of zeros, or of NaN, whatever the state
    floor = scores.low.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        visible = scores.high >= floor - UNDERFLOW
    before = np.maximum.accumulate(visible, axis=-1)
    return np.asarray(~nothing & (visible | (~before & (mask.high > -np.inf))))


def _mask(it: Interpretation, call: _Attention, rank: int, count: int) -> Range | None:
    """What is added to the scores, if it hides anything."""
    if not it.use_zeros:
        return None
    if call.causal:
        return exactly(np.where(np.tri(count, dtype=np.bool_), 0.0, -np.inf)).of_rank(rank)
    if call.mask is None or not it.is_known(call.mask):
        return None
    if it.type(call.mask).dtype == "bool":
        return (
            exactly(np.where(it.mask(call.mask), 0.0, -np.inf)).of_rank(rank) if not it.peek(call.mask).all() else None
        )
    return range_of(it, call.mask, rank) if hides(it, call.mask, 1.0) else None


def _premises(it: Interpretation, node: Node, call: _Attention, mask: Range, dtype: str, count: int) -> float | None:
    """A bound of the scores, as premises on their factors; and that no sum of values overflows."""
    largest, kind = largest_of(dtype), largest_of(it.type(call.v).dtype)
    if largest is None or kind is None or not requirable(it, call.v):
        return None
    most = largest / (4 * max(count, 1))
    if most < kind:
        it.require_below(most, call.v, node)
    else:
        it.require_finite(call.v, node)
    return scores_below(it, node, call.q, call.k, call.scale, room_beside(mask, dtype), dtype)


RANGES |= {**masks.TABLE, "aten.baddbmm.default": baddbmm_range}

TABLE: dict[str, Rule] = {
    **named(masked_fill, "masked_fill.Scalar masked_fill.Tensor"),
    **named(where, "where.self where.ScalarSelf where.ScalarOther"),
    **named(softmax, "_softmax.default softmax.int _safe_softmax.default"),
    **named(log_softmax, "_log_softmax.default log_softmax.int"),
    **named(
        attention,
        "_scaled_dot_product_flash_attention_for_cpu.default scaled_dot_product_attention.default",
    ),
}
