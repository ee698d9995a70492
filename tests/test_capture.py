"""What cannot be captured is refused with the user's line; what is captured does what the function does, always."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from systems import SYSTEMS, Made, affine, bold, randn
from test_catalogue import assert_same
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.runtime.guard import Handover

LOWER = torch.ones(6, 6).triu(1)
COUNTER = [0]
HERE = "test_capture.py:"


pytestmark = pytest.mark.usefixtures("one_thread")


def written(x: Tensor, i: int, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, i] = value
    return x


LITERALS: dict[str, Callable[[Tensor], Tensor]] = {}


def literal(use: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    LITERALS[use.__name__] = use
    return use


@literal
def viewed(h: Tensor) -> Tensor:
    return h * torch.tensor([0.5]).view(1, 1)


@literal
def written_in_place(h: Tensor) -> Tensor:
    t = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0, 5.0])
    before = h * t
    t += 1
    return before + h * t


@literal
def written_through_a_view(h: Tensor) -> Tensor:
    t = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0, 5.0])
    t[1:] += 1
    return h * t


@literal
def an_index_that_is_written(h: Tensor) -> Tensor:
    k = torch.tensor([2])
    k.view(1).add_(1)
    return h * torch.arange(6.0)[k]


@pytest.mark.parametrize("name", LITERALS)
def test_a_tensor_made_from_numbers_in_a_step_may_be_viewed_and_written(name: str) -> None:
    def sample(u: Tensor) -> Tensor:
        return ffc.fori_loop(0, 6, lambda i, x: written(x, i, (LITERALS[name](x @ LOWER) + u)[:, i]), torch.zeros(3, 6))

    noise = randn(3, 6)
    compiled = bold(ffc.compile(sample, (noise,), schedule="jacobi"))
    assert_same(compiled(noise), sample(noise))


def test_an_argument_that_only_dead_code_reads_is_no_input_of_the_program() -> None:
    def sample(u: Tensor, other: Tensor) -> Tensor:
        other.clone()
        return ffc.fori_loop(0, 6, lambda i, x: written(x, i, (x @ LOWER + u)[:, i]), torch.zeros(3, 6))

    args = randn(3, 6), randn(3, 6, seed=1)
    assert_same(ffc.compile(sample, args)(*args), sample(*args))


def looped(body: Callable[[int, Tensor, Tensor], Any], n: int = 6) -> Callable[[Tensor], Any]:
    def sample(u: Tensor) -> Any:
        return ffc.fori_loop(0, n, lambda i, x: body(i, x, u), torch.zeros_like(u))

    return sample


def plain(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, torch.tanh(x @ LOWER)[:, i] + u[:, i])


def test_the_body_may_read_one_of_several_results_of_an_operator_before_the_loop() -> None:
    def sample(u: Tensor) -> Tensor:
        ordered, places = u.sort(1)
        body = looped(lambda i, x, u: written(x, i, torch.tanh(x @ LOWER)[:, i] + u[:, i] * places[:, i]))
        return body(ordered)

    compiled = bold(ffc.compile(sample, (randn(3, 6),), schedule="jacobi"))
    for seed in (0, 1):
        assert_same(compiled(randn(3, 6, seed=seed)), sample(randn(3, 6, seed=seed)))


def test_a_loop_that_starts_from_its_noise_may_read_it_as_the_argument_that_it_is() -> None:
    def sample(u: Tensor) -> Tensor:
        return ffc.fori_loop(0, 6, lambda i, x: written(x, i, torch.tanh(x @ LOWER)[:, i] + u[:, i]), u)

    compiled = bold(ffc.compile(sample, (randn(3, 6),), schedule="jacobi"))
    for seed in (0, 1):
        assert_same(compiled(randn(3, 6, seed=seed)), sample(randn(3, 6, seed=seed)))


# ---------------------------------------------------------------------------------------------------- refusals


def _branch_on_data(u: Tensor) -> Tensor:
    if u.sum() > 0:
        u = u * 2
    return looped(plain)(u)


def _item(u: Tensor) -> Tensor:
    return looped(plain)(u * u.max().item())


def _item_in_the_body(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + float(x[0, 0]))


def _counter(i: int, x: Tensor, u: Tensor) -> Tensor:
    COUNTER[0] += 1
    return written(x, i, (x @ LOWER)[:, i] + u[:, i] * COUNTER[0])


def _python_random(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + u[:, i] * random.random())


def _numpy_random(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + u[:, i] * float(np.random.rand()))


def _first_step_differs(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ LOWER + u if i == 0 else torch.tanh(x @ LOWER) + u
    return written(x, i, y[:, i])


def _prefix(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, x[:, :i].sum(1) + u[:, i])


def _growing(i: int, x: Tensor, u: Tensor) -> Tensor:
    return torch.cat([x, u[:, i : i + 1]], 1)


def _draws(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + torch.poisson(u.abs())[:, i])


def _draws_where_negative(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, F.rrelu(x @ LOWER + u, training=True)[:, i])


LOG = torch.zeros(6)


def _writes_into_a_closure(i: int, x: Tensor, u: Tensor) -> Tensor:
    LOG[i] = u[0, i]
    return plain(i, x, u)


def _returns_a_tuple(i: int, x: Tensor, u: Tensor) -> Any:
    return (plain(i, x if isinstance(x, Tensor) else x[0], u), u)


def _returns_a_number(i: int, x: Tensor, u: Tensor) -> Any:
    return 3.0


def _torch_equal(u: Tensor) -> Tensor:
    return looped(plain)(u * 2 if torch.equal(u, u.abs()) else u)


def _allclose(u: Tensor) -> Tensor:
    return looped(plain)(u * 2 if torch.allclose(u, u.abs()) else u)


CAPTURE_REFUSALS: list[tuple[str, Callable[[Tensor], Any], tuple[str, ...]]] = [
    ("item", _item, ("Python number", HERE)),
    ("item_in_the_body", looped(_item_in_the_body), ("Python number", HERE)),
    ("counter", looped(_counter), ("each call of the function leaves something else in 0 of list",)),
    ("python_random", looped(_python_random), ("used the number", HERE)),
    ("numpy_random", looped(_numpy_random), ("used the number", HERE)),
    ("first_step_differs", looped(_first_step_differs), ("step 1", HERE)),
    ("prefix", looped(_prefix), ("step 1", HERE, "grow")),
    ("growing", looped(_growing), ("another form",)),
    ("draws", looped(_draws), ("draws random numbers", HERE)),
    ("draws_where_negative", looped(_draws_where_negative), ("draws random numbers", HERE)),
    ("closure_write", looped(_writes_into_a_closure), ("outside the loop's state", HERE)),
    ("tuple", looped(_returns_a_tuple), ("another form",)),
    ("number", looped(_returns_a_number), ("may hold tensors only",)),
    ("no_loop", lambda u: u + 1, ("no loop whose steps are alike",)),
    ("no_steps", lambda u: looped(plain, 0)(u), ("no steps", HERE)),
]


@pytest.mark.parametrize(("name", "function", "says"), CAPTURE_REFUSALS, ids=[c[0] for c in CAPTURE_REFUSALS])
def test_what_cannot_be_captured_says_why_and_where(name: str, function: Any, says: tuple[str, ...]) -> None:
    u = randn(3, 6)
    with pytest.raises(ffc.FFCompilerError) as caught:
        ffc.compile(function, (u,), schedule="jacobi")
    for words in says:
        assert words in str(caught.value), str(caught.value)


@pytest.mark.parametrize(("name", "function", "says"), CAPTURE_REFUSALS, ids=[c[0] for c in CAPTURE_REFUSALS])
def test_what_cannot_be_captured_runs_under_auto_as_the_function_does(name: str, function: Any, says: Any) -> None:
    compiled = ffc.compile(function, (randn(3, 6),))
    for seed in (0, 3):
        u = randn(3, 6, seed=seed) - 0.2
        results = []
        for call in (compiled, function):
            torch.manual_seed(5)
            random.seed(5)
            np.random.seed(5)
            COUNTER[0] = 0
            with torch.no_grad():
                results.append(call(u))
        assert_same(*results)


def test_an_argument_that_is_no_tensor_and_no_constant_is_named() -> None:
    with pytest.raises(ffc.CaptureError, match=r"u is a object"):
        ffc.compile(looped(plain), (object(),), schedule="jacobi")


def test_constants_among_the_arguments_are_part_of_the_program() -> None:
    def sample(u: Tensor, n: int, name: str = "tanh") -> Tensor:
        return looped(lambda i, x, u: written(x, i, getattr(torch, name)(x @ LOWER)[:, i] + u[:, i]), n)(u)

    compiled = ffc.compile(sample, (randn(3, 6), 4), {"name": "sigmoid"})
    assert_same(compiled(randn(3, 6), 4, name="sigmoid"), sample(randn(3, 6), 4, "sigmoid"))
    assert compiled.plan.program is not None
    assert [leaf.constant for leaf in compiled.plan.program.signature.leaves] == [None, "4", "'sigmoid'"]
    assert_same(compiled(randn(3, 6), 5, name="sigmoid"), sample(randn(3, 6), 5, "sigmoid"))


def test_keywords_may_come_in_any_order() -> None:
    def sample(a: Tensor, b: Tensor) -> Tensor:
        return looped(plain)(a - b)

    a, b = randn(3, 6), randn(3, 6, seed=1)
    compiled = ffc.compile(sample, (), {"a": a, "b": b})
    assert_same(compiled(b=b, a=a), sample(a, b))


def test_nested_loops_run_as_the_author_wrote_them() -> None:
    def body(i: int, x: Tensor, u: Tensor) -> Tensor:
        y = ffc.fori_loop(0, 3, lambda j, h: torch.tanh(h @ LOWER) + u, x)
        return written(x, i, y[:, i])

    function, u = looped(body), randn(3, 6)
    compiled = bold(ffc.compile(function, (u,)))
    assert_same(compiled(u * 2), function(u * 2))


def test_a_state_of_two_tensors_is_refused_by_name() -> None:
    def sample(u: Tensor) -> Any:
        def step(i: int, state: Any) -> Any:
            x, h = state
            return written(x, i, (x @ LOWER)[:, i] + u[:, i]), torch.tanh(h + x)

        return ffc.fori_loop(0, 6, step, (torch.zeros_like(u), torch.zeros_like(u)))

    with pytest.raises(ffc.CausalityError, match="state is 2 tensors"):
        ffc.compile(sample, (randn(3, 6),), schedule="jacobi")
    assert_same(ffc.compile(sample, (randn(3, 6),))(randn(3, 6, seed=1)), sample(randn(3, 6, seed=1)))


def test_a_module_behind_a_cache_is_found_and_its_weights_are_live() -> None:
    @lru_cache(maxsize=1)
    def model() -> Made:
        return Made(6)

    def sample(u: Tensor) -> Tensor:
        return affine(model(), 6)(u)

    u = randn(3, 6)
    compiled = bold(ffc.compile(sample, (u,), schedule="jacobi"))
    with torch.no_grad():
        model().fc.weight.mul_(2)
        assert_same(compiled(u), sample(u))
        model().mid.bias = torch.nn.Parameter(randn(24, seed=77))
        assert_same(compiled(u), sample(u))


# ---------------------------------------------------------------------------------- values that are baked silently


def _tolist(u: Tensor) -> Tensor:
    return looped(plain)(u * u.max().tolist())


def _numpy(u: Tensor) -> Tensor:
    return looped(plain)(u * float(u.numpy().max()))


def _tensor_of_numbers(u: Tensor) -> Tensor:
    return looped(plain)(u * torch.Tensor([[u.abs().max().tolist()]]))


def _through_a_buffer(u: Tensor) -> Tensor:
    buffer = torch.zeros(2)
    buffer[0] = u.max()
    return looped(plain)(u * buffer.sum().item())


def _count_of_a_boolean_index(u: Tensor) -> Tensor:
    return looped(plain)(u * u[u > 0].numel())


def _count_of_nonzero(u: Tensor) -> Tensor:
    return looped(plain)(u * torch.nonzero(u > 0).shape[0])


def _count_of_unique(u: Tensor) -> Tensor:
    return looped(plain)(u * len(torch.unique(u.round())))


def _sorted_list(u: Tensor) -> Tensor:
    return looped(plain)(u * sorted(u.flatten().tolist())[0])


def _kept_by_the_body(u: Tensor) -> Tensor:
    peaks: list[Tensor] = []

    def body(i: int, x: Tensor, u: Tensor) -> Tensor:
        peaks.append(u.amax())
        return plain(i, x, u)

    return looped(body)(u) + peaks[-1]


def _numpy_in_the_body(u: Tensor) -> Tensor:
    return looped(lambda i, x, u: written(x, i, (x @ LOWER)[:, i] + u[:, i] * float(u.numpy().max())))(u)


BAKED = [
    _tolist, _numpy, _tensor_of_numbers, _through_a_buffer, _count_of_a_boolean_index, _count_of_nonzero,
    _count_of_unique, _sorted_list, _kept_by_the_body, _numpy_in_the_body, _branch_on_data, _torch_equal, _allclose,
]  # fmt: skip


@pytest.mark.parametrize("function", BAKED, ids=lambda f: f.__name__)
def test_a_value_that_leaves_the_tensor_world_is_never_baked(function: Any) -> None:
    """Each value here is the same for the same numbers in another order: shuffling does not show that it is baked."""
    u = randn(3, 6)
    try:
        compiled = bold(ffc.compile(function, (u,), schedule="jacobi"))
    except ffc.FFCompilerError:
        compiled = bold(ffc.compile(function, (u,)))
    for other in (u, u * 3 + 1, u.abs(), u - 2):
        assert_same(compiled(other), function(other))


def test_a_second_run_that_differs_is_run_as_it_is_under_auto() -> None:
    """The replay catches what the recorder does not see; by itself that is a reason to run sequentially, no error."""

    def sample(u: Tensor) -> Tensor:
        return looped(plain)(u * torch.Tensor([[u[0, 0].tolist()]]))

    u = randn(3, 6)
    with pytest.raises(ffc.CaptureError):
        ffc.compile(sample, (u,), schedule="jacobi")
    compiled = ffc.compile(sample, (u,))
    assert_same(compiled(u + 1), sample(u + 1))


def test_numpy_noise_is_refused_or_runs_as_it_is() -> None:
    def sample(u: Tensor) -> Tensor:
        return looped(plain)(u + torch.from_numpy(np.random.rand(3, 6).astype("float32")))

    u = randn(3, 6)
    with pytest.raises(ffc.CaptureError):
        ffc.compile(sample, (u,), schedule="jacobi")
    compiled = ffc.compile(sample, (u,))
    np.random.seed(0)
    got = compiled(u)
    np.random.seed(0)
    assert_same(got, sample(u))


def test_hidden_state_in_a_step_that_is_not_looked_at_closely_is_still_seen() -> None:
    table = np.ones((3, 6), dtype=np.float32)
    calls = [0]

    def sample(u: Tensor) -> Tensor:
        calls[0] += 1
        table[:, 4] = calls[0]  # read by step 4 only
        return looped(plain)(u * torch.from_numpy(table.copy()))

    u = randn(3, 6)
    compiled = bold(ffc.compile(sample, (u,)))
    calls[0] = 10
    got = compiled(u)
    calls[0] = 10
    assert_same(got, sample(u))


def test_a_large_literal_of_a_dtype_that_numpy_does_not_have_is_no_trouble() -> None:
    def sample(u: Tensor) -> Tensor:
        scale = torch.tensor([float(i) for i in range(20)], dtype=torch.bfloat16)
        return looped(plain)(u * scale[:6].float())

    u = randn(3, 6)
    compiled = bold(ffc.compile(sample, (u,)))
    assert_same(compiled(u), sample(u))


def test_literals_in_a_body_are_kept() -> None:
    def body(i: int, x: Tensor, u: Tensor) -> Tensor:
        shift = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        return written(x, i, (torch.tanh(x @ LOWER) + shift + torch.tensor(2.0))[:, i] + u[:, i])

    u = randn(3, 6)
    compiled = bold(ffc.compile(looped(body), (u,), schedule="jacobi"))
    assert_same(compiled(u * 2), looped(body)(u * 2))


def test_order_held_in_a_tensor_runs_right() -> None:
    order = torch.tensor([3, 1, 0, 5, 2, 4])

    def body(i: int, x: Tensor, u: Tensor) -> Tensor:
        x = x.clone()
        x[:, order[i]] = u[:, order[i]] + x.sum(1) * 0.1
        return x

    u = randn(3, 6)
    compiled = bold(ffc.compile(looped(body), (u,)))
    assert_same(compiled(u * 2), looped(body)(u * 2))
    order.copy_(order.flip(0))
    assert_same(compiled(u * 2), looped(body)(u * 2))


def test_capture_leaves_no_trace() -> None:
    model = Made(6)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    ffc.compile(affine(model, 6), (randn(3, 6),), schedule="jacobi")
    assert torch.equal(torch.get_rng_state(), state)
    assert not model._forward_pre_hooks and torch.is_grad_enabled()
    for k, v in model.state_dict().items():
        assert_same(v, kept[k])


def test_compiling_in_inference_mode_is_refused_with_what_to_do() -> None:
    function, args = SYSTEMS["conv_1d"].make()
    with torch.inference_mode():
        compiled = ffc.compile(function, args)
        assert compiled.plan.refusal is not None and "compile outside of it" in compiled.plan.refusal
        assert_same(compiled(*args), function(*args))


# ---------------------------------------------------------------------------------- what a function keeps to itself


class Streaming(torch.nn.Module):
    """Begins each call with the state that the last one left."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(2, 4))
        self.weight = torch.nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        for t in range(x.shape[1]):
            self.h = torch.tanh(self.h @ self.weight + x[:, t])
        return self.h


