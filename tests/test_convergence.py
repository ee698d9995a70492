"""Schedules simulated on the fronts of plain Jacobi: the sweeps that a real run makes, and the guard's end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import SYSTEMS, Case, randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.choice.convergence import HARDER, Fresh, Run, Shape, Trace, quantile, simulate
from ffcompiler.choice.lyapunov import largest_exponent
from ffcompiler.choice.traces import certifying_sweeps, take_trace
from ffcompiler.plan import Bits, Costs, Equality, Method, Schedule
from ffcompiler.runtime.guard import SLACK
from ffcompiler.runtime.record import RunRecord
from ffcompiler.runtime.runner import Runner
from ffcompiler.schedules import parse_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

PARALLEL = [case for case in SYSTEMS.values() if case.parallel and case.blocks > 1]
OTHERS = ("gs-jacobi(3)", "sliding(3)", "sliding(5)", "sliding(5)+windows", "gauss-seidel+windows")
FREE = Costs(1.0, 1.0, 1.0, 0.0)
NEAR = 2
"""Sweeps: the catalogue's systems have 6 to 25 blocks."""
EXACT = Shape(8)


def plan_of(function: Any, args: Any, equality: Equality | str = "bits") -> ffc.Compiled:
    compiled = ffc.compile(function, args, equality=equality, schedule="jacobi", cache=False)
    assert compiled.plan.refusal is None
    return compiled


def traced(compiled: ffc.Compiled, seconds: Callable[[], float] = lambda: 10.0) -> Trace:
    assert compiled.live is not None
    replay, weights = compiled.live.captured.replays[0], compiled.live.weights()
    trace = take_trace(compiled.plan, compiled.proof, replay, weights, seconds)
    assert trace is not None
    return trace


