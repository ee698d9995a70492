"""Every bound, against the operator itself: no result is larger than what its rule says, for inputs of any size."""

from __future__ import annotations

import math

import pytest
import torch
from rule_cases import BATCH, POSITIONS, Case, each
from rule_cases_moves import CASES
from test_rules import graph_of, invariants
from torch import Tensor
from torch.nn import functional as F

from ffcompiler.graph import Graph, Ref
from ffcompiler.passes.rules import RULES as DEPENDENCE
from ffcompiler.runtime.bounds import RULES, Bounds, around
from ffcompiler.runtime.graphs import graph_call

HIDES = torch.zeros(POSITIONS).masked_fill(torch.arange(POSITIONS) > 4, -math.inf)
SIZES = (1e-3, 1.0, 30.0, 1e4, 1e30)


def states(size: float) -> list[Tensor]:
    """Arrays of magnitude at most ``size``: noise, extremes, and a mean far larger than the deviation."""
    gen = torch.Generator().manual_seed(7)
    noise = [torch.rand(BATCH, POSITIONS, generator=gen) * 2 - 1 for _ in range(3)]
    return [*(n * size for n in noise), noise[0].sign() * size, noise[0] * 1e-4 * size + 0.9 * size, noise[1] * 0]


def bounds_of(graph: Graph, constants: dict[str, Tensor], size: float) -> Bounds:
    bounds = Bounds({"x": around(size)}, constants, RULES)
    bounds.run(graph)
    return bounds


@pytest.mark.parametrize("name", CASES)
def test_no_result_exceeds_its_bound(name: str) -> None:
    graph, constants = graph_of(CASES[name], states(1.0)[0])
    constants |= invariants(graph, constants)
    every = [Ref(n.name, k if len(n.types) > 1 else None) for n in graph.nodes for k in range(len(n.types))]
    call = graph_call(graph, torch.device("cpu"), every)
    for size in SIZES:
        bounds = bounds_of(graph, constants, size)
        for x in states(size):
            for ref, value in zip(call.outputs, call.values({**constants, "x": x}), strict=True):
                span = bounds.span[ref.key]
                if math.isfinite(span.size) and value.numel():
                    assert bool(((value >= span.low) & (value <= span.high)).all()), (ref, size, span)


UNBOUNDED = {
    "unary", "binary", "binary, broadcast", "with a number", "rounding modes", "three operands", "power",
    "activations with other constants", "weight norm of the state",
}  # fmt: skip
"""Cases with results that are not finite for some input."""


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNBOUNDED])
def test_what_is_finite_has_a_bound(name: str) -> None:
    graph, constants = graph_of(CASES[name], states(1.0)[0])
    constants |= invariants(graph, constants)
    bounds = bounds_of(graph, constants, 2.0)
    unbounded = [ref for ref in graph.outputs if not math.isfinite(bounds.span[ref.key].size)]
    assert not [ref for ref in unbounded if bounds.types[ref.key].dtype != "bool"]  # type: ignore[union-attr]


FINITE_UNARY = """
    neg.default abs.default square.default sign.default frac.default round.default floor.default ceil.default
    trunc.default exp.default exp2.default expm1.default sin.default cos.default tanh.default sinh.default cosh.default
    atan.default asinh.default sinc.default erf.default erfc.default special_log_ndtr.default sigmoid.default
    relu.default hardtanh.default softplus.default silu.default gelu.default elu.default celu.default selu.default
    leaky_relu.default mish.default hardsigmoid.default hardswish.default softshrink.default hardshrink.default
"""


@pytest.mark.parametrize("name", FINITE_UNARY.split())
def test_a_function_that_is_finite_everywhere_has_a_bound(name: str) -> None:
    graph, constants = graph_of(each(name), states(1.0)[0])
    assert math.isfinite(bounds_of(graph, constants, 5.0).span[graph.outputs[0].name].size)


TIGHT: dict[str, tuple[Case, float]] = {
    "root mean square": (lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-4), 200.0),
    "softmax by hand": (lambda x: x.exp() / x.exp().sum(1, keepdim=True), 5.0),
    "normalized": (lambda x: x / (x.abs() + 1), 2.0),
    "layer norm": (lambda x: F.layer_norm(x, (12,)), 6.0),
    "log of what is positive": (lambda x: torch.log(F.softplus(x) + 1e-3), 7.0),
    "masked softmax": (lambda x: x.masked_fill(torch.arange(POSITIONS) > 4, -math.inf).softmax(-1), 1.0),
    "masked softmax, scaled": (lambda x: ((x + HIDES) * 0.5).softmax(-1) @ x.t(), 24.0),
    "masked by where": (lambda x: torch.where(torch.arange(POSITIONS) < 5, x, -math.inf).softmax(1), 1.0),
}


@pytest.mark.parametrize("name", TIGHT)
def test_a_bound_is_near_what_can_be(name: str) -> None:
    function, most = TIGHT[name]
    graph, constants = graph_of(function, states(1.0)[0])
    bounds = bounds_of(graph, constants | invariants(graph, constants), 2.0)
    assert bounds.span[graph.outputs[0].key].size <= most * 1.01


