"""How large the values of a graph can be, from how large its inputs are: one number per value, rounded up.

The certificate needs it (docs/theory.md, "Premises"): the reference evaluates the shared part on arrays that no sweep
ever holds, final up to some position and as at the start after it. That the operands of zero-pattern products are
finite on all of those follows from a bound in terms of the largest magnitude at the start and at the end.
An operator without a rule has no bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..graph import Arg, Graph, Node, Ref
from ..plan import ArrayLoop
from .graphs import key_of

ROUNDING = 1.001
"""Room for the rounding of a chain of sums."""

Rule: TypeAlias = Callable[["Bounds", Node], float]


@dataclass(slots=True)
class Bounds:
    """Bounds by value name; ``constants`` are the values that do not depend on the state."""

    bound: dict[str, float]
    constants: Mapping[str, Tensor]

    def run(self, graph: Graph) -> None:
        for node in graph.nodes:
            rule = RULES.get(node.op)
            known = rule(self, node) if rule is not None and len(node.types) == 1 else math.inf
            self.bound[node.name] = known * ROUNDING if not math.isnan(known) else math.inf

    def of(self, arg: Arg) -> float:
        """Bound of an argument: of a number its magnitude, of a constant tensor that of its largest element."""
        if isinstance(arg, bool | int | float):
            return abs(float(arg))
        if not isinstance(arg, Ref):
            return math.inf
        if arg.name not in self.bound:
            self.bound[arg.name] = largest(self.constants[key_of(arg)])
        return self.bound[arg.name]

    def all(self, node: Node) -> list[float]:
        return [self.of(ref) for ref in node.refs()]


def largest(t: Tensor) -> float:
    """The largest magnitude; NaN or infinite if an element is."""
    return 1.0 if t.dtype == torch.bool else float(t.abs().amax()) if t.numel() else 0.0


def limit(dtype: str) -> float:
    """Below this, values of a dtype are finite; float32 may be rounded to TF32 or bfloat16 on the way."""
    kind = getattr(torch, dtype)
    return 3.38e38 if dtype == "float32" else float(torch.finfo(kind).max) / 2 if kind.is_floating_point else math.inf


def _same(b: Bounds, node: Node) -> float:
    return max(b.all(node), default=0.0)


def _at_most_one(b: Bounds, node: Node) -> float:
    return 1.0


def _zero(b: Bounds, node: Node) -> float:
    return 0.0


def _number(b: Bounds, node: Node) -> float:
    return b.of(node.args[1])


def _sum(b: Bounds, node: Node) -> float:
    alpha = dict(node.kwargs).get("alpha", 1)
    return b.of(node.args[0]) + b.of(node.args[1]) * abs(alpha)  # type: ignore[arg-type]


def _product(b: Bounds, node: Node) -> float:
    left, right = b.of(node.args[0]), b.of(node.args[1])
    return 0.0 if 0.0 in (left, right) else left * right


def _divided(b: Bounds, node: Node) -> float:
    by = node.args[1]
    return b.of(node.args[0]) / abs(by) if isinstance(by, int | float) and by else math.inf


def _clamped(b: Bounds, node: Node) -> float:
    limits = [a for a in node.args[1:3] if a is not None]
    between = max((b.of(a) for a in limits), default=math.inf)
    return between if len(limits) == 2 else max(b.of(node.args[0]), between if limits else 0.0)


def _kept(b: Bounds, node: Node) -> float:
    """One-sided clamps, fills and pads: the input, or the number."""
    numbers = [abs(float(a)) for a in node.args[1:] if isinstance(a, int | float)]
    return max([*b.all(node), *numbers])


def _exp(b: Bounds, node: Node) -> float:
    x = b.of(node.args[0])
    return math.exp(x) if x < 700 else math.inf


def _above_one(b: Bounds, node: Node) -> float:
    return max(1.0, _same(b, node)) + 1.0


def _activation(b: Bounds, node: Node) -> float:
    """``elu`` and ``leaky_relu`` with their usual constants."""
    return _above_one(b, node) if len(node.args) == 1 else math.inf


def _square(b: Bounds, node: Node) -> float:
    return b.of(node.args[0]) ** 2


def _summed(b: Bounds, node: Node) -> float:
    """A sum has as many terms as its input has elements for each of the output's."""
    return b.of(node.args[0]) * 2.0**40


