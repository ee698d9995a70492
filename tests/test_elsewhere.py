"""More samples at once, and other devices: the costs of copies of a call, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from rows import encoder_decoder
from systems import SYSTEMS, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler import deciding
from ffcompiler.bench.decide.networks import Towers
from ffcompiler.choice import batches, devices
from ffcompiler.choice.batches import Copies, Lift, with_larger_batches
from ffcompiler.choice.chain_copies import ChainCopies
from ffcompiler.choice.choose import Outlook
from ffcompiler.choice.devices import on_devices, others_in_use
from ffcompiler.choice.measure import Example
from ffcompiler.graph import TensorType
from ffcompiler.plan import Alternative, Costs, Method, Schedule
from ffcompiler.runtime.lift.lifted import Lifted
from ffcompiler.runtime.lift.window import Window
from ffcompiler.runtime.runner import Runner
from ffcompiler.zoo.densenet import random_densenet

pytestmark = pytest.mark.usefixtures("one_thread")
NEAR = ffc.tolerance(1e-6, 1e-6)
CPU = torch.device("cpu")
JACOBI = Schedule(Method.JACOBI)
FREE = Costs(1.0, 1e-4, 1e-4, 0.0)
"""Of sweeps that cost next to nothing: the guard begins them all."""


@dataclass
class Seen:
    """What the verdict elsewhere is told from."""

    outlook: Outlook
    example: Example
    schedules: Sequence[Schedule]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Of every part that is compiled."""
    found: list[Seen] = []

    def watched(outlook: Outlook, certifying: Any, schedules: Any, example: Example, left: Any) -> Any:
        found.append(Seen(outlook, example, schedules))
        return ()

    monkeypatch.setattr(deciding, "with_larger_batches", watched)
    return found


def filtered(x: Tensor) -> Any:
    """[2, T, 3]: each sample by itself."""
    return ffc.fori_loop(0, x.shape[1], lambda i, h: torch.tanh(0.5 * h + x[:, i]), x.new_zeros(x.shape[0], 3))


def conditioned(x: Tensor, by: Tensor) -> Any:
    """Steps read an argument that is the same in all of them."""
    return ffc.fori_loop(0, x.shape[1], lambda i, h: torch.tanh(0.5 * h * by + x[:, i]), x.new_zeros(x.shape[0], 3))


def copies_of(seen: list[Seen], function: Any, args: Any) -> Any:
    ffc.compile(function, args, equality=NEAR, cache=False, budget=1.5)
    with torch.no_grad():
        return batches._copies(seen[-1].outlook, seen[-1].example)


def lifted_values(lift: Lift, times: int) -> tuple[Tensor, ...]:
    """All evaluations of so many copies."""
    kinds = {k: kind_of(t) for k, t in lift.given.items()}
    lifted = Lifted(lift.graph, tuple(row * times for row in lift.tables), CPU, times * lift.rows, kinds)
    given = {key: batches._repeated(t, times) for key, t in lift.given.items()}
    return lifted(Window(0, times * lift.rows, lift.shared, False, given))


def kind_of(t: Tensor) -> TensorType:
    return TensorType("float32", tuple(t.shape[1:]), tuple(t.stride()[1:]))


# ---------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("name", ["raster_2d", "conv_1d", "made_whole_then_sliced"])
def test_copies_of_an_array_loop_s_shared_part_are_evaluated_each_as_one(seen: list[Seen], name: str) -> None:
    function, args = SYSTEMS[name].make()
    copies = copies_of(seen, function, args)
    assert isinstance(copies, Copies)
    shared, tail = copies.sweep
    outlook, example = seen[-1].outlook, seen[-1].example
    runner = Runner(replace(outlook.plan, schedule=JACOBI), outlook.proof, CPU, guarded=False)
    with torch.no_grad():
        execution = runner.begin(example.replay.arguments, example.weights(), example.replay.generators)
        assert runner.system is not None
        alone = [runner.system.evaluate(execution.env, execution.init[0])[ref.key] for ref in shared.graph.outputs]
        for value, one in zip(lifted_values(shared, 3), alone, strict=True):
            assert value.shape == (3, *one.shape)
            torch.testing.assert_close(value, one.expand_as(value))
    assert shared.given and not {w.name for w in runner.program.weights} & set(shared.given)
    assert tail.rows == copies.blocks == SYSTEMS[name].blocks and shared.rows == 1


@pytest.mark.parametrize("function", [filtered, conditioned])
def test_copies_of_a_recurrence_s_body_are_evaluated_each_as_one(seen: list[Seen], function: Any) -> None:
    args = (randn(2, 40, 3), randn(2, 3, seed=1))[: 1 if function is filtered else 2]
    copies = copies_of(seen, function, args)
    (body,) = copies.sweep
    with torch.no_grad():
        one, three = lifted_values(body, 1), lifted_values(body, 3)
    for value, alone in zip(three, one, strict=True):
        assert len(alone) == copies.blocks == 40
        torch.testing.assert_close(value, alone.repeat(3, *(1,) * (alone.dim() - 1)))


