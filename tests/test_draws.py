"""Draws inside the function: the same seed gives the same sample and leaves the generator in the same state."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from systems import bold
from test_catalogue import assert_same, unguarded
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.capture.draws import RULES, room
from ffcompiler.plan import Costs
from ffcompiler.program import DrawPlace
from ffcompiler.runtime.draws import make_draws
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.record import Ending

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = "test_draws.py"
N, BATCH = 6, 3
WEIGHT = torch.triu(torch.randn(N, N, generator=torch.Generator().manual_seed(7)), 1)
SCHEDULES = ["jacobi", "sliding(2)", "gs-jacobi(3)", "growing(2)", "gauss-seidel", "wavefront", "sliding(2)+windows"]

LEVELS = torch.linspace(-1, 1, 5)

Value = Callable[[Tensor, int], Tensor]


def sampler(value: Value, steps: int = N) -> Callable[[Tensor], Tensor]:
    """Writes column ``i`` of an array with ``value(logits, i)``; the logits of a column read those before it."""

    def sample(like: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = value(x @ WEIGHT[: x.shape[1], : x.shape[1]], i)
            return x

        return ffc.fori_loop(0, steps, step, torch.zeros_like(like))

    return sample


def seeded(seed: int, call: Callable[[], Any]) -> tuple[Any, Tensor]:
    """What a call gives from a seed, and the generator's state after it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        result = call()
    return result, torch.get_rng_state()


def assert_draws_alike(compiled: ffc.Compiled, function: Any, args: tuple[Tensor, ...], seeds: range) -> None:
    for seed in seeds:
        expected, state = seeded(seed, lambda: function(*args))
        got, left = seeded(seed, lambda: compiled(*args))
        assert_same(got, expected)
        assert torch.equal(left, state), f"the generator is left in another state, seed {seed}"


def like(batch: int = BATCH, n: int = N) -> Tensor:
    return torch.zeros(batch, n)


def levels(p: Tensor, i: int) -> Tensor:
    """Probabilities of five classes, from the logits of column ``i``: ``[batch, 5]``."""
    return torch.softmax(p[:, i, None] * LEVELS, 1)


# ---------------------------------------------------------------------------------------------------- operators