def test_a_state_that_goes_from_call_to_call_is_left_by_every_call_and_not_moved_by_compiling() -> None:
    ours, theirs = Streaming(), Streaming()
    x = randn(2, 9, 4)
    with pytest.raises(ffc.CaptureError, match="something else in 'h' of Streaming"):
        ffc.compile(ours, (x,), schedule="jacobi")
    compiled = ffc.compile(ours, (x,))
    assert torch.equal(ours.h, theirs.h)
    for call in (x, x[:, :5], 2 * x):  # the second one is compiled for on first use
        with torch.no_grad():
            assert_same(compiled(call), theirs(call))
        assert torch.equal(ours.h, theirs.h)


class Remembering(torch.nn.Module):
    """Leaves its last state for whoever wants to see it; loads a table on first use."""

    def __init__(self) -> None:
        super().__init__()
        self.h: Tensor | None = None
        self.table: Tensor | None = None
        self.loaded = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.loaded, self.table = self.loaded + 1, torch.linspace(0.1, 0.9, 4)
        self.h = torch.zeros(2, 4)
        for t in range(x.shape[1]):
            self.h = self.h * self.table + x[:, t]
        return self.h * 1.0


def test_what_is_loaded_once_stays_and_what_is_left_behind_is_told() -> None:
    module, x = Remembering(), randn(2, 9, 4)
    compiled = bold(ffc.compile(module, (x,), schedule="jacobi"))
    assert module.loaded == 1 and module.h is None
    assert_same(compiled(2 * x), module(2 * x))
    assert module.loaded == 1
    told = "\n".join(compiled.explain().why)
    assert "calls also leave what the function leaves in h" in told


