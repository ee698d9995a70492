"""The theorem for array loops (docs/theory.md) has seven conditions. For each, programs that violate only that one.

One section per condition. Every program comes with its *naive sweep*: what one would get by evaluating its step for
all positions at once on one array and iterating. The naive answer differs from the loop's, so the condition is not
idle; the compiled function has the loop's bits, says what is in the way, and refuses a parallel schedule asked for by
name. Where the compiler handles what the naive sweep gets wrong, the run is parallel and has the loop's bits too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from systems import Made, bold, randn
from test_catalogue import assert_same
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.passes.partition import partition
from ffcompiler.plan import Finite, ZeroPattern
from ffcompiler.program import Recurrence
from ffcompiler.runtime.record import Ending, RunRecord

N = 8
HERE = "test_conditions.py:"
Step = Callable[[int, Tensor, Tensor], Tensor]  # i, the array, the noise: the next array


pytestmark = pytest.mark.usefixtures("one_thread")


def columns(i: int) -> tuple[Any, ...]:
    return slice(None), i


def zeros(u: Tensor) -> Tensor:
    return torch.zeros(u.shape[0], N)


@dataclass(frozen=True)
class Loop:
    """``for i in range(steps): x = step(i, x, u)`` from ``init(u)``; step ``i`` is meant to write ``x[at(i)]``."""

    step: Step
    steps: int = N
    at: Callable[[int], tuple[Any, ...]] = columns
    init: Callable[[Tensor], Tensor] = zeros

    def __call__(self, u: Tensor) -> Tensor:
        return ffc.fori_loop(0, self.steps, lambda i, x: self.step(i, x, u), self.init(u))

    def answer(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return self(u)

    def naive(self, u: Tensor, sweeps: int = 3 * N) -> Tensor:
        """Sweeps that take every position from the step evaluated on one array, until nothing changes."""
        with torch.no_grad():
            x = self.init(u).clone()
            for _ in range(sweeps):
                new = x.clone()
                for i in range(self.steps):
                    new[self.at(i)] = self.step(i, x.clone(), u)[self.at(i)]
                if torch.equal(new, x):
                    break
                x = new
        return x


def naive_differs(loop: Loop, u: Tensor) -> bool:
    return not torch.equal(loop.naive(u), loop.answer(u))


def assert_refused(loop: Loop, u: Tensor, *says: str) -> None:
    """It matters; ``auto`` runs sequentially, right, and says why; a parallel schedule by name is an error.

    What is no array loop may still be a recurrence, whose blocks are whole arrays.
    """
    assert naive_differs(loop, u), "the program does not violate what it is meant to"
    compiled = ffc.compile(loop, (u,))
    if isinstance(compiled.plan.system, Recurrence):
        assert compiled.live is not None
        no_array = str(partition(compiled.live.captured.program))
        assert all(words in no_array for words in says), no_array
        assert_parallel(loop, u)
        return
    result, record = compiled.run(u)
    assert_same(result, loop.answer(u))
    assert record.ending is Ending.SEQUENTIAL and record.certified == 0
    with pytest.raises(ffc.CausalityError) as caught:
        ffc.compile(loop, (u,), schedule="jacobi")
    for words in says:
        assert words in str(compiled.explain()), compiled.explain()
        assert words in str(caught.value), caught.value


def assert_parallel(loop: Loop, u: Tensor, *others: Tensor) -> ffc.Compiled:
    """Proved; sweeps reach the end and give the loop's bits, on the example and on other inputs."""
    compiled = bold(ffc.compile(loop, (u,), schedule="jacobi"))
    for given in (u, *others):
        result, record = compiled.run(given)
        assert_same(result, loop.answer(given))
        assert record.ending is Ending.SWEEPS and record.certified == loop.steps, record
    return compiled


def assert_sound(loop: Loop, u: Tensor, *others: Tensor) -> None:
    """The loop's bits, unguarded where a proof was found, else with a refusal that names the line."""
    compiled = ffc.compile(loop, (u,))
    if compiled.plan.refusal is None:
        compiled = bold(ffc.compile(loop, (u,), schedule="jacobi"))
    else:
        assert HERE in compiled.plan.refusal or "systems.py:" in compiled.plan.refusal
        assert "condition 5" in str(compiled.explain())
    for given in (u, *others):
        assert_same(compiled(given), loop.answer(given))


