"""Premises of a proof, checked at run time: bounds, masks, zeros and their signs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rule_cases import LOWER, Case, seeded
from systems import bold, randn
from test_catalogue import assert_same
from test_rules import graph_of, interpret
from torch import Tensor, nn
from torch.nn import functional as F

import ffcompiler as ffc
from ffcompiler.passes.latest import mask_premise
from ffcompiler.plan import Bounded, Finite, NoNegativeZero, ZeroPattern
from ffcompiler.proof import Proof
from ffcompiler.runtime.premises import Zeros, below, failed, has_negative_zero
from ffcompiler.runtime.record import Ending
from ffcompiler.written.text import parse

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("value", "holds"), [(0.5, True), (-2.9, True), (3.0, False), (-3.0, False), (float("nan"), False)]
)
def test_a_bound_holds_for_numbers_below_it_on_both_sides(value: float, holds: bool) -> None:
    values = {"a": torch.tensor([0.0, value]), "b": torch.tensor([1e9])}
    assert below(values, {"a": 3.0}) is holds


def test_a_bound_of_nothing_holds() -> None:
    assert below({"a": torch.zeros(0)}, {"a": 1.0})


@pytest.mark.parametrize(
    "mask",
    [
        torch.eye(3, dtype=torch.bool),
        torch.eye(3),
        torch.full((3, 3), float("-inf")).triu(1),
        torch.arange(9).view(3, 3),
    ],
)
def test_a_mask_that_differs_in_one_element_is_noticed(mask: torch.Tensor) -> None:
    patterns = Zeros(Proof((), {"m": mask.clone()}, {}), CPU)
    assert patterns.broken({"m": mask.clone()}) == []
    changed = mask.clone()
    changed[2, 0] = 1 if mask[2, 0] == 0 else 0
    assert patterns.broken({"m": changed}) == ["m"]
    assert patterns.broken({"m": mask[:2]}) == ["m"]


def test_a_mask_and_zeros_are_looked_at_side_by_side() -> None:
    weight = torch.tril(torch.ones(3, 3))
    patterns = Zeros(Proof((), {"w": (weight != 0).numpy(), "m": weight.clone()}, {}), CPU)
    assert patterns.broken({"w": weight * 5, "m": weight}) == []
    assert patterns.broken({"w": weight.t(), "m": weight * 5}) == ["m", "w"]


def test_the_fingerprint_of_a_mask_is_of_its_elements_shape_and_dtype() -> None:
    mask = torch.tensor([[0.0, 1.0]])
    others = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]]), mask.double(), torch.tensor([[-0.0, 1.0]])]
    prints = {mask_premise("m", m).sha256 for m in (mask, *others)}
    assert len(prints) == 5
    assert mask_premise("m", mask) == mask_premise("m", torch.stack([mask, mask], -1)[..., 0])  # strides do not matter


# ---------------------------------------------------------------------------------------------------- signs of zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_zero_with_a_sign_is_told_from_one_without_and_from_small_numbers(dtype: torch.dtype) -> None:
    least = 2.0**-24 if dtype is torch.float16 else 1e-40
    plain = torch.tensor([0.0, 1.0, -1.0, -least, float("nan"), float("-inf")], dtype=dtype)
    assert not has_negative_zero(plain)
    assert not has_negative_zero(plain[:0])
    assert has_negative_zero(torch.cat([plain, torch.tensor([-0.0], dtype=dtype)]))
    assert has_negative_zero(torch.tensor([[-0.0]], dtype=dtype).expand(3, 2))


def test_a_value_that_has_become_minus_zero_is_named() -> None:
    premises = (NoNegativeZero("b", "aten.addmm.default", ""), NoNegativeZero("c.1", "aten.addmm.default", ""))
    zeros = Zeros(Proof(premises, {}, {}), CPU)
    assert zeros.broken({"b": torch.zeros(2), "c.1": torch.ones(2)}) == []
    assert zeros.broken({"b": torch.tensor([0.0, -0.0]), "c.1": torch.ones(2)}) == ["b"]
    assert zeros.broken({"b": torch.zeros(2), "c.1": torch.tensor(-0.0)}) == ["c.1"]


N = 4
Net = Callable[[Tensor], Tensor]


def sampler(net: Net, steps: int = N) -> Callable[[Tensor], Tensor]:
    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = net(x)
            x = x.clone()
            x[..., i] = y[..., i] + u[..., i]
            return x

        return ffc.fori_loop(0, steps, step, torch.full_like(u, -1.0))

    return sample


def inverse_of_sum(bias: Tensor) -> Net:
    """``0 * x + bias`` for all positions: the sign of a zero shows in its inverse."""
    nothing = torch.zeros(N, N)
    return lambda x: (1 / F.linear(x, nothing, bias)).clamp(-2, 2) * 3


def in_place(bias: Tensor) -> None:
    bias.fill_(-0.0)


def one_element(bias: Tensor) -> None:
    bias[-1] = -0.0


def through_numpy(bias: Tensor) -> None:
    bias.numpy()[:] = -0.0


@pytest.mark.parametrize("change", [in_place, one_element, through_numpy], ids=lambda f: f.__name__)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("schedule", ["jacobi", "sliding(2)"])
def test_a_bias_that_becomes_minus_zero_lets_no_zero_weight_cut_any_more(
    schedule: str, batch: int, change: Callable[[Tensor], None]
) -> None:
    """Where a kernel starts from the bias, -0 + 0 * x has the sign of x; this one does for one row."""
    bias = torch.full((N,), 0.5)
    function = sampler(inverse_of_sum(bias))
    compiled = bold(ffc.compile(function, (randn(batch, N),), schedule=schedule))
    assert compiled.run(randn(batch, N))[1].ending is Ending.SWEEPS
    change(bias)
    for signs in itertools.product((-9.0, 9.0), repeat=N):
        u = torch.tensor(signs).expand(batch, N).contiguous()
        result, record = compiled.run(u)
        assert_same(result, function(u))
        assert record.ending is Ending.STALE and record.certified == 0
        assert "holds -0" in record.detail and "test_premises.py" in record.detail


def test_a_bias_of_a_convolution_that_becomes_minus_zero_is_seen_and_one_that_is_mended_is_used_again() -> None:
    causal, bias = torch.tensor([[[0.7, 0.0, 0.0]]]), torch.tensor([0.3])
    function = sampler(lambda x: torch.tanh(F.conv1d(x[:, None], causal, bias, padding=1)[:, 0]))
    u = randn(2, N)
    compiled = bold(ffc.compile(function, (u,), schedule="jacobi"))
    for value, ending in ((-0.0, Ending.STALE), (0.0, Ending.SWEEPS), (-0.0, Ending.STALE), (-0.3, Ending.SWEEPS)):
        bias.fill_(value)
        result, record = compiled.run(u)
        assert_same(result, function(u))
        assert record.ending is ending


def shifted_by_its_argument(u: Tensor, shift: Tensor) -> Tensor:
    def step(i: int, x: Tensor) -> Tensor:
        y = torch.tanh(F.linear(x, LOWER[:N, :N].tril(-1), shift * 2))
        x = x.clone()
        x[:, i] = y[:, i] + u[:, i]
        return x

    return ffc.fori_loop(0, N, step, torch.zeros_like(u))


def test_a_bias_made_from_an_argument_is_looked_at_in_every_call_of_a_loaded_plan_too(tmp_path: Path) -> None:
    u, shift = randn(3, N), randn(N, seed=1)
    compiled = ffc.compile(shifted_by_its_argument, (u, shift), schedule="jacobi")
    compiled.save(tmp_path / "x.ffc")
    for plan in (bold(compiled), bold(ffc.load(tmp_path / "x.ffc"))):
        assert plan.run(u, shift)[1].ending is Ending.SWEEPS
        result, record = plan.run(u, torch.full((N,), -0.0))
        assert_same(result, shifted_by_its_argument(u, torch.full((N,), -0.0)))
        assert record.ending is Ending.STALE


def test_a_plan_lists_the_biases_that_its_cuts_rest_on_and_no_others() -> None:
    first, second = nn.Linear(N, N), nn.Linear(N, N)
    with torch.no_grad():
        second.weight.tril_(-1)
        first.weight.copy_(torch.eye(N))
    whole = nn.Linear(1, 2)  # no zero in its weight
    compiled = ffc.compile(sampler(lambda x: whole(second(first(x))[..., None]).sum(-1)), (randn(3, N),))
    assert compiled.plan.program is not None
    paths = {weight.name: weight.path for weight in compiled.plan.program.weights}
    found = [p for p in compiled.plan.premises if isinstance(p, NoNegativeZero)]
    assert {paths[p.value] for p in found} == {"net.first.bias", "net.second.bias"}
    assert all(p.op == "aten.addmm.default" and "test_premises.py" in p.source for p in found)
    assert "no entry is -0" in str(compiled.explain())
    assert parse(str(compiled.plan)) == compiled.plan


ADDED: dict[str, tuple[Case, list[str]]] = {
    "to the state": (lambda x: torch.addmm(x, x, LOWER.t()), []),
    "to a constant": (lambda x: torch.addmm(torch.ones(12), x, LOWER.t()), ["aten.addmm.default"]),
    "to minus zeros": (lambda x: torch.addmm(torch.full((12,), -0.0), x, LOWER.t()), []),
    "to a constant, in a stack": (
        lambda x: torch.baddbmm(torch.ones(1), x[:, None], LOWER.t().expand(3, -1, -1)),
        ["aten.baddbmm.default"],
    ),
    "to nothing": (lambda x: x @ LOWER.t(), []),
}


@pytest.mark.parametrize("name", ADDED)
def test_zeros_cut_where_what_is_added_is_known_to_hold_no_minus_zero(name: str) -> None:
    function, ops = ADDED[name]
    it = interpret(*graph_of(function, seeded(3, 12)))
    assert [premise.op for premise in it.unsigned.values()] == ops
    cuts = name in ("to a constant", "to a constant, in a stack", "to nothing")
    last = list(it.latest.values())[-1]
    assert (last.reshape(-1).tolist() == list(range(12))) is cuts
    assert bool(it.finite) is cuts


# ------------------------------------------------------------------------------- one result of several


STRICT = torch.tril(torch.ones(6, 6), -1)


def largest_of_two() -> Net:
    weight, bias = randn(6, 6, seed=1) * STRICT, randn(6, seed=2)
    return lambda x: F.linear(torch.stack([x * 1.3, 1 - x], -1).max(-1).values, weight, bias)


def batch_norm() -> Net:
    norm, weight, bias = nn.BatchNorm1d(6).eval(), randn(6, 6, seed=1) * STRICT, randn(6, seed=2)
    return lambda x: F.linear(norm(x), weight, bias)


def layer_norm() -> Net:
    norm, weight, features, place = nn.LayerNorm(5), randn(6, 6, seed=1) * STRICT, randn(5, seed=3), randn(6, 5, seed=4)
    return lambda x: (weight @ norm(x[:, None] * features + place)).sum(-1)


def running_largest() -> Net:
    weight, bias = randn(6, 6, seed=1) * STRICT, randn(6, seed=2)
    return lambda x: F.linear(x.cummax(-1).values, weight, bias)


@pytest.mark.parametrize("make", [largest_of_two, batch_norm, layer_norm, running_largest], ids=lambda f: f.__name__)
def test_one_result_of_an_operator_with_several_may_be_multiplied_by_zeros(
    make: Callable[[], Net], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    function, u = sampler(make(), 6), randn(6) if make is layer_norm else randn(3, 6)
    compiled = bold(ffc.compile(function, (u,), schedule="jacobi"))
    (finite,) = (p for p in compiled.plan.premises if isinstance(p, Finite))
    assert finite.value.endswith(".0") and f"finite({finite.value[:-2]}[0], " in str(compiled.plan)
    assert parse(str(compiled.plan)) == compiled.plan
    compiled.save(tmp_path / "x.ffc")
    for plan in (compiled, bold(ffc.load(tmp_path / "x.ffc"))):
        for values in (u, u * 3, -u):
            result, record = plan.run(values)
            assert_same(result, function(values))
            assert record.ending is Ending.SWEEPS
        for factor in (float("nan"), float("inf"), 3e38):
            result, record = plan.run(u * factor)
            assert_same(result, function(u * factor))
            assert record.ending is Ending.PREMISE and record.certified < 6


def test_zeros_in_one_result_of_an_operator_with_several_are_watched() -> None:
    """The kernel of a convolution with weight norm is the first result of two."""
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding=1))
    kernel = conv.parametrizations.weight.original1
    with torch.no_grad():
        kernel[..., 1:] = 0
    function = sampler(lambda x: torch.tanh(conv(torch.stack([x, x * x], 1)))[:, 0], 6)
    u = randn(3, 6)
    compiled = bold(ffc.compile(function, (u,), schedule="jacobi"))
    assert any(isinstance(p, ZeroPattern) and p.value.endswith(".0") for p in compiled.plan.premises)
    assert compiled.run(u)[1].ending is Ending.SWEEPS
    with torch.no_grad():
        kernel[..., 2] = 0.5
    result, record = compiled.run(u)
    with torch.no_grad():
        assert_same(result, function(u))
    assert record.ending is Ending.STALE


def test_a_constant_that_must_be_finite_is_looked_at_too() -> None:
    """Learned queries: their size bounds the scores, as that of the keys does."""
    queries, first = randn(3, 1, 6, 4, seed=6), randn(4)

    def net(x: Tensor) -> Tensor:
        h = F.pad((x[:, :, None] * first)[:, None], (0, 0, 1, 0))[:, :, :6]
        return F.scaled_dot_product_attention(queries, h, h, is_causal=True)[:, 0, :, 0]

    function, u = sampler(net, 6), randn(3, 6)
    compiled = bold(ffc.compile(function, (u,), schedule="jacobi"))
    result, record = compiled.run(u)
    assert_same(result, function(u))
    assert record.ending is Ending.SWEEPS
    queries[0, 0, 3] = float("inf")
    result, record = compiled.run(u)
    assert_same(result, function(u))
    assert record.ending is Ending.PREMISE


# ---------------------------------------------------------------------------------------------------- what failed


def test_a_run_that_a_premise_ended_says_which_one() -> None:
    weight = randn(6, 6, seed=1).tril(-1) * 1e25
    function, u = sampler(lambda x: x @ weight.t() @ weight.t(), 6), randn(3, 6)
    compiled = bold(ffc.compile(function, (u * 1e-25,), schedule="jacobi"))
    result, record = compiled.run(u)
    assert_same(result, function(u))
    assert record.ending is Ending.PREMISE
    assert any(record.detail == f"sweep {k} did not meet {p}" for k in range(1, 7) for p in compiled.plan.premises)


FINITE, BOUNDED = Finite("a", "aten.mm.default", "x.py:1 in f"), Bounded("b", 3.0, "aten.add.Tensor", "x.py:2 in f")


@pytest.mark.parametrize(
    ("a", "b", "reduced", "expected"),
    [
        (1.0, 1.0, True, ""),
        (float("nan"), 5.0, False, str(FINITE)),
        (1.0, 3.0, False, str(BOUNDED)),
        (1.0, float("nan"), False, str(BOUNDED)),
        (3.4e38, 1.0, False, ""),
        (3.4e38, 1.0, True, f"once rounded to TF32 or bfloat16, {FINITE}"),
    ],
)
def test_the_first_premise_that_fails_is_named(a: float, b: float, reduced: bool, expected: str) -> None:
    values: dict[str, Any] = {"a": torch.tensor([0.0, a]), "b": torch.tensor([b])}
    premises = (ZeroPattern("w", 1, 2, "00" * 32), FINITE, BOUNDED)
    assert failed(premises, values, reduced) == expected