OPERATORS: dict[str, Value] = {
    "rand": lambda p, i: p[:, i] + torch.rand(BATCH),
    "rand_like": lambda p, i: p[:, i] + torch.rand_like(p)[:, i],
    "rand_like_turned": lambda p, i: p[:, i] + torch.rand_like(p.t())[i],
    "rand_double": lambda p, i: p[:, i] + torch.rand(BATCH, dtype=torch.float64),
    "rand_half": lambda p, i: p[:, i] + torch.rand(BATCH, dtype=torch.bfloat16),
    "randn": lambda p, i: p[:, i] + torch.randn(BATCH),
    "randn_many": lambda p, i: p[:, i] + torch.randn(BATCH, 17).sum(1),
    "randn_like": lambda p, i: p[:, i] + torch.randn_like(p)[:, i],
    "randint": lambda p, i: p[:, i] + torch.randint(5, (BATCH,)),
    "randint_from": lambda p, i: p[:, i] + torch.randint(-3, 2**40, (BATCH,)),
    "randint_like": lambda p, i: p[:, i] + torch.randint_like(p, 9)[:, i],
    "randint_like_from": lambda p, i: p[:, i] + torch.randint_like(p, 2, 9)[:, i],
    "randperm": lambda p, i: p[:, i] + torch.randperm(BATCH),
    "randperm_index": lambda p, i: p[:, i] + p[torch.randperm(BATCH), i],
    "uniform_": lambda p, i: p[:, i] + torch.empty(BATCH).uniform_(-1, 2),
    "uniform_over_what_was_there": lambda p, i: p[:, i] + p[:, i].clone().uniform_(-1, 2),
    "uniform_into_a_view": lambda p, i: _into_a_view(p, i),
    "normal_": lambda p, i: p[:, i] + torch.empty(BATCH).normal_(1.0, 3.0),
    "normal_into_a_wide_view": lambda p, i: p[:, i] + _noise_in_columns(torch.Tensor.normal_),
    "exponential_": lambda p, i: p[:, i] + torch.empty(BATCH).exponential_(2.0),
    "random_": lambda p, i: p[:, i] + torch.empty(BATCH).random_(),
    "random_to": lambda p, i: p[:, i] + torch.empty(BATCH, dtype=torch.int64).random_(7),
    "random_from": lambda p, i: p[:, i] + torch.empty(BATCH).random_(2, 7),
    "bernoulli_float": lambda p, i: p[:, i] + torch.empty(BATCH).bernoulli_(0.3),
    "cauchy_": lambda p, i: p[:, i] + torch.empty(BATCH).cauchy_(),
    "log_normal_": lambda p, i: p[:, i] + torch.empty(BATCH).log_normal_(0.1, 0.2),
    "geometric_": lambda p, i: p[:, i] + torch.empty(BATCH).geometric_(0.3),
    "bernoulli": lambda p, i: torch.bernoulli(torch.sigmoid(p[:, i])),
    "bernoulli_of_all": lambda p, i: torch.bernoulli(torch.sigmoid(p))[:, i],
    "bernoulli_turned": lambda p, i: torch.bernoulli(torch.sigmoid(p).t())[i],
    "bernoulli_expanded": lambda p, i: torch.bernoulli(torch.sigmoid(p[:, i]).expand(4, BATCH)).sum(0),
    "bernoulli_double": lambda p, i: torch.bernoulli(torch.sigmoid(p[:, i].double())),
    "bernoulli_half": lambda p, i: torch.bernoulli(torch.sigmoid(p[:, i].bfloat16())),
    "bernoulli_number": lambda p, i: p[:, i] + torch.bernoulli(p[:, i], 0.4),
    "bernoulli_tensor": lambda p, i: torch.zeros(BATCH).bernoulli_(torch.sigmoid(p[:, i])),
    "bernoulli_integers": lambda p, i: torch.zeros(BATCH, dtype=torch.int64).bernoulli_(torch.sigmoid(p[:, i])),
    "bernoulli_bool": lambda p, i: torch.zeros(BATCH, dtype=torch.bool).bernoulli_(torch.sigmoid(p[:, i])),
    "normal_tensors": lambda p, i: torch.normal(p[:, i], torch.sigmoid(p[:, i])),
    "normal_broadcast": lambda p, i: torch.normal(p, torch.sigmoid(p[:, :1]))[:, i],
    "normal_turned": lambda p, i: torch.normal(p.t(), torch.sigmoid(p).t())[i],
    "normal_mean": lambda p, i: torch.normal(p[:, i], 0.5),
    "normal_std": lambda p, i: torch.normal(0.25, torch.sigmoid(p[:, i])) + p[:, i],
    "normal_numbers": lambda p, i: p[:, i] + torch.normal(0.5, 2.0, (BATCH,)),
    "multinomial": lambda p, i: torch.multinomial(levels(p, i), 1)[:, 0],
    "multinomial_of_one_row": lambda p, i: torch.multinomial(levels(p, i)[0], 1).expand(BATCH),
    "multinomial_turned": lambda p, i: torch.multinomial(levels(p, i).t().contiguous().t(), 1)[:, 0],
    "multinomial_double": lambda p, i: torch.multinomial(levels(p.double(), i), 1)[:, 0],
    "multinomial_replaced": lambda p, i: torch.multinomial(levels(p, i), 1, replacement=True)[:, 0],
    "multinomial_several": lambda p, i: torch.multinomial(levels(p, i), 3).sum(1),
    "dropout": lambda p, i: F.dropout(p, 0.3)[:, i],
    "dropout_in_place": lambda p, i: F.dropout(p, 0.3, inplace=True)[:, i],
    "dropout2d": lambda p, i: F.dropout2d(p[:, :, None, None].expand(BATCH, N, 2, 2), 0.4)[:, i].sum((1, 2)),
    "alpha_dropout": lambda p, i: F.alpha_dropout(p, 0.3, True)[:, i],
    "native_dropout_of_nothing": lambda p, i: torch.native_dropout(p, 0.0, True)[0][:, i],
    "native_dropout": lambda p, i: torch.native_dropout(p, 0.3, True)[0][:, i],
    "rrelu_in_eval": lambda p, i: F.rrelu(p)[:, i] + torch.rand(BATCH),
    "gumbel_softmax": lambda p, i: F.gumbel_softmax(p[:, i, None] * LEVELS, hard=True) @ LEVELS,
    "two_kinds": lambda p, i: p[:, i] + torch.randn(BATCH) * torch.rand(BATCH),
    "unread": lambda p, i: (torch.randn(5), p[:, i] + torch.rand(BATCH))[1],
}


