"""Chains of unlike steps: functions without a loop, cut at the bottlenecks of their graphs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from plans import CHAIN
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.capture import Captured, capture, look
from ffcompiler.graph import Graph
from ffcompiler.passes.chain import chain
from ffcompiler.plan import Bits, Plan
from ffcompiler.program import Chain, DrawPlace, Program
from ffcompiler.proof import NO_PROOF, Refusal
from ffcompiler.rules.verify import verify
from ffcompiler.runtime.chained import make_chained
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.runner import Runner
from ffcompiler.runtime.runs import Runs
from ffcompiler.schedules import parse_schedule
from ffcompiler.written.codec import decode, encode
from ffcompiler.written.text import parse
from ffcompiler.zoo import densenet

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULES = [
    "jacobi",
    "gauss-seidel",
    "gs-jacobi(4)",
    "growing(2)",
    "jacobi-gs(3)",
    "jacobi-gs(100)",
    "sliding(3)",
    "wavefront",
]


# ---------------------------------------------------------------------------------------------------- networks


class Residual(nn.Module):
    """``x + f(norm(x))``; no two have the same width inside, so that no loop is found."""

    def __init__(self, dims: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.wide, self.narrow = nn.Linear(dims, inner), nn.Linear(inner, dims)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.narrow(torch.relu(self.wide(self.norm(x)))))


class Attention(nn.Module):
    """Self-attention on what went before, added to it and normalised after."""

    def __init__(self, dims: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dims, dims) for _ in range(4))
        self.norm = nn.LayerNorm(dims)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return cast(Tensor, self.norm(x + self.out((weights @ v).transpose(1, 2).flatten(2))))


class Downsampling(nn.Module):
    """Two convolutions beside one, or beside nothing."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.beside = nn.Conv2d(channels, out, 1) if out != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.beside(x))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 4), (4, 6), (6, 8)))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((14, 7), (11, 5)))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for k, conv in enumerate(self.down):
            x = torch.relu(conv(x if k == 0 else torch.max_pool2d(x, 2)))
            kept.append(x)
        for conv, beside in zip(self.up, reversed(kept[:-1]), strict=True):
            x = torch.relu(conv(torch.cat((beside, nn.functional.interpolate(x, scale_factor=2.0)), 1)))
        return x


def dense() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    model = densenet.random_densenet((3, 4, 2), growth=4, classes=5)
    return lambda images: model(images), (randn(2, 3, 32, 32),)


def residual() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    model = nn.Sequential(nn.Linear(5, 8), *(Residual(8, 6 + k) for k in range(6)), nn.Linear(8, 3))
    return lambda x: model(x), (randn(4, 5),)


def encoder() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    layers = [part for k in range(3) for part in (Attention(8, 2), Residual(8, 10 + k))]
    model = nn.Sequential(nn.Linear(5, 8), *layers, nn.Linear(8, 3))
    return lambda x: model(x), (randn(2, 6, 5),)


def towers() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """Two stacks of residual blocks that read the same stem and meet in the head."""
    stem, head = nn.Linear(5, 8), nn.Linear(16, 3)
    left = nn.Sequential(*(Residual(8, 6 + k) for k in range(5)))
    right = nn.Sequential(*(Residual(8, 15 + k) for k in range(3)))

    def run(x: Tensor) -> Tensor:
        x = torch.relu(stem(x))
        return cast(Tensor, head(torch.cat((left(x), right(x)), 1)))

    return run, (randn(4, 5),)


def unet() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    model = UNet()
    return lambda x: model(x), (randn(1, 2, 8, 8),)


def convolutions() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """No branches at all."""
    layers = [part for k in range(4) for part in (nn.Conv2d(2 + k, 3 + k, 3), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))
    return lambda x: model(x), (randn(2, 2, 10, 10),)


def several() -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """Blocks that hand on two values, of other types, some of which are results; a dictionary comes back."""
    a, b = randn(6, 6, seed=1), randn(6, 6, seed=2)

    def run(x: Tensor, keep: Tensor) -> dict[str, Any]:
        ranks = []
        for k in range(4):
            y = torch.tanh(x @ (a if k % 2 else b)) + k
            top, at = y.topk(3 + k % 2, -1)
            x = x + y * keep - top.sum(-1, keepdim=True)
            ranks.append(at)
        return {"x": x, "ranks": ranks, "steps": 4, "given": keep}

    return run, (randn(3, 6), torch.tensor(0.5))