def stem_and_blocks() -> nn.Module:
    """What comes before the blocks depends on the input, too; the blocks read all those before them."""
    return random_densenet((3, 2), growth=4, classes=3)


def layers_of_many_widths() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, w), nn.Tanh(), nn.Linear(w, 6)) for w in range(4, 12)))


def towers() -> nn.Module:
    """Blocks that one call computes together."""
    return Towers(8, (5, 6, 7, 9, 10, 11))


CHAINS = {stem_and_blocks: (1, 3, 32, 32), layers_of_many_widths: (3, 6), towers: (2, 8)}


def of_chain(seen: list[Seen], make: Any) -> ChainCopies:
    torch.manual_seed(0)
    copies = copies_of(seen, make().eval().requires_grad_(False), (randn(*CHAINS[make]),))
    assert isinstance(copies, ChainCopies)
    return copies


@pytest.mark.parametrize("make", CHAINS, ids=lambda make: make.__name__)
def test_copies_of_a_chain_s_blocks_are_evaluated_each_as_one(seen: list[Seen], make: Any) -> None:
    copies = of_chain(seen, make)
    chain, made, shared = copies.chain, dict[str, Tensor](), dict(copies.env)
    with torch.no_grad():
        alone = chain.finish(copies.env, None)
        copied = {key: torch.stack([copies.env[key]] * 3) for key in copies.moving}
        for piece in copies._pieces(3):
            assert piece.lifted is None or not piece.lifted.unlifted, "else it is no figure of several at once"
            shared = piece.same.extend(shared)
            made = piece.values(copied, shared, 3)
            copied |= made
    assert set(made) <= {ref.key for ref in chain.chain.left} and copies.blocks == chain.blocks >= 5
    for ref, one in zip(chain.chain.left, alone, strict=True):
        torch.testing.assert_close(copied[ref.key], one.expand_as(copied[ref.key]))