def _into_a_view(p: Tensor, i: int) -> Tensor:
    noise = torch.zeros(BATCH, 4)
    noise[:, 1:3].uniform_()
    return p[:, i] + noise.sum(1)


def _noise_in_columns(fill: Callable[[Tensor], Tensor]) -> Tensor:
    noise = torch.zeros(BATCH, 64)
    fill(noise[:, ::2])
    return noise.sum(1)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_lifted_operator_gives_the_same_bits_and_leaves_the_generator_alike(name: str) -> None:
    function = sampler(OPERATORS[name])
    compiled = ffc.compile(function, (like(),), schedule="jacobi")
    assert any(draw.place is DrawPlace.EACH for draw in compiled.plan.program.draws)
    for seed in range(5):
        expected, state = seeded(seed, lambda: function(like()))
        (got, record), left = seeded(seed, lambda: unguarded(compiled, "jacobi", [like()]))
        assert record.ending is Ending.SWEEPS and record.certified == N
        assert_same(got[0], expected)
        assert torch.equal(left, state)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_captured_loop_draws_as_the_function_does(name: str) -> None:
    """Before and after the loop too, step by step in place of sweeps."""
    inner = sampler(OPERATORS[name])

    def function(start: Tensor) -> Tensor:
        return inner(start + torch.rand(1)) + torch.randn(N)

    compiled = ffc.compile(function, (like(),), schedule="sequential")
    loaded = ffc.Compiled(compiled.plan, compiled.proofs, compiled.prove, stored=compiled.live.all_weights())
    assert_draws_alike(loaded, function, (like(),), range(3))


