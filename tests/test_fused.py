"""Loops in a row as one, where each step of the second reads what the same step of the first leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rows import encoder_decoder, through_time
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from unmarked import randn

import ffcompiler as ffc
from ffcompiler.capture import capture
from ffcompiler.forms import Choice, Form, best
from ffcompiler.fused import fused
from ffcompiler.plan import Method, Schedule, in_a_row
from ffcompiler.program import Loop
from ffcompiler.rules.verify import verify

T = 24
NEAR = ffc.tolerance(1e-6, 1e-6)
Second = Callable[[list[Tensor], int], Tensor]


def in_two_loops(read: Second, prepare: Callable[[list[Tensor]], Any] = lambda left: left) -> Callable[[Tensor], Any]:
    """Filters: the second reads ``read(prepare(what the first leaves), t)``. All operators are exact."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = 0.5 * h + x[t]
            left.append(h)
        kept = prepare(left)
        g, result = torch.ones(2, 4), []
        for t in range(T):
            g = 0.25 * g - read(kept, t)
            result.append(g)
        return torch.stack(result), h

    return run


def in_place(left: list[Tensor]) -> Tensor:
    kept = torch.zeros(T + 1, 2, 4)
    for t in range(T):
        kept[t + 1] = left[t]
    return kept


JOINED: dict[str, Callable[[Tensor], Any]] = {
    "a list": in_two_loops(lambda left, t: left[t]),
    "a stack": in_two_loops(lambda left, t: left[t], torch.stack),
    "a stack along the second dimension": in_two_loops(lambda left, t: left[:, t], lambda left: torch.stack(left, 1)),
    "transposed": in_two_loops(lambda left, t: left[:, t], lambda left: torch.stack(left).transpose(0, 1)),
    "from last to first": in_two_loops(lambda left, t: left[T - 1 - t], lambda left: torch.stack(left[::-1])),
    "after a first state": in_two_loops(
        lambda left, t: left[t + 1], lambda left: torch.stack([torch.zeros(2, 4), *left])
    ),
    "as a view": in_two_loops(lambda left, t: left[t].view(4, 2).reshape(2, 4), torch.stack),
    "a part of it": in_two_loops(lambda left, t: left[t][:, :2].repeat(1, 2), torch.stack),
}
APART: dict[str, Callable[[Tensor], Any]] = {
    "what the step before has left": in_two_loops(lambda left, t: left[max(t - 1, 0)]),
    "in the other direction": in_two_loops(lambda left, t: left[T - 1 - t]),
    "all of it": in_two_loops(lambda left, t: left.mean(0) * t, torch.stack),
    "another type": in_two_loops(
        lambda left, t: left[t].to(torch.float32),
        lambda left: torch.cat([torch.stack(left), torch.zeros(1, 2, 4, dtype=torch.float64)]),
    ),
}
X = randn(T, 2, 4)


def one_of(function: Callable[..., Any], args: tuple[Tensor, ...]) -> Any:
    """The function as captured, with its loops as one if they can be."""
    return fused(capture(function, args))


@pytest.mark.parametrize("name", JOINED)
def test_steps_that_read_what_the_same_step_left_are_joined(name: str) -> None:
    captured = one_of(JOINED[name], (X,))
    assert captured is not None and captured.rest is None
    assert isinstance(captured.program.loop, Loop) and len(captured.program.loop.carry) == 2


@pytest.mark.parametrize("name", APART)
def test_loops_stay_apart_where_a_step_reads_what_others_left(name: str) -> None:
    assert one_of(APART[name], (X,)) is None
    assert len(capture(APART[name], (X,)).parts) == 2
    assert ffc.compile(APART[name], (X,)).verify(0.3 * X).equal


def test_a_loop_that_begins_with_what_the_first_ends_with_stays_apart() -> None:
    assert one_of(*encoder_decoder()) is None
    assert one_of(*through_time()) is None


@pytest.mark.parametrize("name", JOINED)
def test_the_joined_loop_has_the_bits_of_the_function_by_sweeps_and_from_a_file(name: str, tmp_path: Path) -> None:
    compiled = ffc.compile(JOINED[name], (X,), schedule="wavefront")
    assert compiled.plan.rest is None and compiled.plan.schedule.method is Method.WAVEFRONT
    verify(compiled.plan)
    for x in (X, -0.7 * X, 1e30 * X):
        assert compiled.verify(x).equal
    compiled.save(tmp_path / "joined.ffc")
    loaded = ffc.load(tmp_path / "joined.ffc")
    expected = tree_leaves(JOINED[name](X))
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(loaded(X)), expected, strict=True))


