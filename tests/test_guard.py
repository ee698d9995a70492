"""Never slower, in counted cost; speculation is contained; a call leaves the process as it found it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import SYSTEMS, Made, affine, bold, randn, sliced
from test_catalogue import assert_same
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.plan import Costs
from ffcompiler.runtime.guard import SLACK
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.runner import Runner
from ffcompiler.schedules import parse_schedule

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class FakeClock:
    """Every sweep takes the next of ``seconds``: all that is read after its beginning shows that, until it is over."""

    seconds: Iterator[float]
    now: float = 0.0
    reads: int = 0  # in this sweep

    def __call__(self) -> float:
        self.reads += 1
        if self.reads == 2:
            self.now += next(self.seconds)
        return self.now

    def over(self, sweep: object = None) -> None:
        self.reads = 0


def constant(value: float) -> Iterator[float]:
    while True:
        yield value


def solve(
    name: str, costs: Costs, schedule: str, clock: FakeClock | None = None, args: Any = None
) -> tuple[list[Tensor], RunRecord, Any]:
    """One guarded run in counted cost, handed over to the captured loop where it stops."""
    function, example = SYSTEMS[name].make()
    args = args or example
    compiled = ffc.compile(function, example, schedule="jacobi")
    wanted = parse_schedule(schedule)
    assert compiled.live is not None and wanted is not None
    plan = replace(compiled.plan, schedule=wanted, costs=costs)
    clock = clock or FakeClock(constant(0.0))
    runner = Runner(plan, compiled.proof, compiled.device, clock=clock)
    with torch.no_grad():
        execution = runner.begin(list(args), compiled.live.weights())
        runner.sweep(execution, clock.over)
        return runner.results(execution, runner.finish(execution)), execution.record, function(*args)


def total(record: RunRecord, costs: Costs) -> float:
    return record.spent + costs.step * (record.blocks - record.certified)


WORLDS = [
    Costs(step=1.0, sweep=1.0, certify=1.0, once=0.0),
    Costs(step=1.0, sweep=3.0, certify=3.0, once=0.0),
    Costs(step=1.0, sweep=0.2, certify=5.0, once=0.1),
    Costs(step=1.0, sweep=0.01, certify=0.01, once=0.0),
    Costs(step=1.0, sweep=0.3, certify=0.1, once=0.2),
    Costs(step=1.0, sweep=16.0, certify=16.0, once=0.0),
    Costs(step=1.0, sweep=0.4, certify=0.3, once=0.0, windows=((2, 0.01), (6, 0.1))),
    Costs(step=1.0, sweep=0.1, certify=0.1, once=0.0, windows=((3, 0.05),)),
]
SCHEDULES = ["jacobi", "gs-jacobi(4)", "growing(2)", "sliding(4)", "gauss-seidel"]
GUARDED = [
    "logistic_map",
    "made_whole_then_sliced",
    "made_sliced_then_softplus",
    "made_sliced_then_exact",
    "conv_1d",
    "raster_2d",
]


@pytest.mark.parametrize("costs", WORLDS, ids=str)
@pytest.mark.parametrize("schedule", [*SCHEDULES, "sliding(4)+windows", "gauss-seidel+windows", "wavefront"])
@pytest.mark.parametrize("name", GUARDED)
def test_a_run_never_costs_more_than_the_slack_allows(name: str, schedule: str, costs: Costs) -> None:
    results, record, expected = solve(name, costs, schedule)
    reference = costs.step * record.blocks
    assert total(record, costs) <= SLACK * reference + 1e-9
    assert record.reference == pytest.approx(reference)
    assert record.ending in (Ending.SWEEPS, Ending.GUARD)
    assert (record.ending is Ending.SWEEPS) == (record.certified == record.blocks)
    assert_same(results[0], expected)


@given(
    st.sampled_from(GUARDED),
    st.sampled_from(["jacobi", "gs-jacobi(3)", "sliding(5)", "sliding(5)+windows", "wavefront"]),
    st.floats(0.001, 20),
    st.floats(0.001, 20),
    st.floats(0, 0.05),
)
@settings(max_examples=30)
def test_whatever_sweeps_cost_the_invariant_holds(
    name: str, schedule: str, sweep: float, certify: float, once: float
) -> None:
    costs = Costs(1.0, sweep, certify, once * SYSTEMS[name].blocks)
    results, record, expected = solve(name, costs, schedule)
    assert total(record, costs) <= SLACK * record.blocks + 1e-9
    assert_same(results[0], expected)


def test_a_sweep_that_costs_about_the_reference_is_never_started() -> None:
    _, record, _ = solve("made_whole_then_sliced", Costs(1.0, 15.0, 15.0, 0.0), "jacobi")
    assert record.sweeps == [] and record.ending is Ending.GUARD


def test_once_per_call_work_beyond_the_slack_is_not_begun() -> None:
    """A heavy prologue: running it from the graph and again in the user's function costs it twice."""
    function, args = SYSTEMS["made_whole_then_sliced"].make()
    compiled = ffc.compile(function, args, schedule="jacobi")
    assert compiled.plan.costs is not None
    compiled.plan = replace(compiled.plan, costs=Costs(1.0, 1.0, 1.0, once=8.0))
    compiled.parts[0].runner = Runner(compiled.plan, compiled.proof, compiled.device, clock=FakeClock(constant(0.0)))
    _, record = compiled.run(*args)
    assert record.spent + (record.blocks - record.certified) <= SLACK * record.blocks