def really(compiled: ffc.Compiled, name: str) -> tuple[RunRecord, Shape]:
    """A run without the guard, and what the simulation is told of the system."""
    schedule = parse_schedule(name)
    assert compiled.live is not None and schedule is not None
    replay = compiled.live.captured.replays[0]
    runner = Runner(replace(compiled.plan, schedule=schedule), compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        execution = runner.begin(replay.arguments, compiled.live.weights(), replay.generators)
        runner.sweep(execution)
    solving, array = runner.solving, compiled.plan.array
    assert solving is not None
    exact = solving.exact or not isinstance(compiled.plan.equality, Bits)
    certifying = sum(s.certified for s in execution.record.sweeps)
    row = array.row if array is not None else 1
    told = 1 if exact and not schedule.windows else certifying
    return execution.record, Shape(
        solving.blocks, exact, solving.priced_by_width, solving.levels, row=row, certifying=told
    )


def expected(name: str, shape: Shape, trace: Trace, costs: Costs = FREE, guarded: bool = False) -> Run:
    schedule = parse_schedule(name)
    assert schedule is not None
    return simulate(schedule, shape, trace, costs, guarded)


@pytest.mark.parametrize("case", PARALLEL, ids=lambda c: c.name)
def test_jacobi_is_simulated_to_the_sweep_and_other_schedules_to_a_few(case: Case) -> None:
    compiled = plan_of(*case.make())
    trace = traced(compiled)
    for name in ("jacobi", "gauss-seidel", "wavefront"):
        record, shape = really(compiled, name)
        assert expected(name, shape, trace).sweeps == len(record.sweeps), name
    for name in OTHERS:
        record, shape = really(compiled, name)
        assert abs(expected(name, shape, trace).sweeps - len(record.sweeps)) <= NEAR + case.blocks // 12, name


def tanh_rnn(rate: float) -> Callable[[Tensor], Tensor]:
    return lambda x: ffc.fori_loop(0, x.shape[1], lambda i, h: torch.tanh(rate * h + x[:, i]), x.new_zeros(1, 3))


@pytest.mark.parametrize("rate", [0.5, 0.95])
def test_sweeps_of_a_recurrence_are_told_within_a_fifth_for_any_window(rate: float) -> None:
    compiled = plan_of(tanh_rnn(rate), (randn(1, 400, 3),), ffc.tolerance(1e-6, 1e-6))
    trace = traced(compiled)
    assert trace.whole and len(trace.runs) == 4
    for name in ("jacobi", "sliding(100)", "sliding(25)", "gs-jacobi(100)", "gs-jacobi(50)", "growing(40)"):
        record, shape = really(compiled, name)
        assert expected(name, shape, trace).sweeps == pytest.approx(len(record.sweeps), rel=0.2), name
    for b in (1, 2, 7, 40, 399):
        record, shape = really(compiled, f"jacobi-gs({b})")
        assert abs(expected(f"jacobi-gs({b})", shape, trace).sweeps - len(record.sweeps)) <= (b > 1), b


@given(st.integers(0, 10**6), st.floats(0.1, 0.95), st.sampled_from([60, 140]), st.integers(1, 40))
@settings(max_examples=8)
def test_runs_in_order_are_told_to_a_sweep_from_what_jacobi_did(seed: int, rate: float, n: int, b: int) -> None:
    w = randn(4, 4, seed=seed)
    w = w / torch.linalg.matrix_norm(w, 2) * rate
    loop = lambda x: ffc.fori_loop(0, n, lambda i, h: torch.tanh(h @ w + x[:, i]), x.new_zeros(1, 4))  # noqa: E731
    compiled = plan_of(loop, (randn(1, n, 4, seed=seed),), ffc.tolerance(1e-5, 1e-5))
    trace = traced(compiled)
    record, shape = really(compiled, f"jacobi-gs({b})")
    assert abs(expected(f"jacobi-gs({b})", shape, trace).sweeps - len(record.sweeps)) <= (b > 1)


@pytest.mark.parametrize("name", ["jacobi", "sliding(4)", "gs-jacobi(4)", "sliding(4)+windows"])
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.floats(0.01, 4.0),
    st.floats(0.01, 4.0),
    st.floats(0.0, 1.0),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_trace_the_simulated_guard_keeps_its_promise(
    name: str, steps: list[int], sweep: float, certify: float, once: float
) -> None:
    fronts = tuple(sum(steps[: k + 1]) for k in range(len(steps)))
    blocks = fronts[-1]
    costs = Costs(1.0, sweep, certify, once, ((1, sweep / 4), (blocks + 1, sweep)))
    run = expected(name, Shape(blocks), Trace(blocks, (Fresh(0, fronts),)), costs, guarded=True)
    started = run.sweeps > 0
    assert run.seconds <= SLACK * blocks + 1e-9 if started else run.seconds <= blocks + 2 * once + 1e-9
    assert 0 <= run.certified <= blocks and run.certifying <= run.sweeps


def test_a_guard_that_stops_the_run_is_simulated_too() -> None:
    chain = Trace(8, (Fresh(0, tuple(range(1, 9))),))
    costs = Costs(1.0, 2.0, 2.0, 0.0)
    run = expected("jacobi", EXACT, chain, costs, guarded=True)
    assert run == Run(8.0, 0, 0, 0)
    cheap = expected("jacobi", EXACT, chain, Costs(1.0, 0.1, 0.1, 0.0), guarded=True)
    assert (cheap.sweeps, cheap.certified, cheap.seconds) == (8, 8, pytest.approx(0.8))


def test_windows_that_round_otherwise_are_charged_their_certifying_sweeps() -> None:
    at_once = Trace(8, (Fresh(0, (8,)),))
    costs = Costs(1.0, 0.1, 0.2, 0.0, ((1, 0.01), (8, 0.05)), fill=0.3)
    clean = expected("jacobi+windows", EXACT, at_once, costs)
    dirty = expected("jacobi+windows", replace(EXACT, certifying=3), at_once, costs)
    assert (clean.sweeps, clean.certifying, clean.seconds) == (2, 1, pytest.approx(0.5))
    assert (dirty.sweeps, dirty.certifying, dirty.seconds) == (4, 3, pytest.approx(0.9))


def test_a_run_that_was_cut_short_goes_on_at_the_speed_of_its_front() -> None:
    cut = Trace(100, (Fresh(0, (4, 8, 12)),))
    assert not cut.whole and cut.sweeps == 25
    assert Trace(100, (Fresh(0, ()),)).sweeps == 100  # of no sweep at all: one block each
    compiled = plan_of(*SYSTEMS["made_whole_then_sliced"].make())
    seconds = iter([10.0, 10.0, -1.0, -1.0])
    short = traced(compiled, lambda: next(seconds))
    assert len(short.runs[0].fronts) == 2 and short.sweeps > 2


@pytest.mark.parametrize("name", ["conv_1d", "raster_2d", "raster_2d_with_channels", "made_sliced_then_exp"])
def test_how_many_sweeps_certify_after_windows_is_told_from_the_answer(name: str) -> None:
    """Windowed convolutions of continuous values round otherwise than whole ones; products here do not."""
    compiled = plan_of(*SYSTEMS[name].make())
    assert compiled.live is not None
    replay, weights = compiled.live.captured.replays[0], compiled.live.weights()
    told = certifying_sweeps(compiled.plan, compiled.proof, replay, weights, True, lambda: 10.0)
    record, _ = really(compiled, "sliding(5)+windows")
    needed = sum(s.certified for s in record.sweeps)
    assert abs(told - needed) <= 1 + needed // 4
    assert certifying_sweeps(compiled.plan, compiled.proof, replay, weights, False, lambda: 10.0) == 1


def test_the_same_trace_and_costs_give_the_same_run() -> None:
    compiled = plan_of(*SYSTEMS["raster_2d"].make())
    trace = traced(compiled)
    assert trace == traced(compiled)
    shape = Shape(25, row=5)
    assert expected("sliding(10)+windows", shape, trace) == expected("sliding(10)+windows", shape, trace)


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3.0, 1.0, 2.0]) == 0
    assert quantile([5.0]) == 0
    assert quantile([1.0] * 9 + [9.0]) == 8  # the first of equals that nine in ten do not exceed
    assert quantile([float(k) for k in range(20)]) == 17