def test_a_generator_of_the_users_own_is_as_it_was_after_compiling_and_verifying() -> None:
    own = torch.Generator()

    def run(x: Tensor) -> Tensor:
        for _ in range(8):
            x = torch.tanh(x) + torch.randn(x.shape, generator=own)
        return x

    before = own.get_state()
    compiled = ffc.compile(run, (torch.zeros(2, 3),))
    assert torch.equal(own.get_state(), before)
    assert compiled.verify(torch.zeros(2, 3)).equal
    own.manual_seed(3)
    expected = run(torch.zeros(4, 3))
    own.manual_seed(3)
    assert_same(compiled(torch.zeros(4, 3)), expected)


COUNT = 0


def test_variables_and_entries_are_as_they_were_after_compiling() -> None:
    seen, log, kinds, calls = {"n": 0}, [1], {1}, 0

    def run(x: Tensor) -> Tensor:
        global COUNT
        nonlocal calls
        COUNT, calls = COUNT + 1, calls + 1
        seen["n"] += 1
        log.append(len(log))
        kinds.add(len(log))
        for _ in range(8):
            x = torch.relu(x * 0.5 + 0.1)
        return x

    compiled = ffc.compile(run, (randn(3, 6),))
    assert (COUNT, calls, seen, log, kinds) == (0, 0, {"n": 0}, [1], {1})
    compiled(randn(3, 6))
    assert (COUNT, calls, seen, log, kinds) == (1, 1, {"n": 1}, [1, 1], {1, 2})