def test_a_rule_that_is_not_how_torch_draws_is_found_at_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another version of torch, or on another device."""
    wrong = {
        torch.ops.aten.bernoulli.default: lambda scribe, given, like: scribe.call(
            torch.ops.aten.ge.Tensor, scribe.draw("aten.uniform_.default", room(like), ()), 1 - given["self"]
        ).to(like.dtype),
        torch.ops.aten.rand.default: lambda scribe, given, like: scribe.draw("aten.normal_.default", room(like), ()),
        torch.ops.aten.randn.default: lambda scribe, given, like: (
            scribe.draw("aten.normal_.default", room(like), ()),
            scribe.draw("aten.normal_.default", room(like), ()),  # the right bits, and one draw too many
        )[0],
    }
    monkeypatch.setattr("ffcompiler.capture.draws.RULES", {**RULES, **wrong})
    for name in ("bernoulli", "rand", "randn"):
        with pytest.raises(ffc.CaptureError, match=r"in another way than the rule for it says") as caught:
            ffc.compile(sampler(OPERATORS[name]), (like(),), schedule="jacobi")
        assert HERE in str(caught.value) and f"aten.{name}.default" in str(caught.value)


# ---------------------------------------------------------------------------------------------------- samplers


def by_gumbel(p: Tensor, i: int) -> Tensor:
    u = torch.rand(BATCH, len(LEVELS))
    return LEVELS[(levels(p, i).log() - torch.log(-torch.log(u))).argmax(1)]


def logistic_mixture(p: Tensor, i: int) -> Tensor:
    """As PixelCNN++ draws: one component by Gumbel noise, then a logistic variable of it."""
    logits = p[:, i, None] * LEVELS
    gumbel = -torch.log(-torch.log(torch.empty_like(logits).uniform_(1e-5, 1.0 - 1e-5)))
    chosen = F.one_hot((logits + gumbel).argmax(1), len(LEVELS))
    means, scales = (chosen * (logits + 1)).sum(1), (chosen * logits.exp()).sum(1)
    u = torch.empty_like(means).uniform_(1e-5, 1.0 - 1e-5)
    return (means + scales * (torch.log(u) - torch.log(1.0 - u))).clamp(-1.0, 1.0)


def mixture(p: Tensor, i: int) -> Tensor:
    parts = D.Normal(p[:, i, None] + LEVELS, LEVELS.exp().expand(BATCH, len(LEVELS)))
    return D.MixtureSameFamily(D.Categorical(logits=p[:, i, None] * LEVELS), parts).sample()


def one_hot(like: Tensor) -> Tensor:
    """The state holds one-hot vectors: ``[batch, N, 5]``."""

    def step(i: int, x: Tensor) -> Tensor:
        logits = (x @ LEVELS) @ WEIGHT
        x = x.clone()
        x[:, i] = D.OneHotCategorical(logits=logits[:, i, None] * LEVELS).sample()
        return x

    return ffc.fori_loop(0, N, step, torch.zeros(*like.shape, len(LEVELS)))


class Masked(torch.nn.Conv2d):
    """A convolution that reads pixels before its own, in raster order."""

    def __init__(self) -> None:
        super().__init__(1, 5, 3, padding=1)
        mask = torch.ones(3, 3)
        mask[1, 1:], mask[2] = 0, 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


torch.manual_seed(3)
CONV = Masked()


def pixelcnn(like: Tensor) -> Tensor:
    """Height and width in one loop, a category per pixel."""

    def step(k: int, x: Tensor) -> Tensor:
        h, w = divmod(k, 3)
        logits = CONV(x)[:, :, h, w]
        x[:, 0, h, w] = torch.multinomial(torch.softmax(logits, 1), 1)[:, 0] / 4
        return x

    return ffc.fori_loop(0, 9, step, torch.zeros(len(like), 1, 3, 3))


def around(like: Tensor) -> Tensor:
    """Two kinds in each step, one before the loop and two after it."""

    def value(p: Tensor, i: int) -> Tensor:
        return p[:, i] + torch.randn(BATCH) * torch.empty(BATCH).exponential_()

    x = sampler(value)(like + torch.randn(BATCH, 1))
    return torch.bernoulli(torch.sigmoid(x)) + torch.randint(3, (N,))


SAMPLERS: dict[str, Callable[[Tensor], Tensor]] = {
    "made": sampler(lambda p, i: torch.bernoulli(torch.sigmoid(p))[:, i]),
    "bernoulli": sampler(lambda p, i: D.Bernoulli(logits=p[:, i]).sample()),
    "categorical": sampler(lambda p, i: LEVELS[D.Categorical(probs=levels(p, i)).sample()]),
    "gaussian": sampler(lambda p, i: p[:, i] + torch.randn(BATCH) * p[:, i].tanh().exp()),
    "normal": sampler(lambda p, i: D.Normal(p[:, i], p[:, i].tanh().exp()).sample()),
    "uniform": sampler(lambda p, i: D.Uniform(p[:, i], p[:, i] + 1.0).sample()),
    "gumbel": sampler(lambda p, i: D.Gumbel(p[:, i], 0.5).sample()),
    "laplace": sampler(lambda p, i: D.Laplace(p[:, i], 0.5).sample()),
    "whole_image": sampler(lambda p, i: (p + torch.randn_like(p))[:, i]),
    "by_gumbel": sampler(by_gumbel),
    "logistic_mixture": sampler(logistic_mixture),
    "mixture": sampler(mixture),
    "one_hot": one_hot,
    "pixelcnn": pixelcnn,
    "around": around,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_draws_inside_gives_the_same_sample_under_every_schedule(name: str) -> None:
    function = SAMPLERS[name]
    compiled = ffc.compile(function, (like(),))
    assert compiled.plan.refusal is None, compiled.plan.refusal
    for schedule in SCHEDULES:
        for seed in range(3):
            expected, state = seeded(seed, lambda: function(like()))
            (got, record), left = seeded(seed, lambda: unguarded(compiled, schedule, [like()]))  # noqa: B023
            assert record.certified == record.blocks, schedule
            assert_same(got[0], expected)
            assert torch.equal(left, state), schedule
    assert_draws_alike(compiled, function, (like(),), range(10))


@pytest.mark.parametrize("name", ["made", "logistic_mixture"])
def test_five_hundred_seeds_give_five_hundred_equal_samples(name: str) -> None:
    compiled = ffc.compile(SAMPLERS[name], (like(),), schedule="jacobi")
    for seed in range(500):
        expected, state = seeded(seed, lambda: SAMPLERS[name](like()))
        (got, record), left = seeded(seed, lambda: unguarded(compiled, "jacobi", [like()]))
        assert record.ending is Ending.SWEEPS
        assert_same(got[0], expected)
        assert torch.equal(left, state)


def test_draws_of_steps_stand_in_the_plan_in_the_functions_own_order() -> None:
    draws = ffc.compile(around, (like(),)).plan.program.draws
    assert [(draw.place.value, draw.node.op) for draw in draws] == [
        ("before", "aten.normal_.default"),
        ("each", "aten.normal_.default"),
        ("each", "aten.exponential_.default"),
        ("after", "aten.uniform_.default"),
        ("after", "aten.random_.from"),
    ]
    assert all(HERE in draw.node.source for draw in draws)


# ---------------------------------------------------------------------------------------------------- refusals


def _seeding(p: Tensor, i: int) -> Tensor:
    torch.manual_seed(i)
    return p[:, i] + torch.rand(BATCH)


def _forking(p: Tensor, i: int) -> Tensor:
    with torch.random.fork_rng([]):
        return p[:, i] + torch.rand(BATCH)


GENERATOR = torch.Generator()

REFUSED: dict[str, tuple[Value, tuple[str, ...]]] = {
    "poisson": (lambda p, i: torch.poisson(p.exp())[:, i], ("aten.poisson", "as many as its data ask for", HERE)),
    "binomial": (
        lambda p, i: torch.binomial(torch.ones_like(p) * 9, torch.sigmoid(p))[:, i],
        ("aten.binomial", "as many as its data ask for", HERE),
    ),
    "gamma": (
        lambda p, i: D.Gamma(p.tanh() + 2, 1.0).sample()[:, i],
        ("aten._standard_gamma", "as many as its data", HERE),
    ),
    "dirichlet": (
        lambda p, i: D.Dirichlet(p.tanh() + 2).sample()[:, i],
        ("aten._sample_dirichlet", "as many as", HERE),
    ),
    "several_with_replacement": (
        lambda p, i: torch.multinomial(levels(p, i), 2, replacement=True).sum(1),
        ("aten.multinomial", "with replacement", "draw them one by one", HERE),
    ),
    "several_of_a_distribution": (
        lambda p, i: D.Categorical(probs=levels(p, i)).sample((2,)).sum(0),
        ("aten.multinomial", "with replacement", HERE),
    ),
    "rrelu": (lambda p, i: F.rrelu(p, training=True)[:, i], ("rrelu_with_noise", "depends on the data", HERE)),
    "a_generator": (lambda p, i: p[:, i] + torch.rand(BATCH, generator=GENERATOR), ("a generator of its own", HERE)),
    "a_generator_of_multinomial": (
        lambda p, i: torch.multinomial(levels(p, i), 1, generator=GENERATOR)[:, 0],
        ("aten.multinomial", "a generator of its own", HERE),
    ),
    "numbers_that_differ": (
        lambda p, i: p[:, i] + torch.empty(BATCH).uniform_(0.0, 1.0 + i),
        ("aten.uniform_", "differ from step to step", HERE),
    ),
    "shapes_that_differ": (lambda p, i: p[:, i] + torch.rand(BATCH, i + 1).sum(1), ("step 1", HERE)),
    "only_in_some_steps": (lambda p, i: p[:, i] + torch.rand(BATCH) if i % 2 else p[:, i], ("step 1", HERE)),
    "seeding": (_seeding, ("the random generator was set", "before the function", HERE)),
    "forking": (_forking, ("the random generator was set", HERE)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_draw_that_cannot_be_lifted_is_refused_by_name_with_its_line_and_runs_as_it_is(name: str) -> None:
    value, says = REFUSED[name]
    with pytest.raises(ffc.CaptureError) as caught:
        ffc.compile(sampler(value), (like(),), schedule="jacobi")
    for words in says:
        assert words in str(caught.value), str(caught.value)
    compiled = ffc.compile(sampler(value), (like(),))
    if "generator" not in name:
        assert_draws_alike(compiled, sampler(value), (like(),), range(2))


def test_more_noise_than_fits_is_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffcompiler.capture.noise.MAX_STACK_BYTES", 1000)
    with pytest.raises(ffc.CaptureError, match=r"what is drawn at .* in 6 steps takes .* GiB"):
        ffc.compile(sampler(lambda p, i: p[:, i] + torch.randn(BATCH, 30).sum(1)), (like(),), schedule="jacobi")
    unread = sampler(lambda p, i: (torch.randn(BATCH, 30), p[:, i])[1])
    assert ffc.compile(unread, (like(),), schedule="jacobi").plan.refusal is None


# ---------------------------------------------------------------------------------------------------- whole calls


def test_compiling_leaves_the_generator_as_it_found_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(D.Distribution, "_validate_args", True)  # torch.compile switches it off for good
    for function, schedule in ((around, "auto"), (around, "jacobi"), (sampler(REFUSED["poisson"][0]), "auto")):
        state = torch.get_rng_state()
        ffc.compile(function, (like(),), schedule=schedule)
        assert torch.equal(torch.get_rng_state(), state)
    assert D.Distribution._validate_args, "argument validation is on again"


@pytest.mark.parametrize("schedule", ["jacobi", "gauss-seidel"])
def test_an_exception_of_the_function_leaves_the_generator_where_it_was_raised(schedule: str) -> None:
    """With some seeds a step looks beyond the end of a table, after which the function draws no more."""
    table = torch.linspace(0.0, 1.0, 9)

    def function(like: Tensor, scale: Tensor) -> Tensor:
        def value(p: Tensor, i: int) -> Tensor:
            return torch.sigmoid(p[:, i]) + table.index_select(0, (torch.rand(BATCH) * scale).long())

        return sampler(value, steps=6)(like)

    compiled = bold(ffc.compile(function, (like(), torch.tensor(8.0)), schedule=schedule))
    args, raised = (like(), torch.tensor(9.3)), 0
    for seed in range(12):
        torch.manual_seed(seed)
        before, expected = torch.get_rng_state(), outcome(function, *args)
        state = torch.get_rng_state()
        torch.set_rng_state(before)
        got = outcome(compiled, *args)
        assert torch.equal(torch.get_rng_state(), state), f"the generator is left in another state, seed {seed}"
        raised += isinstance(expected, str)
        assert got == expected if isinstance(expected, str) else same_bits(got, expected)
    assert 0 < raised < 12


def outcome(function: Callable[..., Any], *args: Tensor) -> Any:
    """What a call gives, or the words of what it raises."""
    try:
        with torch.no_grad():
            return function(*args)
    except IndexError as error:
        return str(error)


def test_a_handover_in_the_middle_goes_on_with_what_was_drawn() -> None:
    function = sampler(lambda p, i: p[:, i] + torch.randn(BATCH))
    compiled = ffc.compile(function, (like(),), schedule="jacobi")
    runner = compiled.parts[0].runner
    assert runner is not None
    runner.plan = replace(compiled.plan, costs=Costs(step=1.0, sweep=0.3, certify=0.3, once=0.0))
    ticks = iter(range(0, 10**6, 3))
    runner.clock = lambda: float(next(ticks))  # the first sweep takes far longer than it should
    expected, state = seeded(5, lambda: function(like()))
    (got, record), left = seeded(5, lambda: compiled.run(like()))
    assert record.ending is Ending.GUARD and 0 < record.certified < N
    assert_same(got, expected)
    assert torch.equal(left, state)


SCALE = [1.0]


def test_a_call_that_falls_back_to_the_function_draws_as_it_does() -> None:
    """Before anything is drawn, and after: the state before the draws is restored."""
    weight, mask, dense = WEIGHT.clone(), torch.ones(N, N).triu(1), torch.randn(N, N)
    weight[0, 1:] = 0

    def function(start: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            dense.data *= mask
            p = x @ weight + x @ dense
            x = x.clone()
            x[:, i] = p[:, i] * SCALE[0] + torch.randn(BATCH)
            return x

        return ffc.fori_loop(0, N, step, torch.zeros_like(start) + torch.rand(1))

    compiled = ffc.compile(function, (like(),), schedule="jacobi")

    def endings(change: Callable[[], Any]) -> Ending:
        change()
        compiled.plan = replace(compiled.plan, costs=None)
        compiled.parts[0].plan = compiled.parts[0].runner.plan = compiled.plan
        before = dense.clone()
        expected, state = seeded(4, lambda: function(like()))
        dense.copy_(before)
        (got, record), left = seeded(4, lambda: compiled.run(like()))
        assert_same(got, expected)
        assert torch.equal(left, state)
        return record.ending

    assert endings(lambda: None) is Ending.SWEEPS
    assert endings(lambda: weight.__setitem__((0, 2), 3.0)) is Ending.SWEEPS, "proved again"
    assert endings(lambda: weight.__setitem__((2, 0), 3.0)) is Ending.STALE, "leaks"
    assert endings(lambda: weight.__setitem__((2, 0), 0.0)) is Ending.SWEEPS
    assert endings(lambda: mask.mul_(0.5)) is Ending.STALE, "what steps write is not the same in all steps"
    assert endings(lambda: mask.mul_(2.0)) is Ending.SWEEPS
    assert endings(lambda: SCALE.__setitem__(0, 2.0)) is Ending.STALE, "a number in reach"
    SCALE[0] = 1.0


def test_a_run_that_is_not_worth_starting_draws_as_the_function_does() -> None:
    compiled = ffc.compile(around, (like(),), schedule="jacobi")
    runner = compiled.parts[0].runner
    assert runner is not None
    runner.plan = replace(compiled.plan, costs=Costs(step=1.0, sweep=99.0, certify=99.0, once=0.0))
    expected, state = seeded(5, lambda: around(like()))
    (got, record), left = seeded(5, lambda: compiled.run(like()))
    assert record.ending is Ending.GUARD and record.certified == 0
    assert_same(got, expected)
    assert torch.equal(left, state)


@pytest.mark.parametrize("name", ["around", "logistic_mixture", "pixelcnn"])
@pytest.mark.parametrize("schedule", ["jacobi", "sequential"])
def test_a_saved_plan_draws_as_the_function_did(name: str, schedule: str, tmp_path: Path) -> None:
    compiled = ffc.compile(SAMPLERS[name], (like(),), schedule=schedule)
    compiled.save(tmp_path / "draws.ffc")
    loaded = ffc.load(tmp_path / "draws.ffc")
    assert loaded.plan.program.draws == compiled.plan.program.draws
    assert_draws_alike(loaded, SAMPLERS[name], (like(),), range(5))
    assert loaded.verify(like()).equal


def test_verify_lets_both_draw_the_same_and_says_where_a_generator_is_left_elsewhere() -> None:
    compiled = ffc.compile(around, (like(),), schedule="jacobi")
    assert compiled.verify(like()).equal
    assert compiled.verify(like()).equal, "whatever the state is"
    turns = itertools.count()

    def draws_more(start: Tensor) -> Tensor:
        if bool(start.sum() == 0) and next(turns) % 2:  # not captured, so it runs as it is
            torch.rand(1)
        return torch.zeros_like(start)

    found = ffc.compile(draws_more, (like(),))
    verification = found.verify(like())
    assert not verification.equal and not verification.differences
    assert "generators are left in other states" in str(verification)


def test_steps_that_run_without_values_draw_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a slow reference most steps are confirmed without values, and few are run a second time."""
    monkeypatch.setattr("ffcompiler.capture.run.REAL_SECONDS", 0.0)
    monkeypatch.setattr(import_module("ffcompiler.capture.capture"), "REPEAT_ALL_BELOW", 0.0)
    for name in ("around", "logistic_mixture", "one_hot"):
        compiled = ffc.compile(SAMPLERS[name], (like(),), schedule="jacobi")
        assert not any(replay.complete for replay in compiled.live.captured.replays)
        assert_draws_alike(compiled, SAMPLERS[name], (like(),), range(5))