# ---------------------------------------------------------------------------------------------------- Lyapunov


def exponent(function: Any, *args: Tensor) -> float | None:
    compiled = plan_of(function, args, ffc.tolerance(1e-6, 1e-6))
    assert compiled.live is not None
    runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        execution = runner.begin(compiled.live.captured.replays[0].arguments, compiled.live.weights())
        return largest_exponent(runner, execution, lambda: 10.0)


def test_the_exponent_of_a_linear_filter_is_the_logarithm_of_its_rate() -> None:
    filtered = lambda x: ffc.fori_loop(0, x.shape[1], lambda i, s: 0.7 * s + x[:, i], x.new_zeros(1, 3))  # noqa: E731
    assert exponent(filtered, randn(1, 200, 3)) == pytest.approx(math.log(0.7), abs=1e-3)


def test_the_exponent_of_the_logistic_map_at_4_is_log_2() -> None:
    def chaos(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 900, lambda i, h: 4.0 * h * (1.0 - h) + 0.0 * x[:, i], x.new_full((1,), 0.3))

    assert exponent(chaos, torch.zeros(1, 900, dtype=torch.float64)) == pytest.approx(math.log(2), abs=0.05)


def test_steps_whose_norms_grow_but_whose_products_shrink_have_a_negative_exponent() -> None:
    """One step at a time each may make an error four times as large; in a row they forget it."""
    turn = torch.tensor([[0.0, 4.0], [0.05, 0.0]])
    spun = lambda x: ffc.fori_loop(0, x.shape[1], lambda i, h: h @ turn + x[:, i], x.new_zeros(1, 2))  # noqa: E731
    found = exponent(spun, randn(1, 300, 2))
    assert torch.linalg.matrix_norm(turn, 2) == pytest.approx(4.0)
    assert found == pytest.approx(math.log(0.2) / 2, abs=0.05)


def test_the_exponent_is_the_same_whatever_the_global_generator_holds_and_leaves_it_alone() -> None:
    x = randn(1, 60, 3)
    torch.manual_seed(1)
    first, state = exponent(tanh_rnn(0.8), x), torch.get_rng_state()
    torch.manual_seed(2)
    assert exponent(tanh_rnn(0.8), x) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_whole_numbers_have_no_exponent() -> None:
    def counted(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, x.shape[0], lambda i, s: s * 3 + x[i], x.new_zeros(()))

    compiled = plan_of(counted, (torch.arange(40),))
    runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
    assert compiled.live is not None
    execution = runner.begin(compiled.live.captured.replays[0].arguments, compiled.live.weights())
    assert largest_exponent(runner, execution, lambda: 10.0) is None


