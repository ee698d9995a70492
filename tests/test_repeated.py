"""Repeated maps, ``for _ in range(D): x = f(x)``: a run stops where the state repeats, and only there; same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import DRAWING
from systems import Masked, bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.graph import Step
from ffcompiler.live import Live
from ffcompiler.passes.repeated import repeated
from ffcompiler.plan import Costs
from ffcompiler.program import Loop, RepeatedMap
from ffcompiler.proof import Refusal
from ffcompiler.rules.verify import verify
from ffcompiler.runtime.equality import bits, same_bits
from ffcompiler.runtime.guard import SLACK
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.repeat import StepGuard, estimated_error
from ffcompiler.runtime.runner import Runner
from ffcompiler.written.text import parse

pytestmark = pytest.mark.usefixtures("one_thread")
Function = Callable[..., Any]


def times(count: int, body: Callable[[Any], Any]) -> Function:
    """``for _ in range(count): x = body(x)``."""

    def function(x: Any) -> Any:
        return ffc.fori_loop(0, count, lambda i, state: body(state), x)

    return function


def same_integers(a: Tensor, b: Tensor) -> bool:
    """Also NaN with its payload."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def checked(function: Function, *args: Any, schedule: str = "jacobi") -> tuple[ffc.Compiled, RunRecord]:
    """The function compiled and run without guard: it must have the reference's integers."""
    compiled = bold(ffc.compile(function, args, schedule=schedule))
    assert isinstance(compiled.plan.system, RepeatedMap)
    assert parse(str(compiled.plan)) == compiled.plan
    result, record = compiled.run(*args)
    expected = function(*args)
    for a, b in zip(_tensors(result), _tensors(expected), strict=True):
        assert same_integers(a, b)
    assert record.ending is Ending.SWEEPS and record.certified == record.blocks
    assert record.certificate is not None and record.certificate.certified_blocks == record.blocks
    assert record.sweeps[-1].front == record.blocks
    return compiled, record


def _tensors(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in _tensors(part)]


# ---------------------------------------------------------------------------------------------------- flows


def inverse_with_log_determinant(count: int) -> Function:
    """As libraries of flows write it: each step computes a log-determinant, and the last one is returned."""
    mixing = torch.triu(randn(6, 6), 1)

    def inverse(u: Tensor) -> tuple[Tensor, Tensor]:
        x, log_determinant = torch.zeros_like(u), torch.zeros(u.shape[0])
        for _ in range(count):
            scale = torch.sigmoid(x @ mixing) + 1e-3
            x = u / scale
            log_determinant = -torch.log(scale).sum(-1)
        return x, log_determinant

    return inverse


@pytest.mark.parametrize("count", [4, 6, 30])
def test_what_only_the_last_step_leaves_is_made_after_the_others(count: int, tmp_path: Path) -> None:
    function, u = inverse_with_log_determinant(count), randn(3, 6)
    compiled, record = checked(function, u)
    assert record.blocks == count - 1 and (count < 30 or len(record.sweeps) < 10)
    for other in (-0.5 * u, torch.zeros_like(u), torch.full_like(u, torch.nan)):
        assert compiled.verify(other).equal
    compiled.save(tmp_path / "inverse.ffc")
    loaded = ffc.load(tmp_path / "inverse.ffc")
    assert all(map(same_integers, loaded(u), function(u)))


def test_what_all_steps_leave_keeps_a_loop_from_being_a_repeated_map() -> None:
    def function(u: Tensor) -> tuple[Tensor, Tensor]:
        x, left = torch.zeros_like(u), []
        for _ in range(8):
            x = torch.tanh(x) + u
            left.append(x.sum(-1) * 2)
        return x, torch.stack(left)

    compiled = ffc.compile(function, (randn(3, 6),))
    assert not isinstance(compiled.plan.system, RepeatedMap) and compiled.verify(randn(3, 6)).equal