SETTLED: dict[str, tuple[Case, bool]] = {
    "finite": (lambda x: torch.isfinite(x * 3), True),
    "no NaN": (lambda x: torch.isnan(x.tanh()), False),
    "not infinite": (lambda x: torch.isinf(x), False),
    "below": (lambda x: x < 2.5, True),
    "not above": (lambda x: x * 2 > 4.5, False),
    "at least zero": (lambda x: torch.sigmoid(x) >= 0, True),
    "at most": (lambda x: x.abs() <= 2.1, True),
    "itself": (lambda x: x == x, True),
    "not itself": (lambda x: x != x, False),
    "elsewhere": (lambda x: x == 3.0, False),
    "not there": (lambda x: x + 5 != 2.0, True),
    "less than another": (lambda x: x.tanh() < x.relu() + 1.5, True),
    "all": (lambda x: (x < 3).all(), True),
    "any": (lambda x: (x > 3).any(), False),
    "along a dimension": (lambda x: (x < 3).all(1).any(0), True),
    "and": (lambda x: (x < 3) & torch.isfinite(x), True),
    "or": (lambda x: (x > 3) | torch.isnan(x), False),
    "not": (lambda x: ~(x > 3), True),
    "logical": (lambda x: torch.logical_not(torch.logical_or(x > 3, torch.logical_and(x < 9, x < -3))), True),
    "counted": (lambda x: (x > 3).sum() == 0, True),
    "finite, spelled out": (lambda x: (x == x) * (x.abs() != math.inf), True),
    "far from the largest": (lambda x: x.abs().amax() > 20, False),
}


@pytest.mark.parametrize("name", SETTLED)
def test_what_bounds_settle_is_known_and_so(name: str) -> None:
    function, answer = SETTLED[name]
    graph, constants = graph_of(function, states(1.0)[0])
    bounds = bounds_of(graph, constants | invariants(graph, constants), 2.0)
    span = bounds.span[graph.outputs[0].key]
    assert (span.low, span.high) == (answer, answer)
    assert all(bool((function(x) == answer).all()) for x in states(2.0))


OPEN: dict[str, Case] = {
    "within": lambda x: x < 1,
    "at the end": lambda x: x < 2.0,
    "just beyond the end": lambda x: x <= 2.0000002,
    "at a number": lambda x: x == 0.5,
    "what may overflow": lambda x: torch.isfinite((x * 100).exp()),
    "what may be NaN": lambda x: torch.isnan(x.log()),
    "itself, if it is no NaN": lambda x: x.log() == x.log(),
    "all of what differs": lambda x: (x < 1).all(),
    "all of nothing": lambda x: (x[:0] > 5).all(),
    "any of nothing": lambda x: (x[:0] < 5).any(),
    "one or the other": lambda x: (x > 1) | (x < 0),
    "another": lambda x: x < x.flip(1),
    "as a boolean": lambda x: (x * 0.0 + 0.5).bool() & (x < 1),
    "large whole numbers": lambda x: (x * 0).long() + (2**53 + 1) > 2**53,
}


@pytest.mark.parametrize("name", OPEN)
def test_what_bounds_do_not_settle_is_open(name: str) -> None:
    graph, constants = graph_of(OPEN[name], states(1.0)[0])
    bounds = bounds_of(graph, constants | invariants(graph, constants), 2.0)
    span = bounds.span[graph.outputs[0].key]
    assert (span.low, span.high) == (0.0, 1.0)


BOUNDLESS: dict[str, Case] = {
    "overflow, and back": lambda x: (x.exp().exp().exp() - x.exp().exp().exp()).tanh(),
    "a row without a score": lambda x: x.masked_fill(torch.ones(POSITIONS, dtype=torch.bool), -math.inf).softmax(-1),
    "softmax along another axis": lambda x: x.masked_fill(torch.arange(POSITIONS) > 4, -math.inf).softmax(0),
    "a mask turned round": lambda x: (-x.masked_fill(torch.arange(POSITIONS) > 4, -math.inf)).softmax(-1),
    "a mask moved": lambda x: x.masked_fill(torch.arange(POSITIONS) > 4, -math.inf).t().softmax(-1),
    "half precision overflows": lambda x: (x.half() * 60000).float(),
    "division by what may be zero": lambda x: 1 / x,
}


@pytest.mark.parametrize("name", BOUNDLESS)
def test_where_a_result_may_be_nan_or_infinite_there_is_no_bound(name: str) -> None:
    graph, constants = graph_of(BOUNDLESS[name], states(1.0)[0])
    bounds = bounds_of(graph, constants | invariants(graph, constants), 8.0)
    assert not math.isfinite(bounds.span[graph.outputs[0].key].size)


def test_every_operator_with_a_dependence_rule_has_a_bound() -> None:
    assert sorted(DEPENDENCE.keys() - RULES.keys()) == []


def test_a_bound_that_is_too_small_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "aten.exp.default", RULES["aten.alias.default"])
    with pytest.raises(AssertionError):
        test_no_result_exceeds_its_bound("unary")