def wrote(x: Tensor, i: int, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, i] = value
    return x


def made(seed: int = 0, gain: float = 2.5) -> Made:
    return Made(N, gain=gain, seed=seed)


def mean_and_scale(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_scale = model(x).chunk(2, dim=-1)
    return mean, (0.3 * log_scale).exp()


# ------------------------------------------------------------- 1: a step changes only the position that it writes


def rescales_the_rest() -> Loop:
    """What was sampled so far fades with every step."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x * 0.9, i, (mean + scale * u)[:, i])

    return Loop(step)


def normalises_the_array() -> Loop:
    """The array has unit length after every step."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        x = wrote(x, i, (mean + scale * u)[:, i])
        return x / x.norm(dim=1, keepdim=True)

    return Loop(step)


def writes_a_draft_of_the_next_position() -> Loop:
    """Step i leaves in place i + 1 what step i + 1 blends into its own value."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        value = (mean + scale * u)[:, i] + 0.5 * x[:, i]
        return wrote(wrote(x, i, value), (i + 1) % N, value.tanh())

    return Loop(step)


def pushes_the_values_along() -> Loop:
    """A delay line: the newest value stands in front, all others move up by one."""
    weight = torch.ones(N, N).triu(1)

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        value = torch.tanh(x @ weight)[:, i] + u[:, i]
        return wrote(x.roll(1, 1), i, value)

    return Loop(step)


@pytest.mark.parametrize(
    "make",
    [rescales_the_rest, normalises_the_array, writes_a_draft_of_the_next_position, pushes_the_values_along],
    ids=lambda f: f.__name__,
)
def test_condition_1_a_step_that_changes_more_than_its_position_is_refused(make: Callable[[], Loop]) -> None:
    assert_refused(make(), randn(4, N), HERE)


# ------------------------------------------------------------------ 2: each position is written once, in step order


def samples_twice_and_blends() -> Loop:
    """Two passes over the array; the second blends what the first one left."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        j = i % N
        mean, scale = mean_and_scale(model, x)
        return wrote(x, j, (mean + scale * u[:, :N])[:, j] + 0.5 * x[:, j] + 0.1 * u[:, i])

    return Loop(step, 2 * N, lambda i: (slice(None), i % N))


def writes_overlapping_pairs() -> Loop:
    """Step i writes a pair; the next step starts from its second half."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        value = (mean + scale * u)[:, i : i + 1] + 0.5 * x[:, i : i + 1]
        x = x.clone()
        x[:, i : i + 2] = torch.cat([value, value.tanh()], 1)
        return x

    return Loop(step, N - 1, lambda i: (slice(None), slice(i, i + 2)))


def accumulates_in_one_position() -> Loop:
    """A running total that shares the array with nothing else to write."""
    weight = randn(N, N, seed=2)

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        return wrote(x, 0, x[:, 0] + torch.tanh(u @ weight)[:, i])

    return Loop(step, at=lambda i: (slice(None), 0))


def revisits_a_position_in_a_given_order() -> Loop:
    """An order with a position in it twice: the second visit blends."""
    order = [3, 0, 5, 1, 3, 2, 4, 6]
    model = Made(N, gain=2.5, order=[0, 5, 1, 3, 2, 4, 6, 7])

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x, order[i], (mean + scale * u)[:, order[i]] - 0.7 * x[:, order[i]])

    return Loop(step, at=lambda i: (slice(None), order[i]))


@pytest.mark.parametrize(
    "make",
    [
        samples_twice_and_blends,
        writes_overlapping_pairs,
        accumulates_in_one_position,
        revisits_a_position_in_a_given_order,
    ],
    ids=lambda f: f.__name__,
)
def test_condition_2_a_position_that_is_written_twice_is_refused(make: Callable[[], Loop]) -> None:
    loop = make()
    assert_refused(loop, randn(4, max(N, loop.steps)), "both write position", "condition 2")


def test_condition_2_steps_are_counted_as_they_come_not_as_positions_stand() -> None:
    """A model of one order looped in another: each position is written once, and the *order* is what is wrong."""
    order = [3, 6, 0, 5, 1, 7, 2, 4]
    model = Made(N, gain=2.5, order=order)

    def looped(positions: list[int]) -> Loop:
        def step(i: int, x: Tensor, u: Tensor) -> Tensor:
            mean, scale = mean_and_scale(model, x)
            return wrote(x, positions[i], (mean + scale * u)[:, positions[i]])

        return Loop(step, at=lambda i: (slice(None), positions[i]))

    assert_refused(looped(sorted(order)), randn(4, N), "addmm", "systems.py:", "may read")
    assert_parallel(looped(order), randn(4, N), randn(4, N, seed=1))


# ------------------------------------------- 3: a read of the position's old content reads what the loop started from


def given(u: Tensor) -> Tensor:
    return u


def noise_in_the_array() -> Loop:
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x, i, mean[:, i] + scale[:, i] * x[:, i])

    return Loop(step, init=given)


def noise_in_a_copy_of_the_array() -> Loop:
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        new = x.clone()
        new[:, i] = mean[:, i] + scale[:, i] * new[:, i]
        return new

    return Loop(step, init=given)


def noise_shifted_and_scaled_in_place() -> Loop:
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        x = x.clone()
        x[:, i : i + 1].mul_(scale[:, i : i + 1]).add_(mean[:, i : i + 1])
        return x

    return Loop(step, init=given)


@pytest.mark.parametrize(
    "make",
    [noise_in_the_array, noise_in_a_copy_of_the_array],
    ids=lambda f: f.__name__,
)
def test_condition_3_noise_kept_in_the_array_is_read_from_the_first_state(make: Callable[[], Loop]) -> None:
    loop, u = make(), randn(4, N)
    assert naive_differs(loop, u), "a sweep that reads its own iterate must be wrong here"
    compiled = assert_parallel(loop, u, randn(4, N, seed=1), randn(4, N, seed=2) * 3)
    system = compiled.plan.array
    assert system is not None and system.init.name in {v.name for v in system.tail.inputs}


def test_condition_3_noise_that_is_shifted_and_scaled_in_place_is_right_whatever_is_decided() -> None:
    loop, u = noise_shifted_and_scaled_in_place(), randn(4, N)
    assert naive_differs(loop, u)
    assert_sound(loop, u, randn(4, N, seed=1))


def reads_a_later_position() -> Loop:
    """In the loop the position behind holds noise; in a sweep it holds an iterate."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x, i, mean[:, i] + scale[:, i] * x[:, (i + 1) % N])

    return Loop(step, init=given)


def reads_its_position_in_a_scaled_copy() -> Loop:
    """The noise is in the array, and all of it is scaled before one position is taken."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x, i, (mean + scale * x)[:, i])

    return Loop(step, init=given)


def reads_its_position_through_another_shape() -> Loop:
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x, i, mean[:, i] + scale[:, i] * x.reshape(-1, 2, N // 2)[:, i // (N // 2), i % (N // 2)])

    return Loop(step, init=given)


def reads_a_pair_that_begins_with_its_position() -> Loop:
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return wrote(x, i, mean[:, i] + scale[:, i] * x[:, i : i + 2].sum(1))

    return Loop(step, N - 1, init=given)


@pytest.mark.parametrize(
    "make",
    [
        reads_a_later_position,
        reads_its_position_in_a_scaled_copy,
        reads_its_position_through_another_shape,
        reads_a_pair_that_begins_with_its_position,
    ],
    ids=lambda f: f.__name__,
)
def test_condition_3_any_other_read_of_what_is_not_written_yet_is_refused(make: Callable[[], Loop]) -> None:
    assert_refused(make(), randn(4, N), "may read", "condition 5", HERE)


def test_condition_3_an_old_read_of_a_final_position_is_an_ordinary_read() -> None:
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        before = F.pad(x, (1, 0))[:, i]  # position i - 1
        return wrote(x, i, mean[:, i] + scale[:, i] * x[:, i] - 0.8 * before)

    loop, u = Loop(step, init=given), randn(4, N)
    assert naive_differs(loop, u)
    assert_parallel(loop, u, randn(4, N, seed=1))


# ---------------------------------------------------------- 4: what is shared between steps does not depend on the step


class Timed(nn.Module):
    """A MADE whose hidden units are shifted by an embedding of the step number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = made(gain=2.0)
        self.time = nn.Parameter(randn(N, 24, seed=5))

    def forward(self, x: Tensor, i: int) -> Tensor:
        h = torch.tanh(self.net.fc(x)) + self.time[i]
        return self.net.out(torch.relu(self.net.mid(h)))


Whole = Callable[[int, Tensor, Tensor], Tensor]  # what a step has for all positions before it takes its own


def embeds_the_step() -> Whole:
    model = Timed()

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, log_scale = model(x, i).chunk(2, dim=-1)
        return mean + (0.3 * log_scale).exp() * u

    return whole


def scales_the_input_by_the_step() -> Whole:
    model = made()

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x * (1 + 2 * i / N))
        return mean + scale * u

    return whole


