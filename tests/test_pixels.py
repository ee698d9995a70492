"""A state of 256 levels is run, not estimated: as a function that rounds what it writes would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from systems import bold, randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.choice.pixels import PIXELS, Levels, levels_of, on_levels
from ffcompiler.plan import Plan
from ffcompiler.runtime.runner import Runner

pytestmark = pytest.mark.usefixtures("one_thread")
N = 40
WEIGHT = torch.triu(randn(N, N, seed=3), 1) * 0.3
NOISE = randn(3, N)


def sampler(levels: Levels | None = None) -> Callable[[Tensor], Any]:
    """An array loop; ``levels``: that writes nothing else."""

    def sample(noise: Tensor) -> Any:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            new = (torch.tanh(x @ WEIGHT) + noise)[:, i]
            x[:, i] = new if levels is None else levels.low + ((new - levels.low) / levels.width).round() * levels.width
            return x

        return ffc.fori_loop(0, N, step, torch.zeros_like(noise))

    return sample


def levels_here() -> Levels:
    found = levels_of([sampler()(NOISE)])
    assert found is not None
    return found


def told(plan: Plan) -> tuple[int, bool]:
    (one,) = (one for one in plan.alternatives if one.change == PIXELS)
    return one.sweeps, one.measured


def test_the_sweeps_are_those_of_a_sampler_that_rounds_what_it_writes() -> None:
    levels = levels_here()
    rounding = ffc.compile(sampler(levels), (NOISE,), equality=levels.same, schedule="jacobi", cache=False)
    _, record = bold(rounding).run(NOISE)
    plan = ffc.compile(sampler(), (NOISE,), budget=20.0, cache=False).plan
    assert told(plan) == (len(record.sweeps), True)


def test_sweeps_that_round_come_to_what_rounding_steps_come_to() -> None:
    levels = levels_here()
    compiled = ffc.compile(sampler(), (NOISE,), equality=levels.same, schedule="jacobi", cache=False)
    runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
    assert compiled.live is not None and runner.system is not None
    with torch.no_grad():
        execution = runner.begin([NOISE], compiled.live.weights())
        solve = runner.solver(execution)
        solve.system = on_levels(runner.system, levels)
        solution = solve.run(execution.init[0])
    assert solution.certified == N
    torch.testing.assert_close(solution.state, sampler(levels)(NOISE), rtol=0.0, atol=levels.width / 2)
    steps = (solution.state - levels.low) / levels.width
    torch.testing.assert_close(steps, steps.round(), rtol=0.0, atol=1e-3)


def test_levels_go_from_the_smallest_to_the_largest_element_of_the_widest_tensor() -> None:
    narrow, wide = torch.tensor([0.0, 1.0]), torch.tensor([-2.0, 8.2])
    found = levels_of([narrow, wide, torch.tensor([1, 1000])])
    assert found is not None and found.low == -2.0 and found.width == pytest.approx(0.04)
    assert found.of(torch.tensor([0.03]))[0] == pytest.approx(0.04) and found.of(torch.tensor([7])).tolist() == [7]


@pytest.mark.parametrize("answer", [[torch.ones(3)], [torch.tensor([0.0, torch.inf])], [torch.tensor([1, 2])], []])
def test_an_answer_that_has_no_span_has_no_levels(answer: list[Tensor]) -> None:
    assert levels_of(answer) is None
