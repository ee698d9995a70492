"""Equality up to a tolerance: the residual of every block is within it, and the record says what that means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.runtime.runner import Runner, estimated_error

N = 40


def chain(weight: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """x[i] = tanh(weight * sum of earlier x * mask + u[i]); and the whole-array map of which it is the fixed point."""
    mask = torch.tril(torch.ones(N, N), -1) * torch.randn(N, N, generator=torch.Generator().manual_seed(3)) * weight

    def whole(u: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(x @ mask.t() + u)

    def function(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = whole(u, x)[:, i]
            return x

        return ffc.fori_loop(0, N, step, torch.zeros_like(u))

    return function, whole


@pytest.mark.parametrize("schedule", ["jacobi", "gs-jacobi(10)", "sliding(8)"])
@pytest.mark.parametrize("tolerance", [ffc.tolerance(0.0, 1e-3), ffc.tolerance(1e-4, 1e-6)])
def test_the_residual_of_every_block_is_within_the_tolerance(schedule: str, tolerance: ffc.Tolerance) -> None:
    function, whole = chain(0.5)
    u = torch.randn(6, N)
    compiled = ffc.compile(function, (u,), equality=tolerance, schedule=schedule)
    runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        execution = runner.begin([u], compiled.live.weights())  # type: ignore[union-attr]
        state = runner.sweep(execution).state
        residual = (whole(u, state) - state).abs()
        certificate = runner.certify(execution)
    assert bool((residual <= tolerance.atol + tolerance.rtol * state.abs() + 1e-6).all())  # 1e-6: rounding of `whole`
    assert certificate.residual is not None
    assert float(residual.max()) <= certificate.residual + 1e-6
    assert certificate.estimated_error is not None
    assert "residual" in str(certificate)


def test_a_tolerance_needs_fewer_sweeps_than_bits() -> None:
    function, _ = chain(0.5)
    u = torch.randn(6, N)
    counts = []
    for equality in (ffc.tolerance(0.0, 1e-2), "bits"):
        compiled = ffc.compile(function, (u,), equality=equality, schedule="jacobi")
        runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
        with torch.no_grad():
            execution = runner.begin([u], compiled.live.weights())  # type: ignore[union-attr]
            runner.sweep(execution)
        counts.append(len(execution.record.sweeps))
    assert counts[0] < counts[1]


def test_the_plan_and_the_verification_say_which_equality_is_claimed() -> None:
    function, _ = chain(0.5)
    u = torch.randn(6, N)
    compiled = ffc.compile(function, (u,), equality=ffc.tolerance(1e-3, 1e-3), schedule="jacobi")
    assert "tolerance(rtol=0.001, atol=0.001)" in str(compiled.plan)
    assert str(compiled.run(u)[1].certificate).startswith("tolerance(")


def test_estimated_error_uses_the_measured_contraction() -> None:
    assert estimated_error(1e-3, [1.0, 0.5, 0.25]) == pytest.approx(2e-3)
    assert estimated_error(1e-3, [1.0, 2.0]) == float("inf")
    assert estimated_error(0.0, []) == 0.0


def test_an_equality_that_does_not_exist_is_refused() -> None:
    function, _ = chain(0.5)
    with pytest.raises(ffc.ScheduleError, match="tolerance"):
        ffc.compile(function, (torch.zeros(1, N),), equality="close enough")
