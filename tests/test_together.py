"""Blocks of a chain that are alike, computed in one call under a tolerance; by the recorded calls under bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.alike import alike
from ffcompiler.capture import capture, look
from ffcompiler.choice.memory import predicted_bytes
from ffcompiler.passes.chain import chain
from ffcompiler.plan import Bits, Costs, Equality, Method, Plan, Schedule
from ffcompiler.planning import sound_plan
from ffcompiler.program import Chain, Program
from ffcompiler.proof import NO_PROOF
from ffcompiler.runtime.blocks import Values
from ffcompiler.runtime.chained import Chained, make_chained
from ffcompiler.runtime.compare import compare_blocks
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.record import Ending
from ffcompiler.runtime.runner import Runner
from ffcompiler.runtime.unlike import Unlike
from ffcompiler.schedules import parse_schedule
from ffcompiler.written.codec import decode, encode
from ffcompiler.written.text import parse

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
FINE = ffc.tolerance(1e-5, 1e-5)
Network = Callable[[], tuple[Callable[..., Any], tuple[Tensor, ...]]]


# ---------------------------------------------------------------------------------------------------- networks


class Residual(nn.Module):
    """``x + f(norm(x))``, of less and less weight so that sweeps converge before their time."""

    def __init__(self, dims: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.wide, self.narrow = nn.Linear(dims, inner), nn.Linear(inner, dims)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * cast(Tensor, self.narrow(torch.relu(self.wide(self.norm(x)))))


class Attention(nn.Module):
    def __init__(self, dims: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.all, self.out, self.norm = nn.Linear(dims, 3 * dims), nn.Linear(dims, dims), nn.LayerNorm(dims)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.all(x).chunk(3, -1))
        made = nn.functional.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.norm(x + self.out(made.transpose(1, 2).flatten(2))))


class Convolution(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.norm.running_mean, self.norm.running_var = randn(inner, seed=3), randn(inner, seed=4).abs() + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.narrow(torch.relu(self.norm(self.wide(x)))))


def between(block: Callable[[int], nn.Module], inner: int) -> nn.Module:
    """Alike blocks with unlike ones between them, so that no loop is found."""
    sizes = (inner, inner + 1, inner, inner, inner + 2, inner, inner + 3, inner, inner)
    return nn.Sequential(*map(block, sizes)).eval()


def residual() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    model = nn.Sequential(nn.Linear(5, 8), between(lambda n: Residual(8, n), 6), nn.Linear(8, 3))
    return lambda x: model(x), (randn(4, 5),)


def encoder() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    layers = [part for k in range(4) for part in (Attention(8, 2), Residual(8, 10 + k))]
    model = nn.Sequential(nn.Linear(5, 8), *layers, nn.Linear(8, 3)).eval()
    return lambda x: model(x), (randn(2, 6, 5),)


def convolutions() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    model = between(lambda n: Convolution(3, n), 4)
    return lambda x: model(x), (randn(2, 3, 6, 6),)


def towers() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """Two stacks beside each other: blocks of one level are alike."""
    stem, head = nn.Linear(5, 8), nn.Linear(16, 3)
    left, right = (nn.Sequential(*(Residual(8, 6 + k) for k in range(4))) for _ in range(2))

    def run(x: Tensor) -> Tensor:
        x = torch.relu(stem(x))
        return cast(Tensor, head(torch.cat((left(x), right(x)), 1)))

    return run, (randn(4, 5),)


def laid_out_otherwise() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """Blocks that hand on two values, one transposed and one expanded, which unlike ones read by their strides."""
    weights, others = [randn(6, 6, seed=k) * 0.3 for k in range(6)], [randn(6, 3 + k, seed=k) for k in range(6)]

    def run(x: Tensor) -> Tensor:
        for k, w in enumerate(weights):
            y = torch.tanh(x @ w)
            wide = y.mean(-1, keepdim=True).expand(4, 6)
            turned = (x + y).t().contiguous().t()
            x = turned * 0.5 + wide * 0.1
            if k % 2:
                other = torch.relu(x.t().view(4, 6) @ others[k])
                x = x + other.sum(-1, keepdim=True).expand(4, 6) * 0.01
        return x

    return run, (randn(4, 6),)


def one_weight() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """Alike blocks that read the same weight, and something computed of it, and a value that all of them read."""
    shared, others = randn(6, 6) * 0.3, [randn(6, 4 + k, seed=k) * 0.3 for k in range(4)]

    def run(x: Tensor) -> Tensor:
        first = torch.tanh(x)
        for w in others:
            x = x + torch.tanh(x @ (shared * 0.5).t() + first)
            x = x + 0.1 * torch.tanh(x @ w) @ w.t()
        return x

    return run, (randn(4, 6),)


NETWORKS: dict[str, Network] = {f.__name__: f for f in (residual, encoder, convolutions, towers, one_weight)}
SCHEDULES = ["jacobi", "sliding(4)", "gs-jacobi(5)", "growing(2)", "wavefront", "gauss-seidel"]


def planned(name: str, equality: Equality = FINE) -> tuple[Plan, Any, tuple[Tensor, ...], dict[str, Tensor]]:
    function, args = NETWORKS[name]()
    captured = capture(function, args)
    weights = captured.weights(look(function))
    with torch.no_grad():
        plan, _ = sound_plan(captured, weights, equality, CPU)
    return plan, function, args, weights


def system(plan: Plan) -> Chain:
    assert isinstance(plan.system, Chain)
    return plan.system


# ---------------------------------------------------------------------------------------------------- which


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("residual", ((0, 2, 3, 5, 7, 8),)),
        ("encoder", ((0, 2, 4, 6),)),
        ("convolutions", ((0, 2, 3, 5, 7, 8),)),
        ("towers", ((0, 1), (2, 3), (4, 5), (6, 7))),
    ],
)
def test_blocks_of_one_family_shapes_and_numbers_are_computed_together(name: str, together: Any) -> None:
    plan, *_ = planned(name)
    assert system(plan).together == together
    assert parse(str(plan)) == plan and decode(encode(plan), Plan) == plan


def test_under_bits_blocks_that_round_are_computed_one_by_one() -> None:
    plan, *_ = planned("residual", Bits())
    assert system(plan).together == () and len(alike(system(plan).graphs)) == 1
    forced = replace(system(plan), together=alike(system(plan).graphs))  # as a file could say
    assert make_chained(forced, CPU).together == ()
    assert len(make_chained(forced, CPU, loose=True).together) == 1


def test_blocks_of_whole_numbers_are_computed_together_under_bits() -> None:
    weights = [torch.arange(6 * n).view(6, n) % (5 + k // 2) - 2 for k, n in enumerate((4, 5, 4, 4, 6, 4, 7, 4))]

    def run(x: Tensor) -> Tensor:
        for w in weights:
            x = (x + (x @ w) @ w.t()) % 1009
        return x

    compiled = bold(ffc.compile(run, (torch.arange(24).view(4, 6),), schedule="jacobi"))
    assert system(compiled.plan).together
    assert compiled.verify(torch.arange(24).view(4, 6) * 3 - 5).equal


@pytest.mark.parametrize("change", ["a number", "a shape", "an operator", "a kind of number"])
def test_blocks_that_differ_in_more_than_what_they_read_are_not_alike(change: str) -> None:
    weights = [randn(6, 6, seed=k) * 0.3 for k in range(4)]

    def run(x: Tensor) -> Tensor:
        for k, w in enumerate(weights):
            match change:
                case "a number":
                    y = torch.tanh(x @ w) * (0.5 + k)
                case "a shape":
                    y = torch.tanh(x @ w[:, : 6 - k]) @ w[: 6 - k]
                case "an operator":
                    y = (torch.tanh, torch.sin, torch.cos, torch.sigmoid)[k](x @ w)
                case _:
                    y = torch.tanh(x @ w) * (1, 1.0, 2, 2.0)[k]
            x = x + y
        return x

    program = chain(capture(run, (randn(4, 6),), share=9.0).program)
    assert isinstance(program, Program) and isinstance(program.loop, Chain) and program.loop.blocks == 4
    assert alike(program.loop.graphs) == ()


# ---------------------------------------------------------------------------------------------------- what


def ready(plan: Plan, args: tuple[Tensor, ...], weights: dict[str, Tensor]) -> tuple[Chained, Any, Any]:
    """A runner's chain, the environment of sweeps, and a state in which every block has some values."""
    runner = Runner(replace(plan, schedule=Schedule(Method.JACOBI)), NO_PROOF, CPU, guarded=False)
    assert runner.chained is not None
    env = runner.chained.prepare(runner.begin(args, weights).env)
    state = runner.chained.start_from(())
    for k, block in enumerate(state):
        state[k] = tuple(t + randn(*t.shape, seed=k).to(t.dtype) if t.is_floating_point() else t for t in block)
    return runner.chained, env, state


