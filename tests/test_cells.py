"""Recurrent cells and layers recognised whole, `ffc.scan`, and what runs their steps one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import unmarked
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.capture import capture, layers, look
from ffcompiler.program import Loop, Recurrence
from ffcompiler.runtime.cells import CELLS
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.recurrent import make_recurrent
from ffcompiler.runtime.steps import make_steps
from ffcompiler.trees import flatten

NEAR = ffc.tolerance(1e-6, 1e-6)


def tensors(result: Any) -> list[Tensor]:
    return [leaf for _, leaf in flatten(result)[0]]


def equal(a: Any, b: Any) -> bool:
    return len(tensors(a)) == len(tensors(b)) and all(map(same_bits, tensors(a), tensors(b)))


def close(a: Any, b: Any, limit: float = 1e-4) -> bool:
    return all(torch.allclose(p, q, limit, limit) for p, q in zip(tensors(a), tensors(b), strict=True))


def seeded(module: nn.Module, gain: float = 0.7) -> Any:
    for number, parameter in enumerate(module.parameters()):
        parameter.data = randn(*parameter.shape, seed=number, dtype=parameter.dtype) * gain
    return module.eval()


def over_time(cell: Any, batch: int, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """A plain Python loop over a cell, as one finds it."""

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(batch, cell.hidden_size, dtype=dtype)
        state, outputs = ((h, h.clone()) if isinstance(cell, nn.LSTMCell) else h), []
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)

    return run


KINDS: dict[str, Callable[..., nn.Module]] = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "tanh": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}
OPERATORS = {"gru": "gru_cell", "lstm": "lstm_cell", "tanh": "rnn_tanh_cell", "relu": "rnn_relu_cell"}


# ---------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_captured_loop_has_the_bits_of_the_cell(kind, batch, bias, dtype, tmp_path):
    cell = seeded(KINDS[kind](3, 5, bias=bias).to(dtype))
    run, x = over_time(cell, batch, dtype), randn(batch, 12, 3, dtype=dtype)
    compiled = ffc.compile(run, (x,), schedule="sequential")
    body = compiled.plan.program.loop.body
    assert f"aten.{OPERATORS[kind]}.default" in [node.op for node in body.nodes]
    compiled.save(tmp_path / "cell.ffc")
    loaded = ffc.load(tmp_path / "cell.ffc")
    other = randn(batch, 12, 3, seed=5, dtype=dtype)
    with torch.no_grad():
        assert equal(loaded.reference(other), run(other))


def test_a_cell_called_by_keywords_is_one_operator():
    weights = [randn(12, 3), randn(12, 4), randn(12), randn(12)]

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(8):
            h = torch.gru_cell(x[t], hx=h, w_ih=weights[0], w_hh=weights[1], b_ih=weights[2], b_hh=weights[3])
        return h

    x = randn(8, 2, 3)
    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None and close(compiled(x), run(x))


def test_under_autocast_the_casts_are_recorded_with_the_cell():
    cell = seeded(nn.GRUCell(3, 4))
    run, x = over_time(cell, 2), randn(2, 8, 3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        compiled = ffc.compile(run, (x,))
        assert equal(compiled(x), run(x))


def test_tokens_fed_back_through_a_cell_are_captured():
    function, args = unmarked.own_output_fed_back()
    compiled = ffc.compile(function, args, equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None
    with torch.no_grad():
        assert equal(compiled(*args), function(*args))


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_of_a_cell_at_once_give_what_single_steps_give(kind):
    cell = seeded(KINDS[kind](3, 5, bias=kind != "relu"), 0.4)
    run, x = over_time(cell, 2), randn(2, 40, 3)
    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi")
    system = compiled.plan.system
    assert isinstance(system, Recurrence)
    swept = make_recurrent(system, torch.device("cpu"))
    assert not CELLS.keys() & {n.op for g in (swept.loop.ahead, swept.loop.body) for n in g.nodes}
    assert not swept.unlifted
    with torch.no_grad():
        assert close(compiled(x), run(x), 1e-5)


def test_the_product_with_the_input_is_computed_ahead_of_all_steps():
    run, x = over_time(seeded(nn.GRUCell(3, 5)), 2), randn(2, 40, 3)
    system = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi").plan.system
    assert isinstance(system, Recurrence)
    swept = make_recurrent(system, torch.device("cpu")).loop
    assert "aten.linear.default" in [node.op for node in swept.ahead.nodes]
    assert [node.op for node in swept.body.nodes].count("aten.linear.default") == 1


def test_sweeps_run_a_cell_whose_input_is_the_same_in_every_step():
    cell, x = seeded(nn.GRUCell(3, 4), 0.4), randn(2, 3)

    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 30, lambda i, h: cell(x, h) + 0.01 * i, torch.zeros(2, 4))

    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi")
    with torch.no_grad():
        assert compiled.plan.refusal is None and close(compiled(x), run(x))


# ---------------------------------------------------------------------------------------------------- scan


def test_scan_is_the_loop_that_one_would_write():
    def step(carry: tuple[Tensor, Tensor], x: dict[str, Tensor]) -> tuple[Any, Any]:
        total, product = carry
        return (total + x["a"], product * x["b"][0]), {"sum": total, "both": [total * product, None]}

    xs = {"a": randn(6, 2), "b": (randn(6, 2, seed=1),)}
    carry, ys = ffc.scan(step, (torch.zeros(2), torch.ones(2)), xs)
    state, rows = (torch.zeros(2), torch.ones(2)), []
    for k in range(6):
        state, y = step(state, {"a": xs["a"][k], "b": (xs["b"][0][k],)})
        rows.append(y)
    assert equal(carry, state)
    assert equal(ys["sum"], torch.stack([y["sum"] for y in rows]))
    assert equal(ys["both"][0], torch.stack([y["both"][0] for y in rows])) and ys["both"][1] is None


def test_scan_without_inputs_takes_a_number_of_steps():
    carry, ys = ffc.scan(lambda c, x: (c * 2, c), torch.tensor(1), length=4)
    assert int(carry) == 16 and ys.tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("xs", "length"),
    [((torch.zeros(3), torch.zeros(4)), None), (torch.zeros(0), None), (None, None), (torch.zeros(3), 2)],
)
def test_scan_refuses_lengths_that_do_not_agree(xs, length):
    with pytest.raises(ffc.UsageError, match="lengths"):
        ffc.scan(lambda c, x: (c, c), torch.zeros(()), xs, length)


def test_a_step_of_a_scan_that_leaves_a_number_is_refused():
    with pytest.raises(ffc.UsageError, match="int"):
        ffc.scan(lambda c, x: (c + x, (c, 3)), torch.zeros(2), randn(5, 2))


def test_the_steps_of_a_scan_go_on_from_its_middle():
    """As after sweeps that gave up: what the first steps left comes before what the others leave."""
    run, x = scanned_gru()
    captured = capture(run, (x,))
    steps = make_steps(captured.program.loop, torch.device("cpu"))
    env = {"a0": x, **captured.weights(look(run))}
    with torch.no_grad():
        init = env | {ref.key: torch.zeros(2, 4) for ref in captured.program.loop.init}
        step, state = steps.bind(init), (torch.zeros(2, 4),)
        whole = steps.finish(init, state)
        for k in range(7):
            state = step(state, k)[:1]
        assert equal(list(steps.finish(init, state, (whole[1][:7],), 7)), list(whole))
        assert equal(run(x)["last"], whole[0])


def scanned_gru() -> tuple[Callable[[Tensor], Any], Tensor]:
    cell = seeded(nn.GRUCell(3, 4), 0.5)

    def run(x: Tensor) -> Any:
        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            h = cell(x, h)
            return h, h

        h, ys = ffc.scan(step, x.new_zeros(2, 4), x)
        return {"last": h, "all": torch.tanh(ys)}

    return run, randn(30, 2, 3)


def scanned_pytrees() -> tuple[Callable[[Tensor], Any], Tensor]:
    u = randn(3, 3) * 0.4

    def run(x: Tensor) -> Any:
        def step(carry: Any, x: Any) -> Any:
            a = torch.tanh(x["now"] + carry[0] @ u)
            # what it was given and what stands outside may be left, too
            return (a, carry[0]), {"out": a * 2, "old": carry[1], "nothing": None, "outside": u}

        carry, ys = ffc.scan(step, (x.new_zeros(2, 3), x.new_ones(2, 3)), {"now": x, "then": x + 1})
        return ys["out"], ys["old"], ys["outside"].sum(0), carry[0]

    return run, randn(30, 2, 3)


@pytest.mark.parametrize("make", [scanned_gru, scanned_pytrees])
def test_a_scan_is_captured_with_what_its_steps_leave(make, tmp_path):
    run, x = make()
    compiled = ffc.compile(run, (x,))
    loop = compiled.plan.program.loop
    assert isinstance(loop, Loop) and loop.hi == 30 and loop.collected
    compiled.save(tmp_path / "scan.ffc")
    other = randn(30, 2, 3, seed=4)
    with torch.no_grad():
        expected = run(other)
        assert equal(compiled(other), expected)
        assert equal(ffc.load(tmp_path / "scan.ffc").reference(other), expected)


@pytest.mark.parametrize("make", [scanned_gru, scanned_pytrees])
def test_sweeps_solve_a_scan(make):
    run, x = make()
    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None and isinstance(compiled.plan.system, Recurrence)
    with torch.no_grad():
        assert close(compiled(x), run(x))


def written_array() -> tuple[Callable[[Tensor], Any], Tensor]:
    u = randn(3, 3) * 0.4

    def run(x: Tensor) -> Any:
        def step(i: int, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            h, out = torch.tanh(x[i] + state[0] @ u), state[1].clone()
            out[:, i] = h.sum(1)
            return h, out

        return ffc.fori_loop(0, 30, step, (torch.zeros(2, 3), torch.zeros(2, 30)))

    return run, randn(30, 2, 3)


def what_steps_leave_is_captured(make, tmp_path):
    run, x = make()
    compiled = ffc.compile(run, (x,), schedule="sequential")
    assert compiled.plan.program is not None and compiled.plan.program.loop.collected
    compiled.save(path := tmp_path / "slow.ffc")
    other = randn(30, 2, 3, seed=4)
    with torch.no_grad():
        assert equal(ffc.load(path).reference(other), run(other))


@pytest.mark.parametrize("make", [scanned_gru, scanned_pytrees, written_array])
def test_what_the_steps_of_a_slow_loop_leave_is_captured_though_a_second_run_leaves_most_of_them_out(
    make, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys.modules["ffcompiler.capture.capture"], "REPEAT_ALL_BELOW", 0.0)
    what_steps_leave_is_captured(make, tmp_path)


@pytest.mark.parametrize("make", [scanned_gru, scanned_pytrees])
def test_what_the_steps_of_a_very_slow_scan_leave_is_captured_though_most_ran_without_values(
    make, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys.modules["ffcompiler.capture.run"], "REAL_SECONDS", 0.0)
    what_steps_leave_is_captured(make, tmp_path)


def test_a_very_slow_loop_whose_arrays_no_run_has_filled_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["ffcompiler.capture.run"], "REAL_SECONDS", 0.0)
    run, x = written_array()
    assert "take too long to be run whole" in ffc.compile(run, (x,)).plan.refusal


def test_a_scan_that_leaves_nothing_is_a_marked_loop():
    u = randn(3, 3) * 0.4

    def run(x: Tensor) -> Tensor:
        return ffc.scan(lambda h, x: (torch.tanh(x + h @ u), None), torch.zeros(2, 3), x)[0]

    x = randn(20, 2, 3)
    captured = capture(run, (x,))
    assert captured.marked and not captured.program.loop.collected
    assert equal(ffc.compile(run, (x,))(x), run(x))


# ---------------------------------------------------------------------------------------------------- layers


LAYERS: dict[str, tuple[Callable[[], Any], bool]] = {  # the module, and whether it is one loop
    "gru": (lambda: nn.GRU(3, 4), True),
    "gru without biases": (lambda: nn.GRU(3, 4, bias=False), True),
    "tanh": (lambda: nn.RNN(3, 4), True),
    "relu": (lambda: nn.RNN(3, 4, nonlinearity="relu"), True),
    "lstm": (lambda: nn.LSTM(3, 4), True),
    "lstm, projected": (lambda: nn.LSTM(3, 4, proj_size=2), True),
    "lstm, projected, without biases": (lambda: nn.LSTM(3, 4, proj_size=2, bias=False), True),
    "gru, two layers": (lambda: nn.GRU(3, 4, num_layers=2, dropout=0.5), False),
    "gru, both directions": (lambda: nn.GRU(3, 4, bidirectional=True), False),
    "lstm, two layers, both directions": (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True), False),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_under_a_tolerance_gives_what_the_module_gives(name):
    make, alone = LAYERS[name]
    layer, x = seeded(make(), 0.4), randn(24, 2, 3)
    compiled = ffc.compile(lambda x: layer(x), (x,), equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None
    assert not alone or compiled.plan.system.blocks == 24
    other = randn(24, 2, 3, seed=3)
    with torch.no_grad():
        assert close(compiled(other), layer(other))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("settings", [{}, {"bidirectional": True}, {"batch_first": True}])
def test_dropout_between_layers_is_that_of_the_module(kind, settings):
    layer, x = seeded(kind(3, 4, num_layers=2, dropout=0.3, **settings), 0.4).train(), randn(24, 24, 3)
    compiled = ffc.compile(lambda x: layer(x), (x,), equality=NEAR, schedule="jacobi")
    for seed in range(3):
        torch.manual_seed(seed)
        got, state = compiled(x), torch.get_rng_state()
        torch.manual_seed(seed)
        with torch.no_grad():
            assert close(got, layer(x))
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_first_state_and_the_batch_first_are_accepted(kind):
    layer, x, h = seeded(kind(3, 4, batch_first=True), 0.4), randn(2, 24, 3), randn(1, 2, 4, seed=8)
    first = (h, h * 0.5) if kind is nn.LSTM else h
    compiled = ffc.compile(lambda x, h: layer(x, h), (x, first), equality=NEAR, schedule="jacobi")
    with torch.no_grad():
        got, expected = compiled(x, first), layer(x, first)
    assert compiled.plan.refusal is None and close(got, expected)
    assert [t.stride() for t in tensors(got)] == [t.stride() for t in tensors(expected)]


def test_a_layer_under_bits_runs_as_it_is_and_the_plan_says_why():
    layer, x = seeded(nn.GRU(3, 4)), randn(24, 2, 3)
    compiled = ffc.compile(lambda x: layer(x), (x,))
    assert "recurrent layer" in compiled.plan.refusal and "tolerance" in compiled.plan.refusal
    with torch.no_grad():
        assert equal(compiled(x), layer(x))


def test_a_layer_before_a_marked_loop_does_not_enter_a_certificate_of_bits():
    layer, u = seeded(nn.GRU(3, 4)), randn(4, 4) * 0.3

    def run(x: Tensor) -> Tensor:
        y = layer(x)[0]
        return ffc.fori_loop(0, 8, lambda i, h: torch.tanh(h @ u + y[i]), torch.zeros(2, 4))

    x = randn(8, 2, 3)
    assert "recurrent layer" in ffc.compile(run, (x,)).plan.refusal
    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi")
    with torch.no_grad():
        assert compiled.plan.refusal is None and close(compiled(x), run(x))


def test_a_layer_whose_cells_differ_from_it_by_more_than_the_tolerance_is_refused(monkeypatch):
    wrong = layers._step_of(lambda x, h, *weights: torch.gru_cell(x, h, *weights) + 1e-3)
    monkeypatch.setattr(layers, "_STEPS", {**layers._STEPS, torch.gru: wrong})
    layer, x = seeded(nn.GRU(3, 4)), randn(24, 2, 3)
    refusal = ffc.compile(lambda x: layer(x), (x,), equality=NEAR).plan.refusal
    assert refusal is not None and "differ by more than" in refusal


def test_packed_sequences_are_refused_by_name():
    layer = seeded(nn.GRU(3, 4))

    def run(x: Tensor) -> Tensor:
        return layer(nn.utils.rnn.pack_padded_sequence(x, [9, 5]))[1]

    assert "packed" in ffc.compile(run, (randn(9, 2, 3),), equality=NEAR).plan.refusal


# ---------------------------------------------------------------------------------------------------- single steps


def test_torch_functions_in_place_of_operators_have_their_bits():
    """The steps of a loop that calls each of them, against the user's own loop."""
    cell, table, w = seeded(nn.LSTMCell(4, 4)), randn(5, 4), randn(4, 4) * 0.4

    def run(x: Tensor) -> Any:
        h, c = torch.zeros(2, 4), torch.zeros(2, 4)
        outputs = []
        for t in range(10):
            index = (h @ w).argmax(-1)
            e = nn.functional.embedding(index, table) + x.select(0, t)
            h, c = cell(torch.cat([e[:, :2], torch.where(h > 0, h, c)[:, 2:]], 1), (h, c))
            g = nn.functional.layer_norm(torch.addmm(h, c, w), (4,))
            h = torch.softmax(g, -1) + torch.sin(h).relu() - torch.sigmoid(c).neg() * torch.exp(-c.abs()).sqrt()
            outputs.append(torch.stack([h, torch.mul(c, 2.0)]).permute(1, 0, 2).unsqueeze(1))
        return torch.cat(outputs, 1), h

    x = randn(10, 2, 4)
    compiled = ffc.compile(run, (x,), schedule="sequential")
    with torch.no_grad():
        assert compiled.plan.program is not None and equal(compiled.reference(x), run(x))


def test_what_a_cell_reads_in_every_step_alike_is_computed_once() -> None:
    """Steps run the cell whole; where they are swept, its part for the inputs is invariant."""
    cell = seeded(nn.GRUCell(3, 4))

    def run(x: Tensor, y: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(12):
            h = cell(x[:, 0] * 2, h) + y[:, t]
        return h

    args = (randn(2, 1, 3), randn(2, 12, 4, seed=1))
    compiled = bold(ffc.compile(run, args, equality=ffc.tolerance(1e-6, 1e-6), schedule="jacobi"))
    assert compiled.plan.system is not None and compiled.plan.system.blocks >= 11
    torch.testing.assert_close(compiled(*args), run(*args))