def test_a_plan_says_how_its_recurrence_converges() -> None:
    x = randn(1, 120, 3)
    further = [(randn(1, 120, 3, seed=7),), (randn(1, 120, 3, seed=8) * 3,)]
    equality = ffc.tolerance(1e-6, 1e-6)
    compiled = ffc.compile(tanh_rnn(0.5), (x,), equality=equality, calibration=further, cache=False)
    known = compiled.plan.convergence
    assert known is not None and len(known.sweeps) == 3 and known.lyapunov is not None and known.lyapunov < 0
    assert "largest Lyapunov exponent" in str(compiled.explain()) and "on 3 inputs" in str(compiled.explain())
    with pytest.raises(ffc.UsageError, match=r"calibration\[0\] is not a call like the example"):
        ffc.compile(tanh_rnn(0.5), (x,), equality=equality, calibration=[(randn(1, 121, 3),)])


def test_a_window_of_any_size_needs_no_fewer_sweeps_than_jacobi() -> None:
    trace = Trace(64, (Fresh(0, (8, 30, 50, 64)),))
    shape = Shape(64)
    jacobi = simulate(Schedule(Method.JACOBI), shape, trace, FREE, False).sweeps
    sizes = [simulate(Schedule(Method.SLIDING, b), shape, trace, FREE, False).sweeps for b in (1, 2, 4, 8, 16, 32, 64)]
    assert min(sizes) >= jacobi == sizes[-1] and sizes[0] == 64


FADING = Trace(300, (Fresh(0, (*range(1, 15), 300)),))
"""A contraction: one block is final in each sweep, and all in the fifteenth."""


def of_sweeps(cost: float, least: float) -> Costs:
    """Beside steps of a second: sweeps over 300 blocks that cost so much, and over one that cost the least."""
    return Costs(step=1.0, sweep=cost, certify=cost, once=0.0, windows=((1, least), (300, cost)))


def test_where_slack_is_short_and_narrow_windows_are_cheap_they_pay_for_the_others() -> None:
    found = simulate(Schedule(Method.JACOBI), Shape(300, by_width=True), FADING, of_sweeps(8.0, 0.08))
    assert found.certified == 300 and found.sweeps > FADING.sweeps and found.seconds < 120.0
    alone = simulate(Schedule(Method.JACOBI), Shape(300, by_width=True), FADING, of_sweeps(8.0, 8.0))
    assert alone.certified < 300  # nothing to be had by narrow ones


def test_windows_stay_as_they_are_where_narrow_ones_cost_as_much() -> None:
    """What fits into the slack to the last sweep is not narrowed shortly before its end."""
    costs = of_sweeps(1.9, 1.7)
    found = simulate(Schedule(Method.JACOBI), Shape(300, by_width=True), FADING, costs)
    assert (found.sweeps, found.certified) == (FADING.sweeps, 300)
    assert found == simulate(Schedule(Method.JACOBI), Shape(300, by_width=True), FADING, costs, guarded=False)


def test_behind_a_window_blocks_of_a_system_that_forgets_have_the_age_of_its_last_ones() -> None:
    faded = Trace(2000, (Fresh(0, (*range(1, 30), 128), 128),))
    assert faded.sweeps == 30 and not faded.whole
    slow = Trace(2000, (Fresh(0, tuple(range(1, 129)), 128),))
    assert slow.sweeps == 2000


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(0, 5))
def test_a_harder_input_needs_a_quarter_more_sweeps_and_one_at_least(steps: list[int], start: int) -> None:
    fronts = tuple(start + sum(steps[: k + 1]) for k in range(len(steps)))
    blocks = fronts[-1] if fronts else start
    trace = Trace(blocks, (Fresh(start, fronts),))
    (harder,) = trace.harder().runs
    most = max(math.ceil(HARDER * len(fronts)), len(fronts) + 1) if fronts else 0
    assert len(fronts) <= len(harder.fronts) <= min(most, blocks - start)
    assert harder.fronts[-1:] == fronts[-1:] and list(harder.fronts) == sorted(harder.fronts)
    for block, usual, later in zip(
        range(start, blocks), Fresh(start, fronts).ages(blocks), harder.ages(blocks), strict=True
    ):
        wanted = max(math.ceil(HARDER * usual), usual + 1)
        assert later == min(wanted, block - start + 1)  # each sweep ends a block, whatever the input