@pytest.mark.parametrize("change", [lambda h, x: h.append(x), lambda h, x: h.__setitem__(0, x)], ids=["append", "set"])
def test_a_function_that_changes_a_container_it_is_given_runs_as_it_is(change: Any) -> None:
    def run(x: Tensor, given: list[Tensor]) -> Tensor:
        for _ in range(8):
            x = torch.relu(x * 0.5 + 0.1)
        change(given, x)
        return x * 2

    x, example = randn(3, 6), [torch.zeros(3, 6)]
    with pytest.raises(ffc.CaptureError, match="changes a list or a dict that it is given"):
        ffc.compile(run, (x, example), schedule="jacobi")
    compiled = ffc.compile(run, (x, example))
    assert len(example) == 1 and not example[0].any()
    given, expected = [torch.zeros(3, 6)], [torch.zeros(3, 6)]
    assert_same(compiled(x, given), run(x, expected))
    assert len(given) == len(expected) and torch.equal(given[-1], expected[-1])


def test_a_function_that_does_not_take_other_values_runs_as_it_is() -> None:
    known = randn(3, 4)

    def run(x: Tensor) -> Tensor:
        root = torch.linalg.cholesky(torch.eye(4) * (1 - 1e6 * (x - known).abs().sum()))
        for _ in range(8):
            x = torch.tanh(x @ root)
        return x

    with pytest.raises(ffc.CaptureError, match="on other inputs the function raises _LinAlgError"):
        ffc.compile(run, (known.clone(),), schedule="jacobi")
    assert_same(ffc.compile(run, (known.clone(),))(known.clone()), run(known))