def test_a_chain_on_which_every_sweep_settles_one_block_is_handed_over_early() -> None:
    costs = Costs(1.0, 2.0, 2.0, 0.0)
    _, record, _ = solve("logistic_map", costs, "jacobi")
    assert record.ending is Ending.GUARD and len(record.sweeps) <= 1


def test_a_sweep_that_takes_200_times_its_cost_is_the_last() -> None:
    costs = Costs(1.0, 0.1, 0.1, 0.0)
    clock = FakeClock(iter([0.1, 200 * 0.1, *[0.1] * 100]))
    results, record, expected = solve("logistic_map", costs, "jacobi", clock)
    assert len(record.sweeps) == 2 and record.ending is Ending.GUARD
    assert record.spent == pytest.approx(0.1 + 0.1 + 20.0 - 0.8), "it is over before there is a look"
    assert_same(results[0], expected)


def test_uncertified_sweeps_leave_room_for_their_certificate() -> None:
    """A lifted tail solves cheaply and certifies dearly: what was not certified is not lost beyond the slack."""
    costs = Costs(1.0, 0.5, 4.0, 0.0)
    results, record, expected = solve("made_sliced_then_softplus", costs, "jacobi")
    assert total(record, costs) <= SLACK * record.blocks
    assert_same(results[0], expected)


# ---------------------------------------------------------------------------------------------------- handover


@pytest.mark.parametrize("name", ["made_whole_then_sliced", "in_place_body", "noise_kept_in_the_array", "raster_2d",
                                  "later_part_of_a_given_array", "permuted_order"])  # fmt: skip