def test_the_costs_of_a_chain_grow_by_what_each_block_takes_more(
    seen: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of block k so many times k seconds for each copy, and half a second before all: what one has for all stays."""
    copies = of_chain(seen, layers_of_many_widths)
    n = copies.blocks
    more = sum(3.0 * k for k in range(n))
    monkeypatch.setattr(
        ChainCopies, "_through", lambda self, pieces, count: [0.5 * count, *(1.0 * k * count for k in range(n))]
    )
    here = Costs(2.0, 2.5 * n, 2.5 * n, 1.0, ((n, 2.5 * n),), tuple([2.0] * n), after=0.25, draws=0.5)
    there = copies.costs(here, 4)
    assert there.blocks == tuple(2.0 + 3.0 * k for k in range(n)) and there.once == 1.0 + 1.5
    assert there.step * n == pytest.approx(2.0 * n + 1.5 + more + 0.75) and (there.after, there.draws) == (1.0, 2.0)
    assert there.sweep == there.certify == pytest.approx(2.5 * n + more), "bookkeeping is taken not to grow"
    assert there.window(n) == pytest.approx(there.sweep)
    together = replace(here, sweep=2.5 * n - 5.0, together=(((0, 1, 2, 3, 4), 3.0, 5.0),))
    alone = copies.costs(together, 4)
    assert alone.sweep == pytest.approx(2.5 * n + more) and not alone.together, "as if each was computed by itself"


def test_with_more_samples_the_candidates_of_a_chain_are_predicted_on_its_levels(seen: list[Seen]) -> None:
    of_chain(seen, towers)
    costs = replace(FREE, blocks=tuple([1e-5] * seen[-1].outlook.plan.system.blocks))  # type: ignore[union-attr]
    four, sixteen = larger(seen[-1], costs)
    assert (four.change, sixteen.change) == ("a batch 4 times as large", "a batch 16 times as large")
    assert four.reference >= costs.step * len(costs.blocks) and 0 < four.seconds < four.reference
    assert four.schedule in seen[-1].schedules


def test_a_chain_told_of_larger_batches_has_them_in_its_plan() -> None:
    torch.manual_seed(0)
    plan = ffc.compile(layers_of_many_widths().eval(), (randn(3, 6),), budget=30.0, cache=False).plan
    told = [one.change for one in plan.alternatives if "batch" in one.change]
    assert told == ["a batch 4 times as large", "a batch 16 times as large"]


def test_copies_have_the_memory_order_of_one() -> None:
    inside = randn(3, 2, 5).permute(2, 0, 1)
    repeated = batches._repeated(inside, 4)
    assert torch.equal(repeated, inside.repeat(4, 1, 1)) and repeated.stride() == (1, 40, 20)


def test_costs_grow_by_what_copies_take_more(seen: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit for each evaluation: of 40 steps and four copies a sweep has 120 more, and a step three."""
    copies = copies_of(seen, filtered, (randn(2, 40, 3),))
    monkeypatch.setattr(Lift, "_seconds", lambda lift, lifted, count: float(count))
    here = Costs(10.0, 40.0, 40.0, 5.0, ((5, 8.0), (40, 40.0)), captured=20.0, after=1.0, draws=2.0)
    there = copies.costs(here, 4)
    assert (there.sweep, there.certify, there.step, there.captured) == (160.0, 160.0, 13.0, 26.0)
    assert (there.after, there.draws) == (4.0, 8.0)
    assert there.windows == ((5, here.window(20)), (40, 160.0))


# ---------------------------------------------------------------------------------------------------- verdicts


def larger(seen: Seen, costs: Costs, seconds: float = 1e9) -> tuple[Alternative, ...]:
    return with_larger_batches(replace(seen.outlook, costs=costs), {}, seen.schedules, seen.example, lambda: seconds)


def test_with_more_samples_every_schedule_is_predicted_on_the_same_fronts(seen: list[Seen]) -> None:
    copies_of(seen, filtered, (randn(2, 40, 3),))
    four, sixteen = larger(seen[-1], FREE)
    assert (four.change, sixteen.change) == ("a batch 4 times as large", "a batch 16 times as large")
    assert four.schedule in seen[-1].schedules and 0 < four.sweeps < 40
    assert four.seconds < four.reference and four.reference >= 40.0
    dear = larger(seen[-1], replace(FREE, sweep=9.0, certify=9.0))
    assert all(one.sweeps == 0 and one.seconds >= one.reference for one in dear)


def test_no_more_is_measured_than_there_is_time_and_memory_for(
    seen: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies_of(seen, filtered, (randn(2, 40, 3),))
    costs = replace(FREE, sweep=1.0, certify=1.0)
    assert larger(seen[-1], costs, seconds=1.0) == ()
    assert [one.change for one in larger(seen[-1], costs, seconds=100.0)] == ["a batch 4 times as large"]
    monkeypatch.setattr(batches, "MOST_BYTES", 0)
    assert larger(seen[-1], costs) == ()


def test_what_cannot_be_evaluated_for_several_copies_has_no_figures(
    seen: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies_of(seen, filtered, (randn(2, 40, 3),))

    def failing(*given: Any) -> Any:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(batches, "Lifted", failing)
    assert larger(seen[-1], FREE) == ()


def test_repeated_maps_have_no_figures(seen: list[Seen]) -> None:
    ffc.compile(lambda x: ffc.fori_loop(0, 30, lambda i, s: torch.cos(s), x), (randn(5),), cache=False)
    assert larger(seen[-1], FREE) == ()


def test_a_plan_has_them_within_the_budget_and_under_a_tolerance_too() -> None:
    plan = ffc.compile(filtered, (randn(2, 40, 3),), equality=NEAR, budget=30.0, cache=False).plan
    assert [one.change for one in plan.alternatives] == ["a batch 4 times as large", "a batch 16 times as large"]
    assert ffc.compile(filtered, (randn(2, 40, 3),), equality=NEAR, budget=0.0, cache=False).plan.alternatives == ()
    assert ffc.compile(filtered, (randn(2, 40, 3),), equality=NEAR, schedule="jacobi").plan.alternatives == ()


def test_every_part_has_its_own() -> None:
    function, args = encoder_decoder()
    plan = ffc.compile(function, args, equality=NEAR, budget=30.0, cache=False).plan
    assert all(len(part.alternatives) == 2 for part in plan.parts)


# ---------------------------------------------------------------------------------------------------- devices


def test_a_device_is_measured_by_the_captured_program(seen: list[Seen]) -> None:
    """Here the CPU stands for another one."""
    copies_of(seen, filtered, (randn(2, 40, 3),))
    (there,) = on_devices(seen[-1].outlook, seen[-1].example, [CPU], lambda: 100.0)
    assert there.change == "on cpu" and there.schedule == JACOBI
    assert 0.0 < there.seconds < 100.0 and 0.0 < there.reference < 100.0


def test_a_device_that_would_take_too_long_has_no_figures(seen: list[Seen]) -> None:
    copies_of(seen, filtered, (randn(2, 40, 3),))
    outlook, example = seen[-1].outlook, seen[-1].example
    assert on_devices(outlook, example, [CPU], lambda: 0.0) == ()
    assert on_devices(replace(outlook, traces=()), example, [CPU], lambda: 100.0) == ()


def test_a_device_on_which_the_program_does_not_run_has_no_figures(
    seen: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies_of(seen, filtered, (randn(2, 40, 3),))

    def failing(*given: Any) -> Any:
        raise NotImplementedError("no such operator there")

    monkeypatch.setattr(devices, "Trial", failing)
    assert on_devices(seen[-1].outlook, seen[-1].example, [CPU], lambda: 100.0) == ()


def test_many_weights_are_not_copied_to_another_device(seen: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    function, args = SYSTEMS["conv_1d"].make()
    copies_of(seen, function, args)
    outlook, example = seen[-1].outlook, seen[-1].example
    assert len(on_devices(outlook, example, [CPU], lambda: 100.0)) == 1
    monkeypatch.setattr(devices, "MOST_BYTES", 0)
    assert on_devices(outlook, example, [CPU], lambda: 100.0) == ()


def test_no_device_is_started_for_what_is_only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert others_in_use("cpu") == [] and others_in_use("cuda") == [CPU]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert others_in_use("cpu") == [torch.device("cuda")]
