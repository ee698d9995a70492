"""Repeated maps are predicted: when the state repeats on each input, what a run takes, and what is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import bold, randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.choice.convergence import Fresh, Shape, Trace
from ffcompiler.choice.repetition import simulate_steps
from ffcompiler.choice.traces import take_trace
from ffcompiler.plan import Bits, Convergence, Costs, Equality, Method, Plan, Schedule
from ffcompiler.program import RepeatedMap
from ffcompiler.runtime.guard import SLACK, Handover
from ffcompiler.runtime.record import Ending
from ffcompiler.runtime.runner import Runner
from ffcompiler.tell.decision import convergence_lines

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 200
JACOBI = Schedule(Method.JACOBI)


BITS = Bits()
RATES = torch.linspace(0.1, 0.6, 6)


def halving(x: Tensor) -> Any:
    """About: each element comes to a place of its own."""
    return ffc.fori_loop(0, STEPS, lambda i, s: torch.cos(s) * RATES, x)


def turning(x: Tensor) -> Any:
    return ffc.fori_loop(0, STEPS, lambda i, s: -s, x)


def by_name(function: Callable[[Tensor], Any], equality: Equality = BITS) -> ffc.Compiled:
    return ffc.compile(function, (randn(6),), equality=equality, schedule="jacobi", cache=False)


def traced(compiled: ffc.Compiled, left: Callable[[], float] = lambda: 10.0) -> Trace:
    assert compiled.live is not None
    known, weights = compiled.live.captured.replays[0], compiled.live.weights()
    trace = take_trace(compiled.plan, compiled.proof, known, weights, left)
    assert trace is not None
    return trace


# ---------------------------------------------------------------------------------------------------- traces


@pytest.mark.parametrize("equality", [Bits(), ffc.tolerance(0.0, 1e-3)], ids=str)
def test_the_trace_says_after_which_step_a_run_finds_that_the_state_repeats(equality: Equality) -> None:
    compiled = by_name(halving, equality)
    _, record = bold(compiled).run(randn(6))
    trace = traced(compiled)
    assert trace.whole and trace.sweeps == len(record.sweeps) < STEPS


def test_a_state_that_never_repeats_takes_all_steps() -> None:
    assert traced(by_name(turning)).sweeps == STEPS


def test_of_steps_that_there_was_no_time_for_nothing_is_known() -> None:
    seconds = iter([1.0] * 5 + [-1.0])
    trace = traced(by_name(halving), lambda: next(seconds))
    assert not trace.whole and len(trace.runs[0].fronts) == 5 and trace.sweeps == STEPS


# ---------------------------------------------------------------------------------------------------- simulated runs

prices = st.floats(0.0, 3.0)


@given(st.integers(1, 40), st.integers(1, 40), prices, prices, prices, prices, st.sampled_from(Handover))
def test_whatever_the_prices_the_simulated_guard_keeps_its_promise(
    blocks: int, settled: int, sweep: float, look: float, once: float, after: float, handover: Handover
) -> None:
    fronts = (*range(1, min(settled, blocks)), blocks)
    costs = Costs(1.0, sweep, sweep + look, once, after=after, captured=sweep)
    run = simulate_steps(JACOBI, Shape(blocks, handover=handover), Trace(blocks, (Fresh(0, fronts),)), costs)
    reference = once + sweep * blocks + after if handover is Handover.LOADED else blocks
    assert not run.sweeps or run.seconds <= SLACK * reference + 1e-9
    assert run.sweeps <= run.certified <= blocks and (run.certified == blocks or run.sweeps == run.certified)
    assert run.certified == run.sweeps or run.sweeps >= settled


@pytest.mark.parametrize("function", [halving, turning])
@pytest.mark.parametrize(
    "costs",
    [
        Costs(1.0, 0.5, 0.6, 0.0),
        Costs(1.0, 1.0, 1.01, 0.5),
        Costs(1.0, 1.0, 1.5, 0.0),
        Costs(1.0, 1.3, 1.5, 1.0),
        Costs(1.0, 2.0, 200.0, 0.0),
        Costs(1.0, 16.0, 16.0, 0.0),
    ],
    ids=str,
)
def test_a_run_is_simulated_to_the_step(function: Callable[[Tensor], Any], costs: Costs) -> None:
    compiled = by_name(function)
    runner = Runner(replace(compiled.plan, costs=costs), compiled.proof, compiled.device, clock=lambda: 0.0)
    assert compiled.live is not None
    with torch.no_grad():
        execution = runner.begin([randn(6)], compiled.live.weights())
        runner.sweep(execution)
    record = execution.record
    run = simulate_steps(JACOBI, Shape(STEPS), traced(compiled), costs)
    assert (run.sweeps, run.certified) == (len(record.sweeps), record.certified)
    assert run.seconds == pytest.approx(record.spent + runner.guard().rest(record.certified))
    assert (record.ending is Ending.SWEEPS) == (run.certified == STEPS)


# ---------------------------------------------------------------------------------------------------- the decision


def test_auto_predicts_and_measures_it_like_any_other_candidate() -> None:
    plan = ffc.compile(halving, (randn(9000, 6),), cache=False).plan
    assert isinstance(plan.system, RepeatedMap) and plan.convergence is not None
    (found,) = plan.candidates[1:]
    assert found.schedule == JACOBI and found.memory and found.predicted is not None
    assert found.measured == bool(found.sweeps) or found.seconds == found.predicted
    assert 1 < plan.convergence.sweeps[0] < STEPS and plan.convergence.lyapunov is None


def test_further_inputs_are_predicted_on_too() -> None:
    """From zero the state is at once where others come to late: it is multiplied by what the input says."""

    def scaled(x: Tensor) -> Any:
        return ffc.fori_loop(0, STEPS, lambda i, s: s * x.abs().clamp(max=0.9), torch.ones_like(x))

    slow, quick = torch.full((4,), 0.5), torch.zeros(4)
    plan = ffc.compile(scaled, (quick,), calibration=[(slow,), (quick,)], cache=False).plan
    assert plan.convergence is not None
    first, late, again = plan.convergence.sweeps
    assert first == again < 4 < 100 < late
    text = "\n".join(convergence_lines(plan))
    assert f"step {first} to {late} of {STEPS} leaves the state as it is on 3 inputs" in text


def test_without_a_budget_nothing_is_run_and_all_steps_are_expected() -> None:
    plan = ffc.compile(halving, (randn(6),), budget=0.0, cache=False).plan
    (found,) = plan.candidates[1:]
    assert not found.measured and found.predicted == found.seconds
    assert plan.convergence is not None and plan.convergence.cut and plan.convergence.sweeps == (STEPS,)
    assert plan.schedule.method is Method.SEQUENTIAL


def test_by_name_it_is_run_and_not_predicted() -> None:
    (found,) = by_name(halving).plan.candidates[1:]
    assert found.measured and found.predicted is None


# ---------------------------------------------------------------------------------------------------- told


def told(equality: Equality, convergence: Convergence) -> str:
    plan: Plan = replace(by_name(halving).plan, equality=equality, convergence=convergence)
    return "\n".join(convergence_lines(plan))


def test_when_the_state_repeats_is_said_in_the_words_of_the_equality() -> None:
    near = ffc.tolerance(0.0, 1e-3)
    assert told(Bits(), Convergence((17,))) == f"step 17 of {STEPS} leaves the state as it is on the example inputs"
    assert "step 9 of 200 moves nothing beyond the tolerance" in told(near, Convergence((9,)))
    assert f"none of the {STEPS} steps leaves the state" in told(Bits(), Convergence((STEPS,)))
    assert "in the steps that there was time for none leaves" in told(Bits(), Convergence((STEPS,), cut=True))


def test_what_a_tolerance_and_8_bit_pixels_would_give_is_counted_in_steps() -> None:
    plan = ffc.compile(halving, (randn(6),), cache=False).plan
    loose, tight, pixels = plan.alternatives
    for one, limit in ((loose, 1e-3), (tight, 1e-6)):
        _, record = bold(by_name(halving, ffc.tolerance(0.0, limit))).run(randn(6))
        assert one.sweeps == len(record.sweeps) and one.measured
    assert "8-bit pixels" in pixels.change and pixels.sweeps <= tight.sweeps
    lines = ffc.compile(halving, (randn(6),), cache=False).explain().would_change
    assert any("jacobi sweeps" in line and "may be risked" not in line for line in lines)
    assert any("whatever a step costs" in line for line in lines)


def test_whole_numbers_that_go_on_moving_are_within_no_tolerance() -> None:
    def counting(x: Tensor) -> Any:
        return ffc.fori_loop(0, 20, lambda i, s: (s[0] * 0.5, s[1] + 1), (x, torch.zeros(2, dtype=torch.int64)))

    loose, tight = ffc.compile(counting, (torch.ones(3),), cache=False).plan.alternatives
    assert loose.sweeps == tight.sweeps == 20
