"""Further inputs on their way through the parts of a function, and what its refused parts miss."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from rows import ROWS, encoder_decoder, sample_and_score
from torch import Tensor
from torch.utils._pytree import tree_leaves

import ffcompiler as ffc
from ffcompiler import deciding
from ffcompiler.capture import Replay
from ffcompiler.choice.calibrate import Effort, calibrate
from ffcompiler.choice.measure import Example
from ffcompiler.choice.several import inputs_of_parts
from ffcompiler.plan import tolerance
from ffcompiler.randomness import set_states
from ffcompiler.runtime.runner import Runner

NEAR = tolerance(1e-6, 1e-6)


def handed_on(
    compiled: ffc.Compiled, inputs: list[tuple[Tensor, ...]], seconds: float = 10.0
) -> list[tuple[Replay, ...]]:
    """What each part is given on further inputs."""
    live = compiled.live
    assert live is not None
    examples = [
        Example(part.replays[0], partial(live.weights, k), lambda budget: 1.0)
        for k, part in enumerate(live.captured.parts)
    ]
    return inputs_of_parts(compiled.plan, compiled.proofs, examples, inputs, lambda: seconds)


@pytest.mark.parametrize("name", ["stacked_cells", "drawing", "sample_and_score", "four_loops", "in_place"])
def test_every_part_is_given_what_the_function_comes_to_on_further_inputs(name: str) -> None:
    """With the random numbers of the example: from there on the last part ends in the function's own result."""
    function, args = ROWS[name][0]()
    compiled = ffc.compile(function, args, schedule="sequential", cache=False)
    others = [tuple(t * scale for t in args) for scale in (-0.7, 3.0)]
    given = handed_on(compiled, others)
    assert [len(calls) for calls in given] == [2] * len(compiled.plan.parts)
    assert compiled.live is not None
    last, weights = compiled.parts[-1], compiled.live.all_weights()[-1]
    for call, own in zip(given[-1], others, strict=True):
        set_states(compiled.live.captured.replays[0].generators)
        expected = tree_leaves(function(*own))
        runner = Runner(last.plan, last.proof, compiled.device)
        with torch.no_grad():
            execution = runner.begin(call.arguments, weights, call.generators)
            results = runner.complete(execution)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_further_inputs_count_in_every_part() -> None:
    function, args = encoder_decoder()
    calibration = [tuple(t * scale for t in args) for scale in (0.5, 3.0)]
    plan = ffc.compile(function, args, equality=NEAR, calibration=calibration, cache=False).plan
    assert [len(part.convergence.sweeps) for part in plan.parts if part.convergence] == [3, 3]


def test_without_time_only_the_first_part_is_given_further_inputs() -> None:
    function, args = encoder_decoder()
    compiled = ffc.compile(function, args, schedule="sequential", cache=False)
    assert [len(calls) for calls in handed_on(compiled, [args], seconds=-1.0)] == [1, 0]


def test_a_further_input_that_goes_another_way_is_not_followed() -> None:
    def run(x: Tensor) -> Tensor:
        h = torch.zeros(5)
        for t in range(16):
            h = torch.sin(h + x[t])
        if h.sum() > 0:
            h = h * 2
        g = torch.zeros(5)
        for _ in range(16):
            g = torch.cos(g * 0.5 + h)
        return g

    x = torch.full((16, 5), 0.1)
    compiled = ffc.compile(run, (x,), schedule="sequential", cache=False)
    assert len(compiled.plan.parts) == 2
    assert [len(calls) for calls in handed_on(compiled, [(-x,), (2 * x,)])] == [2, 1]


@pytest.fixture
def efforts(monkeypatch: pytest.MonkeyPatch) -> list[Effort]:
    """What each part is calibrated with, as it happens."""
    seen: list[Effort] = []

    def watched(*given: Any) -> Any:
        seen.append(given[-1])
        return calibrate(*given)

    monkeypatch.setattr(deciding, "calibrate", watched)
    return seen


def test_the_budget_is_one_for_all_parts(efforts: list[Effort]) -> None:
    function, args = encoder_decoder()
    ffc.compile(function, args, equality=NEAR, budget=1.0, cache=False)
    assert len(efforts) == 2 and sum(effort.budget for effort in efforts) == pytest.approx(1.0)


def test_one_budget_pays_for_further_inputs_and_all_parts(efforts: list[Effort]) -> None:
    function, args = encoder_decoder()
    ffc.compile(function, args, equality=NEAR, budget=1.0, calibration=[args], cache=False)
    assert len(efforts) == 2 and 0.5 < sum(effort.budget for effort in efforts) < 1.0


# ---------------------------------------------------------------------------------------------------- refused parts


def test_refused_parts_are_told_what_a_tolerance_would_give_each() -> None:
    function, args = encoder_decoder()
    compiled = ffc.compile(function, args, cache=False)
    for part in compiled.plan.parts:
        assert part.refusal is not None and part.convergence is not None and part.convergence.lyapunov is not None
        assert [one.change for one in part.alternatives] == [
            "equality=ffc.tolerance(0.0, 0.001)",
            "equality=ffc.tolerance(0.0, 1e-06)",
        ]
    assert all("jacobi sweeps" in "\n".join(part.would_change) for part in compiled.explain().parts)


def test_a_refused_part_beside_one_that_is_not_is_told_so_too() -> None:
    function, args = sample_and_score()
    array, scorer = ffc.compile(function, args, cache=False).plan.parts
    assert array.refusal is None and len(array.alternatives) >= 3
    assert scorer.refusal is not None and len(scorer.alternatives) == 2
    assert all(one.reference < 1.0 for one in (*array.alternatives, *scorer.alternatives))


def test_without_a_budget_refused_parts_stay_as_they_are() -> None:
    function, args = encoder_decoder()
    plan = ffc.compile(function, args, budget=0.0, cache=False).plan
    assert all(part.refusal is not None and not part.alternatives for part in plan.parts)
