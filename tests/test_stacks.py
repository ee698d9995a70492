"""Stacks of recurrent layers: their levels, and sweeps that go through a window level by level (docs/stacks.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrences import RECURRENCES, cell
from systems import randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.choice.convergence import Fresh, Shape, Trace, simulate
from ffcompiler.graph import EMPTY_GRAPH, Graph, Node, Ref, TensorType, Value
from ffcompiler.plan import Costs, Method, Schedule, Tolerance
from ffcompiler.program import Recurrence
from ffcompiler.rules.verify import verify
from ffcompiler.runtime.cells import spelled_out
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.guard import Guard
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.recurrent import Recurrent
from ffcompiler.runtime.runner import Execution, Runner
from ffcompiler.runtime.stacked.waves import has_alike_layers, make_waves
from ffcompiler.stacks import Stack, parts_sunk, stack_of
from ffcompiler.written.text import parse

pytestmark = pytest.mark.usefixtures("one_thread")

LOOSE = ffc.tolerance(1e-5, 1e-5)
WAVEFRONT = Schedule(Method.WAVEFRONT)
Step = Callable[[int, Tensor, list[Tensor]], list[Tensor]]


def loop(step: Step, states: int, steps: int = 12, width: int = 4, batch: int = 2) -> tuple[Any, tuple[Any, ...]]:
    """A function that carries ``states`` tensors through ``step(i, x, state)``, and an input for it."""

    def run(x: Tensor) -> Any:
        def body(i: int, state: list[Tensor]) -> list[Tensor]:
            return step(i, x[:, i], state)

        return ffc.fori_loop(0, steps, body, [x.new_zeros(batch, width) + 0.1 * k for k in range(states)])

    return run, (randn(batch, steps, width, seed=3),)


def stacked(cells: Sequence[nn.Module], steps: int, inputs: int, hidden: int, collect: bool = False) -> Any:
    """The usual stack: each layer is given what the one below has just made."""

    def run(x: Tensor) -> Any:
        h: list[Any] = [x.new_zeros(x.shape[0], hidden) for _ in cells]
        if isinstance(cells[0], nn.LSTMCell):
            h = [(own, own) for own in h]
        left = []
        for t in range(steps):
            given = x[:, t]
            for k, layer in enumerate(cells):
                h[k] = layer(given, h[k])
                given = h[k][0] if isinstance(h[k], tuple) else h[k]
            left.append(given * 2)
        return torch.stack(left, 1) if collect else given

    return run, (randn(2, steps, inputs, seed=5),)


def gru_stack(layers: int, steps: int = 20, hidden: int = 4, gain: float = 1.5, collect: bool = False) -> Any:
    cells = [cell(nn.GRUCell, 3 if k == 0 else hidden, hidden, gain) for k in range(layers)]
    return stacked(cells, steps, 3, hidden, collect)


def system_of(function: Any, args: tuple[Any, ...]) -> Recurrence:
    system = ffc.compile(function, args, equality=LOOSE, schedule="jacobi", cache=False, budget=0.0).plan.system
    assert isinstance(system, Recurrence)
    return system


def layers_of(function: Any, args: tuple[Any, ...]) -> tuple[Stack, tuple[int, ...]]:
    """The stack, and the layer of each carried tensor."""
    system = system_of(function, args)
    stack = stack_of(spelled_out(system))
    return stack, tuple(stack.stages[value.name] for value in system.carry)


def begun(compiled: ffc.Compiled, args: Sequence[Tensor], **changes: Any) -> tuple[Runner, Execution]:
    """A run of the plan without the guard."""
    assert compiled.live is not None
    runner = Runner(replace(compiled.plan, **changes), compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        return runner, runner.begin(args, compiled.live.weights())


def swept(compiled: ffc.Compiled, args: Sequence[Tensor], **changes: Any) -> tuple[list[Tensor], RunRecord]:
    """Sweeps to the end whatever they cost."""
    runner, execution = begun(compiled, args, **changes)
    with torch.no_grad():
        runner.sweep(execution)
        return runner.results(execution, runner.finish(execution)), execution.record


# ---------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_each_cell_of_a_stack_is_a_layer(layers: int) -> None:
    stack, own = layers_of(*gru_stack(layers))
    assert stack.depth == layers and own == tuple(range(layers)) and stack.levels(20) == 20 + layers - 1


def test_the_two_tensors_of_an_lstm_are_one_layer() -> None:
    cells = [cell(nn.LSTMCell, 3 if k == 0 else 4, 4, 1.0) for k in range(3)]
    stack, own = layers_of(*stacked(cells, 20, 3, 4))
    assert stack.depth == 3 and sorted(own) == [0, 0, 1, 1, 2, 2]


def test_a_single_cell_is_one_layer() -> None:
    stack, own = layers_of(*gru_stack(1))
    assert stack.depth == 1 and own == (0,)


def test_a_layer_that_reads_the_layer_above_of_the_step_before_is_one_with_it() -> None:
    def step(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
        first = torch.tanh(x + h[0] + h[1])
        second = torch.tanh(first + h[1])
        return [first, second, torch.tanh(second + h[2])]

    stack, own = layers_of(*loop(step, 3))
    assert stack.depth == 2 and own == (0, 0, 1)


def test_a_loop_whose_state_reads_all_of_itself_is_one_layer() -> None:
    def step(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(x + h[1]), torch.tanh(h[0] * 0.5)]

    assert layers_of(*loop(step, 2))[0].depth == 1


def test_layers_that_read_old_values_of_the_layer_below_are_layers_too() -> None:
    def step(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(x + h[0]), torch.tanh(h[0] + h[1]), torch.tanh(h[1] - h[2])]

    stack, own = layers_of(*loop(step, 3))
    assert stack.depth == 3 and own == (0, 1, 2)


def test_layers_side_by_side_are_at_one_level() -> None:
    def step(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
        left, right = torch.tanh(x + h[0]), torch.tanh(x - h[1])
        return [left, right, torch.tanh(left * right + h[2])]

    stack, own = layers_of(*loop(step, 3))
    assert stack.depth == 2 and own == (0, 0, 1)


def test_a_product_with_the_layer_below_belongs_to_the_layer_that_reads_it() -> None:
    system = spelled_out(system_of(*gru_stack(2)))
    products = [node.name for node in system.body.nodes if node.op == "aten.linear.default"]
    stages = stack_of(system).stages
    assert sorted(stages[name] for name in products) == [0, 1, 1]


def test_every_value_is_read_by_its_own_layer_or_by_one_further_on() -> None:
    for name, made in RECURRENCES.items():
        compiled = ffc.compile(*made.make(), equality=LOOSE, schedule="auto", cache=False, budget=0.0)
        if not isinstance(compiled.plan.system, Recurrence):
            continue
        system = parts_sunk(spelled_out(compiled.plan.system))
        stages = stack_of(system).stages
        for node in system.body.nodes:
            if node.name in stages:
                assert all(stages[ref.name] <= stages[node.name] for ref in node.refs() if ref.name in stages), name
        for value, ref in zip(system.carry, system.body.outputs, strict=False):
            assert stages.get(ref.name, 0) <= stages[value.name], name


# ---------------------------------------------------------------------------------------------------- passes


def skipping(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    """Each layer is also given what the layer before the last one has made, and a sum of all so far."""
    made, total = [torch.tanh(x + 0.9 * h[0])], x
    for own in h[1:]:
        total = total + made[-1]
        older = made[-2] if len(made) > 1 else x
        made.append(torch.tanh(made[-1] + 0.7 * own - 0.3 * older + 0.1 * total))
    return made


def unlike(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    first = torch.tanh(x + h[0])
    second = torch.sigmoid(first * h[1]) + 0.5 * h[1]
    return [first, second, torch.sin(second) + 0.5 * h[2].cos()]


def shifted(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    """A tensor that remembers the input, one that remembers that, and two layers that read them."""
    first = torch.tanh(h[0] + h[2])
    return [first, torch.tanh(first + h[1] + h[3]), x.contiguous(), h[2]]


def numbered(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    """Numbers that differ from step to step beside the state."""
    first = torch.tanh(x + h[0] * (0.5 + 0.01 * i))
    return [first, torch.tanh(first - h[1] * (0.5 + 0.01 * i))]


def constant(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    first = torch.tanh(x + h[0] * h[2])
    return [first, torch.tanh(first + h[1] * h[2]), h[2]]


SHAPES = {
    "skipping": loop(skipping, 5),
    "unlike": loop(unlike, 3),
    "shifted": loop(shifted, 4),
    "numbered": loop(numbered, 2),
    "constant": loop(constant, 3),
    "gru": gru_stack(3),
    "collected": gru_stack(3, collect=True),
    "lstm": stacked([cell(nn.LSTMCell, 3 if k == 0 else 4, 4, 1.0) for k in range(3)], 20, 3, 4),
    "rnn": stacked([cell(nn.RNNCell, 4, 4, 1.0) for _ in range(4)], 20, 4, 4),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bits", [True, False], ids=["bits", "tolerance"])
def test_a_sweep_by_levels_gives_what_the_loop_gives(name: str, bits: bool) -> None:
    function, args = SHAPES[name]
    compiled = ffc.compile(function, args, equality="bits" if bits else LOOSE, schedule="wavefront", cache=False)
    results, record = swept(compiled, args)
    assert record.ending is Ending.SWEEPS and len(record.sweeps) == 1 and record.certified == record.blocks
    with torch.no_grad():
        expected = function(*args)
    leaves = expected if isinstance(expected, list) else [expected]
    for got, want in zip(results, leaves, strict=True):
        assert same_bits(got, want) if bits else torch.allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_every_step_of_a_sweep_by_levels_follows_from_the_one_before(name: str) -> None:
    function, args = SHAPES[name]
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    runner, execution = begun(compiled, args)
    with torch.no_grad():
        solution = runner.sweep(execution)
        system = runner.recurrent
        assert system is not None and system.waves is not None and not system.waves.recorded
        step = system.steps.bind(execution.env)
        for k in range(system.blocks):
            after = step(system.at(solution.state, k), k)
            for got, want in zip(system.at(solution.state, k + 1), after, strict=False):
                assert torch.allclose(got, want, rtol=2e-5, atol=2e-5), k


@pytest.mark.parametrize("lo", [0, 1, 7, 19])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_pass_may_begin_and_end_at_any_step(lo: int, recorded: bool) -> None:
    function, args = gru_stack(4)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    runner, execution = begun(compiled, args, schedule=Schedule(Method.JACOBI))
    assert isinstance(compiled.plan.system, Recurrence) and runner.recurrent is not None
    system = compiled.plan.system if recorded else parts_sunk(spelled_out(compiled.plan.system))
    waves = make_waves(system, compiled.device, recorded)
    with torch.no_grad():
        states = [execution.init]
        step = runner.recurrent.steps.bind(execution.env)
        for k in range(20):
            states.append(step(states[-1], k))
        ran, whole = begun(compiled, args)
        assert ran.recurrent is not None
        env = ran.recurrent.prepare(whole.env)
        for hi in range(lo + 1, 21):
            made = waves(env, states[lo], lo, hi)
            for leaf, got in enumerate(made):
                want = torch.stack([states[k + 1][leaf] for k in range(lo, hi)])
                assert same_bits(got, want) if recorded else torch.allclose(got, want, rtol=1e-5, atol=1e-5)


def test_layers_that_are_alike_are_one_call() -> None:
    calls = []
    for layers in (2, 3, 8):
        system = parts_sunk(spelled_out(system_of(*gru_stack(layers))))
        waves = make_waves(system, torch.device("cpu"), False)
        calls.append(len(waves.level.graph.nodes))
        assert has_alike_layers(system)
    assert max(calls) < 20 and calls[1] == calls[2]


def test_layers_that_differ_in_size_are_evaluated_one_by_one() -> None:
    def step(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
        first = torch.sin(x + h[0])
        return [first, torch.exp(-first.sum(0) - h[1].abs())]

    def run(x: Tensor) -> Any:
        body = lambda i, state: step(i, x[:, i], state)  # noqa: E731
        return ffc.fori_loop(0, 12, body, [x.new_zeros(2, 4), x.new_zeros(4)])

    args = (randn(2, 12, 4, seed=3),)
    assert not has_alike_layers(system_of(run, args))
    results, record = swept(ffc.compile(run, args, equality=LOOSE, schedule="wavefront", cache=False), args)
    assert len(record.sweeps) == 1
    for got, want in zip(results, run(*args), strict=True):
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_step_may_have_thousands_of_operators_in_a_row(recorded: bool) -> None:
    kind, count = TensorType("float32", (4,), (1,)), 1500
    nodes = [Node("n0", "aten.mul.Tensor", (Ref("c0"), 0.5), (), (kind,), "")]
    for k in range(1, 2 * count):
        read: tuple[Any, ...] = (Ref(f"n{k - 1}"), Ref("c1") if k == count else 0.001)
        nodes.append(Node(f"n{k}", "aten.add.Tensor", read, (), (kind,), ""))
    carry = (Value("c0", kind), Value("c1", kind))
    body = Graph(carry, tuple(nodes), (Ref(f"n{count - 1}"), Ref(f"n{2 * count - 1}")))
    system = Recurrence(0, 5, (), carry, (Ref("p0"), Ref("p1")), "", EMPTY_GRAPH, EMPTY_GRAPH, body)
    waves = make_waves(system, torch.device("cpu"), recorded)
    first, second = waves({}, (torch.ones(4), torch.zeros(4)), 0, 5)
    want, above = torch.ones(4), torch.zeros(4)
    for k in range(5):
        want = 0.5 * want + 0.001 * (count - 1)
        above = want + above + 0.001 * (count - 1)
        assert torch.allclose(first[k], want, rtol=1e-3) and torch.allclose(second[k], above, rtol=1e-3)


def filters(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    """Correctly rounded all through."""
    made = [x]
    for own in h:
        made.append(0.75 * own + 0.25 * made[-1])
    return made[1:]


def counters(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
    first = h[0] + (x > 0).to(torch.int64)
    return [first, h[1] * 3 + first, h[2] - h[1]]


def test_filters_by_levels_have_the_bits_and_are_certified_all_at_once() -> None:
    function, args = loop(filters, 4)
    compiled = ffc.compile(function, args, schedule="wavefront", cache=False)
    runner, _ = begun(compiled, args)
    assert runner.recurrent is not None and runner.recurrent.waves is not None
    assert not runner.recurrent.waves.recorded and has_alike_layers(runner.recurrent.loop)
    results, record = swept(compiled, args)
    assert len(record.sweeps) == 1 and all(map(same_bits, results, function(*args)))


def test_whole_numbers_by_levels_are_the_same() -> None:
    def run(x: Tensor) -> Any:
        first = [torch.zeros(2, 4, dtype=torch.int64) + k for k in range(3)]
        return ffc.fori_loop(0, 12, lambda i, h: counters(i, x[:, i], h), first)

    args = (randn(2, 12, 4, seed=3),)
    results, record = swept(ffc.compile(run, args, schedule="wavefront", cache=False), args)
    assert record.ending is Ending.SWEEPS and all(map(torch.equal, results, run(*args)))


# ---------------------------------------------------------------------------------------------------- asked by name


def test_one_layer_is_refused_by_name_with_the_reason() -> None:
    function, args = gru_stack(1)
    with pytest.raises(ffc.ScheduleError, match="one layer"):
        ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    with pytest.raises(ffc.CausalityError, match="one layer"):
        ffc.compile(function, args, schedule="wavefront", cache=False)


def test_under_bits_auto_does_not_take_a_stack_of_cells() -> None:
    function, args = gru_stack(2)
    compiled = ffc.compile(function, args, cache=False, budget=0.1)
    assert compiled.plan.schedule.method is Method.SEQUENTIAL and compiled.plan.refusal is not None


@pytest.mark.parametrize("bits", [True, False], ids=["bits", "tolerance"])
def test_a_stack_is_saved_and_loaded_with_its_levels(bits: bool, tmp_path: Any) -> None:
    function, args = gru_stack(3, collect=True)
    compiled = ffc.compile(function, args, equality="bits" if bits else LOOSE, schedule="wavefront", cache=False)
    path = tmp_path / "stack.ffc"
    compiled.save(path)
    again = ffc.load(path)
    runner = Runner(again.plan, again.proof, again.device, guarded=False)
    assert again.plan.schedule == WAVEFRONT and runner.recurrent is not None and runner.recurrent.waves is not None
    with torch.no_grad():
        want, got = function(*args), again(*args)
    assert same_bits(got, want) if bits else torch.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_explanation_tells_layers_and_levels() -> None:
    function, args = gru_stack(3)
    told = str(ffc.compile(function, args, equality=LOOSE, schedule="jacobi", cache=False).explain())
    assert "3 layers, 22 levels that do not read each other" in told
    assert "layers" not in str(ffc.compile(*gru_stack(1), equality=LOOSE, schedule="jacobi", cache=False).explain())


def test_the_error_of_a_run_by_levels_is_not_told_from_a_rate_that_it_has_not() -> None:
    function, args = gru_stack(2)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    runner, execution = begun(compiled, args)
    with torch.no_grad():
        runner.sweep(execution)
    certificate = runner.certify(execution)
    assert certificate.residual is not None and certificate.estimated_error is None
    assert str(certificate).endswith("estimated error unknown")


# ---------------------------------------------------------------------------------------------------- price, handover


PRICED = Costs(1.0, 5.0, 5.0, 0.1, ((20, 5.0),), captured=1.0, waves=((1, 0.5), (20, 5.0)))


def guarded(compiled: ffc.Compiled, args: Sequence[Tensor], costs: Costs) -> tuple[list[Tensor], RunRecord]:
    runner = Runner(replace(compiled.plan, costs=costs), compiled.proof, compiled.device, clock=lambda: 0.0)
    assert compiled.live is not None
    with torch.no_grad():
        execution = runner.begin(args, compiled.live.weights())
        runner.sweep(execution)
        return runner.results(execution, runner.finish(execution)), execution.record


def test_windows_are_as_wide_as_the_slack_pays_for_and_grow_with_what_they_free() -> None:
    function, args = gru_stack(3)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    _, record = guarded(compiled, args, PRICED)
    widths = [sweep.hi - sweep.lo for sweep in record.sweeps]
    assert record.ending is Ending.SWEEPS and len(widths) > 1 and widths[0] < widths[1]
    assert record.spent <= 1.05 * record.reference


@pytest.mark.parametrize("bits", [True, False], ids=["bits", "tolerance"])
def test_a_sweep_by_levels_that_does_not_pay_is_not_begun(bits: bool) -> None:
    function, args = gru_stack(3)
    compiled = ffc.compile(function, args, equality="bits" if bits else LOOSE, schedule="wavefront", cache=False)
    results, record = guarded(compiled, args, replace(PRICED, waves=((20, 50.0),)))
    assert record.ending is Ending.GUARD and not record.sweeps
    assert same_bits(results[0], function(*args))


def test_what_does_not_certify_is_done_again_from_there() -> None:
    function, args = gru_stack(3, gain=3.0)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    results, record = swept(compiled, args, equality=Tolerance(0.0, 1e-8))
    assert record.ending is Ending.SWEEPS and len(record.sweeps) > 1
    assert record.fronts == sorted(set(record.fronts)), "each sweep moves the front"
    assert torch.allclose(results[0], function(*args), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [True, False], ids=["bits", "tolerance"])
@pytest.mark.parametrize("at", [1, 5, 17])
def test_a_run_that_is_handed_over_goes_on_with_the_loops_own_steps(bits: bool, at: int) -> None:
    function, args = gru_stack(3, collect=True)
    compiled = ffc.compile(function, args, equality="bits" if bits else LOOSE, schedule="wavefront", cache=False)
    runner, execution = begun(compiled, args)
    with torch.no_grad():
        solution = runner.sweep(execution)
        execution.solution = replace(solution, certified=at)
        (got,) = runner.results(execution, runner.finish(execution))
        want = function(*args)
    assert same_bits(got, want) if bits else torch.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_an_operator_that_raises_in_a_pass_leaves_the_rest_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    function, args = gru_stack(3)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)

    def broken(*given: Any, **named: Any) -> Any:
        raise RuntimeError("out of range")

    monkeypatch.setattr("ffcompiler.runtime.stacked.waves.Waves.__call__", broken)
    results, record = swept(compiled, args)
    assert record.ending is Ending.RAISED and record.certified == 0
    assert same_bits(results[0], function(*args))


def test_a_wrong_pass_is_never_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a pass by levels gives, the steps are held against the tolerance before they are claimed."""
    function, args = gru_stack(3)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    honest = type(compiled_waves(compiled, args)).__call__

    def wrong(self: Any, *given: Any) -> Any:
        return tuple(leaf + 0.01 for leaf in honest(self, *given))

    monkeypatch.setattr("ffcompiler.runtime.stacked.waves.Waves.__call__", wrong)
    results, record = swept(compiled, args)
    assert len(record.sweeps) > 1
    assert torch.allclose(results[0], function(*args), rtol=1e-4, atol=1e-4)


