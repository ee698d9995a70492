"""Bounds of products, convolutions, normalisations and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ...graph import Node, Ref
from .elementwise import ends, plus, same, table, times
from .spans import ANY, UNIT, ZERO, Bounds, Rule, Span, around, given, number, union

Args = tuple[Any, ...]
UNIT_ROUNDOFF = 2.0**-24
"""Of the precision in which normalisations compute, at the coarsest."""

# ---------------------------------------------------------------------------------------------------- products


def product(b: Bounds, left: Ref, right: Ref) -> Span:
    """``left @ right``: the bound of one times the largest sum of magnitudes of a line of the other, if constant."""
    length = b.shape(left)[-1]
    for state, weight, axis in ((left, right, -2), (right, left, -1)):
        if (values := b.constant(weight)) is not None and values.numel():
            return around(b.size(state) * float(values.abs().sum(axis if values.dim() > 1 else 0).amax()))
    return around(length * b.size(left) * b.size(right))


def matmul(b: Bounds, node: Node, args: Args) -> Span:
    return product(b, args[0], args[1])


def addmm(b: Bounds, node: Node, args: Args) -> Span:
    bias, left, right, beta, alpha = args
    count = b.shape(left)[0] if "addbmm" in node.op else 1
    products = times(product(b, left, right), number(alpha * count))
    return products if beta == 0 else plus(products, times(b.of(bias), number(beta)))


def linear(b: Bounds, node: Node, args: Args) -> Span:
    state, weight, bias = args
    values = b.constant(weight)
    if values is not None:
        size = b.size(state) * (float(values.abs().sum(-1).amax()) if values.numel() else 0.0)
    else:
        size = b.shape(state)[-1] * b.size(state) * b.size(weight)
    return around(size + b.size(bias))


def convolution(b: Bounds, node: Node, args: Args) -> Span:
    """Of a transposed kernel [C, O / groups, ..] the sum for one output is over the first axis."""
    state, weight, bias = args[:3]
    transposed = given(node, args).get("transposed", "conv_transpose" in node.op)
    values, shape = b.constant(weight), b.shape(weight)
    if values is not None and values.numel():
        lines = (values.transpose(0, 1) if transposed else values).flatten(1)
        size = b.size(state) * float(lines.abs().sum(1).amax())
    else:
        terms = math.prod(shape) // max(shape[1 if transposed else 0], 1)
        size = terms * b.size(state) * b.size(weight)
    return around(size + b.size(bias))


# ---------------------------------------------------------------------------------------------------- normalisations


def scaled(b: Bounds, size: float, known: dict[str, Any]) -> Span:
    weight = 1.0 if known.get("weight") is None else b.size(known["weight"])
    return around(size * weight + b.size(known.get("bias")))


def squares_overflow(b: Bounds, state: Ref, count: int) -> bool:
    return not b.size(state) ** 2 * max(count, 1) < 1e37


def layer_norm(b: Bounds, node: Node, args: Args) -> Span | tuple[Span, ...]:
    """At most ``sqrt(N)`` deviations, and what rounding can add where the mean is far larger than the deviation.

    The deviation is computed around the mean: with a relative error of about ``16 u * size / deviation``.
    """
    known = given(node, args)
    state, eps = args[0], known["eps"]
    count = math.prod(b.shape(state)[-len(args[1]) :])
    if eps <= 0 or squares_overflow(b, state, count):
        return ANY
    size = math.sqrt(count) * (1.5 + 64 * UNIT_ROUNDOFF * b.size(state) / math.sqrt(eps))
    values, mean, inverse = scaled(b, size, known), around(b.size(state)), Span(0.0, 1 / math.sqrt(eps))
    return values if len(node.types) == 1 else (values, mean, inverse)


def rms_norm(b: Bounds, node: Node, args: Args) -> Span | tuple[Span, ...]:
    known = given(node, args)
    count = math.prod(b.shape(args[0])[-len(args[1]) :])
    eps = known["eps"] or UNIT_ROUNDOFF
    values = ANY if squares_overflow(b, args[0], count) else scaled(b, math.sqrt(count), known)
    return values, Span(0.0, 1 / math.sqrt(eps)) if eps > 0 and values.known else ANY


def by_statistics(b: Bounds, state: Ref, count: int, eps: float, known: dict[str, Any]) -> tuple[Span, Span, Span]:
    """The same where the variance may be ``mean(x**2) - mean(x)**2``, with an error of ``16 u * size**2``."""
    if eps <= 0 or squares_overflow(b, state, count):
        return ANY, ANY, ANY
    size = math.sqrt(count) * (1.5 + 4 * b.size(state) * math.sqrt(16 * UNIT_ROUNDOFF / eps))
    return scaled(b, size, known), around(b.size(state)), Span(0.0, 1 / math.sqrt(eps))


def group_norm(b: Bounds, node: Node, args: Args) -> Span | tuple[Span, ...]:
    known, shape = given(node, args), b.shape(args[0])
    groups: int = known["group"] if "group" in known else known["num_groups"]
    found = by_statistics(b, args[0], math.prod(shape[1:]) // groups, known["eps"], known)
    return found[0] if len(node.types) == 1 else found


def batch_norm(b: Bounds, node: Node, args: Args) -> Span | tuple[Span, ...]:
    """By constants, or in training by statistics; other results than the first are not looked at."""
    known, shape = given(node, args), b.shape(args[0])
    eps = known.get("eps", known.get("epsilon", 0.0))
    if known.get("training", False) or known.get("running_mean") is None:
        values = by_statistics(b, args[0], math.prod(shape) // max(shape[1], 1), eps, known)[0]
    else:
        variance = b.of(known["running_var"])
        size = b.size(args[0]) + b.size(known["running_mean"])
        fine = variance.known and variance.low + eps > 0
        values = scaled(b, size / math.sqrt(variance.low + eps), known) if fine else ANY
    return values if len(node.types) == 1 else (values, *(ANY,) * (len(node.types) - 1))


def weight_norm(b: Bounds, node: Node, args: Args) -> tuple[Span, ...]:
    """A weight of zeros has no direction."""
    v, _, dim = args
    shape = b.shape(v)
    count = math.prod(shape) // max(shape[dim], 1)
    return ANY, ANY if squares_overflow(b, v, count) else Span(0.0, math.sqrt(count) * b.size(v))


# ---------------------------------------------------------------------------------------------------- reductions


def reduced_count(b: Bounds, node: Node, args: Args) -> int:
    """How many elements of the first argument a result combines."""
    shape, dims = b.shape(args[0]), given(node, args).get("dim")
    if dims is None or dims == () or not shape:
        return math.prod(shape)
    return math.prod(shape[d] for d in (dims if isinstance(dims, tuple) else (dims,)))


def total(b: Bounds, node: Node, args: Args) -> Span:
    return times(b.of(args[0]), number(reduced_count(b, node, args)))


def partial_sums(b: Bounds, node: Node, args: Args) -> Span:
    return union([b.of(args[0]), total(b, node, args)])


def averaged(b: Bounds, node: Node, args: Args) -> Span:
    return same(b, node, args) if reduced_count(b, node, args) else ANY


def multiplied(b: Bounds, node: Node, args: Args) -> Span:
    try:
        return around(max(1.0, b.size(args[0])) ** reduced_count(b, node, args))
    except OverflowError:
        return ANY


def log_sum(b: Bounds, node: Node, args: Args) -> Span:
    return plus(b.of(args[0]), Span(0.0, math.log(max(reduced_count(b, node, args), 1))))


def softmax(b: Bounds, node: Node, args: Args) -> Span:
    """Fillers do no harm along the axis on which there is always something else."""
    scores, last = b.of(args[0]), args[1] in (-1, len(b.shape(args[0])) - 1)
    return UNIT if scores.known or (scores.fillers and last) else ANY


def log_softmax(b: Bounds, node: Node, args: Args) -> Span:
    scores, shape = b.of(args[0]), b.shape(args[0])
    length = shape[args[1]] if shape else 1
    return Span(scores.low - scores.high - math.log(max(length, 1)), 0.0) if scores.known else ANY


def variance(b: Bounds, node: Node, args: Args) -> Span | tuple[Span, ...]:
    """``var``, ``std``, and with the mean: deviations are at most the width of the span."""
    count, correction = reduced_count(b, node, args), given(node, args)["correction"]
    freedom = count - (1.0 if correction is None else float(correction))
    state = b.of(args[0])
    if freedom <= 0 or not state.known or squares_overflow(b, args[0], count):
        return ANY
    most = 4 * state.size**2 * count / freedom
    spread = Span(0.0, math.sqrt(most) if "std" in node.op else most)
    return (spread, state) if len(node.types) == 2 else spread


def norm(b: Bounds, node: Node, args: Args) -> Span:
    known = given(node, args)
    order = known.get("ord", known.get("p"))
    order = 2.0 if order is None else float(order)
    size, count = b.size(args[0]), reduced_count(b, node, args)
    if not math.isfinite(size) or order <= 0 or not count:
        return ANY
    if order == math.inf:
        return Span(0.0, size)
    powers = ends(0.0, max(size, 1.0)) if order == 1 else _power(max(size, 1.0), order)
    return Span(0.0, count ** (1 / order) * size) if powers.known and count * powers.high < 1e37 else ANY


def _power(size: float, order: float) -> Span:
    try:
        return ends(0.0, size**order)
    except OverflowError:
        return ANY


def counted(b: Bounds, node: Node, args: Args) -> Span:
    """Indices and counts: at most the number of elements."""
    return Span(0.0, float(max(math.prod(b.shape(ref)) for ref in node.refs())))


def with_indices(values: Callable[[Bounds, Node, Args], Span]) -> Rule:
    """Values, and where they come from."""
    return lambda b, node, args: (values(b, node, args), counted(b, node, args))


def gated(b: Bounds, node: Node, args: Args) -> Span:
    return times(b.of(args[0]), UNIT)


def average_pool(b: Bounds, node: Node, args: Args) -> Span:
    """Padding counts as zeros; the divisor may be another than the number of elements."""
    known = given(node, args)
    kernel = known["kernel_size"]
    spatial = 3 if "3d" in node.op else 2
    terms = kernel**spatial if isinstance(kernel, int) else math.prod(kernel * (spatial // len(kernel)))
    divisor = known.get("divisor_override")
    return times(union([b.of(args[0]), ZERO]), number(1.0 if divisor is None else terms / abs(divisor)))


def attention(b: Bounds, node: Node, args: Args) -> Span | tuple[Span, ...]:
    """A mean of values, whatever the weights, if scores do not overflow; a query that may see no key has zeros."""
    query, key, value = args[:3]
    known = given(node, args)
    fine = all(b.size(arg) < 1e15 for arg in (query, key)) and _is_mask(
        b, known.get("attn_mask", known.get("attn_bias"))
    )
    values = union([b.of(value), ZERO]) if fine and not known.get("dropout_p", 0.0) else ANY
    return values if len(node.types) == 1 else (values, *(ANY,) * (len(node.types) - 1))


def _is_mask(b: Bounds, mask: Any) -> bool:
    """Whether a mask is known, of truths or of numbers and -inf."""
    values = b.constant(mask)
    return mask is None or (values is not None and (values.dtype == torch.bool or bool((values <= 1e18).all())))


TABLE: dict[str, Rule] = {
    **table(matmul, "mm.default bmm.default mv.default dot.default vdot.default matmul.default"),
    **table(addmm, "addmm.default baddbmm.default addmv.default addbmm.default"),
    **table(linear, "linear.default"),
    **table(
        convolution,
        """convolution.default conv1d.default conv2d.default conv3d.default conv_transpose1d.default
        conv_transpose2d.input conv_transpose3d.input""",
    ),
    **table(layer_norm, "native_layer_norm.default layer_norm.default"),
    **table(rms_norm, "_fused_rms_norm.default"),
    **table(group_norm, "native_group_norm.default group_norm.default"),
    **table(
        batch_norm,
        """native_batch_norm.default _native_batch_norm_legit_no_training.default _batch_norm_no_update.default
        cudnn_batch_norm.default batch_norm.default""",
    ),
    **table(weight_norm, "_weight_norm_interface.default"),
    **table(total, "sum.default sum.dim_IntList nansum.default"),
    **table(partial_sums, "cumsum.default"),
    **table(averaged, "mean.default mean.dim amax.default amin.default max.default min.default"),
    **table(multiplied, "prod.default prod.dim_int cumprod.default"),
    **table(log_sum, "logsumexp.default logcumsumexp.default"),
    **table(softmax, "_softmax.default softmax.int _safe_softmax.default"),
    **table(log_softmax, "_log_softmax.default log_softmax.int"),
    **table(variance, "var.correction std.correction var_mean.correction std_mean.correction"),
    **table(norm, "norm.Scalar norm.ScalarOpt_dim linalg_vector_norm.default"),
    **table(
        counted,
        """argmax.default argmin.default count_nonzero.default count_nonzero.dim_IntList any.default any.dim any.dims
        all.default all.dim all.dims bucketize.Tensor searchsorted.Tensor""",
    ),
    **table(
        with_indices(same),
        """max.dim min.dim median.dim kthvalue.default sort.default sort.stable topk.default cummax.default
        cummin.default max_pool2d_with_indices.default max_pool3d_with_indices.default""",
    ),
    **table(same, "aminmax.default max_pool2d.default _adaptive_avg_pool2d.default"),
    **table(gated, "glu.default"),
    **table(average_pool, "avg_pool2d.default avg_pool3d.default"),
    **table(
        attention,
        """scaled_dot_product_attention.default _scaled_dot_product_flash_attention_for_cpu.default
        _scaled_dot_product_efficient_attention.default""",
    ),
}
