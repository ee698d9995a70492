"""Tests on values: the program goes the way that the example went, and each run looks if the function still does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from systems import bold, randn
from test_catalogue import assert_same
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.program import ArrayLoop, Chain, Recurrence
from ffcompiler.randomness import same_states, set_states, states
from ffcompiler.runtime.checks import TOO_OFTEN
from ffcompiler.runtime.record import Ending

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).name
LOWER = torch.ones(6, 6).triu(1)
X = randn(2, 40, 3)


def filtered(x: Tensor, test: Callable[[Tensor], Any] = lambda s: s) -> Tensor:
    s = x.new_zeros(x.shape[0], 3)
    for t in range(x.shape[1]):
        s = 0.7 * s + x[:, t]
        s = test(s)
    return s


def marked(x: Tensor, test: Callable[[Tensor], Any] = lambda s: s) -> Tensor:
    return ffc.fori_loop(0, x.shape[1], lambda t, s: test(0.7 * s + x[:, t]), x.new_zeros(x.shape[0], 3))


def clamped_above(limit: float) -> Callable[[Tensor], Tensor]:
    def test(s: Tensor) -> Tensor:
        if (s > limit).any():
            s = s.clamp(max=limit)
        return s

    return test


def raised_if_not_finite(s: Tensor) -> Tensor:
    assert torch.isfinite(s).all()
    return s


# ---------------------------------------------------------------------------------------------------- the programs


def branch_before(x: Tensor) -> Tensor:
    if x.abs().max() > 5:
        x = x / 2
    return marked(x)


def number_before(x: Tensor) -> Tensor:
    return marked(x if (x > 5).sum() else x * 3)


def equal_before(x: Tensor) -> Tensor:
    return filtered(x * 2 if torch.equal(x, x.abs()) else x)


def close_before(x: Tensor) -> Tensor:
    return filtered(x * 2 if torch.allclose(x, x.abs()) else x)


def member_before(x: Tensor) -> Tensor:
    return filtered(x if 100.0 in x else x + 1)


def branch_in_steps(x: Tensor) -> Tensor:
    return filtered(x, clamped_above(20.0))


def branch_in_marked_steps(x: Tensor) -> Tensor:
    return marked(x, clamped_above(20.0))


def branch_on_what_steps_are_handed(x: Tensor) -> Tensor:
    s = x.new_zeros(x.shape[0], 3)
    for t in range(x.shape[1]):
        s = 0.7 * s + (x[:, t] if (x[:, t] < 20).all() else x[:, t] / 10)
    return s


def largest_in_steps(x: Tensor) -> Tensor:
    return filtered(x, lambda s: s if s.abs().max() < 20 else s / 2)


def branch_in_a_scan(x: Tensor) -> Any:
    def step(s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        s = clamped_above(20.0)(0.7 * s + x)
        return s, s * 2

    return ffc.scan(step, x.new_zeros(2, 3), x.transpose(0, 1).contiguous())


def branch_after(x: Tensor) -> Tensor:
    s = filtered(x)
    return s / 3 if (s > 20).any() else s


def branch_after_a_marked_loop(x: Tensor) -> Tensor:
    return clamped_above(20.0)(marked(x))


def branch_everywhere(x: Tensor) -> Tensor:
    x = clamped_above(200.0)(x)
    return clamped_above(10.0)(filtered(x, clamped_above(20.0)))


def until_it_rests(x: Tensor) -> Tensor:
    s = x[:, 0].abs()
    for _ in range(100):
        new = torch.relu(s * 0.5 - 0.01)
        if torch.equal(new, s):
            break
        s = new
    return s + s.sum()


def in_every_step_the_same(x: Tensor) -> Tensor:
    return filtered(x, lambda s: s if (x < 20).all() else s * 2)


PROGRAMS: dict[str, Callable[[Tensor], Any]] = {
    f.__name__: f
    for f in (
        branch_before, number_before, equal_before, close_before, member_before, branch_in_steps,
        branch_in_marked_steps, branch_on_what_steps_are_handed, largest_in_steps, branch_in_a_scan, branch_after,
        branch_after_a_marked_loop, branch_everywhere, until_it_rests, in_every_step_the_same,
    )
}  # fmt: skip


def other_way(name: str, x: Tensor) -> Tensor:
    """Inputs with which a test comes out otherwise: in the middle of the loop only, if it is in its steps."""
    if name in ("equal_before", "close_before"):
        return x.abs()
    x = x.clone()
    x[1, x.shape[1] // 2, 2] = 100.0
    if name in ("branch_after", "branch_after_a_marked_loop"):
        x[1, -1, 2] = 100.0
    return x * 2 if name == "until_it_rests" else x


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_way_that_the_example_went_is_swept_and_the_other_one_runs_as_it_is(name: str) -> None:
    function = PROGRAMS[name]
    compiled = bold(ffc.compile(function, (X,), schedule="jacobi"))
    for x in (X, X * 0.999):
        result, record = compiled.run(x)
        assert_same(result, function(x))
        assert record.ending in (Ending.SWEEPS, Ending.RAISED), record
    other = other_way(name, X) if name != "until_it_rests" else randn(2, 40, 3, seed=8) * 9
    result, record = compiled.run(other)
    assert_same(result, function(other))
    assert record.ending is Ending.OTHERWISE and record.certified == 0
    assert HERE in record.detail and "when the function was compiled" in record.detail
    assert compiled.verify(other).equal and compiled.verify(X).equal


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_loaded_program_says_that_a_test_came_out_otherwise(name: str, tmp_path: Path) -> None:
    function = PROGRAMS[name]
    compiled = bold(ffc.compile(function, (X,), schedule="jacobi"))
    compiled.save(tmp_path / "checked.ffc")
    loaded = ffc.load(str(tmp_path / "checked.ffc"))
    assert loaded.plan == compiled.plan
    assert_same(loaded(X), function(X))
    other = other_way(name, X) if name != "until_it_rests" else randn(2, 40, 3, seed=8) * 9
    for run in (loaded, loaded.reference):
        with pytest.raises(ffc.BranchError, match="goes one way only") as caught:
            run(other)
        assert HERE in str(caught.value)


def test_a_function_that_raises_raises_its_own_exception() -> None:
    def run(x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            raise ValueError("not a number")
        return filtered(x, raised_if_not_finite)

    compiled = bold(ffc.compile(run, (X,), schedule="jacobi"))
    assert compiled.run(X)[1].ending is Ending.SWEEPS
    bad = X.clone()
    bad[0, 5] = torch.nan
    with pytest.raises(ValueError, match="not a number"):
        compiled(bad)
    bad[0, 5] = torch.inf
    with pytest.raises(AssertionError):
        compiled(bad)


def test_a_test_before_the_loop_is_looked_at_before_what_it_guards() -> None:
    table = torch.arange(12.0).reshape(4, 3)

    def run(tokens: Tensor) -> Tensor:
        if (tokens >= 4).any():
            return filtered(torch.zeros(1, 40, 3))
        return filtered(nn.functional.embedding(tokens, table))

    tokens = torch.arange(40).remainder(4)[None]
    compiled = bold(ffc.compile(run, (tokens,), schedule="jacobi"))
    assert compiled.run(tokens)[1].ending is Ending.SWEEPS
    result, record = compiled.run(tokens * 3)
    assert record.ending is Ending.OTHERWISE and f"{HERE}:" in record.detail
    assert_same(result, run(tokens * 3))


def test_what_raises_after_a_test_in_the_loop_that_came_out_otherwise_is_not_raised() -> None:
    table = torch.arange(12.0).reshape(4, 3)

    def run(tokens: Tensor) -> Tensor:
        s = torch.zeros(1, 3)
        for t in range(tokens.shape[1]):
            if (tokens[:, t] >= 4).any():
                break
            s = 0.5 * s + nn.functional.embedding(tokens[:, t], table)
        return s

    tokens = torch.arange(40).remainder(4)[None]
    compiled = bold(ffc.compile(run, (tokens,), schedule="jacobi"))
    assert compiled.run(tokens)[1].ending is Ending.SWEEPS
    other = tokens.clone()
    other[0, 30] = 9
    result, record = compiled.run(other)
    assert record.ending is Ending.OTHERWISE
    assert_same(result, run(other))


# ---------------------------------------------------------------------------------------------------- random numbers


def noisy(x: Tensor) -> Tensor:
    x = x + torch.rand(2, 1, 1)
    if torch.rand(1) < 0.2:
        x = x * 2
    s = x.new_zeros(2, 3)
    for t in range(x.shape[1]):
        u = torch.rand(3)
        s = 0.5 * s + x[:, t] + u
        if (u > 0.997).any():
            s = s - 9.0
    return s + torch.rand(3)


def test_random_numbers_are_those_of_the_function_whichever_way_it_goes() -> None:
    torch.manual_seed(3)
    compiled = bold(ffc.compile(noisy, (X,), schedule="jacobi"))
    assert compiled.plan.refusal is None, compiled.plan.refusal
    endings = set()
    for seed in range(40):
        compiled._late.count = 0
        torch.manual_seed(seed)
        begin = states()
        result, record = compiled.run(X)
        left = states()
        set_states(begin)
        assert_same(result, noisy(X))
        assert same_states(left, states())
        endings.add(record.ending)
    assert endings == {Ending.SWEEPS, Ending.OTHERWISE}


# ---------------------------------------------------------------------------------------------------- other systems


def written(x: Tensor, i: int, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, i] = value
    return x


def array_loop(u: Tensor) -> Tensor:
    if u.max() > 50:
        u = u / 50
    x = ffc.fori_loop(0, 6, lambda i, x: written(x, i, torch.tanh(x @ LOWER)[:, i] + _checked(u)[:, i]), u * 0)
    return x * 2 if (x > 8).any() else x


def _checked(u: Tensor) -> Tensor:
    assert not (u < -50).any()
    return u


def test_array_loops_are_tested_before_and_after_and_on_what_no_step_changes() -> None:
    u = randn(3, 6)
    compiled = bold(ffc.compile(array_loop, (u,), schedule="jacobi"))
    program = compiled.plan.program
    assert program is not None and isinstance(program.loop, ArrayLoop) and len(program.checks) == 3
    assert compiled.run(u)[1].ending is Ending.SWEEPS and compiled.verify(u).equal
    for other in (u + 100, u.clone().index_fill_(1, torch.tensor([5]), 20.0)):
        result, record = compiled.run(other)
        assert record.ending is Ending.OTHERWISE
        assert_same(result, array_loop(other))
    with pytest.raises(AssertionError):
        compiled(u - 100)


def test_a_step_of_an_array_loop_may_test_the_whole_array_where_bounds_say_how_it_comes_out() -> None:
    """More of these: `test_checks_arrays.py`."""

    def run(u: Tensor, limit: float = torch.inf) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh(x @ LOWER)
            assert not (torch.isnan(y) | (y > limit)).any()
            return written(x, i, y[:, i] + u[:, i])

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    u = randn(3, 6)
    compiled = bold(ffc.compile(run, (u,), schedule="jacobi"))
    assert compiled.run(u)[1].ending is Ending.SWEEPS and compiled.verify(u).equal
    with pytest.raises(ffc.CausalityError, match=r"the steps test values \(.*test_checks.py:\d+ in step\)"):
        ffc.compile(run, (u, 0.99999), schedule="jacobi")
    assert_same(ffc.compile(run, (u, 0.99999))(u, 0.99999), run(u, 0.99999))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8 + k, 9 + k) for k in range(6))

    def forward(self, x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            return x
        for k, layer in enumerate(self.layers):
            x = torch.relu(layer(x)) * (k + 1)
            if k == 3 and (x > 100).any():
                x = x / 10
        return x


def test_chains_are_tested_too() -> None:
    net, x = Net(), randn(4, 8)
    compiled = bold(ffc.compile(net, (x,), schedule="jacobi"))
    assert compiled.plan.program is not None and isinstance(compiled.plan.program.loop, Chain | Recurrence)
    assert len(compiled.plan.program.checks) == 2
    assert compiled.run(x)[1].ending is Ending.SWEEPS and compiled.verify(x).equal
    for other in (x * 1e5, x * torch.nan):
        result, record = compiled.run(other)
        assert record.ending is Ending.OTHERWISE
        with torch.no_grad():
            assert_same(result, net(other))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(6, 6, seed=3))
        self.register_buffer("mask", LOWER)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return torch.tanh(x @ self.weight)


def test_weights_are_left_as_the_function_leaves_them_whichever_way_it_goes() -> None:
    u = randn(3, 6)
    for other, ending in ((u, Ending.SWEEPS), (u + 100, Ending.OTHERWISE)):
        model, twin = Masked(), Masked()

        def run(u: Tensor, model: nn.Module = model) -> Tensor:
            x = ffc.fori_loop(0, 6, lambda i, x: written(x, i, model(x)[:, i] + u[:, i]), torch.zeros_like(u))
            return x / 2 if x.max() > 50 else x

        compiled = bold(ffc.compile(run, (u,), schedule="jacobi"))
        with torch.no_grad():
            model.weight.copy_(twin.weight)
        result, record = compiled.run(other)
        assert record.ending is ending
        assert_same(result, run(other, twin))
        assert_same(model.weight.detach(), twin.weight.detach())


def test_tests_between_loops_are_looked_at_in_their_part() -> None:
    def run(x: Tensor) -> Tensor:
        y = []
        s = x.new_zeros(2, 3)
        for t in range(40):
            s = 0.7 * s + x[:, t]
            y.append(s)
        z = torch.stack(y, 1)
        if (z > 20).any():
            z = z / 20
        r = x.new_zeros(2, 3)
        for t in range(39, -1, -1):
            r = clamped_above(50.0)(0.5 * r + z[:, t])
        return r

    compiled = ffc.compile(run, (X,))
    assert len(compiled.plan.parts) == 2
    assert sum(len(part.program.checks) for part in compiled.plan.parts if part.program) == 2
    compiled = bold(ffc.compile(run, (X,), schedule="jacobi"))
    assert_same(compiled(X), run(X))
    other = X.clone()
    other[0, 11] = 90.0
    result, record = compiled.run(other)
    assert record.ending is Ending.OTHERWISE
    assert_same(result, run(other))


# ---------------------------------------------------------------------------------------------------- tolerance


NEAR = ffc.tolerance(1e-6, 1e-6)
CELL = nn.GRUCell(3, 4)


Test = Callable[[Tensor], Tensor]


def gru(x: Tensor, test: Test = lambda h: h, after: Test = lambda h: h) -> Tensor:
    return after(ffc.fori_loop(0, x.shape[1], lambda t, h: test(CELL(x[:, t], h)), x.new_zeros(2, 4)))


@pytest.mark.parametrize("where", ["test", "after"])
def test_under_a_tolerance_no_value_is_tested_that_is_near_to_the_reference_only(where: str) -> None:
    def run(x: Tensor) -> Tensor:
        return gru(x, **{where: clamped_above(0.99)})

    with pytest.raises(ffc.CausalityError, match="within a tolerance they are near"):
        ffc.compile(run, (X,), equality=NEAR, schedule="jacobi")
    compiled = ffc.compile(run, (X,), equality=NEAR)
    assert "within a tolerance they are near" in str(compiled.explain()) and compiled.verify(X).equal


def test_under_a_tolerance_inputs_are_tested_before_the_loop_and_step_by_step() -> None:
    def run(x: Tensor) -> Tensor:
        assert not torch.isnan(x).any()
        h = x.new_zeros(2, 4)
        for t in range(x.shape[1]):
            if (x[:, t] > 20).any():
                return h
            h = CELL(x[:, t], h)
        return h

    compiled = bold(ffc.compile(run, (X,), equality=NEAR, schedule="jacobi"))
    assert compiled.run(X)[1].ending is Ending.SWEEPS
    other = other_way("", X)
    result, record = compiled.run(other)
    assert record.ending is Ending.OTHERWISE
    with torch.no_grad():
        assert_same(result, run(other))


def test_under_a_tolerance_a_test_in_a_later_loop_keeps_earlier_ones_from_being_swept() -> None:
    def run(x: Tensor) -> Tensor:
        h = x.new_zeros(2, 4)
        for t in range(x.shape[1]):
            h = CELL(x[:, t], h)
        s = h
        for t in range(x.shape[1]):
            s = clamped_above(20.0)(torch.tanh(s + x[:, t, :1]))
        return s

    compiled = ffc.compile(run, (X,), equality=NEAR)
    assert all(part.refusal is not None for part in compiled.plan.parts)
    assert compiled.verify(X).equal


def test_a_test_after_a_layer_that_is_recorded_otherwise_is_refused() -> None:
    layer = nn.GRU(3, 4, batch_first=True)

    def run(x: Tensor) -> Any:
        out, h = layer(x)
        return out if (h > 0).any() else h

    compiled = ffc.compile(run, (X,), equality=NEAR)
    assert "round otherwise" in (compiled.plan.refusal or "") and compiled.verify(X).equal

    def validated(x: Tensor) -> Any:
        assert not torch.isnan(x).any()
        return layer(x)[0]

    compiled = ffc.compile(validated, (X,), equality=NEAR)
    assert compiled.plan.refusal is None and compiled.plan.program is not None and compiled.plan.program.checks


# ---------------------------------------------------------------------------------------------------- what is refused


def test_steps_that_go_different_ways_are_refused_with_the_line() -> None:
    def run(x: Tensor) -> Tensor:
        return marked(x, lambda s: s * 0.5 if s.sum() > 0 else s)

    with pytest.raises(ffc.CaptureError, match=r"step \d+ differs from the first step: the test at .*test_checks.py"):
        ffc.compile(run, (X,), schedule="jacobi")
    assert_same(ffc.compile(run, (X,))(X), run(X))


@pytest.mark.parametrize("leaf", ["item", "int", "float", "index"])
def test_values_other_than_truth_are_refused_still(leaf: str) -> None:
    ways: dict[str, Callable[[Tensor], float]] = {
        "item": lambda t: t.item(),
        "int": int,
        "float": float,
        "index": lambda t: range(99)[t.long().abs().clamp(max=9)],
    }

    def run(x: Tensor) -> Tensor:
        return marked(x * ways[leaf](x[0, 0, 0]))

    with pytest.raises(ffc.CaptureError, match="becomes a Python number"):
        ffc.compile(run, (X,), schedule="jacobi")


def test_other_inputs_of_the_second_run_are_nearer_where_those_far_away_go_another_way() -> None:
    def run(x: Tensor) -> Tensor:
        return marked(x * 2 if x[0, 0, 0] == x.max() else x)

    x = X.clone()
    x[0, 0, 0] = 4.0
    compiled = bold(ffc.compile(run, (x,), schedule="jacobi"))
    assert compiled.plan.program is not None and compiled.plan.program.checks
    for other, ending in ((x, Ending.SWEEPS), (X, Ending.OTHERWISE)):
        result, record = compiled.run(other)
        assert record.ending is ending
        assert_same(result, run(other))


def test_a_test_that_no_other_inputs_go_through_alike_is_refused() -> None:
    def run(x: Tensor) -> Tensor:
        return marked(x * 2 if x.double().sum() == 7.0 else x)

    x = torch.zeros(2, 40, 3)
    x[0, :7] = torch.tensor([0.25, 0.5, 0.25])
    with pytest.raises(ffc.CaptureError, match="is to go the same way"):
        ffc.compile(run, (x,), schedule="jacobi")
    assert_same(ffc.compile(run, (x,))(x), run(x))


@pytest.mark.parametrize("name", ["branch_in_marked_steps", "branch_in_a_scan", "branch_before"])
def test_steps_that_are_confirmed_without_values_are_tested_when_the_program_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffcompiler.capture.run.REAL_SECONDS", 0.0)
    function = PROGRAMS[name]
    compiled = bold(ffc.compile(function, (X,), schedule="jacobi"))
    assert compiled.plan.program is not None and compiled.plan.program.checks
    for x, ending in ((X, Ending.SWEEPS), (other_way(name, X), Ending.OTHERWISE)):
        result, record = compiled.run(x)
        assert record.ending is ending
        assert_same(result, function(x))


def test_an_example_that_goes_another_way_in_steps_without_values_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ffcompiler.capture.run.REAL_SECONDS", 0.0)
    x = other_way("", X)
    compiled = bold(ffc.compile(branch_in_marked_steps, (x,), schedule="jacobi"))
    result, record = compiled.run(x)
    assert_same(result, branch_in_marked_steps(x))
    assert record.ending is Ending.OTHERWISE
    assert compiled.run(X)[1].ending is Ending.SWEEPS and compiled.verify(X).equal


def test_after_runs_in_vain_the_function_is_run_as_it_is() -> None:
    compiled = bold(ffc.compile(branch_in_steps, (X,), schedule="jacobi"))
    other = other_way("", X)
    for k in range(TOO_OFTEN + 2):
        result, record = compiled.run(other)
        assert_same(result, branch_in_steps(other))
        assert record.ending is Ending.OTHERWISE and bool("in other calls before" in record.detail) == (k >= TOO_OFTEN)


# ---------------------------------------------------------------------------------------------------- as a value


def test_weights_alone_are_folded_and_make_no_check() -> None:
    limit = torch.tensor(3.0)

    def run(x: Tensor) -> Tensor:
        return marked(x if limit > 2 else -x)

    compiled = ffc.compile(run, (X,), schedule="jacobi")
    assert compiled.plan.program is not None and not compiled.plan.program.checks
    assert_same(compiled(X), run(X))
    limit.fill_(1.0)
    assert_same(compiled(X), run(X))


def test_an_argument_is_known_as_one_when_a_view_of_it_is_gone() -> None:
    """What is read of it is no number that the program may keep."""

    def before(x: Tensor) -> Tensor:
        x[:, 0].sum()
        return marked(x * float(x[:, 1].sum()))

    def steps(x: Tensor) -> Tensor:
        return marked(x, lambda s: s + float(x[:, 0].sum()))

    for run in (before, steps):
        with pytest.raises(ffc.CaptureError, match="becomes a Python number"):
            ffc.compile(run, (X,), schedule="jacobi")


def test_explain_and_the_plan_name_the_tests() -> None:
    compiled = ffc.compile(branch_everywhere, (X,), schedule="jacobi")
    text = str(compiled.plan)
    assert text.count("assert not ") == 3 and "checks" in text
    assert "the test on values at" in str(compiled.explain()) and "in test comes out False" in str(compiled.explain())
