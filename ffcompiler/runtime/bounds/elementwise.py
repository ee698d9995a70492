"""Bounds of elementwise operators, and of what is made from constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...graph import Node
from .spans import ANY, UNIT, ZERO, Bounds, Rule, Span, around, given, number, union

Args = tuple[Any, ...]
Function = Callable[[float], float]


def table(rule: Rule, names: str) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names.split()}


def attempt(function: Function, x: float) -> float:
    try:
        return function(x)
    except (OverflowError, ValueError, ZeroDivisionError):
        return math.nan


def ends(*values: float) -> Span:
    """The span of some numbers; nothing is known if one is not finite."""
    return Span(min(values), max(values)) if all(map(math.isfinite, values)) else ANY


def same(b: Bounds, node: Node, args: Args) -> Span:
    """Elements of the first argument, at other places: fillers need not be in every line any more."""
    return b.of(args[0]) if b.of(args[0]).known else ANY


def copied(b: Bounds, node: Node, args: Args) -> Span:
    """The elements where they were."""
    return b.of(args[0])


def monotone(function: Function) -> Rule:
    """A function that rises or falls everywhere where it is defined."""

    def rule(b: Bounds, node: Node, args: Args) -> Span:
        x = b.of(args[0])
        return ends(attempt(function, x.low), attempt(function, x.high)) if x.known else ANY

    return rule


def between(low: float, high: float) -> Rule:
    """A function with these values, for finite arguments."""

    def rule(b: Bounds, node: Node, args: Args) -> Span:
        known = all(b.of(ref).known for ref in node.refs())
        return Span(low, high) if known else ANY

    return rule


def dip(depth: float) -> Rule:
    """``silu`` and its kin: below zero no deeper than ``depth``, above it at most the argument."""

    def rule(b: Bounds, node: Node, args: Args) -> Span:
        x = b.of(args[0])
        return Span(max(-depth, min(x.low, 0.0)), max(x.high, 0.0)) if x.known else ANY

    return rule


def whatever(b: Bounds, node: Node, args: Args) -> Span:
    """Comparisons and integers: bounded by the dtype of the result; floats, without a rule of their own."""
    return ANY


def with_zero(b: Bounds, node: Node, args: Args) -> Span:
    return union([b.of(args[0]), ZERO])


# ---------------------------------------------------------------------------------------------------- arithmetic


def times(left: Span, right: Span) -> Span:
    if not (left.known and right.known):
        return ANY
    return ends(*(0.0 if 0.0 in (x, y) else x * y for x in (left.low, left.high) for y in (right.low, right.high)))


def plus(left: Span, right: Span) -> Span:
    return ends(left.low + right.low, left.high + right.high) if left.known and right.known else ANY


def widened(x: Span, by: float) -> Span:
    return plus(x, around(by))


def inverse(x: Span) -> Span:
    return ANY if not x.known or 0.0 in x else ends(1 / x.low, 1 / x.high)


def add(b: Bounds, node: Node, args: Args) -> Span:
    left, right, alpha = args
    return masked_sum(b, left, right) if alpha == 1 else plus(b.of(left), times(b.of(right), number(alpha)))


def masked_sum(b: Bounds, left: Any, right: Any) -> Span:
    """A sum; one with a constant mask of 0 and -inf, or of very large negative numbers, has fillers."""
    for scores, mask in ((left, right), (right, left)):
        values = b.constant(mask)
        if values is not None and values.dtype.is_floating_point and values.numel() and float(values.amin()) < -1e30:
            kept = values > -1e30
            if not bool(kept.any(-1).all()) or not b.of(scores).known:
                return ANY
            high = float(values.amax())
            low = float(values[kept].amin())
            return Span(b.of(scores).low + low, b.of(scores).high + high, True) if math.isfinite(high) else ANY
        if b.of(scores).fillers and b.of(mask).known:
            return Span(b.of(scores).low + b.of(mask).low, b.of(scores).high + b.of(mask).high, True)
    return plus(b.of(left), b.of(right))


def subtract(b: Bounds, node: Node, args: Args) -> Span:
    left, right, alpha = args
    scores, taken = b.of(left), times(b.of(right), number(-alpha))
    if scores.fillers and taken.known:  # they may lie lower now, or higher by as much as the others
        return Span(scores.low + taken.low, scores.high + taken.high, True)
    return plus(scores, taken)


def reverse_subtract(b: Bounds, node: Node, args: Args) -> Span:
    return subtract(b, node, (args[1], args[0], args[2]))


def multiply(b: Bounds, node: Node, args: Args) -> Span:
    if b.of(args[0]).fillers:
        return masked_product(b.of(args[0]), b.of(args[1]))
    product = times(b.of(args[0]), b.of(args[1]))
    return Span(max(product.low, 0.0), product.high) if args[0] == args[1] and product.known else product


def masked_product(scores: Span, by: Span) -> Span:
    """Scores with a mask, scaled: fillers stay below if they are not turned round."""
    if not by.known or by.low != by.high or by.low <= 0:
        return ANY
    return Span(scores.low * by.low, scores.high * by.low, True)


def divide(b: Bounds, node: Node, args: Args) -> Span:
    if b.of(args[0]).fillers:
        return masked_product(b.of(args[0]), inverse(b.of(args[1])))
    return times(b.of(args[0]), inverse(b.of(args[1])))


def divide_whole(b: Bounds, node: Node, args: Args) -> Span:
    quotient = divide(b, node, args)
    return Span(quotient.low - 1, quotient.high + 1) if quotient.known else ANY


def remainder(b: Bounds, node: Node, args: Args) -> Span:
    by = b.of(args[1])
    return around(by.size) if b.of(args[0]).known and by.known and 0.0 not in by else ANY


def power_of(base: float) -> Function:
    return lambda exponent: base**exponent


def power(b: Bounds, node: Node, args: Args) -> Span:
    """Whole powers of anything, real ones of what is not negative; numbers to some power."""
    base, exponent = b.of(args[0]), b.of(args[1])
    if not (base.known and exponent.known) or (0.0 in base and exponent.low < 0):
        return ANY
    if exponent.low != exponent.high:
        corners = [attempt(power_of(x), y) for x in (base.low, base.high) for y in (exponent.low, exponent.high)]
        return ends(1.0, *corners) if base.low > 0 else ANY
    y = exponent.low
    if base.low < 0 and y != int(y):
        return ANY
    found = ends(attempt(lambda x: x**y, base.low), attempt(lambda x: x**y, base.high))
    return union([found, ZERO]) if 0.0 in base and y > 0 and found.known else found


def squared(b: Bounds, node: Node, args: Args) -> Span:
    return power(b, node, (args[0], 2.0))


def absolute(b: Bounds, node: Node, args: Args) -> Span:
    x = b.of(args[0])
    return Span(0.0 if 0.0 in x else min(abs(x.low), abs(x.high)), x.size) if x.known else ANY


def on(low: float, high: float, function: Function) -> Rule:
    """A function that rises or falls on an open interval, and is not finite or not defined outside."""

    def rule(b: Bounds, node: Node, args: Args) -> Span:
        x = b.of(args[0])
        return ends(attempt(function, x.low), attempt(function, x.high)) if low < x.low and x.high < high else ANY

    return rule


def scaled_pair(b: Bounds, node: Node, args: Args) -> Span:
    """``addcmul``, ``addcdiv``."""
    start, left, right, value = args
    second = inverse(b.of(right)) if "div" in node.op else b.of(right)
    return plus(b.of(start), times(times(b.of(left), second), number(value)))


def interpolated(b: Bounds, node: Node, args: Args) -> Span:
    """``lerp``, by whichever formula."""
    start, end, weight = (b.of(arg) for arg in args)
    way = plus(end, times(start, number(-1)))
    return union([plus(start, times(weight, way)), plus(end, times(plus(weight, number(-1)), way))])


def logs_added(b: Bounds, node: Node, args: Args) -> Span:
    left, right = b.of(args[0]), b.of(args[1])
    known = left.known and right.known
    return Span(max(left.low, right.low), max(left.high, right.high) + 1.0) if known else ANY


def hypotenuse(b: Bounds, node: Node, args: Args) -> Span:
    return Span(0.0, b.size(args[0]) + b.size(args[1]))


def times_log(b: Bounds, node: Node, args: Args) -> Span:
    y = b.of(args[1])
    return times(b.of(args[0]), ends(math.log(y.low), math.log(y.high))) if y.known and y.low > 0 else ANY


# ---------------------------------------------------------------------------------------------------- functions


def rectified(b: Bounds, node: Node, args: Args) -> Span:
    """``elu``, ``celu``, ``leaky_relu``, ``prelu``: below zero some other function that goes through it."""
    x, known = b.of(args[0]), given(node, args)
    if "relu" in node.op:
        slope = known.get("negative_slope", known.get("weight"))
        return union([x, ZERO, times(Span(min(x.low, 0.0), 0.0), b.of(slope))]) if x.known else ANY
    alpha, scale = known.get("alpha", 1.0), known.get("scale", 1.0)
    own = times(x, number(scale))
    rises = known.get("input_scale", 1.0) >= 0
    return union([own, around(abs(alpha * scale)), ZERO]) if x.known and rises else ANY


def softened(b: Bounds, node: Node, args: Args) -> Span:
    """``softplus``: above the argument by log 2 / beta at most."""
    x, beta = b.of(args[0]), given(node, args)["beta"]
    return Span(0.0, max(x.high, 0.0) + 1.0 / beta) if x.known and beta > 0 else ANY


def log_sigmoid(b: Bounds, node: Node, args: Args) -> tuple[Span, ...]:
    x = b.of(args[0])
    return (Span(min(x.low, 0.0) - 1.0, 0.0) if x.known else ANY), ANY


def selu(b: Bounds, node: Node, args: Args) -> Span:
    x = b.of(args[0])
    return Span(max(-1.76, 1.76 * min(x.low, 0.0)), 1.06 * max(x.high, 0.0)) if x.known else ANY


def logit(b: Bounds, node: Node, args: Args) -> Span:
    x, eps = b.of(args[0]), args[1] or 0.0
    low, high = max(x.low, eps), min(x.high, 1 - eps)
    return ends(math.log(low / (1 - low)), math.log(high / (1 - high))) if x.known and 0 < low <= high < 1 else ANY


def inverse_error(b: Bounds, node: Node, args: Args) -> Span:
    """``erfinv``, ``ndtri``: by ``erf(z)**2 >= 1 - exp(-z**2)``."""
    x = b.of(args[0])
    most = max(abs(2 * x.low - 1), abs(2 * x.high - 1)) if "ndtri" in node.op else x.size
    return around(1.5 * math.sqrt(-math.log(1 - most * most))) if most < 1 - 1e-6 else ANY


def log_gamma(b: Bounds, node: Node, args: Args) -> Span:
    x = b.of(args[0])
    return ends(-0.13, math.lgamma(x.low), math.lgamma(x.high)) if x.known and x.low > 0 else ANY


def two_gamma(b: Bounds, node: Node, args: Args) -> Span:
    """``digamma``, between ``log(x) - 1/x`` and ``log(x)``."""
    x = b.of(args[0])
    return ends(math.log(x.low) - 1 / x.low, math.log(x.high)) if x.known and x.low > 0 else ANY


def log_normal(b: Bounds, node: Node, args: Args) -> Span:
    """``log_ndtr``: about ``-x**2 / 2`` far below zero."""
    x = b.of(args[0])
    return Span(-(min(x.low, 0.0) ** 2) / 2 - abs(x.low) - 2, 0.0) if x.known else ANY


TABLE: dict[str, Rule] = {
    **table(copied, "alias.default clone.default detach.default lift_fresh_copy.default _to_copy.default"),
    **table(same, "nan_to_num.default"),
    **table(
        whatever,
        """logical_xor.default signbit.default bitwise_xor.Tensor bitwise_xor.Scalar __lshift__.Scalar
        __rshift__.Scalar bitwise_left_shift.Tensor bitwise_right_shift.Tensor""",
    ),
    **table(add, "add.Tensor add.Scalar"),
    **table(subtract, "sub.Tensor sub.Scalar"),
    **table(reverse_subtract, "rsub.Scalar rsub.Tensor"),
    **table(multiply, "mul.Tensor mul.Scalar"),
    **table(divide, "div.Tensor div.Scalar"),
    **table(divide_whole, "div.Tensor_mode div.Scalar_mode floor_divide.default"),
    **table(remainder, "remainder.Scalar remainder.Tensor remainder.Scalar_Tensor fmod.Scalar fmod.Tensor"),
    **table(power, "pow.Tensor_Scalar pow.Scalar pow.Tensor_Tensor"),
    **table(squared, "square.default"),
    **table(absolute, "abs.default"),
    **table(scaled_pair, "addcmul.default addcdiv.default"),
    **table(interpolated, "lerp.Scalar lerp.Tensor"),
    **table(logs_added, "logaddexp.default logaddexp2.default"),
    **table(hypotenuse, "hypot.default"),
    **table(times_log, "xlogy.Tensor"),
    **table(monotone(lambda x: -x), "neg.default"),
    **table(monotone(math.sqrt), "sqrt.default"),
    **table(monotone(lambda x: 1 / math.sqrt(x)), "rsqrt.default"),
    "aten.reciprocal.default": lambda b, node, args: inverse(b.of(args[0])),
    **table(monotone(math.exp), "exp.default"),
    **table(monotone(lambda x: 2.0**x), "exp2.default"),
    **table(monotone(math.expm1), "expm1.default"),
    **table(monotone(math.sinh), "sinh.default"),
    **table(monotone(math.asinh), "asinh.default"),
    **table(on(0.0, math.inf, math.log), "log.default"),
    **table(on(0.0, math.inf, math.log2), "log2.default"),
    **table(on(0.0, math.inf, math.log10), "log10.default"),
    **table(on(-1.0, math.inf, math.log1p), "log1p.default"),
    **table(on(-1.5, 1.5, math.tan), "tan.default"),
    **table(on(-1.0, 1.0, math.atanh), "atanh.default"),
    **table(on(1.0, math.inf, math.acosh), "acosh.default"),
    **table(on(-1.0, 1.0, math.asin), "asin.default"),
    **table(on(-1.0, 1.0, math.acos), "acos.default"),
    **table(inverse_error, "erfinv.default special_ndtri.default"),
    **table(log_gamma, "lgamma.default"),
    **table(two_gamma, "digamma.default"),
    **table(log_normal, "special_log_ndtr.default"),
    **table(lambda b, node, args: ends(1.0, attempt(math.cosh, b.size(args[0]))), "cosh.default"),
    **table(monotone(math.tanh), "tanh.default"),
    **table(monotone(math.erf), "erf.default"),
    **table(monotone(math.atan), "atan.default"),
    **table(between(0.0, 1.0), "sigmoid.default hardsigmoid.default"),
    **table(between(0.0, 2.0), "erfc.default"),
    **table(between(-1.0, 1.0), "sin.default cos.default sinc.default sign.default sgn.default frac.default"),
    **table(between(-3.1416, 3.1416), "atan2.default"),
    **table(lambda b, node, args: union([UNIT, b.of(args[1])]), "heaviside.default"),
    **table(
        lambda b, node, args: widened(b.of(args[0]), 1.0), "round.default floor.default ceil.default trunc.default"
    ),
    **table(lambda b, node, args: widened(b.of(args[0]), 10.0 ** -args[1]), "round.decimals"),
    **table(dip(0.28), "silu.default"),
    **table(dip(0.2), "gelu.default"),
    **table(dip(0.32), "mish.default"),
    **table(dip(0.38), "hardswish.default"),
    **table(dip(0.0), "relu.default"),
    **table(with_zero, "softshrink.default hardshrink.default"),
    **table(lambda b, node, args: union([b.of(args[0]), b.of(args[2])]), "threshold.default"),
    **table(rectified, "elu.default celu.default leaky_relu.default prelu.default _prelu_kernel.default"),
    **table(softened, "softplus.default"),
    **table(log_sigmoid, "log_sigmoid_forward.default"),
    **table(selu, "selu.default"),
    **table(logit, "logit.default"),
}