def test_of_a_function_that_takes_near_values_only_near_ones_are_tried() -> None:
    known = randn(3, 4)

    def run(x: Tensor) -> Tensor:
        torch.linalg.cholesky(torch.eye(4) * (1.1 - (x - known).abs().max()))
        for _ in range(8):
            x = torch.tanh(x @ torch.ones(4, 4))
        return x

    with pytest.raises(ffc.CaptureError, match=r"linalg_cholesky_ex.* is not among those"):
        ffc.compile(run, (known.clone(),), schedule="jacobi")


@pytest.mark.parametrize("keeps", [True, False], ids=["a number", "nothing"])
def test_a_body_that_keeps_a_number_is_not_begun_in_its_middle(keeps: bool) -> None:
    def run(noise: Tensor) -> Tensor:
        decay = 1.0

        def body(i: int, x: Tensor) -> Tensor:
            nonlocal decay
            decay = decay * 0.9 if keeps else 1.0
            return written(x, i, torch.tanh(x @ LOWER)[:, i] * decay + noise[:, i])

        return ffc.fori_loop(0, 6, body, torch.zeros_like(noise))

    noise = randn(3, 6)
    compiled = ffc.compile(run, (noise,), schedule="jacobi")
    assert compiled.live is not None
    assert compiled.live.handover(compiled.plan) is (Handover.CAPTURED if keeps else Handover.RESUMED)
    assert_same(compiled(2 * noise), run(2 * noise))