def test_dropout_is_drawn_in_training_and_not_in_evaluation() -> None:
    net = torch.nn.Sequential(torch.nn.Dropout(0.5))

    def function(start: Tensor) -> Tensor:
        return sampler(lambda p, i: net(p[:, i]) + 1.0)(start)

    net.eval()
    assert ffc.compile(function, (like(),)).plan.program.draws == ()
    net.train()
    compiled = ffc.compile(function, (like(),))
    assert [draw.node.op for draw in compiled.plan.program.draws] == ["aten.bernoulli_.float"]
    assert_draws_alike(compiled, function, (like(),), range(5))


def test_noise_that_a_step_reads_begins_in_memory_where_a_tensor_of_its_own_would() -> None:
    """Where a row begins can decide in which order a kernel adds it up."""
    compiled = ffc.compile(sampler(lambda p, i: p[:, i] + torch.randn(BATCH, 5).sum(1)), (like(),), schedule="jacobi")
    (stack,) = make_draws(compiled.plan.program, torch.device("cpu"))().values()
    assert stack.shape == (N, BATCH, 5)
    assert all(row.data_ptr() % 64 == 0 and row.is_contiguous() for row in stack)


def test_what_a_first_call_draws_to_load_a_model_is_no_draw_of_the_function() -> None:
    @cache
    def model() -> torch.nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            layer = torch.nn.Linear(N, N)
        with torch.no_grad():
            layer.weight.copy_(torch.rand(N, N, generator=torch.Generator().manual_seed(1)).triu(1))
        return layer

    def function(start: Tensor) -> Tensor:
        layer = model()

        def step(i: int, x: Tensor) -> Tensor:
            p = F.linear(x, layer.weight.T)[:, i]  # type: ignore[union-attr]
            x = x.clone()
            x[:, i] = p + torch.randn(BATCH)
            return x

        return ffc.fori_loop(0, N, step, start)

    compiled = ffc.compile(function, (like(),), schedule="jacobi")
    assert [draw.node.op for draw in compiled.plan.program.draws] == ["aten.normal_.default"]
    assert_draws_alike(compiled, function, (like(),), range(3))


