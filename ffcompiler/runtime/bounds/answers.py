"""Bounds of yes and no: a boolean whose span is one number is the same everywhere.

What is asked of values is decided by where they lie: ``isfinite`` of what has a bound, ``x < 5`` of what lies below 4.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from ...graph import Arg, Node, Ref, TensorType
from .elementwise import table
from .spans import ANY, UNIT, Bounds, Rule, Span, rounded

Args = tuple[Any, ...]
YES, NO = Span(1.0, 1.0), Span(0.0, 0.0)
EXACT = 2.0**53
"""Below this spans hold whole numbers as they are."""


def negated(answer: Span) -> Span:
    return Span(1.0 - answer.high, 1.0 - answer.low) if answer.known else UNIT


def of_finite(answer: Span) -> Rule:
    """What is true, or false, of every finite number."""
    return lambda b, node, args: answer if b.of(args[0]).known else UNIT


def ordered(compare: Callable[[float, float], bool]) -> Rule:
    """``a < b`` and the like: settled if it comes out alike at the ends that are nearest and farthest."""

    def rule(b: Bounds, node: Node, args: Args) -> Span:
        left, right = _operands(b, args)
        if left is None or right is None:
            return UNIT
        outcomes = {compare(left.low, right.high), compare(left.high, right.low)}
        return UNIT if len(outcomes) > 1 else YES if outcomes == {True} else NO

    return rule


def equal(b: Bounds, node: Node, args: Args) -> Span:
    left, right = _operands(b, args)
    if left is None or right is None:
        return UNIT
    if args[0] == args[1]:  # only NaN is not equal to itself
        return YES
    if left.high < right.low or right.high < left.low:
        return NO
    whole = all(_kind(b, arg) is None for arg in args[:2])
    return YES if whole and left == right and left.low == left.high else UNIT


def unequal(b: Bounds, node: Node, args: Args) -> Span:
    return negated(equal(b, node, args))


def _operands(b: Bounds, args: Args) -> tuple[Span | None, Span | None]:
    """The spans of what is compared, with room for the conversion to the dtype in which that is done; None if unknown.

    The number infinity is known, too.
    """
    kind = _kind(b, args[0]) or _kind(b, args[1])
    return _operand(b, args[0], kind), _operand(b, args[1], kind)


def _operand(b: Bounds, arg: Arg, kind: TensorType | None) -> Span | None:
    if isinstance(arg, float) and math.isinf(arg):
        return Span(arg, arg)
    span = b.of(arg) if kind is None else rounded(b.of(arg), kind)
    return span if span.known and (kind is not None or span.size < EXACT) else None


def _kind(b: Bounds, arg: Arg) -> TensorType | None:
    """The type of a tensor of floats; some such type for a number that is no whole one; None for whole numbers."""
    if not isinstance(arg, Ref):
        return TensorType("float16", (), ()) if isinstance(arg, float) else None
    kind = b.type_of(arg)
    return None if kind is not None and (kind.dtype == "bool" or "int" in kind.dtype) else kind or _kind(b, 0.0)


def everywhere(b: Bounds, node: Node, args: Args) -> Span:
    """``all``: of no element at all it is true whatever is known of them."""
    answer = b.of(args[0])
    return answer if _is_boolean(b, args[0]) and 0 not in b.shape(args[0]) else UNIT


def anywhere(b: Bounds, node: Node, args: Args) -> Span:
    """``any``: of no element at all it is false."""
    answer = b.of(args[0])
    return answer if _is_boolean(b, args[0]) and 0 not in b.shape(args[0]) else UNIT


def both(b: Bounds, node: Node, args: Args) -> Span:
    left, right = _truth(b, args[0]), _truth(b, args[1])
    return Span(min(left.low, right.low), min(left.high, right.high))


def either(b: Bounds, node: Node, args: Args) -> Span:
    left, right = _truth(b, args[0]), _truth(b, args[1])
    return Span(max(left.low, right.low), max(left.high, right.high))


def opposite(b: Bounds, node: Node, args: Args) -> Span:
    return negated(_truth(b, args[0]))


def _truth(b: Bounds, arg: Arg) -> Span:
    return b.of(arg) if isinstance(arg, bool) or _is_boolean(b, arg) else UNIT


def _is_boolean(b: Bounds, arg: Arg) -> bool:
    kind = b.type_of(arg) if isinstance(arg, Ref) else None
    return kind is not None and kind.dtype == "bool"


def of_booleans(rule: Rule) -> Rule:
    """The rule for booleans; of whole numbers bit by bit nothing but their dtype is known."""
    return lambda b, node, args: rule(b, node, args) if node.type.dtype == "bool" else ANY


def _names(stem: str) -> str:
    return f"{stem}.Tensor {stem}.Scalar"


TABLE: dict[str, Rule] = {
    **table(of_finite(YES), "isfinite.default"),
    **table(of_finite(NO), "isnan.default isinf.default isposinf.default isneginf.default"),
    **table(ordered(operator.lt), _names("lt")),
    **table(ordered(operator.le), _names("le")),
    **table(ordered(operator.gt), _names("gt")),
    **table(ordered(operator.ge), _names("ge")),
    **table(equal, _names("eq")),
    **table(unequal, _names("ne")),
    **table(everywhere, "all.default all.dim all.dims"),
    **table(anywhere, "any.default any.dim any.dims"),
    **table(of_booleans(both), f"logical_and.default {_names('bitwise_and')}"),
    **table(of_booleans(either), f"logical_or.default {_names('bitwise_or')}"),
    **table(of_booleans(opposite), "logical_not.default bitwise_not.default"),
}