NETWORKS: dict[str, Callable[[], tuple[Callable[..., Any], tuple[Tensor, ...]]]] = {
    f.__name__: f for f in (dense, residual, encoder, towers, unet, convolutions, several)
}


@dataclass(frozen=True)
class Cut:
    captured: Captured
    program: Program
    chain: Chain


def cut(name: str) -> Cut:
    """The network of that name as a chain."""
    captured = capture(*NETWORKS[name]())
    program = chain(captured.program)
    assert not isinstance(program, Refusal) and isinstance(program.loop, Chain)
    return Cut(captured, program, program.loop)


def ops(graph: Graph) -> list[str]:
    return [node.op.split(".")[1] for node in graph.nodes]


def leaves(result: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def equal(a: Any, b: Any) -> bool:
    return all(same_bits(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


# ---------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_schedule_gives_the_bits_of_the_function(name: str, schedule: str) -> None:
    function, args = NETWORKS[name]()
    compiled = bold(ffc.compile(function, args, schedule=schedule))
    other = tuple(a * 0.7 + 0.1 for a in args)
    for inputs in (args, other):
        result, record = compiled.run(*inputs)
        assert isinstance(compiled.plan.system, Chain)
        assert record.ending is Ending.SWEEPS
        with torch.no_grad():
            assert equal(result, function(*inputs))
    assert compiled.verify(*other).equal


def sweeps(name: str, schedule: str) -> tuple[RunRecord, Chain]:
    function, args = NETWORKS[name]()
    compiled = bold(ffc.compile(function, args, schedule=schedule))
    assert isinstance(compiled.plan.system, Chain)
    return compiled.run(*args)[1], compiled.plan.system


def test_each_sweep_makes_at_least_one_level_final() -> None:
    record, system = sweeps("towers", "jacobi")
    assert record.fronts[: len(system.levels)] >= list(system.levels)
    assert len(record.sweeps) <= len(system.levels)


def test_wavefront_computes_each_block_once_and_branches_together() -> None:
    record, system = sweeps("towers", "wavefront")
    assert [(s.lo, s.hi) for s in record.sweeps] == list(zip((0, *system.levels), system.levels, strict=False))
    assert len(record.sweeps) < system.blocks


def test_runs_in_order_make_a_whole_run_final_per_sweep() -> None:
    record, system = sweeps("residual", "jacobi-gs(2)")
    assert record.fronts == [2, 4, 6] and system.blocks == 6


def test_one_run_of_all_blocks_is_one_sweep() -> None:
    assert sweeps("dense", "jacobi-gs(100)")[0].fronts == [11]


def unlike(count: int, scale: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Weights of two products that go through another width in each block, so that no loop is found."""
    return [(randn(6, 4 + k, seed=k) * scale, randn(4 + k, 6, seed=50 + k) * scale) for k in range(count)]


def test_blocks_that_a_sweep_leaves_alone_are_final_before_their_turn() -> None:
    """The fifth block gives the same whatever it reads: the chain behind it need not wait for those before it."""
    weights = unlike(8)

    def run(x: Tensor) -> Tensor:
        for k, (wide, narrow) in enumerate(weights):
            y = torch.tanh(x @ wide) @ narrow
            x = x * 0.0 + y * 0.0 + k if k == 4 else x + y
        return x

    compiled = bold(ffc.compile(run, (randn(3, 6),), schedule="jacobi"))
    result, record = compiled.run(randn(3, 6, seed=9))
    assert equal(result, run(randn(3, 6, seed=9)))
    assert record.fronts == [1, 2, 3, 4, 8]  # the fifth sweep finds all behind block 4 as it should be


def test_under_a_tolerance_the_residual_of_every_block_is_within_it() -> None:
    weights = unlike(9, 0.05)

    def run(x: Tensor) -> Tensor:
        for k, (wide, narrow) in enumerate(weights):
            x = x * 0.1 + torch.tanh(x @ wide) @ narrow + k
        return x

    compiled = bold(ffc.compile(run, (randn(3, 6),), schedule="jacobi", equality=ffc.tolerance(0.0, 1e-3)))
    result, record = compiled.run(randn(3, 6))
    system = compiled.plan.system
    assert isinstance(system, Chain) and record.ending is Ending.SWEEPS and len(record.sweeps) < system.blocks
    assert record.certificate is not None and (record.certificate.residual or 0.0) <= 1e-3
    torch.testing.assert_close(result, run(randn(3, 6)), rtol=0.0, atol=2e-3)


def test_a_sweep_that_raises_hands_over() -> None:
    """From zeros, an unconverged block looks beyond the end of a table; the function itself never does."""
    weights, table = unlike(4), randn(3, 6, seed=9)

    def run(x: Tensor) -> Tensor:
        for wide, narrow in weights:
            x = 1.0 + x.abs() + torch.tanh(x @ wide).abs() @ narrow.abs()
            x = x + table.index_select(0, (2.0 / x[:, 0]).long()).abs()
        return x

    compiled = bold(ffc.compile(run, (randn(5, 6),), schedule="jacobi"))
    result, record = compiled.run(randn(5, 6, seed=4))
    assert record.ending is Ending.RAISED
    assert equal(result, run(randn(5, 6, seed=4)))


def test_an_exception_of_the_function_is_its_own() -> None:
    """Recorded calls raise other kinds of errors than the function does."""
    weights, table = unlike(4), randn(3, 6, seed=9)

    def run(x: Tensor, at: Tensor) -> Tensor:
        for wide, narrow in weights:
            x = x + torch.tanh(x @ wide) @ narrow + table.index_select(0, at)
        return x

    compiled = bold(ffc.compile(run, (randn(1, 6), torch.tensor([2])), schedule="jacobi"))
    for function in (run, compiled):
        with pytest.raises(IndexError):
            function(randn(1, 6), torch.tensor([3]))


# ---------------------------------------------------------------------------------------------------- blocks


def test_the_layers_of_a_dense_network_are_its_blocks() -> None:
    found = cut("dense")
    layer = ["cat", "native_batch_norm", "relu", "convolution", "native_batch_norm", "relu", "convolution"]
    own = [graph for k, graph in enumerate(found.chain.graphs) if k not in found.chain.joints]
    assert [ops(graph) for graph in own] == [layer] * 9
    assert found.chain.joints == (3, 8)
    assert [ops(found.chain.graphs[k])[-2:] for k in found.chain.joints] == [["convolution", "avg_pool2d"]] * 2
    assert found.chain.families == (0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0)
    assert ops(found.program.prologue)[0] == "convolution" and len(found.program.prologue.nodes) == 4
    assert ops(found.program.epilogue)[-1] == "addmm"


def test_densenet_201_has_98_blocks_and_three_transitions() -> None:
    captured = capture(densenet.classify, densenet.example_inputs())
    program = chain(captured.program)
    assert not isinstance(program, Refusal) and isinstance(program.loop, Chain)
    counts = Counter(program.loop.families)
    assert sorted(counts.values()) == [3, 98]
    assert program.loop.joints == (6, 19, 68)
    assert len(program.prologue.nodes) == 4
    everything = [program.prologue, *program.loop.graphs, program.epilogue]
    assert sum(len(graph.nodes) for graph in everything) == len(captured.program.epilogue.nodes)


@pytest.mark.parametrize(
    ("name", "blocks", "families", "levels"),
    [
        ("residual", 6, [6], 6),
        ("encoder", 6, [3, 3], 6),
        ("towers", 8, [8], 5),
        ("convolutions", 5, [3, 1, 1], 5),
        ("unet", 3, [1, 1, 1], 3),
        ("several", 4, [1, 1, 1, 1], 4),
    ],
)
def test_residual_branches_attention_and_products_are_blocks(
    name: str, blocks: int, families: list[int], levels: int
) -> None:
    found = cut(name).chain
    assert found.blocks == blocks
    assert [count for _, count in Counter(found.families).most_common()] == families
    assert len(found.levels) == levels


def test_cutting_loses_and_doubles_no_operator() -> None:
    for name in NETWORKS:
        found = cut(name)
        parts = [found.program.prologue, *found.chain.graphs, found.program.epilogue]
        names = [node.name for part in parts for node in part.nodes]
        assert sorted(names) == sorted(node.name for node in found.captured.program.epilogue.nodes)


def test_cutting_is_deterministic() -> None:
    for name in ("dense", "encoder", "towers"):
        assert str(cut(name).program) == str(cut(name).program)


def test_what_needs_weights_alone_and_is_read_by_several_blocks_is_computed_once() -> None:
    weight = randn(6, 6)

    def run(x: Tensor) -> Tensor:
        scaled = weight / weight.norm()
        for k in range(4):
            x = x + torch.tanh(x @ scaled * (1 + k)) * torch.ones(6 - k % 2 * 0)[: 6 - 0]
            x = x + torch.relu(x @ scaled).sum() if k % 2 else x
        return x

    program = chain(capture(run, (randn(3, 6),)).program)
    assert not isinstance(program, Refusal) and isinstance(program.loop, Chain)
    assert [op for op in ops(program.prologue) if op in ("linalg_vector_norm", "norm", "div")]
    assert "div" not in [op for graph in program.loop.graphs for op in ops(graph)]


def test_a_loop_wins_where_it_makes_most_of_the_calls() -> None:
    blocks = nn.Sequential(*(Residual(8, 6) for _ in range(6)))
    assert not capture(lambda x: blocks(x), (randn(4, 8),)).no_loop


def test_a_chain_wins_over_a_loop_that_makes_few_of_the_calls() -> None:
    network, weight = nn.Sequential(*(Residual(8, 6 + k) for k in range(12))), randn(8, 8)

    def run(x: Tensor) -> Tensor:
        x = network(x)
        for _ in range(3):  # 2 calls each, of some 100
            x = torch.tanh(x @ weight)
        return x

    compiled = ffc.compile(run, (randn(4, 8),))
    assert isinstance(compiled.plan.system, Chain)
    assert compiled.verify(randn(4, 8, seed=3)).equal


def test_a_small_loop_is_taken_where_there_is_no_chain() -> None:
    names = random.Random(0).choices(["sin", "cos", "exp", "tanh", "sigmoid", "relu", "abs"], k=60)

    def run(x: Tensor) -> Tensor:
        for name in names:  # no products, so no blocks
            x = getattr(x, name)()
        for _ in range(4):
            x = torch.tanh(x * 1.5) + 0.1
        return x

    captured = capture(run, (randn(3),), share=0.5)
    assert captured.small_loop and isinstance(chain(captured.program), Refusal)
    compiled = ffc.compile(run, (randn(3),))
    assert compiled.plan.program is not None and compiled.plan.program.loop.hi >= 3
    assert compiled.verify(randn(3, seed=3)).equal


# ---------------------------------------------------------------------------------------------------- random graphs

Move = tuple[str, tuple[int, ...]]
WEIGHTS = [randn(4, 4, seed=70 + k) * 0.7 for k in range(4)]


def apply(op: str, x: Tensor, y: Tensor, k: int) -> Tensor:
    """One operation of a random network: [3, 4] from two of them."""
    match op:
        case "product":
            return torch.tanh(x @ WEIGHTS[k % 4])
        case "add":
            return x + y * 0.5
        case "gate":
            return torch.sigmoid(x) * y
        case "cat":
            return torch.cat((x, y), 1) @ torch.cat((WEIGHTS[k % 4], WEIGHTS[0]))
        case "top":
            values, at = x.topk(2, -1)
            return y + values.sum(-1, keepdim=True) + at.float().mean()
        case "halves":
            a, b = x.chunk(2, 1)
            return torch.cat((b, a), 1)
        case "write":
            x = x.clone()
            x[:, k % 4] = y[:, 0]
            return x.mul_(0.9)
        case "view":
            return x.t().contiguous().view(3, 4)
    raise AssertionError(op)


OPS = ["product", "product", "add", "add", "gate", "cat", "top", "halves", "write", "view"]
MOVES = st.lists(st.tuples(st.sampled_from(OPS), st.tuples(*[st.integers(0, 5)] * 3)), min_size=8, max_size=40)


@hypothesis.given(MOVES, st.integers(0, 2), st.sampled_from(SCHEDULES))
@hypothesis.settings(max_examples=80)
def test_random_networks_give_their_bits(moves: list[Move], results: int, schedule: str) -> None:
    def run(x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for op, (a, b, k) in moves:
            values.append(apply(op, values[max(len(values) - 1 - a, 0)], values[max(len(values) - 1 - b, 0)], k))
        return tuple(values[-1 - 3 * k] for k in range(min(results + 1, 3)))

    captured = capture(run, (randn(3, 4),))
    program = chain(captured.program) if captured.no_loop else Refusal("there is a loop")
    if isinstance(program, Refusal):
        return
    wanted = parse_schedule(schedule)
    assert wanted is not None
    plan = verify(Plan(program, wanted, Bits(), "cpu"))
    assert parse(str(plan)) == plan and decode(encode(plan), Plan) == plan
    runner = Runner(plan, NO_PROOF, torch.device("cpu"), guarded=False)
    x = randn(3, 4, seed=5)
    with torch.no_grad():
        execution = runner.begin((x,), captured.weights(look(run)))
        assert runner.sweep(execution).ending is Ending.SWEEPS
        assert equal(runner.results(execution, runner.finish(execution)), run(x))
    assert isinstance(program.loop, Chain)
    bound = (
        program.loop.blocks if schedule.startswith(("gauss", "gs", "growing", "sliding")) else len(program.loop.levels)
    )
    assert len(execution.record.sweeps) <= bound


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_function_with_neither_loop_nor_blocks_says_both() -> None:
    with pytest.raises(ffc.CaptureError, match="no loop whose steps are alike") as caught:
        ffc.compile(lambda x: torch.relu(x @ x), (randn(3, 3),), schedule="jacobi")
    assert "no chain either" in str(caught.value)


def test_a_graph_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffcompiler.capture.unmarked.STRAIGHT", 20)
    with pytest.raises(ffc.CaptureError, match="at most 20 are kept"):
        capture(*NETWORKS["residual"]())


def test_a_network_that_writes_its_statistics_is_refused() -> None:
    model = densenet.random_densenet((2, 2), growth=4).train()
    with pytest.raises(ffc.CaptureError, match="batch norm in training mode"):
        capture(lambda x: model(x), (randn(2, 3, 32, 32),))


@pytest.mark.parametrize(
    ("schedule", "equality", "says"),
    [
        ("jacobi+windows", "bits", "computed whole"),
        ("jacobi-gs(2)", ffc.tolerance(), "leave no residual"),
    ],
)
def test_a_schedule_that_a_chain_cannot_have_is_refused_by_name(schedule: str, equality: Any, says: str) -> None:
    with pytest.raises(ffc.ScheduleError, match=says):
        ffc.compile(*NETWORKS["residual"](), schedule=schedule, equality=equality)


# ---------------------------------------------------------------------------------------------------- what is told


def test_auto_stays_sequential_on_a_cpu_and_says_what_a_sweep_costs() -> None:
    function, args = NETWORKS["dense"]()
    compiled = ffc.compile(function, args)
    assert not compiled.plan.schedule.sweeps and compiled.plan.refusal is None
    text = str(compiled.explain())
    assert "9 blocks in 1 family, 3, 4 and 2 of them between 2 transitions" in text
    assert "a stem of 4 operators before" in text
    assert "one sweep over all blocks takes" in text and "the whole function" in text
    assert "many blocks at once take about the time of one" in text


def test_explain_tells_levels_of_branches() -> None:
    text = str(ffc.compile(*NETWORKS["towers"]()).explain())
    assert "8 in 5 levels" in text


def test_the_guard_starts_no_sweep_that_costs_the_whole_function() -> None:
    function, args = NETWORKS["dense"]()
    compiled = ffc.compile(function, args, schedule="jacobi")
    result, record = compiled.run(*args)
    with torch.no_grad():
        assert equal(result, function(*args))
    assert record.ending is Ending.GUARD and not record.sweeps


@pytest.mark.parametrize("schedule", ["sequential", "jacobi", "jacobi-gs(3)"])
@pytest.mark.parametrize("name", ["dense", "towers", "several"])
def test_an_artifact_gives_the_same_bits(name: str, schedule: str, tmp_path: Path) -> None:
    function, args = NETWORKS[name]()
    bold(ffc.compile(function, args, schedule=schedule)).save(tmp_path / "a.ffc")
    loaded = ffc.load(tmp_path / "a.ffc")
    with torch.no_grad():
        expected = function(*args)
    assert equal(loaded(*args), expected)
    assert equal(loaded.reference(*args), expected)


def test_an_artifact_whose_guard_stops_it_computes_the_blocks_one_by_one(tmp_path: Path) -> None:
    function, args = NETWORKS["dense"]()
    ffc.compile(function, args, schedule="jacobi").save(tmp_path / "a.ffc")
    result, record = ffc.load(tmp_path / "a.ffc").run(*args)
    assert record.ending is Ending.GUARD and record.certified == 0
    assert record.certificate is not None and record.certificate.sequential_blocks == 11
    with torch.no_grad():
        assert equal(result, function(*args))


def test_another_batch_is_compiled_on_first_use() -> None:
    function, (images,) = NETWORKS["dense"]()
    compiled = ffc.compile(function, (images,), schedule="jacobi")
    other = randn(3, 3, 32, 32, seed=8)
    with torch.no_grad():
        assert equal(compiled(other), function(other))
    assert [variant.plan.program is not None for variant in compiled.variants] == [True, True]


def test_a_plan_reads_back_as_it_prints() -> None:
    for name in ("dense", "several"):
        plan = ffc.compile(*NETWORKS[name]()).plan
        assert parse(str(plan)) == plan


def test_dropout_in_a_chain_draws_what_the_function_draws() -> None:
    model = nn.Sequential(*(nn.Sequential(Residual(8, 6 + k), nn.Dropout(0.3)) for k in range(4)))
    compiled = ffc.compile(lambda x: model(x), (randn(4, 8),), schedule="jacobi")
    assert isinstance(compiled.plan.system, Chain) and compiled.plan.program is not None
    assert [draw.place for draw in compiled.plan.program.draws] == [DrawPlace.BEFORE] * 4
    bold(compiled)
    for seed in range(5):
        torch.manual_seed(seed)
        assert compiled.verify(randn(4, 8, seed=seed)).equal


def test_a_replaced_weight_is_seen() -> None:
    model = nn.Sequential(*(Residual(8, 6 + k) for k in range(5)))
    compiled = bold(ffc.compile(lambda x: model(x), (randn(4, 8),), schedule="jacobi"))
    model[2] = Residual(8, 8)
    assert compiled.verify(randn(4, 8)).equal


def test_values_of_overlapping_memory_begin_as_zeros() -> None:
    """What a block hands on can be an expanded tensor, of which no element can be written alone."""
    weights = [randn(6, 6, seed=k) for k in range(5)]

    def run(x: Tensor) -> Tensor:
        for k, w in enumerate(weights):
            y = torch.tanh(x @ w).mean(-1, keepdim=True).expand(3, 6)
            x = y if k % 2 else x + y * k
        return x

    compiled = bold(ffc.compile(run, (randn(3, 6),), schedule="jacobi"))
    assert equal(compiled(randn(3, 6, seed=1)), run(randn(3, 6, seed=1)))


def test_final_blocks_are_those_that_read_final_values() -> None:
    loop = CHAIN.program.loop if CHAIN.program else None
    assert isinstance(loop, Chain)
    one, two, four = (make_chained(loop, torch.device("cpu"), Runs(size)) for size in (1, 2, 4))
    assert [one.final(known, 4) for known in range(4)] == [2, 3, 3, 4]  # blocks 0 and 1 read none, 2 reads 0
    assert [two.final(known, 4) for known in range(4)] == [2, 3, 4, 4]  # 3 reads 1, and 2, which is of its run
    assert [four.final(known, 4) for known in range(4)] == [4, 4, 4, 4]
    assert four.final(0, 2) == 2  # and nothing that was not computed


# ---------------------------------------------------------------------------------------------------- the zoo


def test_published_weights_load_under_both_spellings() -> None:
    model, other = (densenet.random_densenet((2, 2), growth=4, seed=seed) for seed in (0, 1))
    state = model.state_dict()
    for name in ("features.conv0.weight", "features.denseblock1.denselayer1.norm1.running_mean"):
        assert name in state
    assert {"features.transition1.conv.weight", "features.norm5.weight", "classifier.bias"} <= set(state)
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for name, value in state.items()}
    densenet.load_published(other, old)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())


def test_densenet_201_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in densenet.DenseNet().parameters()) == 20_013_928


def test_signals_of_random_weights_do_not_die() -> None:
    with torch.no_grad():
        logits = densenet.classify(*densenet.example_inputs())
    assert 0.05 < float(logits.std()) < 50.0