def test_the_user_s_function_takes_over_from_any_certified_front(name: str) -> None:
    function, args = SYSTEMS[name].make()
    compiled = bold(ffc.compile(function, args, schedule="gauss-seidel"))
    assert compiled.live is not None
    expected = function(*args)
    blocks = SYSTEMS[name].blocks
    runner = compiled.parts[0].runner
    assert runner is not None and runner.system is not None
    with torch.no_grad():
        for front in (0, 1, blocks // 2, blocks - 1, blocks):
            execution = runner.begin(list(args), compiled.live.weights())
            state = runner.system.start_from(execution.init[0])
            for k in range(front):
                runner.system.step(execution.env, state, k)
            assert_same(compiled.live.resume(args, {}, front, (state,)), expected)


def by_handover(compiled: ffc.Compiled, step: float) -> None:
    """Let the guard stop the next runs after a sweep or two."""
    compiled.plan = replace(compiled.plan, costs=Costs(1.0, step, step, 0.0))
    compiled.parts[0].runner = Runner(compiled.plan, compiled.proof, compiled.device, clock=FakeClock(constant(0.0)))


@pytest.mark.parametrize("step", [0.3, 1.2, 2.0])
@pytest.mark.parametrize("name", ["logistic_map", "made_whole_then_sliced", "made_sliced_then_softplus"])
def test_a_call_that_the_guard_stops_gives_the_reference_bits(name: str, step: float) -> None:
    function, args = SYSTEMS[name].make()
    compiled = ffc.compile(function, args, schedule="jacobi")
    by_handover(compiled, step)
    result, record = compiled.run(*args)
    assert_same(result, function(*args))
    assert record.certificate is not None
    assert record.certificate.certified_blocks + record.certificate.sequential_blocks == record.blocks


# ---------------------------------------------------------------------------------------------------- containment

TABLE = randn(5, 1, seed=2)
LOWER = torch.ones(8, 8).triu(1)


def looks_up(u: Tensor) -> Tensor:
    """The level of a position is within the table only where the ones before it are final."""

    def step(i: int, x: Tensor) -> Tensor:
        position = (x @ LOWER).round()
        index = torch.where((position - torch.arange(8.0)).abs() < 0.5, torch.zeros(8), torch.full((8,), 40.0))
        looked = torch.embedding(TABLE, index.long())[..., 0]
        x = x.clone()
        x[:, i] = 1.0 + 0 * looked[:, i] + 0 * u[:, i]
        return x

    return ffc.fori_loop(0, 8, step, torch.zeros_like(u))


def looks_up_ahead(u: Tensor) -> Tensor:
    """In the author's loop every index is valid at its own step; in a sweep later ones are not."""

    def step(i: int, x: Tensor) -> Tensor:
        position = x @ LOWER
        looked = torch.embedding(TABLE, position[:, i].round().long() % 8 // 2)[..., 0]
        x = x.clone()
        x[:, i] = 1.0 + 0 * looked
        return x

    return ffc.fori_loop(0, 8, step, torch.zeros_like(u))


def raises_on_unconverged(u: Tensor) -> Tensor:
    """Position k looks up entry ``x[k - 1]``, valid when final; the first state's 9 is out of range."""

    def step(i: int, x: Tensor) -> Tensor:
        before = F.pad(x, (1, 0))[:, :-1]
        looked = torch.embedding(TABLE, before[:, i].long())[..., 0]
        x = x.clone()
        x[:, i] = (looked + u[:, i]).abs().clamp(max=4)
        return x

    return ffc.fori_loop(0, 8, step, torch.full_like(u, 9.0))


@pytest.mark.parametrize("function", [looks_up, looks_up_ahead, raises_on_unconverged], ids=lambda f: f.__name__)
@pytest.mark.parametrize("schedule", ["jacobi", "sliding(3)", "auto"])
def test_an_error_on_values_that_never_occur_is_contained(function: Any, schedule: str) -> None:
    u = randn(3, 8).abs()
    try:
        expected: Any = function(u)
    except IndexError:
        expected = None
    try:
        compiled = bold(ffc.compile(function, (u,), schedule=schedule))
    except (ffc.CausalityError, ffc.CaptureError):
        compiled = bold(ffc.compile(function, (u,)))
    except IndexError:
        assert expected is None, "the reference does not raise, so compilation must not"
        return
    result, record = compiled.run(u)
    assert_same(result, expected)
    assert record.ending in (Ending.RAISED, Ending.SWEEPS, Ending.SEQUENTIAL)


def test_an_error_of_the_reference_itself_is_raised_as_it_is() -> None:
    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            before = F.pad(x, (1, 0))[:, :-1]
            looked = torch.embedding(TABLE, (before + u)[:, i].long())[..., 0]
            x = x.clone()
            x[:, i] = looked.clamp(0, 1)
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(u))

    good, bad = torch.ones(2, 8), torch.ones(2, 8)
    bad[1, 5] = 77.0
    compiled = bold(ffc.compile(sample, (good,)))
    with pytest.raises(IndexError):
        sample(bad)
    with pytest.raises(IndexError):
        compiled(bad)
    assert_same(compiled(good), sample(good))


def test_an_interrupt_passes_through_and_the_next_call_is_right() -> None:
    function, args = SYSTEMS["made_whole_then_sliced"].make()
    compiled = bold(ffc.compile(function, args, schedule="jacobi"))
    calls = 0

    def interrupt(sweep: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled.observed_run(interrupt, args, {})
    result, record = compiled.run(*args)
    assert record.ending is Ending.SWEEPS
    assert_same(result, function(*args))


# ---------------------------------------------------------------------------------------------------- side effects


@pytest.mark.parametrize("step", [0.0, 1.2, 100.0])
def test_a_call_leaves_inputs_weights_generators_and_modes_as_they_were(step: float) -> None:
    model = Made(12)
    function, noise = sliced(model, 12, lambda m, s, u: m + F.softplus(s) * u), randn(3, 12)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    versions = {k: v._version for k, v in model.state_dict().items()}
    state, threads, copy = torch.get_rng_state(), torch.get_num_threads(), noise.clone()
    compiled = ffc.compile(function, (noise,), schedule="jacobi")
    by_handover(compiled, step)
    compiled(noise)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
    assert_same(noise, copy)
    for name, value in model.state_dict().items():
        assert_same(value, kept[name])
        assert value._version == versions[name]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_call_within_no_grad_and_inference_mode_gives_the_same_bits() -> None:
    function, args = affine(Made(8), 8), (randn(3, 8),)
    compiled = bold(ffc.compile(function, args, schedule="jacobi"))
    expected = function(*args).detach()
    with torch.no_grad():
        assert_same(compiled(*args), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert_same(compiled(*args), expected)
