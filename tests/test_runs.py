"""Runs of blocks in order, all runs at once: ``jacobi-gs(b)`` of recurrences and arrays; what it claims is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recurrences import RECURRENCES, tensors
from systems import randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.plan import Costs, Equality, Method, Schedule, Tolerance
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.guard import KEEP, Guard
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.runner import Runner
from ffcompiler.runtime.runs import Runs
from ffcompiler.schedules import candidates_for_recurrence, parse_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOWS = st.tuples(st.integers(1, 9), st.integers(0, 30), st.integers(1, 30))


def compiled_as(function: Callable[..., Any], args: tuple[Any, ...], equality: Equality | str) -> ffc.Compiled:
    made = ffc.compile(function, args, equality=equality, schedule="jacobi", cache=False)
    assert made.plan.refusal is None
    return made


def run(
    made: ffc.Compiled, schedule: str, args: tuple[Any, ...], costs: Costs | None = None
) -> tuple[list[Tensor], RunRecord, Any]:
    """One run by a schedule, to the end or, with ``costs``, as far as the guard lets it; and the blocks."""
    wanted = parse_schedule(schedule)
    assert wanted is not None and made.live is not None
    plan = replace(made.plan, schedule=wanted, costs=costs)
    runner = Runner(plan, made.proof, made.device, guarded=costs is not None, clock=lambda: 0.0)
    with torch.no_grad():
        execution = runner.begin(tensors(args), made.live.weights())
        solution = runner.sweep(execution)
        results = runner.results(execution, runner.finish(execution))
        execution.record.certificate = runner.certify(execution)
    return results, execution.record, solution.state


# ---------------------------------------------------------------------------------------------------- which blocks


@given(WINDOWS)
def test_turns_take_every_block_of_a_window_once_and_each_after_those_before_it_in_its_run(drawn: Any) -> None:
    size, lo, width = drawn
    runs, hi = Runs(size), lo + width
    turns = list(runs.turns(lo, hi))
    assert sorted(k for turn in turns for k in turn) == list(range(lo, hi)) and all(turns)
    when = {k: number for number, turn in enumerate(turns) for k in turn}
    for k in range(lo + 1, hi):
        assert (runs.begin(k, lo) == k) == (k % size == 0)
        assert k % size == 0 or when[k - 1] < when[k], "in order inside a run"
    assert len(turns) <= size, "all runs at once"


@given(WINDOWS)
def test_the_last_blocks_of_runs_are_told_apart_from_the_others(drawn: Any) -> None:
    size, lo, width = drawn
    runs, hi = Runs(size), lo + width
    lasts = [k for k in range(lo, hi) if (k + 1) % size == 0 or k == hi - 1]
    told = [k for turn in runs.turns(lo, hi) for k in turn[runs.inner(turn, hi) :]]
    assert sorted(told) == lasts
    assert [runs.after(lo, hi, count) for count in range(len(lasts) + 1)] == [lo, *(k + 1 for k in lasts)]
    assert all(runs.end(k, hi) == next(last for last in lasts if last >= k) + 1 for k in range(lo, hi))


# ---------------------------------------------------------------------------------------------------- what is claimed


def step_of(kind: str, seed: int, strength: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A step on a state of four numbers, in double precision, so that rounding is far below every tolerance."""
    w = randn(4, 4, seed=seed, dtype=torch.float64)
    if kind == "shears":  # an error grows a hundredfold in one step before it is forgotten
        w = torch.triu(30.0 * w, 1) + torch.eye(4, dtype=torch.float64) * 0.5
        return lambda x, h: strength * torch.sin(h) @ w * 0.3 + x
    w = w / torch.linalg.matrix_norm(w, 2)
    if kind == "forgets":
        return lambda x, h: torch.tanh(strength * (h @ w) + x)
    return lambda x, h: torch.cos(3 * strength * (h @ w)) + x  # may be chaotic