def test_a_loop_in_plain_python_draws_as_it_did() -> None:
    def function(start: Tensor) -> Tensor:
        x = start + torch.rand(1)
        for i in range(N):
            x[:, i] = torch.bernoulli(torch.sigmoid((x @ WEIGHT)[:, i]))
        return x + torch.randint(3, (N,))

    compiled = ffc.compile(function, (like(),), schedule="jacobi")
    assert [draw.place.value for draw in compiled.plan.program.draws] == ["before", "each", "after"]
    assert_draws_alike(compiled, function, (like(),), range(5))
    for seed in range(5):
        expected, state = seeded(seed, lambda: function(like()))
        (got, record), left = seeded(seed, lambda: unguarded(compiled, "jacobi", [like()]))
        assert record.ending is Ending.SWEEPS
        assert_same(got[0], expected)
        assert torch.equal(left, state)


def test_a_recurrence_draws_as_it_did() -> None:
    cell = torch.nn.GRUCell(4, 4).requires_grad_(False)

    def function(h: Tensor) -> tuple[Tensor, Tensor]:
        left = []
        for _ in range(N):
            h = cell(torch.randn(BATCH, 4), F.dropout(h, 0.2))
            left.append(h)
        return h, torch.stack(left)

    compiled = ffc.compile(function, (torch.zeros(BATCH, 4),))
    assert compiled.plan.program is not None, compiled.plan.refusal
    assert_draws_alike(compiled, function, (torch.zeros(BATCH, 4),), range(5))
    loaded = ffc.Compiled(compiled.plan, compiled.proofs, compiled.prove, stored=compiled.live.all_weights())
    assert_draws_alike(loaded, function, (torch.zeros(BATCH, 4),), range(5))
