"""Steps one after the other: what each is given of a tensor is the view that the recorded call makes."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.choice import rest_costs
from ffcompiler.choice.timing import heap_aside
from ffcompiler.loops import drive_loops
from ffcompiler.modes import _NAMES, ambient
from ffcompiler.runtime.steps import Row, Steps, make_steps

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.data())
def test_all_views_of_a_row_are_those_of_its_steps(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[dim]
    places = data.draw(st.lists(st.integers(-size, size - 1), max_size=12))
    start = data.draw(st.integers(0, len(places)))
    stop = data.draw(st.integers(start, len(places)))
    tensor = torch.arange(torch.Size(shape).numel()).view(shape).transpose(0, -1)
    env = {"x": tensor.transpose(0, -1)}
    row = Row("r", "x", dim, places)
    views = row.views(env, start, stop)
    assert len(views) == stop - start
    for k, view in enumerate(views, start):
        expected = env["x"].select(dim, places[k])
        assert torch.equal(view, expected) and torch.equal(row.at(env, k), expected)
        assert (view.stride(), view.storage_offset()) == (expected.stride(), expected.storage_offset())
        assert view.untyped_storage().data_ptr() == expected.untyped_storage().data_ptr()


@pytest.mark.parametrize("place", [6, -7])
def test_a_slice_that_is_not_there_is_not_taken_for_another(place: int) -> None:
    row = Row("r", "x", 0, (3, place, 4))
    with pytest.raises(IndexError):
        row.views({"x": torch.zeros(6, 2)}, 0, 3)


def backward(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    h, left = torch.zeros(2, 3), []
    for t in reversed(range(x.shape[1])):
        h = torch.tanh(h @ w + x[:, t] * x[:, 0])
        left.append(h)
    return h, torch.stack(left)


@pytest.mark.parametrize("done", [0, 1, 7, 11])
def test_steps_begun_anywhere_give_what_the_loop_gives(done: int) -> None:
    args = randn(2, 12, 3), 0.3 * randn(3, 3)
    compiled = ffc.compile(backward, args, schedule="captured", cache=False)
    program = compiled.plan.program
    assert program is not None and compiled.live is not None
    steps = make_steps(program.loop, compiled.device)  # type: ignore[arg-type]
    execution = compiled.parts[0].runner.begin(args, compiled.live.weights())
    state, kept = execution.init, []
    one = steps.bind(execution.env)
    for k in range(done):
        state, left = one(state, k)[:1], one(state, k)[1:]
        kept.append(left)
    before = tuple(torch.stack(column) for column in zip(*kept, strict=True))
    found = steps.finish(execution.env, state, before, done)
    last, collected = backward(*args)
    assert torch.equal(found[0], last) and torch.equal(found[1], collected)
    assert len(steps.rows) == 1 and all(
        torch.equal(a, b) for a, b in zip(compiled(*args), (last, collected), strict=True)
    )


POINTED = 20


def pointed(x: Tensor, y: Tensor) -> Tensor:
    """The state holds the place of the next input: a step more than there are reads past the end."""
    h, i = torch.zeros(3), torch.zeros(1, dtype=torch.long)
    for t in range(POINTED):
        h = torch.tanh(h + x.index_select(0, i).squeeze(0) + y[t] * 1.0)
        i = i + 1
    return h


def repeated(x: Tensor) -> Tensor:
    h, i = torch.zeros(3), torch.zeros(1, dtype=torch.long)
    for _ in range(POINTED):
        h = torch.tanh(h + x.index_select(0, i).squeeze(0))
        i = i + 1
    return h


def test_what_is_timed_are_steps_that_occur() -> None:
    x, y = randn(POINTED, 3), randn(POINTED, 3)
    compiled = ffc.compile(pointed, (x, y), equality=ffc.tolerance(1e-5, 1e-5), cache=False)
    costs = compiled.plan.costs
    assert costs is not None and costs.captured and costs.after > 0.0
    again = ffc.compile(repeated, (x,), cache=False)
    assert torch.equal(again(x), repeated(x)) and torch.equal(compiled(x, y), pointed(x, y))


def test_of_slow_steps_two_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    args, loose = (randn(2, 64, 3), randn(3, 3)), ffc.tolerance(1e-5, 1e-5)
    compiled = ffc.compile(backward, args, schedule="captured", equality=loose, cache=False)
    assert compiled.live is not None
    part, known = compiled.parts[0].runner, compiled.live.captured.replays[0]
    spans: list[int] = []
    run = Steps.run

    def counted(self: Steps, env: Any, state: Any, start: int, stop: int) -> Any:
        spans.append(stop - start)
        return run(self, env, state, start, stop)

    monkeypatch.setattr(Steps, "run", counted)
    for pace, most in ((1.0, 2), (1e-5, 32 * 30)):
        clock, spans[:] = itertools.count(step=pace), []
        execution = part.begin(known.arguments, compiled.live.weights())
        seconds = rest_costs._step(part, execution, known, lambda clock=clock: float(next(clock)))  # type: ignore[misc]
        assert 0.0 < seconds <= pace and 2 <= sum(spans) <= most


def test_while_schedules_are_decided_the_collector_leaves_old_objects_alone() -> None:
    assert gc.get_freeze_count() == 0
    with heap_aside():
        frozen = gc.get_freeze_count()
        with heap_aside():
            assert gc.get_freeze_count() == frozen > 1000
        assert gc.get_freeze_count() == frozen  # the inner one has set nothing aside
    assert gc.get_freeze_count() == 0

    @heap_aside()
    def fails() -> None:
        raise KeyError(gc.get_freeze_count())

    with pytest.raises(KeyError, match=r"\d{4}"):
        fails()
    assert gc.get_freeze_count() == 0


def halved(x: Tensor) -> Any:
    return ffc.fori_loop(0, 3, lambda i, h: 0.5 * h, x)


def test_the_reference_is_the_function_without_gradients_and_with_its_own_loops() -> None:
    compiled = ffc.compile(halved, (randn(3),), cache=False)
    assert compiled.live is not None
    weight = torch.ones(3, requires_grad=True)
    assert not compiled.live.reference((weight,), {}).requires_grad and torch.is_grad_enabled()

    class Doubled:
        def run(self, lo: int, hi: int, body: Any, init: Any) -> Any:
            return 2.0 * init

    with torch.no_grad(), drive_loops(Doubled()):
        assert torch.equal(halved(weight), 2.0 * weight)
        assert torch.equal(compiled.live.reference((weight,), {}), 0.125 * weight)


def test_the_default_device_is_seen_however_it_is_set() -> None:
    place = [name.startswith("default device") for name in _NAMES].index(True)
    assert ambient()[place] == torch.device("cpu")
    with torch.device("meta"):
        assert ambient()[place] == torch.device("meta")
    torch.set_default_device("meta")
    try:
        assert ambient()[place] == torch.device("meta")
    finally:
        torch.set_default_device(None)
    assert ambient()[place] == torch.device("cpu")