def test_what_comes_after_a_loop_may_refuse_a_state_that_is_not_the_last() -> None:
    def run(noise: Tensor) -> Tensor:
        x = looped(plain)(noise)
        if bool((x == 0).any()):
            raise ValueError("a position was left out")
        return x

    noise = randn(3, 6)
    compiled = bold(ffc.compile(run, (noise,), schedule="jacobi"))
    assert_same(compiled(2 * noise), run(2 * noise))


def test_slices_of_two_are_not_collected_by_halves() -> None:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, left = torch.zeros(3), torch.zeros(3, 12)
        for i in range(6):
            h = h * 0.5 + x[:, i]
            left[:, 2 * i : 2 * i + 2] = torch.stack([torch.relu(h), torch.relu(-h)], 1)
        return left, h

    compiled = bold(ffc.compile(run, (randn(3, 6).abs(),), schedule="jacobi"))
    x = -randn(3, 6).abs() - 1
    for ours, theirs in zip(compiled(x), run(x), strict=True):
        assert_same(ours, theirs)


def test_scripted_modules_are_recorded_and_their_weights_watched() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        layer = torch.jit.script(torch.nn.Linear(6, 6))

    def run(x: Tensor) -> Tensor:
        for _ in range(8):
            x = torch.relu(layer(x) * 0.25)
        return x

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    compiled = ffc.compile(run, (x,), schedule="jacobi", equality=ffc.tolerance())
    assert str(compiled.plan.schedule) == "jacobi"
    with torch.no_grad():
        layer.weight.mul_(0.5)
        torch.testing.assert_close(compiled(x), run(x))