def compiled_waves(compiled: ffc.Compiled, args: Sequence[Tensor]) -> Any:
    runner, _ = begun(compiled, args)
    assert isinstance(runner.recurrent, Recurrent)
    return runner.recurrent.waves


def test_prices_of_levels_are_read_back_and_have_to_rise() -> None:
    function, args = gru_stack(2)
    plan = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False).plan
    assert plan.costs is not None and [steps for steps, _ in plan.costs.waves] == [20]
    assert parse(str(plan)) == plan and verify(plan) is plan
    falling = replace(plan, costs=replace(plan.costs, waves=((8, 1.0), (4, 1.0))))
    with pytest.raises(ffc.InvalidPlanError, match="figures_are_finite"):
        verify(falling)


def test_a_sweep_by_levels_is_priced_by_its_width() -> None:
    costs = replace(PRICED, waves=((10, 2.0), (20, 3.0)))
    guard = Guard(costs, 20, waves=True)
    assert [guard.cost(True, width) for width in (5, 10, 15, 20, 40)] == [2.0, 2.0, 2.5, 3.0, 6.0]
    assert guard.cost(True, (5, 20)) == 2.5
    assert Guard(costs, 20, waves=False).cost(True, 20) == costs.window(20)


def test_the_simulation_makes_the_sweeps_that_a_guarded_run_makes() -> None:
    function, args = gru_stack(3)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    shape = Shape(20, True, True, (20,))
    trace = Trace(20, (Fresh(0, tuple(range(1, 21))),))
    for waves in (((1, 0.5), (20, 5.0)), ((20, 0.5),), ((1, 0.9), (20, 18.0)), ((20, 50.0),)):
        costs = replace(PRICED, waves=waves)
        _, record = guarded(compiled, args, costs)
        expected = simulate(WAVEFRONT, shape, trace, costs)
        assert (expected.sweeps, expected.certified) == (len(record.sweeps), record.certified), waves


