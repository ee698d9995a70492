"""The certificate: lifted tails may solve, only the author's own calls may certify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from systems import Made, affine, randn, sliced
from test_catalogue import unguarded
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.ops import OPS, Numerics
from ffcompiler.runtime.equality import differs, same_bits
from ffcompiler.runtime.record import Ending
from ffcompiler.runtime.runner import Execution, Runner
from ffcompiler.runtime.tail import Window

pytestmark = pytest.mark.usefixtures("one_thread")


TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "softmax": lambda s: torch.softmax(torch.stack([s, -s, s * 0.3], -1), -1)[..., 0],
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "exp": torch.exp,
    "tanh": torch.tanh,
}
SIZES = [(1, 33), (3, 17), (5, 13), (7, 21), (9, 16), (11, 19), (20, 12)]


def sampler(name: str, n: int) -> Any:
    return sliced(Made(n, gain=1.5), n, lambda mean, ls, u: mean + TAILS[name](ls) * u)


def prepared(function: Any, noise: Tensor, schedule: str = "jacobi") -> tuple[Runner, Execution]:
    compiled = ffc.compile(function, (noise,), schedule=schedule)
    assert compiled.live is not None
    runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
    return runner, runner.begin([noise], compiled.live.weights())


def lifted_fixed_point(runner: Runner, execution: Execution) -> Tensor:
    """Solve with lifted tails only, until a sweep changes nothing: what a naive certificate would claim."""
    system = runner.system
    assert system is not None
    state = system.start_from(execution.init[0])
    for _ in range(system.blocks + 1):
        env = {**execution.env, **system.evaluate(execution.env, state), system.loop.carry.name: state}
        values = system.tail(Window(0, system.blocks, env, False))
        done = not bool(differs(system.region.read(state, 0, system.blocks), values).any())
        system.region.write(state, 0, system.blocks, values)
        if done:
            return state
    raise AssertionError("no fixed point")


def test_softplus_a_lifted_fixed_point_is_not_the_reference_and_the_certificate_is() -> None:
    """The counterexample: a clean fixed point of the lifted sweep with wrong bits in it."""
    wrong = 0
    for batch, n in SIZES:
        function, noise = sampler("softplus", n), randn(batch, n, seed=batch)
        with torch.no_grad():
            expected = function(noise)
            runner, execution = prepared(function, noise)
            wrong += int(differs(lifted_fixed_point(runner, execution), expected).sum())
            solution = runner.sweep(execution)
        assert solution.ending is Ending.SWEEPS
        assert same_bits(solution.state, expected)
    if wrong == 0:
        pytest.skip("softplus rounds alike at every position on this CPU: no counterexample here")


@pytest.mark.parametrize("name", TAILS)
def test_every_tail_is_certified_by_the_author_s_calls(name: str) -> None:
    wrong = 0
    for batch, n in SIZES:
        function, noise = sampler(name, n), randn(batch, n, seed=batch)
        with torch.no_grad():
            expected = function(noise)
            runner, execution = prepared(function, noise)
            wrong += int(differs(lifted_fixed_point(runner, execution), expected).sum())
            solution = runner.sweep(execution)
            assert same_bits(solution.state, expected), (batch, n)
        certifying = [s for s in execution.record.sweeps if s.certified]
        assert certifying and certifying[-1].front == n
    if name in ("softplus", "sigmoid", "softmax") and wrong == 0:
        pytest.skip(f"{name} rounds alike lifted and sliced on this CPU: a lifted certificate happens to be right here")


@pytest.mark.parametrize("scale", TAILS.values(), ids=TAILS)
def test_whole_array_tails_need_no_certifying_sweep_of_their_own(scale: Any) -> None:
    """What the author evaluates on the whole array is in the shared part: every sweep certifies."""
    if scale is TAILS["softmax"]:
        scale = torch.sigmoid
    function, noise = affine(Made(13), 13, scale), randn(7, 13)
    runner, execution = prepared(function, noise)
    assert runner.system is not None and runner.system.tail.exact
    with torch.no_grad():
        solution = runner.sweep(execution)
        assert same_bits(solution.state, function(noise))
    assert all(s.certified for s in execution.record.sweeps)


def test_the_certified_front_only_counts_certifying_sweeps() -> None:
    function, noise = sampler("softplus", 13), randn(7, 13)
    runner, execution = prepared(function, noise)
    seen: list[int] = []
    with torch.no_grad():
        runner.sweep(execution, lambda sweep: seen.append(sweep.front if sweep.certified else 0))
    claimed = [front for front in seen if front]
    assert claimed == sorted(claimed) and claimed[-1] == 13


@pytest.mark.parametrize("schedule", ["jacobi", "sliding(4)", "gs-jacobi(4)", "gauss-seidel"])
def test_tails_of_every_form_under_every_schedule(schedule: str) -> None:
    for name in ("softplus", "sigmoid", "softmax", "gelu"):
        function, noise = sampler(name, 11), randn(5, 11)
        compiled = ffc.compile(function, (noise,), schedule="jacobi")
        results, _ = unguarded(compiled, schedule, [noise * 2])
        assert same_bits(results[0], function(noise * 2))


def test_a_tolerance_is_stated_and_bounds_the_residual() -> None:
    function, noise = sampler("softplus", 13), randn(7, 13)
    compiled = ffc.compile(function, (noise,), schedule="jacobi", equality=ffc.tolerance(1e-4, 1e-4))
    plan = replace(compiled.plan, costs=None)
    runner = Runner(plan, compiled.proof, compiled.device)
    assert compiled.live is not None
    with torch.no_grad():
        execution = runner.begin([noise], compiled.live.weights())
        solution = runner.sweep(execution)
    certificate = runner.certify(execution)
    assert "tolerance" in certificate.equality and certificate.residual is not None
    torch.testing.assert_close(solution.state, function(noise), rtol=1e-2, atol=1e-2)


# -------------------------------------------------------------------------------- the table of operators, by experiment

EXACT_BINARY = ["add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "minimum.default", "maximum.default"]
EXACT_UNARY = [
    "neg.default", "abs.default", "sqrt.default", "sign.default", "round.default", "floor.default", "ceil.default",
    "trunc.default", "relu.default",
]  # fmt: skip
SPECIAL = torch.tensor(
    [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-42, -1e-42, 0.5, -0.5, 1.5, 2.5, 1e30, -3e38],
    dtype=torch.float64,
)


def draw(n: int, seed: int, dtype: torch.dtype) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=gen, dtype=torch.float64) * 3
    odd = torch.rand(n, generator=gen) < 0.5
    values[odd] = SPECIAL[torch.randint(0, len(SPECIAL), (int(odd.sum()),), generator=gen)]
    return values.to(dtype)


def overload(name: str) -> Any:
    packet, rest = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), rest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EXACT_UNARY + EXACT_BINARY)
def test_operators_called_exact_give_each_position_the_bits_it_has_alone(name: str, dtype: torch.dtype) -> None:
    if OPS[f"aten.{name}"].numerics is not Numerics.EXACT:
        pytest.skip(f"{name} is not called exact")
    op, count = overload(name), 2 if name in EXACT_BINARY else 1
    for n in (1, 3, 7, 8, 17, 33, 64, 70, 129):
        for seed in range(4):
            operands = [draw(n, 10 * seed + k, dtype) for k in range(count)]
            each = torch.stack([op(*(t[i] for t in operands)) for i in range(n)])
            strided = op(*(torch.stack([t, t], 1)[:, 0] for t in operands))
            assert same_bits(op(*operands), each)
            assert same_bits(op(*operands), strided)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.numerics is Numerics.POINTWISE])
def test_pointwise_kernels_do_not_let_one_position_round_another(name: str, dtype: torch.dtype) -> None:
    """The certificate's stated assumption: what stands at other positions does not move a position's bits."""
    op = overload(name.removeprefix("aten."))
    x = torch.rand(37, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) * 0.8 + 0.1
    for extra in ((), (x,), (0.5,), (x, x), (x, 0.5)):
        try:
            base = op(x, *extra)
        except (RuntimeError, TypeError, NotImplementedError):
            continue
        for value in (200.0, 1e30, float("inf"), float("nan"), 1e-42, -1.0, 0.0):
            other = x.clone()
            other[5::9] = value
            keep = other == x
            got = op(other, *extra)
            for a, b in zip(_several(got), _several(base), strict=True):
                if a.shape == x.shape:
                    assert same_bits(a[keep], b[keep]), (name, value)
        return
    pytest.skip("needs arguments that are not tried here")


def _several(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