class Made(nn.Module):
    """The network of a masked autoregressive flow, its dimensions in a shuffled order."""

    def __init__(self, dims: int, hidden: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(dims, generator=draw)
        inner = torch.randint(0, max(dims - 1, 1), (hidden,), generator=draw)
        first = (inner[:, None] >= order[None, :]).float()
        last = (order[:, None] > inner[None, :]).float()
        self.first, self.last = Masked(first, seed, 1.0), Masked(torch.cat([last, last]), seed + 1, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.last(torch.tanh(self.first(x))).chunk(2, dim=-1)
        return mean, torch.tanh(log_scale)


def inverse_of(net: Made, dims: int) -> Function:
    """How flow libraries invert: the whole array as often as it has dimensions."""

    def inverse(u: Tensor) -> Tensor:
        def step(_: int, x: Tensor) -> Tensor:
            mean, log_scale = net(x)
            return mean + torch.exp(log_scale) * u

        return ffc.fori_loop(0, dims, step, torch.zeros_like(u))

    return inverse


@pytest.mark.parametrize("dims", [24, 40])
def test_the_inverse_of_a_shuffled_flow_stops_early_with_the_loop_s_bits(dims: int) -> None:
    net = Made(dims, 64, seed=dims)
    compiled, record = checked(inverse_of(net, dims), randn(16, dims))
    assert len(record.sweeps) < dims
    for seed in range(5):
        assert compiled.verify(randn(16, dims, seed=seed + 1)).equal


def test_a_loop_that_is_not_marked_is_recognised() -> None:
    net = Made(24, 32, seed=9)

    def inverse(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for _ in range(24):
            mean, log_scale = net(x)
            x = mean + torch.exp(log_scale) * u
        return x

    _, record = checked(inverse, randn(4, 24))
    assert len(record.sweeps) < 24


def test_what_the_state_does_not_reach_is_computed_once() -> None:
    compiled, _ = checked(inverse_of(Made(8, 16, seed=1), 8), randn(4, 8))
    loop = compiled.plan.system
    assert isinstance(loop, RepeatedMap)
    assert "aten.mul.Tensor" in [node.op for node in loop.invariant.nodes]  # weight * mask
    weights = {w.name for w in compiled.plan.program.weights}  # type: ignore[union-attr]
    assert not any(
        ref.name in weights for node in loop.body.nodes if node.op == "aten.mul.Tensor" for ref in node.refs()
    )


def test_changed_weights_are_seen_by_the_next_call() -> None:
    net, u = Made(8, 32, seed=2), randn(4, 8)
    inverse = inverse_of(net, 8)
    compiled, _ = checked(inverse, u)
    before = compiled(u)
    with torch.no_grad():
        net.first.weight.mul_(-0.5)
    assert not same_bits(compiled(u), before)
    assert compiled.verify(u).equal


class Overwriting(nn.Module):
    """Writes its masked weight into itself, as older code does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(6, 6, seed=3) * 0.3)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6), -1))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return torch.tanh(x @ self.weight.t()) + 0.1


def test_weights_that_steps_write_are_written_and_looked_at() -> None:
    net = Overwriting()
    compiled, _ = checked(times(6, net), randn(3, 6))
    with torch.no_grad():
        net.weight.fill_(0.5)
    x = randn(3, 6, seed=4)
    result, record = compiled.run(x)
    assert record.ending is Ending.SWEEPS
    assert torch.equal(net.weight, torch.tril(torch.full((6, 6), 0.5), -1))
    assert same_bits(result, times(6, net)(x))


def test_auto_says_how_often_and_when_it_repeated() -> None:
    dims = 64
    compiled = ffc.compile(inverse_of(Made(dims, 64, seed=5), dims), (randn(8, dims),))
    assert f"every step is the same map of the whole state, {dims} times" in str(compiled.explain())
    assert f"of {dims} leaves the state as it is on the example inputs" in str(compiled.explain())
    assert compiled.verify(randn(8, dims, seed=6)).equal


# ---------------------------------------------------------------------------------------------------- what repeats


def test_a_contraction_stops_at_its_fixed_point() -> None:
    _, record = checked(times(500, lambda x: torch.cos(x) * 0.5 + 0.25), randn(10))
    assert len(record.sweeps) < 100
    assert record.detail == f"step {len(record.sweeps)} of 500 left the state as it was"
    assert record.detail in str(record.certificate)


@pytest.mark.parametrize("count", [7, 8])
def test_a_cycle_of_two_states_is_no_fixed_point(count: int) -> None:
    _, record = checked(times(count, lambda x: -x), randn(5))
    assert len(record.sweeps) == count and record.detail == ""


@pytest.mark.parametrize("count", [7, 8])
def test_zeros_that_change_sign_are_no_fixed_point(count: int) -> None:
    _, record = checked(times(count, lambda x: -x), torch.zeros(5))
    assert len(record.sweeps) == count


def test_one_element_that_goes_on_changing_keeps_all_steps() -> None:
    grow = torch.zeros(4000)
    grow[3999] = 2.0**-20
    _, record = checked(times(30, lambda x: x + grow), torch.ones(4000))
    assert len(record.sweeps) == 30


@pytest.mark.parametrize("body", [lambda x: x * 1e10 + 1, lambda x: x * x - x, lambda x: torch.exp(x * 3)])
def test_a_map_that_diverges_has_the_loop_s_infinities_and_nans(body: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-4.0, 4.0, 9)
    result = times(40, body)(x)
    assert not bool(result.isfinite().all())
    _, record = checked(times(40, body), x)
    assert len(record.sweeps) < 40


def test_nans_of_other_payloads_are_other_states() -> None:
    payloads = torch.tensor([0x7FC00001, 0x7FC00002], dtype=torch.int32).view(torch.float32)
    a, b = payloads[:1].repeat(4), payloads[1:].repeat(4)

    def function(a: Tensor, b: Tensor) -> Any:
        return ffc.fori_loop(0, 5, lambda i, s: (s[1].clone(), s[0].clone()), (a, b))

    _, record = checked(function, a, b)
    assert len(record.sweeps) == 5


def test_a_state_of_several_tensors_repeats_as_a_whole() -> None:
    def body(state: Any) -> Any:
        x, (n, seen) = state
        return torch.tanh(x) * 0.25, ((n + 1).clamp(max=20), seen | (x > 0.1))

    state = (randn(6), (torch.zeros(2, dtype=torch.int64), torch.zeros(6, dtype=torch.bool)))
    _, record = checked(times(300, body), state)
    assert 21 <= len(record.sweeps) < 300


def test_states_that_move_up_repeat_when_all_have() -> None:
    state = tuple(randn(3, seed=k) for k in range(4))
    _, record = checked(times(20, lambda s: (s[1], s[2], s[3], torch.ones_like(s[0]))), state)
    assert len(record.sweeps) == 5  # after four all are ones; the fifth shows it


def test_complex_and_half_precision_states() -> None:
    turn = torch.tensor(0.25 + 0.5j)
    _, record = checked(times(400, lambda z: z * turn), randn(4).to(torch.complex64))
    assert len(record.sweeps) < 400
    _, record = checked(times(100, lambda x: x * 0.5), randn(7, dtype=torch.bfloat16).to(torch.bfloat16))
    assert len(record.sweeps) == 100  # 2 ** -100 is no zero yet


def test_work_before_and_after_the_loop_is_the_function_s() -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        start = x.sum(0)
        y = ffc.fori_loop(3, 90, lambda i, s: torch.tanh(s * w) * 0.5, start)
        return {"y": y + start, "n": 3}

    args = (randn(4, 5), randn(5, seed=1))
    compiled = bold(ffc.compile(function, args, schedule="jacobi"))
    assert same_bits(compiled(*args)["y"], function(*args)["y"]) and compiled(*args)["n"] == 3


REMAINDERS = times(9, lambda s: (torch.remainder(s[0] * s[1] + s[2], s[3]), s[1], s[2], s[3]))


@pytest.fixture(scope="module")
def remainders() -> ffc.Compiled:
    return bold(ffc.compile(REMAINDERS, (tuple(torch.tensor([k, 3, 5]) for k in (1, 2, 4, 7)),), schedule="jacobi"))


@given(st.lists(st.tuples(*(st.integers(0, 20) for _ in range(3)), st.integers(1, 9)), min_size=3, max_size=3))
@settings(max_examples=60)
def test_whatever_the_cycle_the_last_state_is_the_loop_s(remainders: ffc.Compiled, numbers: Any) -> None:
    state = tuple(torch.tensor(column) for column in zip(*numbers, strict=True))
    result, record = remainders.run(state)
    assert all(torch.equal(a, b) for a, b in zip(result, REMAINDERS(state), strict=True))
    assert record.certified == 9


# ---------------------------------------------------------------------------------------------------- layouts


def run_from(compiled: ffc.Compiled, init: Tensor, count: int | None = None) -> tuple[Tensor, RunRecord]:
    """The loop of ``compiled`` from another first state, or of another number of steps."""
    plan = compiled.plan
    assert plan.program is not None and isinstance(plan.program.loop, RepeatedMap) and compiled.live is not None
    loop = replace(plan.program.loop, hi=plan.program.loop.hi if count is None else plan.program.loop.lo + count)
    runner = Runner(replace(plan, program=replace(plan.program, loop=loop)), compiled.proof, compiled.device)
    with torch.no_grad():
        execution = runner.begin([init], compiled.live.weights())
        runner.sweep(execution)
        return runner.finish(execution)[0], execution.record


IDENTITY = torch.eye(6)


def test_a_first_state_of_other_strides_does_not_count() -> None:
    x = randn(6, 6)
    compiled, record = checked(times(9, lambda x: x @ IDENTITY), x)
    assert len(record.sweeps) == 1
    result, record = run_from(compiled, x.t().contiguous().t())
    assert torch.equal(result, x) and result.stride() == (6, 1)
    assert len(record.sweeps) == 2


def test_a_first_state_at_another_alignment_does_not_count() -> None:
    compiled, _ = checked(times(9, lambda x: x @ IDENTITY), randn(6, 6))
    x = randn(37)[1:].view(6, 6)
    assert x.data_ptr() % 64 != 0
    result, record = run_from(compiled, x)
    assert torch.equal(result, x) and len(record.sweeps) == 2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_steps_are_made_as_they_are(count: int) -> None:
    compiled, _ = checked(times(9, torch.sin), randn(5))
    x = randn(5, seed=1)
    result, record = run_from(compiled, x, count)
    expected = x
    for _ in range(count):
        expected = torch.sin(expected)
    assert same_bits(result, expected)
    assert len(record.sweeps) == count == record.certified


def test_one_step_compiles() -> None:
    _, record = checked(times(1, torch.sin), randn(5))
    assert len(record.sweeps) == 1


# ---------------------------------------------------------------------------------------------------- tolerance


def test_under_a_tolerance_the_residual_of_the_answer_is_within_it() -> None:
    def body(x: Tensor) -> Tensor:
        return torch.cos(x) * 0.5

    tolerance = ffc.tolerance(rtol=1e-3, atol=1e-3)
    x = randn(50)
    compiled = bold(ffc.compile(times(200, body), (x,), equality=tolerance, schedule="jacobi"))
    result, record = compiled.run(x)
    residual = (body(result) - result).abs()
    assert bool((residual <= 1e-3 + 1e-3 * body(result).abs()).all())
    certificate = record.certificate
    assert certificate is not None and certificate.residual is not None and certificate.estimated_error is not None
    assert certificate.residual == pytest.approx(float(residual.max()))
    assert float((result - times(200, body)(x)).abs().max()) <= 2 * certificate.estimated_error
    assert len(record.sweeps) < len(checked(times(200, body), x)[1].sweeps)


def test_under_a_tolerance_infinity_is_near_nothing() -> None:
    function = times(9, lambda x: x * 1e30)
    compiled = bold(ffc.compile(function, (torch.ones(3),), equality=ffc.tolerance(0.5, 0.5), schedule="jacobi"))
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), torch.inf))


def test_under_a_tolerance_numbers_that_count_are_not_rounded() -> None:
    function = times(9, lambda s: (s[0] * 0.5, s[1] + 1))
    state = (torch.ones(3) * 1e-9, torch.zeros(2, dtype=torch.int64))
    compiled = bold(ffc.compile(function, (state,), equality=ffc.tolerance(1.0, 1.0), schedule="jacobi"))
    assert torch.equal(compiled(state)[1], torch.full((2,), 9))


def test_the_estimated_error_counts_the_steps_between_looks() -> None:
    assert estimated_error(1.0, [(0, 16.0), (4, 1.0)]) == pytest.approx(2.0)
    assert estimated_error(1.0, [(0, 1.0), (1, 2.0)]) == torch.inf


# ---------------------------------------------------------------------------------------------------- the guard

HALVES = times(200, lambda x: torch.cos(x) * 0.5)
WORLDS = [
    Costs(step=1.0, sweep=0.5, certify=0.6, once=0.0),
    Costs(step=1.0, sweep=1.0, certify=1.01, once=0.5),
    Costs(step=1.0, sweep=1.0, certify=3.0, once=0.0),
    Costs(step=1.0, sweep=1.3, certify=1.5, once=1.0),
    Costs(step=1.0, sweep=2.0, certify=200.0, once=0.0),
    Costs(step=1.0, sweep=9.0, certify=9.5, once=5.0),
    Costs(step=1.0, sweep=16.0, certify=16.0, once=0.0),
]


def guarded(costs: Costs, function: Function, x: Any) -> tuple[Any, RunRecord]:
    compiled = ffc.compile(function, (x,), schedule="jacobi")
    compiled.plan = replace(compiled.plan, costs=costs)
    compiled.parts[0].runner = Runner(compiled.plan, compiled.proof, compiled.device)
    return compiled.run(x)


@pytest.mark.parametrize("costs", WORLDS, ids=str)
@pytest.mark.parametrize("body", [lambda x: torch.cos(x) * 0.5, lambda x: -x], ids=["repeats", "never repeats"])
def test_a_run_never_costs_more_than_the_slack_allows(body: Callable[[Tensor], Tensor], costs: Costs) -> None:
    x = randn(6)
    result, record = guarded(costs, times(200, body), x)
    assert same_integers(result, times(200, body)(x))
    left = record.blocks - record.certified
    assert record.spent + (costs.once + costs.step * left if left else 0.0) <= SLACK * 200.0 + 1e-9
    assert record.ending is (Ending.SWEEPS if not left else Ending.GUARD)


def test_looks_have_their_share_of_the_cost_and_no_more() -> None:
    guard = StepGuard(Costs(step=1.0, sweep=1.0, certify=1.5, once=0.0), 1000)
    assert guard.every == 13  # 0.5 / 13 of a step is less than 0.04 of it
    assert StepGuard(Costs(step=1.0, sweep=1.0, certify=1.01, once=0.0), 1000).every == 1
    assert StepGuard(Costs(step=0.0, sweep=0.0, certify=0.0, once=0.0), 7).every == 7
    _, record = guarded(Costs(step=1.0, sweep=1.0, certify=1.5, once=0.0), HALVES, randn(6))
    assert record.ending is Ending.SWEEPS and len(record.sweeps) < 200 and len(record.sweeps) % 13 == 0


def test_where_the_guard_stops_the_user_s_own_loop_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    resume = Live.resume

    def noted(live: Live, args: Any, kwargs: Any, front: int, state: tuple[Tensor, ...]) -> Any:
        done.append(front)
        return resume(live, args, kwargs, front, state)

    monkeypatch.setattr(Live, "resume", noted)
    function, state = times(100, lambda s: (-s[1], s[0] * 1.0)), (randn(3), randn(3, seed=1))
    result, record = guarded(Costs(1.0, 1.5, 1.5, 0.0), function, state)
    assert record.ending is Ending.GUARD and 0 < record.certified < 100
    assert done[-1] == record.certified
    assert all(map(same_integers, result, function(state)))


@pytest.mark.parametrize("several", [False, True], ids=["one tensor", "several tensors"])
def test_a_body_that_writes_in_place_is_finished_by_the_captured_loop(several: bool) -> None:
    def function(u: Tensor) -> Any:
        def step(_: int, state: Any) -> Any:
            x, *rest = state
            x.mul_(-1.0)
            return (x, *(y + x for y in rest))

        return ffc.fori_loop(0, 101, step, (u.clone(), u * 2.0) if several else (u.clone(),))

    u = randn(4)
    result, record = guarded(Costs(1.0, 1.5, 1.5, 0.0), function, u)
    assert record.ending is Ending.GUARD
    assert all(map(same_integers, result, function(u)))


# ---------------------------------------------------------------------------------------------------- plans and files


def test_save_and_load_give_the_same_run(tmp_path: Path) -> None:
    net, u = Made(24, 32, seed=7), randn(5, 24)
    compiled, record = checked(inverse_of(net, 24), u)
    compiled.save(tmp_path / "flow.ffc")
    again = ffc.load(tmp_path / "flow.ffc")
    result, loaded = again.run(u)
    assert same_integers(result, compiled(u))
    assert loaded.ending is Ending.SWEEPS and len(loaded.sweeps) == len(record.sweeps) < 24
    assert again.verify(randn(5, 24, seed=8)).equal
    compiled.inspect(tmp_path / "flow.html", record)
    assert "left the state as it was" in (tmp_path / "flow.html").read_text()


@pytest.mark.parametrize("schedule", ["sliding(4)", "gs-jacobi(2)", "gauss-seidel", "wavefront", "jacobi+windows"])
def test_a_schedule_that_needs_blocks_is_refused_by_name(schedule: str) -> None:
    with pytest.raises(ffc.ScheduleError, match="same map of its whole state"):
        ffc.compile(times(9, torch.sin), (randn(3),), schedule=schedule)


def test_a_loop_that_uses_its_step_s_number_is_no_repeated_map() -> None:
    def function(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 9, lambda i, x: torch.sin(x + i), x)

    compiled = ffc.compile(function, (randn(3),))
    assert not isinstance(compiled.plan.system, RepeatedMap)
    assert compiled.verify(randn(3, seed=1)).equal


def test_steps_that_are_handed_or_leave_something_are_no_repeated_map() -> None:
    program = DRAWING.program
    assert program is not None and isinstance(program.loop, Loop)
    refusal = repeated(program)
    assert isinstance(refusal, Refusal) and "number" in str(refusal)
    loop = program.loop
    plain = replace(loop.body, nodes=tuple(_without_steps(node) for node in loop.body.nodes))
    refusal = repeated(replace(program, loop=replace(loop, body=plain)))
    assert isinstance(refusal, Refusal) and "handed" in str(refusal)
    refusal = repeated(replace(program, loop=replace(loop, body=plain, inputs=())))
    assert isinstance(refusal, Refusal) and "leave more" in str(refusal)


def _without_steps(node: Any) -> Any:
    return replace(node, args=tuple(1.0 if isinstance(arg, Step) else arg for arg in node.args))


def test_a_loop_over_one_position_stays_an_array_loop() -> None:
    def function(x: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = x.sum(1) * 0.0 + 1.0
            return x

        return ffc.fori_loop(0, 4, step, x)

    assert not isinstance(ffc.compile(function, (randn(2, 4),)).plan.system, RepeatedMap)


def test_the_plan_of_a_repeated_map_obeys_every_rule() -> None:
    compiled, _ = checked(times(9, lambda s: (s[0] @ IDENTITY, IDENTITY * 2.0)), (randn(6, 6), randn(6, 6, seed=1)))
    assert verify(compiled.plan) is compiled.plan