def looks_its_weights_up_by_the_step() -> Whole:
    model, heads = made(), randn(N, N, N, seed=4)
    strict = torch.ones(N, N).tril(-1)

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return F.linear(x, strict * heads[i]) + mean + scale * u

    return whole


def taking_its_own(whole: Whole) -> Loop:
    return Loop(lambda i, x, u: wrote(x, i, whole(i, x, u)[:, i]))


def shared(whole: Whole, number: int, u: Tensor) -> Tensor:
    """Sweeps that evaluate the body once, with the number of one step, and take all positions from that."""
    with torch.no_grad():
        x = zeros(u)
        for _ in range(2 * N):
            x = whole(number, x, u)
    return x


@pytest.mark.parametrize(
    "make",
    [embeds_the_step, scales_the_input_by_the_step, looks_its_weights_up_by_the_step],
    ids=lambda f: f.__name__,
)
def test_condition_4_what_depends_on_the_step_is_not_shared(make: Callable[[], Whole]) -> None:
    """It belongs to the tail: evaluated with each step's own number it may be solved by sweeps."""
    whole, u = make(), randn(4, N)
    loop = taking_its_own(whole)
    for number in range(N):
        assert not torch.equal(shared(whole, number, u), loop.answer(u))
    assert_sound(loop, u, randn(4, N, seed=1))


