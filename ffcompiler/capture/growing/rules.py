"""Rules for calls on values that grow: is what a step computes the beginning of what the last step computes?

Elements that do not look along the axis that grows do not know how long it is. A sum along it does, unless the entries
after an element's own place add nothing: keys that a causal mask hides, whose weight is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ...ops import OPS, Numerics
from .case import Case, Rule
from .facts import Dim, Fact, Factor, Grown, Hidden, dim_of
from .masks import FAR, hidden_by, hides
from .moves import MOVES
from .steps import BODY_TOKENS


def elementwise(case: Case) -> Fact:
    """An element depends on the elements at its own place."""
    case.require_constants()
    facts = [case.fact(token) for token in case.tokens()]
    dims = [_broadcast(case, facts, case.rank() - axis) for axis in range(case.rank())]
    return case.result(dims, hidden_by(case, dims, facts))


def _broadcast(case: Case, facts: Sequence[Grown], back: int) -> Dim:
    """Of several arrays, the axis that is ``back`` from the end."""
    found = [fact.dims[-back] for fact in facts if back <= len(fact.dims)]
    grown = [dim for dim in found if any(factor.grows for factor in dim)]
    if not grown:
        return max(found, key=len, default=())
    if len({tuple(factor.sizes for factor in dim) for dim in grown}) != 1:
        raise case.refused("joins axes that grow in other ways")
    return max(grown, key=lambda dim: [factor.short for factor in dim])


def triangle(case: Case) -> Fact:
    """``tril``: an element is kept or not by its place, which does not change; what is after the diagonal is 0."""
    fact, diagonal = case.of("self"), case.constant("diagonal")
    row, column = len(fact.dims) - 2, len(fact.dims) - 1
    zero = "tril" in str(case.call.op) and diagonal <= 0 and fact.square(row, column)
    if any(len(fact.dims[dim]) > 1 for dim in (row, column)):
        raise case.refused("cuts an axis that the one that grows was merged into")
    return case.result(fact.dims, Hidden(row, column, True) if zero else None)


def softmax(case: Case) -> Fact:
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    if not fact.grows(dim):
        return case.result(fact.dims)
    hidden = fact.hidden
    if case.concrete(case.token("self")) is not None:  # no proof looks at it: a mask may change unseen
        raise case.refused("is taken over the axis that grows, of weights alone")
    if hidden is None or hidden.zero or hidden.column != dim or not fact.square(hidden.row, dim):
        raise case.refused(
            "is taken over the axis that grows, and no mask hides from each entry the later ones: the weights of a "
            "step are not the beginning of those of a later one"
        )
    return case.result(fact.dims, Hidden(hidden.row, dim, True))


def attention(case: Case) -> tuple[Fact, ...]:
    """Of the results only the first is known."""
    query, key, value = (case.of(name) for name in ("query", "key", "value"))
    row = len(query.dims) - 2
    case.require_constants()
    if not any(fact.grows(dim) for fact in (query, key, value) for dim in range(row, row + 2)):
        raise case.refused("grows along another axis than that of queries and keys")
    for fact in (query, key, value):
        case.fixed(fact, row + 1, "sums over")
    alike = query.dims[row] == key.dims[row] == value.dims[row] and query.alone(row) and not query.dims[row][0].short
    if not alike or not (case.given["is_causal"] is True or _masked(case)):
        raise case.refused(
            "lets an entry of the array that grows see later ones (is_causal is not set, and no mask of the causal "
            "form is given): what a step sees is not the beginning of what a later one does"
        )
    return case.result([*query.dims[:-1], value.dims[-1]]), *(None,) * (len(case.call.shapes) - 1)


def _masked(case: Case) -> bool:
    name = next((name for name in ("attn_mask", "attn_bias") if isinstance(case.given.get(name), BODY_TOKENS)), None)
    mask = None if name is None else case.concrete(case.given[name])
    if mask is None:
        return False
    unseen = ~mask if mask.dtype == torch.bool else mask <= FAR
    scores = torch.where(unseen, -math.inf, math.nan)
    return hides(scores, scores.dim() - 2, scores.dim() - 1) is False and scores.shape[-1] == scores.shape[-2]


# ---------------------------------------------------------------------------------------------------- products


def product(case: Case) -> Fact:
    """``mm``, ``bmm`` and the like: rows of the first with columns of the second."""
    names = [name for name in ("self", "mat1", "batch1", "input") if isinstance(case.given.get(name), BODY_TOKENS)]
    a, b = case.of(names[-1]), case.of(next(n for n in ("mat2", "batch2") if n in case.given))
    case.require_constants()
    _sum_over(case, a, b)
    batch = [_broadcast(case, [Grown(a.dims[:1]), Grown(b.dims[:1])], 1)] if len(a.dims) == 3 else []
    dims = [*batch, a.dims[-2], b.dims[-1]]
    if len(names) > 1:  # something is added
        added = case.of("self")
        dims = [_broadcast(case, [Grown(tuple(dims)), added], len(dims) - axis) for axis in range(len(dims))]
    return case.result(dims)


def _sum_over(case: Case, a: Grown, b: Grown) -> None:
    if not a.grows(len(a.dims) - 1) and not b.grows(len(b.dims) - 2):
        return
    hidden, last = a.hidden, len(a.dims) - 1
    alone = all(case.concrete(token) is not None for token in case.tokens())
    if hidden == Hidden(last - 1, last, True) and a.square(last - 1, last) and b.dims[-2] == a.dims[-1] and not alone:
        return
    raise case.refused(
        "sums over the axis that grows, with weights of later entries that are not known to be 0: what a step computes "
        "is not the beginning of what a later one does"
    )


def linear(case: Case) -> Fact:
    fact, weight = case.of("input"), case.of("weight")
    case.fixed(fact, len(fact.dims) - 1, "sums over")
    return case.result([*fact.dims[:-1], weight.dims[0]])


def convolution(case: Case) -> Fact:
    """With padding on both sides the last entries see what is put behind, and are others in a longer array."""
    fact, weight = case.of("input"), case.of("weight")
    case.require_constants()
    stride, padding = case.constant("stride"), case.constant("padding")
    case.fixed(fact, 1, "sums over")
    if case.constant("transposed"):
        raise case.refused("is transposed")
    dims = [fact.dims[0], dim_of((case.out_shapes()[0][1],) * case.steps)]
    for axis in range(2, len(fact.dims)):
        sizes = tuple(shape[axis] for shape in case.out_shapes())
        if not fact.grows(axis):
            dims.append(dim_of(sizes))
            continue
        factor = fact.alone(axis)
        if factor is None or stride[min(axis - 2, len(stride) - 1)] != 1 or weight.grows(axis):
            raise case.refused("goes over the axis that grows in larger steps, or over one it was merged into")
        dims.append((Factor(sizes, factor.short + padding[min(axis - 2, len(padding) - 1)]),))
    return case.result(dims)


# ---------------------------------------------------------------------------------------------------- along an axis


def norm(case: Case) -> tuple[Fact, ...]:
    """Layer norm and the like: over the last axes."""
    fact, over = case.of("input"), len(case.constant("normalized_shape"))
    case.require_constants()
    for dim in range(len(fact.dims) - over, len(fact.dims)):
        case.fixed(fact, dim, "normalises over")
    stats = (*fact.dims[:-over], *((),) * over)
    others = range(1, len(case.call.shapes))
    rest = (case.result(stats, output=o) if case.rank(o) == len(stats) else None for o in others)
    return case.result(fact.dims), *rest


def reduction(case: Case) -> Fact | tuple[Fact, ...]:
    """Along some axes; the others keep their places."""
    fact, along = case.of("self"), case.constant("dim")
    rank = len(fact.dims)
    axes = range(rank) if along is None or along == () else along if isinstance(along, tuple) else (along,)
    gone = {axis % rank for axis in axes}
    for axis in gone:
        case.fixed(fact, axis, "goes over")
    case.require_constants()
    rest = [() if axis in gone else dim for axis, dim in enumerate(fact.dims)]
    if case.rank() != rank:
        rest = [dim for axis, dim in enumerate(fact.dims) if axis not in gone]
    found = tuple(case.result(rest, output=o) for o in range(len(case.call.shapes)))
    return found if len(found) > 1 else found[0]


def along(case: Case) -> Fact:
    """Each row by itself."""
    fact = case.of("self")
    case.fixed(fact, case.constant("dim") % len(fact.dims), "goes over")
    return case.result(fact.dims)


def ordering(case: Case) -> tuple[Fact, ...]:
    """``topk``, ``sort``: along one axis, which may get shorter."""
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    case.fixed(fact, dim, "orders")
    case.require_constants()
    size = dim_of(tuple(shape[dim] for shape in case.out_shapes()))
    dims = [*fact.dims[:dim], size, *fact.dims[dim + 1 :]]
    return tuple(case.result(dims, output=o) for o in range(len(case.call.shapes)))


def accumulation(case: Case) -> Fact | tuple[Fact, ...]:
    """``cumsum``: an entry sees those before it, along the axis that grows, too."""
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    if fact.grows(dim) and fact.alone(dim) is None:
        raise case.refused("goes along an axis that the one that grows was merged into")
    found = tuple(case.result(fact.dims, output=o) for o in range(len(case.call.shapes)))
    return found if len(found) > 1 else found[0]


def creation(case: Case) -> Fact:
    """The same number everywhere."""
    if (token := case.given.get("self")) is not None and "_like" in str(case.call.op):
        return case.result(case.fact(token).dims)
    if "full" in str(case.call.op):
        case.constant("fill_value")
    return case.result([dim_of(sizes) for sizes in zip(*case.out_shapes(), strict=True)])


def counting(case: Case) -> Fact:
    """``arange``: up to another end."""
    case.constant("start")
    case.constant("step")
    return case.result([dim_of(sizes) for sizes in zip(*case.out_shapes(), strict=True)])


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names.split()}


_NOT_AT_THEIR_PLACE = {"aten.prelu.default"}
RULES: Mapping[str, Rule] = {
    **{
        name: elementwise
        for name, op in OPS.items()
        if op.numerics in (Numerics.EXACT, Numerics.POINTWISE) and name not in _NOT_AT_THEIR_PLACE
    },
    **_named(elementwise, "alias.default clone.default detach.default"),
    **MOVES,
    **_named(triangle, "tril.default triu.default"),
    **_named(softmax, "_softmax.default _safe_softmax.default"),
    **_named(attention, "_scaled_dot_product_flash_attention_for_cpu.default scaled_dot_product_attention.default"),
    **_named(attention, "_scaled_dot_product_flash_attention.default _scaled_dot_product_efficient_attention.default"),
    **_named(product, "mm.default bmm.default addmm.default baddbmm.default"),
    **_named(linear, "linear.default"),
    **_named(convolution, "convolution.default"),
    **_named(norm, "native_layer_norm.default _fused_rms_norm.default"),
    **_named(reduction, "sum.dim_IntList mean.dim amax.default amin.default argmax.default argmin.default"),
    **_named(reduction, "max.dim min.dim any.dim all.dim var.correction std.correction logsumexp.default"),
    **_named(along, "_log_softmax.default"),
    **_named(ordering, "topk.default sort.default sort.stable"),
    **_named(accumulation, "cumsum.default cumprod.default logcumsumexp.default cummax.default cummin.default"),
    **_named(creation, "zeros.default ones.default full.default new_zeros.default new_ones.default new_full.default"),
    **_named(creation, "zeros_like.default ones_like.default full_like.default"),
    **_named(counting, "arange.default arange.start arange.start_step"),
}