def test_layers_of_a_recurrent_network_have_levels() -> None:
    layers = nn.GRU(3, 8, num_layers=3)

    def run(x: Tensor) -> Any:
        return layers(x)

    x = randn(40, 2, 3)
    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="wavefront")
    assert "3 layers, 42 levels" in str(compiled.explain())
    for got, wanted in zip(tree_leaves(compiled(0.5 * x)), tree_leaves(run(0.5 * x)), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_both_directions_of_a_layer_are_joined_and_the_layers_above_are_not() -> None:
    layers = nn.GRU(3, 4, num_layers=2, bidirectional=True)
    captured = one_of(lambda x: layers(x)[0], (randn(24, 2, 3),))
    assert captured is not None and len(captured.parts) == 2


def test_weights_that_both_loops_read_are_one() -> None:
    cell = nn.GRUCell(4, 4)

    def run(x: Tensor) -> Tensor:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = cell(x[t], h)
            left.append(h)
        g = torch.zeros(2, 4)
        for y in left:
            g = cell(y, g)
        return g

    captured = one_of(run, (X,))
    assert captured is not None and len(captured.program.weights) == 4
    compiled = ffc.compile(run, (X,), equality=NEAR, schedule="wavefront")
    with torch.no_grad():
        cell.weight_hh.mul_(0.5)
    torch.testing.assert_close(compiled(X), run(X), atol=1e-5, rtol=1e-4)


def test_one_of_several_results_of_a_call_before_the_loops_keeps_them_apart() -> None:
    def run(x: Tensor) -> Tensor:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = 0.5 * h + x[t]
            left.append(h)
        most, which = torch.stack([x[0], x[1]]).max(0)
        g = torch.zeros(2, 4)
        for t in range(T):
            g = 0.5 * g + left[t] * which + most
        return g

    assert ffc.compile(run, (X,)).verify(-X).equal


def test_tests_on_values_in_both_loops_are_looked_at() -> None:
    def run(x: Tensor) -> Tensor:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = 0.5 * h + x[t]
            if h.isnan().any():
                raise ValueError("first")
            left.append(h)
        g = torch.zeros(2, 4)
        for t in range(T):
            g = 0.5 * g + left[t]
            if (g > 1e6).any():
                raise ValueError("second")
        return g

    compiled = ffc.compile(run, (X,), schedule="wavefront")
    assert compiled.plan.rest is None and compiled.verify(-X).equal
    with pytest.raises(ValueError, match="first"):
        compiled(torch.full_like(X, torch.nan))
    with pytest.raises(ValueError, match="second"):
        compiled(torch.full_like(X, 1e6))


# ---------------------------------------------------------------------------------------------------- the choice


def chosen(seconds: float, loops: int) -> Choice:
    """A function in so many loops, each solved in so many seconds while its reference takes one."""
    plan = ffc.compile(JOINED["a list"], (X,), schedule="jacobi").parts[0].plan
    assert plan.costs is not None and plan.system is not None
    costs = replace(plan.costs, step=1.0 / plan.system.blocks)
    candidate = replace(plan.candidates[1], schedule=Schedule(Method.JACOBI), seconds=seconds)
    part = replace(plan, costs=costs, candidates=(plan.candidates[0], candidate), rest=None, why="")
    return Choice(Form(None, (part,) * loops, ()), in_a_row([part] * loops))  # type: ignore[arg-type]


@pytest.mark.parametrize(("apart", "joined", "taken"), [(0.5, 0.2, 1), (0.2, 0.5, 2), (0.5, 0.49, 2)])
def test_the_faster_form_is_taken_and_says_what_the_other_would_take(apart: float, joined: float, taken: int) -> None:
    found = best([chosen(apart, 2), chosen(joined, 1)])
    assert len(found.plan.parts) == taken
    assert f"{joined if taken == 2 else apart:.3g} times the reference's seconds" in found.plan.why


def test_states_that_become_the_same_value_have_levels_of_recorded_calls() -> None:
    """A graph gives equal outputs once."""
    first, second = nn.GRUCell(4, 4).requires_grad_(False), nn.GRUCell(4, 4).requires_grad_(False)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, p, q, g = torch.zeros(2, 4), torch.ones(2, 4), torch.full((2, 4), 2.0), torch.ones(2, 4)
        for t in range(T):
            new = first(x[t], h)
            g = second(new + p * q, g)
            h, p, q = new, new, new
        return g, h

    assert ffc.compile(run, (X,), schedule="wavefront").verify(-X).equal