def test_condition_4_a_network_that_is_given_the_step_is_refused_with_the_condition_or_solved() -> None:
    loop, u = taking_its_own(embeds_the_step()), randn(4, N)
    compiled = ffc.compile(loop, (u,))
    if compiled.plan.refusal is not None:
        assert "condition 4" in compiled.plan.refusal and "systems.py:" in compiled.plan.refusal
    system = compiled.plan.array
    assert system is not None
    assert "aten.addmm.default" in {node.op for node in system.tail.nodes}, "the network after the embedding is T's"


def test_condition_4_a_step_number_in_the_arithmetic_of_one_position_is_solved_by_sweeps() -> None:
    model = made()

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        return mean * ((i + 1) / N) + scale * u * (N - i)

    loop, u = taking_its_own(whole), randn(4, N)
    assert not any(torch.equal(shared(whole, number, u), loop.answer(u)) for number in range(N))
    assert_parallel(loop, u, randn(4, N, seed=1))


def hides_what_is_not_written_yet(dense: Tensor, bias: Tensor) -> Whole:
    """No masks in the model: its input is blanked from position i on, at every step."""

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        return torch.tanh((x * (torch.arange(N) < i)) @ dense + bias) @ dense + u

    return whole


def test_condition_4_an_input_blanked_by_the_step_makes_a_dense_model_causal_in_the_loop_only() -> None:
    whole = hides_what_is_not_written_yet(randn(N, N, seed=6), randn(N, seed=7))
    loop, u = taking_its_own(whole), randn(4, N)
    for number in range(N):
        assert not torch.equal(shared(whole, number, u), loop.answer(u))
    assert_sound(loop, u, randn(4, N, seed=1), randn(4, N, seed=2) * 1e30)


def test_condition_4_blanking_by_a_product_lets_infinities_of_later_positions_through() -> None:
    """``0 * Inf`` is NaN: a first state that is infinite where nothing is written yet shows in the loop's answer."""
    whole = hides_what_is_not_written_yet(randn(N, N, seed=6), randn(N, seed=7))
    loop = Loop(lambda i, x, u: wrote(x, i, whole(i, x, u)[:, i]), init=given)
    odd = randn(4, N)
    odd[0, 5] = float("inf")
    assert_sound(loop, randn(4, N), odd)


# --------------------------------------------------------------- 5: everything that step i reads has latest below i


