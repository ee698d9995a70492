"""Tests on values in the steps of array loops, and what else such steps leave: told by the last array, or refused.

What step i tests of what earlier steps wrote is evaluated once, on the array at the end; what it tests of positions
that are not written yet is settled by bounds for all arrays of the loop, or the loop is not swept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from systems import Made, bold, randn
from test_catalogue import assert_same
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.plan import Costs, Finite
from ffcompiler.program import ArrayLoop
from ffcompiler.randomness import same_states, set_states, states
from ffcompiler.runtime.record import Ending

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).name
N = 8


class Relu(Made):
    """Nothing in it saturates, so values grow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(torch.relu(self.fc(x)))))


MODEL = Relu(N, gain=1.5)
U = randn(4, N)
Function = Callable[[Tensor], Any]
Test = Callable[[Tensor, int], Any]


class BadValueError(ValueError):
    """What the functions below raise of their own."""


def refuse(bad: Tensor) -> None:
    if bad.any():
        raise BadValueError("a step refuses a value")


def heads(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = MODEL(x).chunk(2, dim=-1)
    return mean, scale


def sampled(u: Tensor, of_mean: Test = lambda m, i: None, of_new: Test = lambda x, i: None) -> Tensor:
    """The textbook sampler in a plain loop; ``of_mean`` sees all means, ``of_new`` the array after the write."""
    x = torch.zeros_like(u)
    for i in range(N):
        mean, scale = heads(x)
        of_mean(mean, i)
        x[:, i] = mean[:, i] + torch.tanh(scale[:, i]) * u[:, i]
        of_new(x, i)
    return x


# ---------------------------------------------------------------------------------------------------- the programs


def looks_at_its_own_mean(u: Tensor) -> Tensor:
    return sampled(u, of_mean=lambda m, i: refuse(m[:, i].abs() > 50))


def looks_at_what_it_wrote(u: Tensor) -> Tensor:
    return sampled(u, of_new=lambda x, i: refuse(x[:, i].abs() > 50))


def looks_at_what_it_was_handed(u: Tensor) -> Tensor:
    return sampled(u, of_mean=lambda m, i: refuse(u[:, i] > 50))


def looks_at_the_position_before(u: Tensor) -> Tensor:
    return sampled(u, of_new=lambda x, i: refuse(x[:, max(i - 1, 0)] > 50))


def looks_at_the_size_of_a_sum(u: Tensor) -> Tensor:
    return sampled(u, of_new=lambda x, i: refuse(x[:, i].sum() > 50))


def looks_at_all_means(u: Tensor) -> Tensor:
    return sampled(u, of_mean=lambda m, i: refuse((m.abs() > 1e6) | ~torch.isfinite(m)))


def looks_at_the_whole_array(u: Tensor) -> Tensor:
    return sampled(u, of_new=lambda x, i: refuse(~torch.isfinite(x) | (x.abs() > 1e6)))


def takes_a_branch(u: Tensor) -> Tensor:
    x = torch.zeros_like(u)
    for i in range(N):
        mean, scale = heads(x)
        value = mean[:, i] + torch.tanh(scale[:, i]) * u[:, i]
        if (value.abs() > 50).any():
            value = value.clamp(-50, 50) * 0.5
        x[:, i] = value
    return x


def looks_in_a_marked_loop(u: Tensor) -> Tensor:
    def step(i: int, x: Tensor) -> Tensor:
        mean, scale = heads(x)
        assert not (mean[:, i].abs() > 50).any()
        x = x.clone()
        x[:, i] = mean[:, i] + torch.tanh(scale[:, i]) * u[:, i]
        refuse(x[:, i].abs() > 50)
        return x

    return ffc.fori_loop(0, N, step, torch.zeros_like(u))


PROGRAMS: dict[str, Function] = {
    f.__name__: f
    for f in (
        looks_at_its_own_mean, looks_at_what_it_wrote, looks_at_what_it_was_handed, looks_at_the_position_before,
        looks_at_the_size_of_a_sum, looks_at_all_means, looks_at_the_whole_array, takes_a_branch,
        looks_in_a_marked_loop,
    )
}  # fmt: skip
OTHER = U.clone().index_put_((torch.tensor(2), torch.tensor(3)), torch.tensor(1e12))
"""With this a value in the middle of the loop is far too large."""


def outcome(function: Function, *args: Tensor) -> Any:
    """What a call gives: its result, or its exception's type and text."""
    try:
        with torch.no_grad():
            return function(*args)
    except Exception as error:
        return type(error).__name__, str(error)


def made(function: Function, *args: Tensor, schedule: str = "jacobi", **options: Any) -> ffc.Compiled:
    return bold(ffc.compile(function, args or (U,), schedule=schedule, **options))


def loop_of(compiled: ffc.Compiled) -> ArrayLoop:
    assert compiled.plan.program is not None
    loop = compiled.plan.program.loop
    assert isinstance(loop, ArrayLoop)
    return loop


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_that_test_are_swept_and_an_input_that_goes_another_way_gets_the_functions_own_answer(name: str) -> None:
    function = PROGRAMS[name]
    compiled = made(function)
    assert compiled.plan.program is not None and compiled.plan.program.tested is not None
    for u in (U, U * 0.9):
        result, record = compiled.run(u)
        assert record.ending is Ending.SWEEPS and record.certified == N, record
        assert_same(result, function(u))
    with pytest.raises(AssertionError):  # the example goes another way
        assert_same(outcome(function, OTHER), outcome(sampled, OTHER))
    assert_same(outcome(compiled, OTHER), outcome(function, OTHER))
    assert_same(compiled(U), function(U))


@pytest.mark.parametrize("schedule", ["gauss-seidel", "sliding(3)", "jacobi+windows", "jacobi-gs(2)", "wavefront"])
@pytest.mark.parametrize("name", ["looks_at_what_it_wrote", "looks_at_all_means", "takes_a_branch"])
def test_every_schedule_looks_at_what_its_steps_test(name: str, schedule: str) -> None:
    function = PROGRAMS[name]
    compiled = made(function, schedule=schedule)
    assert compiled.run(U)[1].ending is Ending.SWEEPS and compiled.verify(U).equal
    assert_same(outcome(compiled, OTHER), outcome(function, OTHER))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_loaded_program_looks_at_its_steps_too_and_says_which_test_it_was(name: str, tmp_path: Path) -> None:
    compiled = made(PROGRAMS[name])
    compiled.save(tmp_path / "steps.ffc")
    loaded = ffc.load(str(tmp_path / "steps.ffc"))
    assert loaded.plan == compiled.plan and str(loaded.plan) == str(compiled.plan)
    assert_same(loaded(U), PROGRAMS[name](U))
    assert_same(loaded.reference(U), PROGRAMS[name](U))
    for run in (loaded, loaded.reference):
        with pytest.raises(ffc.BranchError, match=HERE):
            run(OTHER)


def test_how_a_run_ended_names_the_line_of_the_test() -> None:
    compiled = made(takes_a_branch)
    result, record = compiled.run(OTHER)
    assert record.ending is Ending.OTHERWISE and record.certified == 0
    assert f"{HERE}:" in record.detail and "and is not now" in record.detail
    assert_same(result, takes_a_branch(OTHER))


def test_a_loaded_program_runs_step_by_step_where_bounds_do_not_say_how_a_test_comes_out(tmp_path: Path) -> None:
    compiled = made(looks_at_all_means)
    compiled.save(tmp_path / "wide.ffc")
    loaded = ffc.load(str(tmp_path / "wide.ffc"))
    endings = set()
    for wide in (U * 4.0**k for k in range(12)):
        expected = outcome(looks_at_all_means, wide)
        if isinstance(expected, Tensor):
            loaded._late.count = 0
            result, record = loaded.run(wide)
            assert_same(result, expected)
            endings.add(record.ending)
    assert endings == {Ending.SWEEPS, Ending.OTHERWISE}


# ---------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("sweep", [0.5, 1.4, 30.0])
@pytest.mark.parametrize("name", ["looks_at_its_own_mean", "looks_at_all_means", "looks_in_a_marked_loop"])
def test_where_the_guard_hands_over_in_the_middle_all_steps_are_looked_at(name: str, sweep: float) -> None:
    """Tests of certified steps by the last array, those of the others as they run."""
    function = PROGRAMS[name]
    for place in (0, 3, N - 1):
        compiled = made(function)
        costs = Costs(step=1.0, sweep=sweep, certify=sweep, once=0.0, captured=1.0)
        compiled.plan = replace(compiled.plan, costs=costs)
        compiled.parts[0].plan = compiled.plan
        compiled.parts[0].runner = replace(compiled.parts[0].runner, plan=compiled.plan)
        other = U.clone()
        other[1, place] = 1e12
        result, record = compiled.run(U)
        assert record.ending in (Ending.SWEEPS, Ending.GUARD)
        assert_same(result, function(U))
        assert_same(outcome(compiled, other), outcome(function, other))


def test_a_stretch_of_captured_steps_gives_what_the_last_array_tells() -> None:
    runner = made(looks_at_what_it_wrote).parts[0].runner
    with torch.no_grad():
        execution = runner.begin([U], _weights(looks_at_what_it_wrote))
        assert runner.system is not None
        (init,) = execution.init
        state = runner.system.start_from(init)
        by_steps = runner.system.finish(execution.env, state, init, 0)
        for done in (1, 5, N):
            half = runner.system.reset_from(by_steps[0], init, done)
            assert_same(runner.system.finish(execution.env, half, init, done), by_steps)


def _weights(function: Function) -> dict[str, Tensor]:
    live = made(function).live
    assert live is not None
    return dict(live.weights())


# ---------------------------------------------------------------------------------------------------- random numbers


def draws_and_looks(u: Tensor) -> Tensor:
    x = torch.zeros_like(u)
    for i in range(N):
        mean, _ = heads(x)
        noise = torch.rand(u.shape[0])
        if (noise > 0.99).any():
            noise = noise - 0.5
        x[:, i] = mean[:, i] + noise * u[:, i]
    return x


def test_draws_are_tested_in_their_step_and_generators_are_left_as_the_function_leaves_them() -> None:
    torch.manual_seed(5)
    compiled = made(draws_and_looks)
    endings = set()
    for seed in range(30):
        compiled._late.count = 0
        torch.manual_seed(seed)
        begin = states()
        result, record = compiled.run(U)
        left = states()
        set_states(begin)
        assert_same(result, draws_and_looks(U))
        assert same_states(left, states())
        endings.add(record.ending)
    assert endings == {Ending.SWEEPS, Ending.OTHERWISE}


def test_an_exception_in_a_step_leaves_the_generator_where_it_was_raised() -> None:
    def run(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(N):
            mean, _ = heads(x)
            x[:, i] = mean[:, i] + torch.rand(u.shape[0]) * u[:, i]
            refuse(x[:, i] > 1e4)
        return x

    compiled = made(run)
    left = []
    for call in (compiled, run):
        torch.manual_seed(2)
        assert outcome(call, OTHER) == ("BadValueError", "a step refuses a value")
        left.append(torch.get_rng_state())
    assert torch.equal(*left)


@pytest.mark.parametrize("law", ["normal", "bernoulli", "categorical"])
def test_arguments_of_distributions_that_are_to_be_validated_are_checks(law: str) -> None:
    def run(u: Tensor, at: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(N):
            mean, scale = heads(x)
            if law == "normal":
                drawn = D.Normal(mean[:, i], at[i], validate_args=True).sample()
            elif law == "bernoulli":
                drawn = D.Bernoulli(torch.sigmoid(mean[:, i]) * at[i], validate_args=True).sample()
            else:
                levels = torch.stack([mean[:, i], scale[:, i] * at[i]], -1)
                drawn = D.Categorical(logits=levels, validate_args=True).sample().float()
            x[:, i] = drawn + u[:, i]
        return x

    good, bad = torch.ones(N), torch.ones(N)
    bad[5] = torch.nan if law == "categorical" else -1.0
    compiled = made(run, U, good)
    torch.manual_seed(0)
    result, record = compiled.run(U, good)
    assert record.ending is Ending.SWEEPS
    torch.manual_seed(0)
    assert_same(result, run(U, good))
    torch.manual_seed(0)
    kind, text = outcome(run, U, bad)
    torch.manual_seed(0)
    assert outcome(compiled, U, bad) == (kind, text) and kind == "ValueError"


# ------------------------------------------------------------------------------------ each condition, violated alone


def assert_refused(function: Function, *says: str) -> None:
    with pytest.raises(ffc.CausalityError) as caught:
        ffc.compile(function, (U,), schedule="jacobi")
    for words in ("the steps test values (", f"{HERE}:", *says):
        assert words in str(caught.value), str(caught.value)
    assert_same(ffc.compile(function, (U,))(U), function(U))


def test_a_test_of_what_is_not_written_yet_is_refused_by_the_line() -> None:
    """At the end all positions are positive; in the loop those after the present one are zero."""

    def run(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(N):
            later = x[:, min(i + 1, N - 1)]
            refuse((later > 0) & (i < N - 1))
            x[:, i] = torch.sigmoid(heads(x)[0][:, i]) + u[:, i].abs()
        return x

    assert_refused(run, "step 0 saw of [:, 1]", "written only in step 1", "condition 5", "logits[:, i]")


def test_a_test_of_all_logits_within_reach_of_its_limit_is_refused_by_the_line() -> None:
    """What the loop's arrays make of later positions, the last one does not show: a hidden unit of zeros, say."""
    assert_refused(lambda u: sampled(u, of_mean=lambda m, i: refuse(m > 20)), "aten.addmm", "condition 5")


def test_a_test_of_what_the_step_is_about_to_write_sees_what_the_loop_began_with() -> None:
    def run(u: Tensor) -> Tensor:
        x = u.clone()
        for i in range(N):
            refuse(x[:, i] > 40)  # the noise, at first
            x[:, i] = torch.tanh(heads(x)[0][:, i])
        return x

    compiled = made(run)
    assert compiled.verify(U).equal and compiled.run(U)[1].ending is Ending.SWEEPS
    other = U.clone()
    other[1, 5] = 41.0
    assert outcome(compiled, other) == outcome(run, other) == ("BadValueError", "a step refuses a value")


def test_a_test_that_only_a_first_value_fails_is_not_overlooked() -> None:
    """At the end all is within -1 and 1; before, positions not written yet hold the inputs."""

    def run(u: Tensor) -> Tensor:
        x = u.clone()
        for i in range(N):
            refuse(x > 40)
            x[:, i] = torch.tanh(heads(x)[0][:, i])
        return x

    compiled = made(run)
    assert compiled.proof.unseen and compiled.run(U)[1].ending is Ending.SWEEPS
    other = U.clone()
    other[1, 5] = 41.0
    assert outcome(compiled, other) == outcome(run, other) == ("BadValueError", "a step refuses a value")
    assert float(outcome(compiled, U).max()) <= 1.0


def test_a_test_that_bounds_do_not_settle_is_said_to_be_open_and_the_function_runs() -> None:
    compiled = made(looks_at_all_means)
    endings = []
    for wide in (U * 4.0**k for k in range(12)):  # no mean is too large, but bounds may say that one might be
        if isinstance(outcome(looks_at_all_means, wide), Tensor):
            compiled._late.count = 0
            result, record = compiled.run(wide)
            assert_same(result, looks_at_all_means(wide))
            endings.append((record.ending, "in some step may not be now" in record.detail))
    assert set(endings) == {(Ending.SWEEPS, False), (Ending.OTHERWISE, True)}


def test_a_test_of_a_sum_is_of_the_sum_that_the_step_makes_strides_included() -> None:
    """Of a column of the array, other than of the same numbers side by side."""
    u = randn(977, 3, seed=4) * 1e3
    column = u[:, 1]
    apart, together = column.sum(), column.contiguous().sum()
    limit = float((apart.double() + together.double()) / 2)

    if apart == together:
        pytest.skip("this machine sums both alike")

    def alike(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(3):
            x[:, i] = u[:, 1] * 1.0  # side by side
            refuse((x[:, i].sum() > limit) == (apart < together))
        return x

    compiled = made(alike, u)
    assert compiled.run(u)[1].ending is Ending.SWEEPS and compiled.verify(u).equal


class Overflowing(Made):
    """A masked network of its own, only tested: large values overflow in it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 1e30) * 0.0


def test_premises_of_what_is_only_tested_are_looked_at_too() -> None:
    """0 times Inf is NaN: where a hidden unit overflows, all means of the critic are NaN, also earlier ones."""
    critic = Overflowing(N, gain=2.0, seed=3)

    def run(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(N):
            mean, scale = heads(x)
            refuse(torch.isnan(critic(x)[:, i]))
            x[:, i] = mean[:, i] + torch.tanh(scale[:, i]) * u[:, i]
        return x

    compiled = made(run)
    lines = [p.source for p in compiled.plan.premises if isinstance(p, Finite)]
    assert len(lines) > len([p for p in made(sampled).plan.premises if isinstance(p, Finite)])
    assert compiled.run(U * 1e-3)[1].ending is Ending.SWEEPS
    for factor in (1e6, 1e9, 1e36):
        other = U.clone()
        other[:, 3:] *= factor
        assert_same(outcome(compiled, other), outcome(run, other))


def test_weights_that_let_a_test_see_more_are_noticed() -> None:
    model = Made(N, gain=2.0, seed=5)

    def run(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(N):
            mean, _ = model(x).chunk(2, dim=-1)
            refuse(mean[:, i].abs() > 50)
            x[:, i] = torch.tanh(u[:, i])
        return x

    compiled = made(run)
    assert compiled.run(U)[1].ending is Ending.SWEEPS and not compiled.proof.unseen
    with torch.no_grad():
        model.out.mask[:N] = 1.0
    result, record = compiled.run(U)
    assert_same(result, run(U))
    assert record.ending in (Ending.SWEEPS, Ending.OTHERWISE, Ending.STALE)
    other = U.clone()
    other[0, -1] = 1e6
    assert_same(outcome(compiled, other), outcome(run, other))


@pytest.mark.parametrize("name", ["looks_at_its_own_mean", "looks_at_all_means", "looks_at_what_it_wrote"])
def test_under_a_tolerance_steps_whose_values_are_near_only_are_not_swept(name: str) -> None:
    with pytest.raises(ffc.CausalityError, match="within a tolerance they are near"):
        ffc.compile(PROGRAMS[name], (U,), schedule="jacobi", equality=ffc.tolerance(1e-5, 1e-5))


def test_under_a_tolerance_steps_may_test_what_they_are_handed() -> None:
    compiled = made(looks_at_what_it_was_handed, equality=ffc.tolerance(1e-5, 1e-5))
    result, record = compiled.run(U)
    assert record.ending is Ending.SWEEPS and torch.allclose(result, looks_at_what_it_was_handed(U), atol=1e-3)
    assert outcome(compiled, OTHER) == outcome(looks_at_what_it_was_handed, OTHER)


# ---------------------------------------------------------------------------------------------------- other values


def with_log_probabilities(u: Tensor) -> tuple[Tensor, Tensor]:
    x, logs = torch.zeros_like(u), []
    for i in range(N):
        mean, scale = heads(x)
        law = D.Normal(mean[:, i], F.softplus(scale[:, i]) + 0.1)
        x[:, i] = law.mean + law.stddev * u[:, i]
        logs.append(law.log_prob(x[:, i]))
        refuse(logs[-1] < -1e4)
    return x, torch.stack(logs, 1)


@pytest.mark.parametrize("schedule", ["jacobi", "sliding(3)+windows", "gauss-seidel"])
def test_steps_may_leave_more_than_the_array(schedule: str, tmp_path: Path) -> None:
    compiled = made(with_log_probabilities, schedule=schedule)
    assert len(loop_of(compiled).collected) == 2
    for u in (U, U * 1.7):
        result, record = compiled.run(u)
        assert record.ending is Ending.SWEEPS
        assert_same(result, with_log_probabilities(u))
    compiled.save(tmp_path / "logs.ffc")
    assert_same(ffc.load(str(tmp_path / "logs.ffc"))(U), with_log_probabilities(U))


def test_what_steps_leave_of_positions_not_written_yet_is_refused_by_the_operator() -> None:
    def run(u: Tensor) -> tuple[Tensor, Tensor]:
        x, totals = torch.zeros_like(u), []
        for i in range(N):
            mean, _ = heads(x)
            totals.append(mean.sum())
            x[:, i] = mean[:, i] + u[:, i]
        return x, torch.stack(totals)

    with pytest.raises(ffc.CausalityError, match="the steps leave more than the array") as caught:
        ffc.compile(run, (U,), schedule="jacobi")
    assert "condition 5" in str(caught.value) and HERE in str(caught.value)
    assert_same(ffc.compile(run, (U,))(U), run(U))
