"""Levels: blocks that do not depend on each other are final together, in any order that respects what they read."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from systems import SYSTEMS, bold, randn
from test_catalogue import assert_same
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.passes.latest import Interpretation
from ffcompiler.passes.levels import by_level
from ffcompiler.plan import Costs
from ffcompiler.runtime.record import Ending
from ffcompiler.runtime.runner import Runner

pytestmark = pytest.mark.usefixtures("one_thread")


def true_levels(parents: list[list[int]]) -> list[int]:
    levels: list[int] = []
    for reads in parents:
        levels.append(max((levels[j] + 1 for j in reads), default=0))
    return levels


@pytest.mark.parametrize("seed", range(40))
def test_levels_of_a_random_graph_are_its_depths(seed: int) -> None:
    choose = random.Random(seed)
    n = choose.randint(2, 25)
    parents = [[j for j in range(i) if choose.random() < choose.choice((0.05, 0.3))] for i in range(n)]
    reads = [max(p, default=-1) for p in parents]
    order, ends = by_level(reads, lambda labels: [max((labels[j] for j in p), default=-1) for p in parents])
    levels = true_levels(parents)
    place = {step: k for k, step in enumerate(order)}
    assert sorted(order) == list(range(n))
    assert all(place[j] < place[i] for i, p in enumerate(parents) for j in p)
    if len(ends) < n:
        assert len(ends) == max(levels) + 1
        assert [levels[order[e - 1]] for e in ends] == list(range(len(ends)))


def dilated(n: int = 18, gap: int = 3) -> Any:
    """Each position reads the one ``gap`` before it and the one ``2 gap`` before it: levels of ``gap`` positions."""
    w1, w2 = randn(6, 1, 3, seed=1), randn(1, 6, 1, seed=2) * 0.9
    w1[:, :, 2] = 0

    def sample(noise: Tensor) -> Tensor:
        def step(t: int, x: Tensor) -> Tensor:
            h = torch.tanh(F.conv1d(F.pad(x, (2 * gap, 0)), w1, dilation=gap))
            x = x.clone()
            x[:, :, t] = F.conv1d(h, w2)[:, :, t] + noise[:, :, t]
            return x

        return ffc.fori_loop(0, n, step, torch.zeros_like(noise))

    return sample, (randn(2, 1, n),)


def test_a_dilated_sampler_needs_one_sweep_for_each_level_and_no_iteration() -> None:
    function, args = dilated()
    compiled = bold(ffc.compile(function, args, schedule="wavefront"))
    assert compiled.proof.wave is not None and len(compiled.proof.wave.ends) == 6
    result, record = compiled.run(*args)
    assert_same(result, function(*args))
    assert record.ending is Ending.SWEEPS
    assert len([s for s in record.sweeps if not s.certified] or record.sweeps) == 6


@pytest.mark.parametrize("schedule", ["wavefront", "wavefront+windows"])
def test_a_short_receptive_field_makes_fewer_levels_than_pixels(schedule: str) -> None:
    function, args = SYSTEMS["raster_2d"].make()
    compiled = bold(ffc.compile(function, args, schedule=schedule))
    assert compiled.proof.wave is not None
    assert len(compiled.proof.wave.ends) == 4 + 2 * 4 + 1  # one column further right is seen for each row up: c + 2 r
    result, record = compiled.run(*args)
    assert_same(result, function(*args))
    assert len([s for s in record.sweeps if not s.certified]) == len(compiled.proof.wave.ends)


def test_a_chain_keeps_its_order_and_wavefront_is_gauss_seidel() -> None:
    function, args = SYSTEMS["logistic_map"].make()
    compiled = bold(ffc.compile(function, args, schedule="wavefront"))
    assert compiled.proof.wave is None
    result, record = compiled.run(*args)
    assert_same(result, function(*args))
    assert [s.hi - s.lo for s in record.sweeps] == [1] * 16


@pytest.mark.parametrize("allowed", range(1, 12))
def test_a_wavefront_that_stops_early_hands_over_whole_steps(allowed: int) -> None:
    """Levels are not a prefix of the steps: what is handed over is, and nothing of later steps is kept."""
    function, args = SYSTEMS["raster_2d"].make()
    compiled = ffc.compile(function, args, schedule="wavefront")
    costs = Costs(step=1.0, sweep=0.0, certify=1.2 / allowed, once=0.0)
    compiled.plan = replace(compiled.plan, costs=costs)
    compiled.parts[0].runner = Runner(compiled.plan, compiled.proof, compiled.device)
    result, record = compiled.run(*args)
    assert_same(result, function(*args))
    wave = compiled.proof.wave
    assert wave is not None and record.ending in (Ending.GUARD, Ending.SWEEPS)
    assert record.certified <= record.blocks


def test_a_loaded_plan_solves_by_levels(tmp_path: Any) -> None:
    function, args = dilated()
    compiled = bold(ffc.compile(function, args, schedule="wavefront"))
    compiled.save(tmp_path / "plan.ffc")
    again = ffc.load(tmp_path / "plan.ffc")
    result, record = again.run(*args)
    assert_same(result, function(*args))
    assert record.ending is Ending.SWEEPS and again.proof.wave is not None


def sign_of_the_upper_right() -> Any:
    """The pixel to the upper right is multiplied by zero, added to -0, and its sign shows in a division.

    In the order of the loop it comes before the left neighbour, which is read, and so is final in any schedule but by
    levels.
    """
    size, inner = 4, torch.arange(4) > 0
    nothing, minus_zero = torch.zeros(1, 1, 1, 1), torch.full((1,), -0.0)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            r, c = divmod(i, size)
            upper_right = F.pad(x, (0, 1, 1, 0))[:, :, :size, 1:]
            sign = torch.where(inner, (1 / F.conv2d(upper_right, nothing, minus_zero)).clamp(-2, 2), 0.0)
            left, above = F.pad(x, (1, 0))[..., :size], F.pad(x, (0, 0, 1, 0))[:, :, :size]
            y = sign + 0.3 * left + 0.2 * above + noise
            x = x.clone()
            x[:, :, r, c] = y[:, :, r, c]
            return x

        return ffc.fori_loop(0, size * size, step, torch.full_like(noise, -1.0))

    return sample, (randn(2, 1, size, size).abs() * -1 - 5,)  # the first state has the signs of the answer


@pytest.mark.parametrize("schedule", ["wavefront", "jacobi"])
def test_a_product_with_zero_whose_sign_shows_is_a_dependence_of_its_level(schedule: str) -> None:
    function, args = sign_of_the_upper_right()
    compiled = bold(ffc.compile(function, args, schedule=schedule))
    for noise in (args[0], -args[0], randn(*args[0].shape, seed=3)):
        assert_same(compiled(noise), function(noise))


def test_a_sign_of_zero_that_only_a_sweep_by_levels_could_mistake_is_found_when_compiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Interpretation, "has_negative_zero", lambda it, added: False)
    function, args = sign_of_the_upper_right()
    with pytest.raises(ffc.CausalityError, match="rounding depends on values that the result does not depend on"):
        ffc.compile(function, args, schedule="wavefront")