def leaks_through_a_norm_over_positions() -> Loop:
    """A layer norm over the positions, not the channels: mean and variance are of the whole array."""
    model, norm = made(), nn.LayerNorm(N)

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, norm(x))
        return wrote(x, i, (mean + scale * u)[:, i])

    return Loop(step)


def leaks_through_a_global_gate() -> Loop:
    """Squeeze and excite: channels are scaled by a function of their mean over all positions."""
    first, second = randn(6, 1, 3, seed=1), randn(1, 6, 3, seed=2)

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        h = torch.tanh(F.conv1d(F.pad(x[:, None], (3, 0))[:, :, :-1], first))
        h = h * torch.sigmoid(h.mean(2, keepdim=True))
        return wrote(x, i, F.conv1d(F.pad(h, (2, 0)), second)[:, 0, i] + u[:, i])

    return Loop(step)


def leaks_through_attention_without_its_mask() -> Loop:
    q, k, v = (randn(1, 6, seed=s) * 1.5 for s in range(3))

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        h = x[..., None]
        weights = torch.softmax((h @ q) @ (h @ k).transpose(1, 2), -1)
        return wrote(x, i, (weights @ (h @ v)).sum(-1)[:, i] + u[:, i])

    return Loop(step)


def leaks_by_one_in_a_padded_convolution() -> Loop:
    """Padded on the left by one position too few: tap k reads position i itself."""
    first, second = randn(6, 1, 3, seed=1) * 1.5, randn(1, 6, 3, seed=2)

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        h = torch.tanh(F.conv1d(F.pad(x[:, None], (2, 0)), first))
        return wrote(x, i, F.conv1d(F.pad(h, (2, 0)), second)[:, 0, i] + u[:, i])

    return Loop(step)


def leaks_in_the_tail() -> Loop:
    """The network is causal; the tail averages over the last two positions, the newest one included."""
    model = made()

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, scale = mean_and_scale(model, x)
        context = F.pad(x, (1, 0))[:, i : i + 2].mean(1)  # positions i - 1 and i
        return wrote(x, i, mean[:, i] + scale[:, i] * u[:, i] + context)

    return Loop(step)


@pytest.mark.parametrize(
    "make",
    [
        leaks_through_a_norm_over_positions,
        leaks_through_a_global_gate,
        leaks_through_attention_without_its_mask,
        leaks_by_one_in_a_padded_convolution,
        leaks_in_the_tail,
    ],
    ids=lambda f: f.__name__,
)
def test_condition_5_a_step_that_may_read_what_is_not_written_yet_is_refused(make: Callable[[], Loop]) -> None:
    assert_refused(make(), randn(4, N), "may read", "condition 5", HERE)


# ------------------------------------------------------------------------------------- 6: premises, checked as it runs


def plain(model: nn.Module, clamp: float | None = 12.0) -> Loop:
    """The textbook sampler; without a clamp of the log-scale it overflows where its noise is large."""

    def step(i: int, x: Tensor, u: Tensor) -> Tensor:
        mean, log_scale = model(x).chunk(2, dim=-1)
        scale = log_scale if clamp is None else log_scale.clamp(-clamp, clamp)
        return wrote(x, i, (mean + scale.exp() * u)[:, i])

    return Loop(step)


class Relu(Made):
    """Nothing in it saturates, so values grow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(torch.relu(self.fc(x)))))


def run_bold(loop: Loop, example: Tensor, u: Tensor) -> tuple[RunRecord, ffc.Compiled]:
    """A parallel plan, made on ``example``, run on ``u``: the loop's bits, whatever happens on the way."""
    compiled = bold(ffc.compile(loop, (example,), schedule="jacobi"))
    assert compiled.run(example)[1].ending is Ending.SWEEPS
    result, record = compiled.run(u)
    assert_same(result, loop.answer(u))
    return record, compiled


@pytest.mark.parametrize("factor", [1e36, 3e38, float("inf"), float("nan")])
def test_condition_6_noise_beyond_finite_values_ends_the_sweeps_and_not_the_promise(factor: float) -> None:
    loop, u = plain(Relu(N, gain=1.5)), randn(4, N)
    record, compiled = run_bold(loop, u, u * factor)
    assert record.ending is Ending.PREMISE
    assert any(isinstance(p, Finite) for p in compiled.plan.premises)
    assert "finite" in str(compiled.explain())