@settings(max_examples=30)
@example("shears", 543873, 51, "jacobi-gs({b})", 10, (0.0, 1e-5), None)
@example("shears", 87277, 57, "jacobi-gs({b})", 2, (1e-3, 1e-6), 0.0053)
@given(
    st.sampled_from(["forgets", "shears", "chaos"]),
    st.integers(0, 10**6),
    st.integers(2, 60),
    st.sampled_from(["jacobi", "sliding({b})", "gs-jacobi({b})", "growing({b})", *["jacobi-gs({b})"] * 4]),
    st.integers(1, 20),
    st.sampled_from([(0.0, 1e-5), (1e-3, 1e-6), (1e-2, 1e-2)]),
    st.one_of(st.none(), st.floats(0.001, 0.3)),
)
def test_the_residual_of_every_certified_block_is_within_the_tolerance(
    kind: str, seed: int, n: int, name: str, b: int, tolerance: tuple[float, float], price: float | None
) -> None:
    step = step_of(kind, seed, 0.9)
    x = randn(1, n, 4, seed=seed + 1, dtype=torch.float64)

    def loop(x: Tensor) -> Any:
        return ffc.fori_loop(0, n, lambda i, h: step(x[:, i], h), x.new_zeros(1, 4))

    equality = ffc.tolerance(*tolerance)
    made = compiled_as(loop, (x,), equality)
    costs = None if price is None else Costs(1.0, price * n, price * n, 0.0, ((1, 0.01), (n + 1, price * n + 0.01)))
    _, record, (states,) = run(made, name.format(b=b), (x,), costs)
    certified = record.certified
    assert certified == n or record.ending is Ending.GUARD
    worst = 0.0
    for k in range(certified):
        gap = (step(x[:, k], states[k]) - states[k + 1]).abs()
        assert bool((gap <= equality.atol + equality.rtol * states[k + 1].abs() * (1 + equality.rtol) + 1e-12).all()), k
        worst = max(worst, float(gap.max()))
    assert record.certificate is not None
    if certified:
        assert record.certificate.residual is not None and worst <= record.certificate.residual + 1e-12
    if name.startswith("jacobi-gs") and costs is None:
        assert len(record.sweeps) <= math.ceil(n / b)


@pytest.mark.parametrize("name", ["jacobi-gs(2)", "jacobi-gs(7)", "jacobi-gs(16)", "jacobi-gs(1000)"])
@pytest.mark.parametrize("case", [c for c in RECURRENCES.values() if c.exact], ids=lambda c: c.name)
def test_a_sweep_makes_a_run_final_whatever_the_system(case: Any, name: str) -> None:
    function, args = case.make()
    made = compiled_as(function, args, "bits")
    results, record, _ = run(made, name, args)
    size = int(name.removeprefix("jacobi-gs(").removesuffix(")"))
    assert all(map(same_bits, results, tensors(function(*args))))
    assert len(record.sweeps) <= math.ceil(case.blocks / size)
    assert all(front % size == 0 or front == case.blocks for front in record.fronts)


def test_runs_of_one_block_are_jacobi_sweep_for_sweep() -> None:
    function, args = RECURRENCES["gru"].make()
    made = compiled_as(function, args, ffc.tolerance(1e-5, 1e-5))
    (one, first, _), (other, second, _) = run(made, "jacobi", args), run(made, "jacobi-gs(1)", args)
    assert first.fronts == second.fronts and all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True)
    )


def test_where_runs_are_as_long_as_the_memory_two_sweeps_are_enough() -> None:
    x = randn(1, 300, 3)

    def loop(x: Tensor) -> Any:
        return ffc.fori_loop(0, 300, lambda i, h: torch.tanh(0.5 * h + x[:, i]), x.new_zeros(1, 3))

    made = compiled_as(loop, (x,), ffc.tolerance(1e-6, 1e-6))
    assert len(run(made, "jacobi", (x,))[1].sweeps) > 10
    assert [len(run(made, f"jacobi-gs({b})", (x,))[1].sweeps) for b in (30, 100, 299, 300, 5000)] == [2, 2, 2, 1, 1]


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("equality", ["bits", ffc.tolerance()], ids=str)
def test_loops_of_hardly_any_steps(steps: int, equality: Any) -> None:
    def loop(x: Tensor) -> Any:
        return ffc.fori_loop(0, x.shape[0], lambda i, h: 0.5 * h + x[i], torch.ones(3))

    x = randn(steps, 3)
    made = ffc.compile(loop, (x,), equality=equality, schedule="jacobi-gs(4)")
    torch.testing.assert_close(made(x), loop(x))