@pytest.mark.parametrize("name", NETWORKS)
def test_every_window_has_the_values_of_single_blocks_in_their_layout(name: str) -> None:
    plan, _, args, weights = planned(name)
    assert system(plan).together
    with torch.no_grad():
        chained, env, state = ready(plan, args, weights)
        alone = [chained.update(env, state, k, k + 1, True)[0][0][0] for k in range(chained.blocks)]
        for lo, hi in ((0, chained.blocks), (1, chained.blocks - 1), (2, 4), (3, 4)):
            made = cast(Any, chained.update(env, state, lo, hi, True)[0])[0]
            for got, wanted in zip(made, alone[lo:hi], strict=True):
                for a, b in zip(got, wanted, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
                    assert a.stride() == b.stride()


def test_values_are_handed_on_in_the_layout_that_their_readers_know() -> None:
    function, args = laid_out_otherwise()
    captured = capture(function, args, share=9.0)
    program = chain(captured.program)
    assert isinstance(program, Program) and isinstance(program.loop, Chain)
    together = alike(program.loop.graphs)
    assert together
    weights = captured.weights(look(function))
    plan = Plan(replace(program, loop=replace(program.loop, together=together)), Schedule(Method.JACOBI), FINE, "cpu")
    runner = Runner(plan, NO_PROOF, CPU, guarded=False)
    assert runner.chained is not None and runner.chained.together
    with torch.no_grad():
        execution = runner.begin(args, weights)
        assert runner.sweep(execution).ending is Ending.SWEEPS
        (got,) = runner.results(execution, runner.finish(execution))
    torch.testing.assert_close(got, function(*args), rtol=1e-3, atol=1e-3)


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the products of matrices that are made."""

    made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += any(word in str(func) for word in ("mm", "linear"))
        return func(*args, **(kwargs or {}))


def test_a_sweep_makes_one_call_for_all_blocks_that_are_alike() -> None:
    plan, _, args, weights = planned("residual")
    with torch.no_grad():
        chained, env, state = ready(plan, args, weights)
        with Products() as products:
            chained.update(env, state, 0, chained.blocks, True)
    assert products.made == 2 + 3 * 2  # two products in each block: those of six at once, of three one by one


def test_weights_are_stacked_once_per_run_and_read_again_by_the_next() -> None:
    function, args = residual()
    compiled = bold(ffc.compile(function, args, schedule="jacobi", equality=FINE))
    runner = compiled.parts[0].runner
    assert runner is not None and runner.chained is not None and compiled.live is not None
    with torch.no_grad():
        env = runner.chained.prepare(runner.begin(args, compiled.live.weights()).env)
    stacks = [key for key in env if key not in runner.begin(args, compiled.live.weights()).env]
    assert len(stacks) == 6 and all(env[key].shape[0] == 6 for key in stacks)  # norm, wide, narrow: weight and bias
    model = next(w for name, w in compiled.live.weights().items() if w.dim() == 2)
    for scale in (3.0, 0.2):  # also where the write shows in no version
        model.data.mul_(scale)
        torch.testing.assert_close(compiled(*args), function(*args), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_schedule_is_as_near_as_its_residual_says(name: str, schedule: str) -> None:
    function, args = NETWORKS[name]()
    compiled = bold(ffc.compile(function, args, schedule=schedule, equality=FINE))
    other = tuple(a * 0.7 + 0.1 for a in args)
    for inputs in (args, other):
        result, record = compiled.run(*inputs)
        assert record.ending is Ending.SWEEPS and record.certificate is not None
        torch.testing.assert_close(result, function(*inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_residual_of_every_block_is_within_the_tolerance(name: str) -> None:
    plan, _, args, weights = planned(name, ffc.tolerance(0.0, 1e-3))
    runner = Runner(replace(plan, schedule=Schedule(Method.JACOBI)), NO_PROOF, CPU, guarded=False)
    assert runner.chained is not None and runner.chained.together
    with torch.no_grad():
        execution = runner.begin(args, weights)
        state = runner.sweep(execution).state
        for k in range(runner.chained.blocks):
            alone = cast(Any, runner.chained.update(execution.env, state, k, k + 1, True)[0])[0][0]
            for was, now in zip(state[k], alone, strict=True):
                assert not was.is_floating_point() or (was - now).abs().max() <= 1e-3 + 1e-5  # and rounding


def test_sweeps_over_levels_compute_the_blocks_beside_each_other_at_once() -> None:
    function, args = towers()
    compiled = bold(ffc.compile(function, args, schedule="wavefront", equality=FINE))
    with Products() as products:
        _, record = compiled.run(*args)
    assert [(s.lo, s.hi) for s in record.sweeps] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert products.made == 1 + 4 * 2 + 1


def test_blocks_in_runs_are_computed_one_after_the_other() -> None:
    plan, *_ = planned("residual")
    for schedule, together in (("jacobi", 1), ("jacobi-gs(3)", 0)):
        runner = Runner(replace(plan, schedule=cast(Schedule, parse_schedule(schedule))), NO_PROOF, CPU)
        assert runner.chained is not None and len(runner.chained.together) == together


def test_a_sweep_that_raises_hands_over() -> None:
    """From zeros, an unconverged block looks beyond the end of a table; the function itself never does."""
    weights, table = [randn(6, 6, seed=k) for k in range(6)], randn(3, 6, seed=9)

    def run(x: Tensor) -> Tensor:
        for k, w in enumerate(weights):
            x = 1.0 + x.abs() + torch.tanh(x @ w).abs()
            x = x + table.index_select(0, (2.0 / x[:, 0]).long()).abs()
            x = x + torch.tanh(x @ w[:, : k + 1]).abs().sum(-1, keepdim=True)
        return x

    compiled = bold(ffc.compile(run, (randn(5, 6),), schedule="jacobi", equality=FINE))
    assert system(compiled.plan).together
    result, record = compiled.run(randn(5, 6, seed=4))
    assert record.ending is Ending.RAISED
    assert same_bits(result, run(randn(5, 6, seed=4)))


def test_a_saved_chain_computes_the_same_blocks_together(tmp_path: Path) -> None:
    function, args = residual()
    bold(ffc.compile(function, args, schedule="jacobi", equality=FINE)).save(tmp_path / "a.ffc")
    loaded = bold(ffc.load(tmp_path / "a.ffc"))
    assert system(loaded.plan).together
    runner = loaded.parts[0].runner
    assert runner is not None and runner.chained is not None and len(runner.chained.together) == 1
    torch.testing.assert_close(loaded(*args), function(*args), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------------- prices, words


def test_a_sweep_is_priced_by_its_calls() -> None:
    costs = Costs(0.0, 20.0, 20.0, 0.0, blocks=(4.0, 3.0, 4.0, 4.0, 4.0), together=(((0, 2, 3, 4), 5.0, 7.0),))
    assert costs.part(0, 5) == 20.0  # 3 + 7 as measured one by one
    assert costs.part(1, 2) == 2.0 * 3.0
    assert costs.part(0, 1) == 2.0 * 4.0
    assert costs.part(2, 4) == 2.0 * 5.0
    assert costs.part(0, 4) == 2.0 * (3.0 + 6.0)


def test_calibration_prices_blocks_together_below_their_sum() -> None:
    function, args = residual()
    costs = ffc.compile(function, args, schedule="jacobi", equality=FINE, cache=False).plan.costs
    assert costs is not None and [blocks for blocks, *_ in costs.together] == [(0, 2, 3, 5, 7, 8)]
    assert all(seconds > 0.0 for _, *both in costs.together for seconds in both)


def test_stacked_weights_are_counted() -> None:
    plan, *_ = planned("residual")
    alone = replace(plan, program=replace(plan.program, loop=replace(system(plan), together=())))  # type: ignore[type-var]
    jacobi = Schedule(Method.JACOBI)
    more, less = (predicted_bytes(p, NO_PROOF, jacobi) for p in (plan, alone))
    assert more is not None and less is not None
    assert more - less >= 4 * 6 * (8 + 8 + 6 * 8 + 6 + 8 * 6 + 8 + 4 * 8)


def test_the_explanation_says_which_blocks_are_computed_together() -> None:
    function, args = residual()
    text = str(ffc.compile(function, args, equality=FINE).explain())
    assert "a sweep computes 6 blocks that are alike in one call, their weights stacked, the other 3 one by one" in text
    assert "only blocks that are alike run at once" in text
    text = str(ffc.compile(function, args).explain())
    assert "one by one: blocks that are alike would round otherwise in one call" in text


# ---------------------------------------------------------------------------------------------------- comparisons

NUMBERS = st.sampled_from(
    [0.0, -0.0, 1.0, 1.0 + 1e-4, 1.01, 2.0, -2.0, 1e30, float("inf"), float("-inf"), float("nan")]
)
BLOCK = st.tuples(st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, min_size=2, max_size=2), st.booleans())


@hypothesis.given(st.lists(BLOCK, min_size=1, max_size=6), st.sampled_from([0.0, 1e-3]), st.sampled_from([0.0, 1e-3]))
def test_blocks_compared_at_once_come_out_as_one_by_one(blocks: list[Any], rtol: float, atol: float) -> None:
    tolerance = ffc.tolerance(rtol, atol)
    old, new = (
        [
            (torch.tensor(both[i]), torch.tensor([both[i][0] == 1.0])) if both[2] else (torch.tensor(both[i]),)
            for both in blocks
        ]
        for i in (0, 1)
    )
    found = compare_blocks(tolerance, Unlike.of(old), Unlike.of(new), [])
    alone = [
        compare_blocks(tolerance, cast(Values, tuple(t[None] for t in a)), cast(Values, tuple(t[None] for t in b)), [])
        for a, b in zip(old, new, strict=True)
    ]
    unchanged = next((k for k, one in enumerate(alone) if not one.unchanged), len(alone))
    assert found.unchanged == unchanged
    assert found.residual == max((one.change or 0.0 for one in alone[:unchanged]), default=0.0)
    assert found.change == max(one.change or 0.0 for one in alone)
