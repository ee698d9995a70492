"""What `explain` tells: the dependence in figures, what windows bring, and why each loser lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from plans import MADE
from systems import SYSTEMS, bold, randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.plan import Alternative, Candidate, Costs, Method, Schedule
from ffcompiler.tell.explain import explain

JACOBI = Schedule(Method.JACOBI)
WINDOWED = Schedule(Method.SLIDING, 4, windows=True)


def with_candidates(*candidates: Candidate) -> str:
    return str(explain(replace(MADE, candidates=candidates)))


def test_what_windows_bring_is_said_with_their_certifying_sweeps() -> None:
    text = with_candidates(Candidate(JACOBI, 0.2, 20, "", 20), Candidate(WINDOWED, 0.05, 30, "", 1))
    assert "sliding(4)+windows is 4.0x as fast as sweeps over the whole; it needs 1 certifying sweep" in text


def test_windows_that_buy_nothing_are_said_to_with_the_reason() -> None:
    text = with_candidates(Candidate(JACOBI, 0.2, 20, "", 20), Candidate(WINDOWED, 0.3, 52, "", 49))
    assert "windows buy nothing here: sliding(4)+windows needs 52 sweeps, jacobi 20" in text
    assert "49 of them had to certify, because windowed kernels round differently" in text


def test_a_candidate_that_was_stopped_says_nothing_about_windows() -> None:
    text = with_candidates(Candidate(JACOBI, 0.2, 20, "", 20), Candidate(WINDOWED, 0.1, 0, "stopped at block 0"))
    assert "windows buy" not in text and "as fast as sweeps" not in text


def test_the_summary_counts_levels_work_and_memory() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    found = bold(ffc.compile(function, args, schedule="sliding(10)+windows")).explain()
    assert found.dependence is not None
    assert (found.dependence.blocks, found.dependence.levels) == (25, 13)
    assert 0.0 < found.dependence.window.share < 1.0
    system = SYSTEMS["raster_2d"]
    assert system.blocks == 25
    text = str(found)
    assert "25 blocks in 13 levels" in text and "wavefront needs 13 sweeps and no iteration" in text
    assert "aten.convolution.default" in text and "MiB from sweep to sweep" in text
    assert json.loads(json.dumps(found.json))["dependence"]["levels"] == 13


def test_a_chain_is_called_one() -> None:
    function, args = SYSTEMS["made_whole_then_sliced"].make()
    assert "16 blocks in a chain" in str(ffc.compile(function, args).explain())


@pytest.mark.parametrize("schedule", ["jacobi+windows", "gauss-seidel+windows", "jacobi", "sliding(5)"])
def test_work_is_a_share_of_one_evaluation_whatever_the_schedule(schedule: str) -> None:
    function, args = SYSTEMS["conv_1d"].make()
    found = ffc.compile(function, args, schedule=schedule).explain().dependence
    assert found is not None and 0.0 < found.window.share <= 1.0 and found.kept_bytes > 0


def test_one_step_has_an_explanation_too() -> None:
    function, args = SYSTEMS["one_step"].make()
    assert str(ffc.compile(function, args).explain())


def test_a_refused_function_has_no_summary() -> None:
    function, args = SYSTEMS["leaking"].make()
    found = ffc.compile(function, args).explain()
    assert found.dependence is None and "dependence" in found.json


def test_data_holds_the_schedule_the_costs_and_what_another_demand_would_give() -> None:
    other = Alternative("equality=ffc.tolerance(0.0, 0.001)", 25, 0.1, 0.3)
    data = json.loads(json.dumps(explain(replace(MADE, alternatives=(other,))).json))
    assert MADE.costs is not None and data["costs"]["sweep"] == MADE.costs.sweep
    assert data["schedule"] == str(MADE.schedule) and data["alternatives"][0]["sweeps"] == 25


def test_the_guard_prices_a_window_by_what_was_measured() -> None:
    costs = Costs(1.0, 10.0, 12.0, 0.0, ((2, 1.0), (10, 3.0)))
    assert [costs.window(blocks) for blocks in (1, 2, 6, 10)] == [1.0, 1.0, 2.0, 3.0]
    assert costs.window(20) == 6.0 and costs.window(100) == 10.0  # at most a whole sweep
    assert replace(costs, windows=()).window(3) == 10.0


def test_a_continuous_image_model_needs_many_certifying_sweeps_and_they_are_counted() -> None:
    """Windowed convolutions round differently: the plan says how many certifying sweeps the example needed."""
    w1, w2 = randn(16, 1, 5, 5, seed=1) * 0.6, randn(1, 16, 5, 5, seed=2) * 0.25
    mask = torch.zeros(5, 5)
    mask[:2] = mask[2, :2] = 1

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            r, c = divmod(i, 12)
            h = torch.tanh(F.conv2d(x, w1 * mask, padding=2))
            mean = F.conv2d(h, w2 * mask, padding=2)
            x = x.clone()
            x[:, :, r, c] = (mean + noise)[:, :, r, c]
            return x

        return ffc.fori_loop(0, 144, step, torch.zeros_like(noise))

    noise = randn(2, 1, 12, 12)
    compiled = ffc.compile(sample, (noise,), schedule="sliding(24)+windows")
    (candidate,) = (c for c in compiled.plan.candidates if c.schedule == compiled.plan.schedule)
    result, record = bold(compiled).run(noise)
    assert torch.equal(result, sample(noise))
    assert sum(s.certified for s in record.sweeps) >= 1 and candidate.certifying <= candidate.sweeps


def test_a_compiled_function_prints_as_one_line() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        return ffc.fori_loop(0, 12, lambda t, h: 0.5 * h + x[t], torch.zeros(3))

    compiled = ffc.compile(run, (torch.randn(12, 3),), schedule="jacobi")
    assert repr(compiled) == "<ffcompiler.Compiled: jacobi; bits; cpu>"