def test_steps_that_leave_something_and_carry_several_tensors() -> None:
    def loop(x: Tensor) -> Any:
        def step(carry: tuple[Tensor, Tensor], x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            a, count = carry
            return (0.5 * torch.roll(a, 1, -1) + x, count + 1), a * count

        return ffc.scan(step, (x.new_zeros(3), torch.zeros((), dtype=torch.int64)), x)

    x = randn(47, 3)
    made = compiled_as(loop, (x,), "bits")
    for name in ("jacobi-gs(5)", "jacobi-gs(46)"):
        results, record, _ = run(made, name, (x,))
        assert all(map(same_bits, results, tensors(loop(x)))) and record.certified == 47


def test_a_run_that_raises_on_values_that_never_occur_is_finished_from_its_certified_front() -> None:
    """Where the state is not yet right, the place that it is looked up at is outside of the table."""
    table, zeros = torch.ones(1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)

    def loop(x: Tensor) -> Any:
        return ffc.fori_loop(0, 40, lambda i, h: h + table[h - i], x)

    made = ffc.compile(loop, (zeros,), schedule="jacobi-gs(4)")
    made.plan = made.parts[0].plan = replace(made.plan, costs=None)
    assert same_bits(made(zeros), loop(zeros))
    _, record, _ = run(made, "jacobi-gs(4)", (zeros,))
    assert record.ending is Ending.RAISED and record.certified % 4 == 0


# ---------------------------------------------------------------------------------------------------- arrays


def masked(x: Tensor) -> Tensor:
    weight = torch.triu(torch.ones(12, 12), 1) * 0.3

    def step(i: int, s: Tensor) -> Tensor:
        s = s.clone()
        s[:, i] = (torch.sin(s @ weight) + x)[:, i]
        return s

    return ffc.fori_loop(0, 12, step, torch.zeros_like(x))


def test_an_array_in_runs_has_the_bits_after_a_sweep_for_each_run_at_most() -> None:
    x = randn(2, 12)
    for b in (2, 5, 12):
        made = ffc.compile(masked, (x,), schedule=f"jacobi-gs({b})")
        assert same_bits(made(x), masked(x))
        _, record, _ = run(made, f"jacobi-gs({b})", (x,))
        assert record.ending is Ending.SWEEPS and len(record.sweeps) <= math.ceil(12 / b)
        assert all(sweep.certified for sweep in record.sweeps)


@pytest.mark.parametrize("b", [2, 3, 7])
def test_a_premise_that_fails_inside_a_run_certifies_nothing(b: int) -> None:
    """The values that overflow are made by the first blocks of runs, and gone when the last ones are computed."""
    weight = torch.triu(torch.ones(12, 12), 1)

    def sample(x: Tensor) -> Tensor:
        def step(i: int, s: Tensor) -> Tensor:
            s = s.clone()
            s[:, i] = ((s * 1e30).clamp(max=1e38) @ weight * 1e-38 + x)[:, i]
            return s

        return ffc.fori_loop(0, 12, step, torch.zeros_like(x))

    made = ffc.compile(sample, (randn(2, 12),), schedule=f"jacobi-gs({b})")
    for x in (randn(2, 12, seed=1), randn(2, 12, seed=2) * 1e9, torch.full((2, 12), 3e38)):
        result, record = made.run(x)
        assert same_bits(result, sample(x))
    assert record.ending is Ending.PREMISE or record.certified == 0


@pytest.mark.parametrize(
    ("schedule", "equality", "says"),
    [
        ("jacobi-gs(2)", ffc.tolerance(), "leave no residual"),
        ("jacobi-gs(2)+windows", "bits", "without windows"),
    ],
)
def test_arrays_in_runs_are_refused_where_that_claims_nothing(schedule: str, equality: Any, says: str) -> None:
    with pytest.raises(ffc.ScheduleError, match=says):
        ffc.compile(masked, (randn(2, 12),), schedule=schedule, equality=equality)


def test_recurrences_have_no_windows_and_maps_no_runs() -> None:
    function, args = RECURRENCES["linear_filter"].make()
    with pytest.raises(ffc.ScheduleError, match="compute their window only"):
        ffc.compile(function, args, schedule="jacobi-gs(4)+windows")
    with pytest.raises(ffc.ScheduleError, match="only jacobi"):
        ffc.compile(lambda x: ffc.fori_loop(0, 5, lambda i, s: s.sin(), x), (randn(3),), schedule="jacobi-gs(4)")


# ---------------------------------------------------------------------------------------------------- what it costs


def test_sweeps_in_runs_are_measured_at_the_schedules_that_have_them_and_survive_a_file(tmp_path: Path) -> None:
    function, args = RECURRENCES["gru"].make()
    made = ffc.compile(function, args, equality=ffc.tolerance(1e-5, 1e-5), schedule="jacobi-gs(5)")
    assert made.plan.costs is not None
    measured = {(run, blocks) for run, blocks, _ in made.plan.costs.runs}
    assert {(5, 60), (5, 5)} <= measured and all(seconds > 0 for *_, seconds in made.plan.costs.runs)
    made.save(tmp_path / "gru.ffc")
    again = ffc.load(tmp_path / "gru.ffc")
    assert again.plan.costs == made.plan.costs and again.plan.schedule == Schedule(Method.JACOBI_GS, 5)
    torch.testing.assert_close(again(*args), function(*args), rtol=1e-4, atol=1e-4)


def test_a_sweep_in_runs_costs_its_calls_and_not_what_a_sweep_of_its_width_does() -> None:
    costs = Costs(1.0, 40.0, 40.0, 0.0, ((1, 2.0), (400, 40.0)), runs=((10, 10, 7.0), (10, 410, 47.0)))
    ten, twenty = (Guard(costs, 400, run=run) for run in (10, 20))
    assert (ten.cost(True, 400), ten.cost(True, 10)) == (pytest.approx(46.0), pytest.approx(7.0))
    assert twenty.cost(True, 400) == pytest.approx(20 * costs.window(20)), "what was not measured: a call for each"
    assert Guard(Costs(1.0, 5.0, 6.0, 0.0), 400, run=20).cost(True) == pytest.approx(120.0), "of an array, the whole"


@given(st.integers(1, 12), st.integers(1, 200), st.floats(0.0, 30.0), st.integers(0, 199))
def test_a_window_is_narrowed_to_whole_runs_of_which_enough_sweeps_can_be_paid_for(
    size: int, n: int, wide: float, lo: int
) -> None:
    lo -= lo % size
    if lo >= n:
        return
    guard = Guard(Costs(1.0, wide, wide, 0.0, runs=((size, size, 0.01), (size, n + size, wide + 0.01))), n, run=size)
    hi = guard.narrowed(0, True, lo, n)
    assert lo < hi <= n and (hi == n or (hi - lo) % size == 0)
    left = 0.05 * n + (KEEP - 1) * (guard.rest(0) - guard.rest(size))
    if hi != n and hi - lo > size:
        assert KEEP * guard.cost(True, hi - lo) <= left + 1e-9
    wider = min(2 * (hi - lo) + size, n - lo)
    assert hi == n or KEEP * guard.cost(True, wider + size) > left, "no wider one could be paid for"


def test_auto_considers_some_numbers_of_runs_for_recurrences_that_are_long_enough() -> None:
    def sizes(blocks: int) -> list[int | None]:
        return [s.block for s in candidates_for_recurrence(blocks) if s.method is Method.JACOBI_GS]

    assert sizes(100) == [] and sizes(4096) == [128, 32, 8] and sizes(10_000) == [313, 79, 20, 5]


def test_tolerances_hold_for_arrays_of_numbers_too_small_to_be_told_from_rounding() -> None:
    """A tolerance of nothing asks for the bits of the batched step."""
    x = randn(1, 50, 3)

    def loop(x: Tensor) -> Any:
        return ffc.fori_loop(0, 50, lambda i, h: torch.tanh(0.5 * h + x[:, i]), x.new_zeros(1, 3))

    made = compiled_as(loop, (x,), Tolerance(0.0, 0.0))
    _, record, _ = run(made, "jacobi-gs(8)", (x,))
    assert record.certificate is not None and record.certificate.residual == 0.0
