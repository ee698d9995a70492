"""States are handed over in the strides that the author's loop gives them, expanded ones too."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import randn
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.graph import TensorType
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.layout import laid_out


def kind_of(t: Tensor) -> TensorType:
    return TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape), t.stride())


@given(st.data())
def test_any_strides_are_made_again_with_the_values(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    shared = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    order = data.draw(st.permutations(range(len(shape))))
    base = torch.randn([1 if one else size for size, one in zip(shape, shared, strict=True)]).permute(*order)
    theirs = base.expand([shape[dim] for dim in order])
    made = laid_out(kind_of(theirs), theirs.contiguous())
    assert torch.equal(made, theirs) and made.untyped_storage().data_ptr() != base.untyped_storage().data_ptr()
    assert all(a == b for a, b, size in zip(made.stride(), theirs.stride(), theirs.shape, strict=True) if size > 1)


def test_values_that_differ_where_memory_was_shared_are_kept() -> None:
    expanded = kind_of(torch.zeros(3, 1).expand(3, 4))
    values = torch.arange(12.0).view(3, 4)
    assert torch.equal(laid_out(expanded, values), values)
    nan = torch.full((3, 4), float("nan"))
    assert same_bits(laid_out(expanded, nan), nan) and laid_out(expanded, nan).stride() == (1, 0)
    windows = torch.arange(6.0).unfold(0, 3, 1)
    assert torch.equal(laid_out(kind_of(windows), windows), windows)


def expanding(x: Tensor) -> Tensor:
    h = torch.zeros(2, 4)
    for t in range(12):
        h = torch.tanh(0.5 * h[:, :1] + x[:, t]).expand(-1, 4)
    return h


def test_a_state_that_is_expanded_is_handed_over(tmp_path: Any) -> None:
    x = randn(2, 12, 1)
    compiled = ffc.compile(expanding, (x,), equality=ffc.tolerance(1e-6, 1e-6), schedule="jacobi", cache=False)
    for made in (compiled, _again(compiled, tmp_path / "e.ffc")):
        runner = made.parts[0].runner
        assert runner.recurrent is not None
        weights = made.stored[0] if made.live is None else made.live.weights()
        execution = runner.begin([x], weights)
        state = runner.recurrent.at(runner.recurrent.start_from(execution.init), 3)
        assert state[0].shape == (2, 4)
        torch.testing.assert_close(made(x), expanding(x))


def _again(compiled: ffc.Compiled, path: Any) -> ffc.Compiled:
    compiled.save(path)
    return ffc.load(path)