def test_workers_share_a_level() -> None:
    function, args = gru_stack(3)
    compiled = ffc.compile(function, args, equality=LOOSE, schedule="wavefront", cache=False)
    simulation = compiled.explain(processors=(1, 3)).simulated
    assert simulation is not None
    course = next(c for c in simulation.courses if c.schedule == "wavefront")
    assert len(course.sweeps) == 22 and all(len(level) == 3 for level in course.sweeps)
    assert course.seconds(3) == pytest.approx(course.seconds(1) / 3)


# ---------------------------------------------------------------------------------------------------- random stacks


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Any, tuple[Any, ...]]:
    """Layers of random operators that read random earlier ones, of this step or of the one before."""
    layers = draw(st.integers(2, 5))
    alike = draw(st.booleans())
    kinds = [draw(st.sampled_from(["tanh", "sin", "product", "norm"])) for _ in range(layers)]
    kinds = [kinds[0]] * layers if alike else kinds
    new = [draw(st.sets(st.integers(0, k - 1), max_size=2)) if k else set() for k in range(layers)]
    old = [draw(st.sets(st.integers(0, layers - 1), max_size=1)) | {k} for k in range(layers)]
    weights = [randn(4, 4, seed=10 + k) * 0.3 for k in range(layers)]
    own = {
        "tanh": lambda k, z: torch.tanh(z),
        "sin": lambda k, z: torch.sin(z) * 0.5,
        "product": lambda k, z: torch.tanh(z @ weights[k]),
        "norm": lambda k, z: nn.functional.layer_norm(z, (4,), weights[k][0], weights[k][1]).tanh(),
    }

    def step(i: int, x: Tensor, h: list[Tensor]) -> list[Tensor]:
        made: list[Tensor] = []
        for k in range(layers):
            given = sum((made[j] for j in sorted(new[k])), x if k == 0 else 0.1 * x)
            remembered = sum((h[j] for j in sorted(old[k])), 0.2 * h[k])
            made.append(own[kinds[k]](k, given + 0.5 * remembered))
        return made

    return loop(step, layers)


@settings(max_examples=25, deadline=None)
@given(stacks(), st.booleans())
def test_random_stacks_by_levels_give_what_their_loop_gives(made: tuple[Any, tuple[Any, ...]], bits: bool) -> None:
    function, args = made
    if stack_of(spelled_out(system_of(function, args))).depth < 2:
        return
    compiled = ffc.compile(
        function, args, equality="bits" if bits else LOOSE, schedule="wavefront", cache=False, budget=0.0
    )
    results, record = swept(compiled, args)
    assert record.ending is Ending.SWEEPS and len(record.sweeps) == 1
    for got, want in zip(results, function(*args), strict=True):
        assert same_bits(got, want) if bits else torch.allclose(got, want, rtol=1e-4, atol=1e-4)