def _mm(b: Bounds, node: Node) -> float:
    return _matmul(b, *[a for a in node.args if isinstance(a, Ref)][-2:])


def _addmm(b: Bounds, node: Node) -> float:
    scale = {k: abs(float(v)) for k, v in node.kwargs if isinstance(v, int | float)}
    return _mm(b, node) * scale.get("alpha", 1.0) + b.of(node.args[0]) * scale.get("beta", 1.0)


def _matmul(b: Bounds, left: Ref, right: Ref) -> float:
    """Over the summed axis: the other factor's bound times the largest sum of magnitudes of the constant one."""
    for state, weight, axis in ((left, right, 0), (right, left, 1)):
        if key_of(weight) in b.constants:
            return b.of(state) * _line(b.constants[key_of(weight)], axis)
    return math.inf


def _line(t: Tensor, axis: int) -> float:
    return float(t.abs().sum(axis).amax()) if t.numel() else 0.0


def _linear(b: Bounds, node: Node) -> float:
    state, weight, *bias = node.args
    if not isinstance(weight, Ref) or key_of(weight) not in b.constants:
        return math.inf
    return b.of(state) * _line(b.constants[key_of(weight)], 1) + sum(b.of(x) for x in bias if x is not None)


def _convolution(b: Bounds, node: Node) -> float:
    state, weight, bias = node.args[:3]
    if not isinstance(weight, Ref) or key_of(weight) not in b.constants or node.args[6]:
        return math.inf
    return b.of(state) * _line(b.constants[key_of(weight)].flatten(1), 1) + (0.0 if bias is None else b.of(bias))


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names.split()}


RULES: dict[str, Rule] = {
    **_named(
        _same,
        """alias.default clone.default detach.default view.default _unsafe_view.default reshape.default
        unsqueeze.default squeeze.default squeeze.dim expand.default permute.default transpose.int t.default
        slice.Tensor select.int flip.default roll.default cat.default stack.default neg.default abs.default
        relu.default minimum.default maximum.default where.self index_select.default gather.default
        mean.dim mean.default amax.default amin.default max.default min.default _to_copy.default
        embedding.default hardsigmoid.default""",
    ),
    **_named(
        _at_most_one,
        """tanh.default sigmoid.default erf.default sin.default cos.default _softmax.default sign.default
        eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
        ge.Scalar logical_and.default logical_or.default logical_not.default zeros.default ones_like.default
        ones.default new_ones.default""",
    ),
    **_named(
        _above_one, "softplus.default silu.default gelu.default sqrt.default round.default floor.default ceil.default"
    ),
    **_named(_activation, "elu.default leaky_relu.default"),
    **_named(_zero, "zeros_like.default new_zeros.default"),
    **_named(_number, "full_like.default fill.Scalar"),
    **_named(_kept, "clamp_min.default clamp_max.default masked_fill.Scalar constant_pad_nd.default"),
    **_named(_sum, "add.Tensor sub.Tensor rsub.Scalar add.Scalar sub.Scalar"),
    **_named(_product, "mul.Tensor mul.Scalar"),
    **_named(_divided, "div.Tensor div.Scalar"),
    **_named(_clamped, "clamp.default hardtanh.default"),
    **_named(_exp, "exp.default"),
    **_named(_square, "square.default"),
    **_named(_summed, "sum.dim_IntList sum.default cumsum.default"),
    "aten.mm.default": _mm,
    "aten.addmm.default": _addmm,
    "aten.linear.default": _linear,
    "aten.convolution.default": _convolution,
}


def unbounded(loop: ArrayLoop, state: float, constants: Mapping[str, Tensor], values: tuple[str, ...]) -> str | None:
    """The first of the shared ``values`` that may not be finite when the state's magnitude is at most ``state``."""
    bounds = Bounds({loop.carry.name: state}, constants)
    bounds.run(loop.shared)
    types = {node.name: node.types[0] for node in loop.shared.nodes} | {loop.carry.name: loop.carry.type}
    for name in values:
        kind = types[name]
        if kind is None or not bounds.of(Ref(name)) < limit(kind.dtype):
            return name
    return None
