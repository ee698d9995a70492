"""Steps one after the other: what each is given of a tensor is the view that the recorded call makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.runtime.steps import Row, make_steps

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.data())
def test_all_views_of_a_row_are_those_of_its_steps(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[dim]
    places = data.draw(st.lists(st.integers(-size, size - 1), max_size=12))
    done = data.draw(st.integers(0, len(places)))
    tensor = torch.arange(torch.Size(shape).numel()).view(shape).transpose(0, -1)
    env = {"x": tensor.transpose(0, -1)}
    row = Row("r", "x", dim, places)
    views = row.views(env, done)
    assert len(views) == len(places) - done
    for k, view in enumerate(views, done):
        expected = env["x"].select(dim, places[k])
        assert torch.equal(view, expected) and torch.equal(row.at(env, k), expected)
        assert (view.stride(), view.storage_offset()) == (expected.stride(), expected.storage_offset())
        assert view.untyped_storage().data_ptr() == expected.untyped_storage().data_ptr()


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
