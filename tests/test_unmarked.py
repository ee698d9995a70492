"""Plain Python loops: each pattern of `unmarked.py` is captured, gives the bits of the function, and can be solved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from systems import bold
from torch import Tensor
from unmarked import ALL, Program, T, cell, masked, randn

import ffcompiler as ffc
from ffcompiler.capture import capture
from ffcompiler.capture.repeats import Footprints
from ffcompiler.plan import Method, Schedule
from ffcompiler.program import ArrayLoop, Loop, Recurrence, RepeatedMap
from ffcompiler.trees import flatten

STEPS = {
    "raster": 20, "gru_from_nothing": T - 1, "skips_of_two": T - 2, "first_step_differs": T - 1, "layers_of_a_list": 6,
}  # fmt: skip
ARRAYS = {"in_place", "out_of_place", "raster", "permuted_order", "order_in_a_tensor", "binary_image"}


@pytest.fixture(params=ALL, ids=str)
def pattern(request: pytest.FixtureRequest) -> tuple[str, Program]:
    return request.param, ALL[request.param]()


def tensors(value: Any) -> list[Tensor]:
    return [leaf for _, leaf in flatten(value)[0] if isinstance(leaf, Tensor)]


def assert_same(a: Any, b: Any) -> None:
    for got, expected in zip(tensors(a), tensors(b), strict=True):
        assert torch.equal(got, expected)


def other(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.flip(-1) if a.dtype == torch.int64 else a * 0.7 + 0.1 for a in arguments)


def seeded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        return function(*arguments)


@pytest.mark.usefixtures("one_thread")
def test_the_captured_loop_gives_the_bits_of_the_function(pattern: tuple[str, Program], tmp_path: Path) -> None:
    name, (function, arguments) = pattern
    compiled = ffc.compile(function, arguments, schedule="sequential")
    program = compiled.plan.program
    assert program is not None, compiled.plan.refusal
    assert program.loop.hi - program.loop.lo == STEPS.get(name, T if name != "every_third_step" else 3)
    compiled.save(tmp_path / "p.ffc")
    loaded = ffc.load(tmp_path / "p.ffc")  # its reference is the captured loop
    for given in (arguments, other(arguments)):
        assert_same(seeded(loaded.reference, given), seeded(function, given))


@pytest.mark.usefixtures("one_thread")
def test_arrays_are_solved_with_the_same_bits(pattern: tuple[str, Program]) -> None:
    name, (function, arguments) = pattern
    if name not in ARRAYS:
        pytest.skip("no array loop")
    compiled = bold(ffc.compile(function, arguments, schedule="jacobi"))
    assert isinstance(compiled.plan.system, ArrayLoop)
    for given in (arguments, other(arguments)):
        torch.manual_seed(3)
        result, record = compiled.run(*given)
        assert record.certified == record.blocks
        assert_same(result, seeded(function, given))


@pytest.mark.usefixtures("one_thread")
def test_other_loops_are_solved_within_a_tolerance(pattern: tuple[str, Program]) -> None:
    name, (function, arguments) = pattern
    if name in ARRAYS:
        pytest.skip("an array loop")
    equality = ffc.tolerance(1e-6, 1e-6)
    compiled = bold(ffc.compile(function, arguments, equality=equality, schedule="jacobi"))
    assert isinstance(compiled.plan.system, Recurrence | RepeatedMap)
    torch.manual_seed(3)
    result, record = compiled.run(*arguments)
    assert record.certified == record.blocks
    for got, expected in zip(tensors(result), tensors(seeded(function, arguments)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_arrays_that_steps_only_write_are_collected() -> None:
    function, arguments = ALL["written_outputs"]()
    program = ffc.compile(function, arguments, schedule="sequential").plan.program
    assert program is not None
    assert isinstance(program.loop, Loop)
    assert [value.type.shape for value in program.loop.carry] == [(2, 4)]
    assert [value.type.shape for value in program.loop.collected] == [(T, 2, 4)]


@pytest.mark.parametrize("order", [list(range(8)), list(range(7, -1, -1)), list(range(1, 8, 2))], ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("keeps", [False, True])
def test_collected_arrays_are_put_together_as_they_were_written(order: list[int], dim: int, keeps: bool) -> None:
    shape = [3, 4, 5]
    shape[dim] = 8

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, out = x, torch.ones(shape)
        for i in order:
            h = torch.sin(h)
            out.narrow(dim, i, 1)[:] = h.unsqueeze(dim) if keeps else h.unsqueeze(dim) * 2
            if not keeps:
                out.select(dim, i).copy_(h)
        return out, h

    x = randn(*[size for d, size in enumerate(shape) if d != dim])
    compiled = ffc.compile(run, (x,), schedule="sequential")
    assert compiled.plan.program is not None, compiled.plan.refusal
    assert_same(compiled.reference(x), run(x))


def growing(arguments: Any = None) -> Program:
    def generate(tokens: Tensor) -> Tensor:
        for _ in range(8):
            scores = torch.nn.functional.one_hot(tokens, 5).float().cumsum(1)[:, -1]
            tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], dim=1)
        return tokens

    return generate, (torch.tensor([[1], [2]]),)


def counts_by_what_it_finds() -> Program:
    def run(x: Tensor) -> Tensor:
        for _ in range(T):
            for _ in range(int(x.sum() > 0) + int(x.sum())):
                x = x - 1
            x = torch.sin(x)
        return x

    return run, (randn(4),)


@pytest.mark.parametrize(
    ("program", "words"),
    [(growing, "works on a larger array"), (counts_by_what_it_finds, "becomes a Python number")],
    ids=lambda p: getattr(p, "__name__", None),
)
def test_what_is_not_found_is_refused_with_the_line_and_runs(program: Callable[[], Program], words: str) -> None:
    function, arguments = program()
    with pytest.raises(ffc.CaptureError, match=words) as caught:
        ffc.compile(function, arguments, schedule="jacobi")
    assert "test_unmarked.py:" in str(caught.value)
    compiled = ffc.compile(function, arguments)
    assert words in str(compiled.explain())
    assert_same(compiled(*arguments), function(*arguments))


@pytest.mark.usefixtures("one_thread")
def test_an_order_read_from_a_buffer_is_looked_at_in_every_call() -> None:
    model, order = masked(), torch.arange(T)

    def sample(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)
        for i in order:
            j = int(i)
            x[:, j] = model(x)[:, j] + noise[:, j]
        return x

    noise = randn(3, T)
    compiled = bold(ffc.compile(sample, (noise,), schedule="jacobi"))
    assert compiled.run(noise)[1].certified == T
    order.copy_(torch.arange(T).flip(0))
    result, record = compiled.run(noise)
    assert "order has changed" in record.detail
    assert_same(result, sample(noise))


def test_a_number_read_from_an_argument_is_refused() -> None:
    def run(x: Tensor, order: Tensor) -> Tensor:
        h = x[0]
        for i in order:
            h = torch.sin(h + x[int(i)])
        return h

    with pytest.raises(ffc.CaptureError, match="becomes a Python number"):
        capture(run, (randn(T, 3), torch.arange(T)))


def test_views_kept_across_steps_of_an_array_that_is_written_are_not_misread() -> None:
    """``last`` is a view: when step i + 1 reads it, step i + 1 has already written the array."""

    def run(x: Tensor) -> Tensor:
        out = x.clone()
        last = out[0]
        for i in range(1, T):
            out[i - 1] = out[i - 1] * 2
            out[i] = torch.sin(out[i] + last)
            last = out[i]
        return out

    x = randn(T, 3)
    compiled = ffc.compile(run, (x,), on_unsupported="sequential")
    assert_same(compiled(x), run(x))
    assert_same(compiled.reference(x), run(x))


def test_results_kept_as_views_of_what_later_steps_write_are_not_misread() -> None:
    def run(x: Tensor) -> Tensor:
        h, kept = x[0].clone(), []
        for i in range(T):
            h.mul_(0.5).add_(x[i])
            kept.append(h)  # the same tensor each time
        return torch.stack(kept)

    x = randn(T, 3)
    compiled = ffc.compile(run, (x,), equality=ffc.tolerance(1e-6, 1e-6), on_unsupported="sequential")
    assert_same(compiled(x), run(x))
    assert_same(bold(compiled)(x), run(x))


def test_states_that_begin_as_one_tensor_which_is_written_are_not_told_apart_wrongly() -> None:
    def kept_under_two_names(x: Tensor) -> tuple[Tensor, Tensor]:
        s, out = torch.ones(3), torch.zeros(T, 3)
        past = [s, s]
        for t in range(T):
            s *= 0.5
            s += x[t]
            out[t] += past[-2]
            past.append(x[t] * 1.0)
        return s, out

    def begins_as_the_same(x: Tensor) -> tuple[Tensor, Tensor]:
        a = b = torch.ones(3)
        for t in range(T):
            a.mul_(0.5)
            a, b = torch.sin(a + x[t]), b + a
        return a, b

    def written_once_and_replaced(x: Tensor) -> Tensor:
        h = torch.ones(3)
        for t in range(T):
            h.mul_(0.5)
            h = torch.sin(h + x[t])
        return h

    for run in (kept_under_two_names, begins_as_the_same, written_once_and_replaced):
        x = randn(T, 3)
        compiled = bold(ffc.compile(run, (x,), equality=ffc.tolerance(1e-6, 1e-6)))
        assert "not deterministic" not in str(compiled.explain())
        for got, expected in zip(tensors(compiled(x)), tensors(run(x)), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        if run is written_once_and_replaced:
            assert isinstance(compiled.plan.system, Recurrence)


def test_what_is_written_after_the_loop_is_not_misread_under_another_name(tmp_path: Path) -> None:
    def last_of_the_list(x: Tensor) -> Tensor:
        h, kept = x[0], []
        for i in range(T):
            h = torch.sin(h + x[i])
            kept.append(h)
        kept[-1].add_(1)
        return torch.stack(kept)

    def views_of_the_array(x: Tensor) -> tuple[Tensor, Tensor]:
        out, kept = x.clone(), []
        for i in range(T):
            out[i] = torch.sin(out[i] + out[i - 1])
            kept.append(out[i])
        out.zero_()
        return torch.stack(kept), out

    def a_view_from_before(x: Tensor) -> tuple[Tensor, Tensor]:
        h, out = x[0], torch.zeros(T, 3)
        first = out[0]
        for i in range(T):
            h = torch.sin(h + x[i])
            out[i] = h
        return first * 2, out

    for run in (last_of_the_list, views_of_the_array, a_view_from_before):
        x = randn(T, 3)
        compiled = ffc.compile(run, (x,), equality=ffc.tolerance(1e-6, 1e-6), on_unsupported="sequential")
        if compiled.plan.program is not None:
            compiled.save(tmp_path / "p.ffc", force=True)
            assert_same(ffc.load(tmp_path / "p.ffc").reference(x), run(x))
        for got, expected in zip(tensors(bold(compiled)(x)), tensors(run(x)), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_capture_leaves_no_trace_of_a_function_that_it_refuses() -> None:
    weight = randn(4, 4)
    before = weight.clone()

    def run(x: Tensor) -> Tensor:
        for _ in range(T):
            weight.mul_(0.99)
            x = torch.sin(x @ weight)
        return x

    with pytest.raises(ffc.CaptureError, match="writes"):
        capture(run, (randn(2, 4),))
    assert torch.equal(weight, before)


def test_weights_are_fetched_anew_in_every_call() -> None:
    step = cell(torch.nn.RNNCell, 3, 4)

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for x_t in x:
            h = step(x_t, h)
        return h

    x = randn(T, 2, 3)
    compiled = bold(ffc.compile(run, (x,), equality=ffc.tolerance(1e-6, 1e-6), schedule="jacobi"))
    with torch.no_grad():
        step.weight_hh.mul_(0.5)
        torch.testing.assert_close(compiled(x), run(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [("abcabcabcabc", (0, 3, 4)), ("xyabababz", (2, 2, 3)), ("aaaaaa", (0, 1, 6)), ("xabcdabcdabcdabcdyy", (1, 4, 4))],
)
def test_repetitions_are_found(keys: str, expected: tuple[int, int, int]) -> None:
    prints = Footprints(numbers=[ord(k) for k in keys], places=[0] * len(keys))
    prints._places[()] = 0
    best = prints.repeats()[0]
    assert (best.start, best.period, best.count) == expected


def test_a_tensor_written_in_place_is_not_taken_for_a_per_step_input() -> None:
    """The list holds one tensor several times, so that its last entries change with every step.

    On the example all entries are rounded to the same value: only other inputs show the difference.
    """
    start = torch.zeros(1, 3)

    def function(x: Tensor, h: Tensor) -> Tensor:
        state, past = h.clone(), [start, start]
        for t in range(8):
            state *= 0.5
            state += past[-2].round() + torch.minimum(x[:, t], state)
            past.append(state)
        return state

    args = (randn(1, 8, 3) * 1e-3, randn(1, 3, seed=1) * 1e-3)
    compiled = ffc.compile(function, args, equality=ffc.tolerance(1e-6, 1e-6))
    others = (randn(1, 8, 3, seed=2) + 2, randn(1, 3, seed=3) * 3)
    plan = replace(compiled.plan, costs=None, schedule=Schedule(Method.JACOBI))
    if plan.program is not None and plan.refusal is None:
        compiled = ffc.Compiled(plan, compiled.proofs, compiled.prove, compiled.live)
    torch.testing.assert_close(compiled(*others), function(*others), rtol=1e-5, atol=1e-5)