def test_condition_6_an_array_of_nan_reproduces_itself_and_is_no_answer() -> None:
    """Iterates overflow where the loop's values do not, 0 * Inf spreads NaN, and NaN is a fixed point of the sweep."""
    loop, u = plain(Relu(N, gain=3.0, seed=3), clamp=None), randn(4, N)
    wild = u * 8
    naive = loop.naive(wild)
    assert naive.isnan().any() and not loop.answer(wild).isnan().all()
    assert naive_differs(loop, wild)
    record, _ = run_bold(loop, u * 0.1, wild)
    assert record.ending is Ending.PREMISE and record.certified < N


def open_the_mask(model: Made) -> None:
    model.out.mask[0, -1] = 1.0  # position 0 reads a hidden unit that sees later positions


def open_the_mask_by_a_denormal(model: Made) -> None:
    model.out.mask.data[0, -1] = 1e-40


@pytest.mark.parametrize("change", [open_the_mask, open_the_mask_by_a_denormal], ids=lambda f: f.__name__)
def test_condition_6_weights_that_are_no_longer_zero_are_seen_in_the_next_call(change: Callable[[Made], None]) -> None:
    model = made()
    loop, u = plain(model), randn(4, N)
    compiled = bold(ffc.compile(loop, (u,), schedule="jacobi"))
    assert any(isinstance(p, ZeroPattern) for p in compiled.plan.premises)
    change(model)
    result, record = compiled.run(u)
    assert_same(result, loop.answer(u))
    assert record.ending is Ending.STALE and record.certified == 0
    assert "may read" in record.detail and "systems.py:" in record.detail


# ---------------------------------------------------------- 7: the front is one number for all samples of the batch


def centres_over_the_batch() -> Whole:
    """Batch statistics of each hidden unit: samples are mixed, positions are not."""
    model = made(gain=3.0)

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        h = model.fc(x)
        h = (h - h.mean(0, keepdim=True)) * 1.5
        return model.out(torch.tanh(model.mid(torch.tanh(h))))[:, :N].round() + u.round()

    return whole


def lets_samples_attend_to_each_other() -> Whole:
    """The batch is a set: each position is a weighted mean over the samples, of what comes before it."""
    model, w = made(gain=3.0), randn(5, 5, seed=8).softmax(1)

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        return (w @ model(x))[:, :N].round() + u.round()

    return whole


def normalises_over_the_batch() -> Whole:
    model = made(gain=3.0)

    def whole(i: int, x: Tensor, u: Tensor) -> Tensor:
        h = F.batch_norm(model.fc(x), None, None, training=True)
        return (model.out(torch.tanh(model.mid(h * 1.5)))[:, :N] * 2).round() + u.round()

    return whole


def with_a_front_for_each_sample(whole: Whole, u: Tensor) -> Tensor:
    """Sweeps in which the rule "first changed position, plus one" freezes each row by itself."""
    with torch.no_grad():
        x, front = zeros(u), torch.zeros(len(u), dtype=torch.long)
        place = torch.arange(N)
        while int(front.min()) < N:
            new = torch.where(place < front[:, None], x, whole(0, x, u))
            changed = new != x
            first = torch.where(changed.any(1), changed.int().argmax(1), N)
            x, front = new, torch.minimum(torch.maximum(front, first) + 1, torch.tensor(N))
    return x


BATCHES = [randn(5, N, seed=s) for s in range(20)]


@pytest.mark.parametrize(
    "make",
    [centres_over_the_batch, lets_samples_attend_to_each_other, normalises_over_the_batch],
    ids=lambda f: f.__name__,
)
def test_condition_7_samples_that_see_each_other_are_right_with_one_front(make: Callable[[], Whole]) -> None:
    whole = make()
    loop = taking_its_own(whole)
    wrong = [u for u in BATCHES if not torch.equal(with_a_front_for_each_sample(whole, u), loop.answer(u))]
    assert wrong, "a front for each sample must be wrong here"
    assert_sound(loop, wrong[0], *wrong[1:4])


def test_condition_7_a_coupled_batch_is_solved_by_sweeps() -> None:
    assert_parallel(taking_its_own(centres_over_the_batch()), *BATCHES[:4])
