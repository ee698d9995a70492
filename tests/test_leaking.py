"""Models that only look autoregressive: the result is the loop's, and the leak is named. Their twins are solved."""

from __future__ import annotations

import pytest
import torch
from leaking import MISTAKES
from systems import bold
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.runtime.equality import same_bits


def on(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Other arguments of the same shapes."""
    return tuple(a.flip(-1) * 1.5 for a in arguments)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_model_that_leaks_gives_the_result_of_its_loop(name: str) -> None:
    sample, arguments = MISTAKES[name].make(True)
    compiled = ffc.compile(sample, arguments)
    for given in (arguments, on(arguments)):
        assert same_bits(compiled(*given), sample(*given))
        assert torch.isfinite(sample(*given)).all()
    assert str(compiled.explain()).startswith("sequential: no parallel schedule is sound")


@pytest.mark.parametrize("name", MISTAKES)
def test_the_leak_is_named_with_its_step_position_operator_and_line(name: str) -> None:
    mistake = MISTAKES[name]
    sample, arguments = mistake.make(True)
    with pytest.raises(ffc.CausalityError) as refusal:
        ffc.compile(sample, arguments, schedule="jacobi")
    message = str(refusal.value)
    assert f"step {mistake.step} writes {mistake.writes} and may read {mistake.reads}" in message
    operator, file = mistake.named
    assert any(operator in line and file in line for line in message.splitlines()), message
    assert "no dependence rule" not in message


@pytest.mark.parametrize("name", MISTAKES)
def test_the_corrected_model_is_solved_by_sweeps_to_the_same_bits(name: str) -> None:
    sample, arguments = MISTAKES[name].make(False)
    compiled = bold(ffc.compile(sample, arguments, schedule="jacobi"))
    for given in (arguments, on(arguments)):
        result, record = compiled.run(*given)
        assert same_bits(result, sample(*given))
        assert record.certified == record.blocks, record.detail
        assert len(record.sweeps) > 2


def test_a_row_that_attends_to_all_is_pointed_at() -> None:
    sample, arguments = MISTAKES["attention_with_a_row_of_fillers_is_uniform"].make(True)
    refusal = ffc.compile(sample, arguments).plan.refusal
    assert refusal is not None and "does the mask hide all keys of that row alike?" in refusal


def test_the_hundredth_operator_of_a_leak_is_found_as_the_first_is() -> None:
    """The way back goes through views, chunks and transposes to the element that is to blame."""
    order = torch.tensor([2, 0, 3, 1])

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            h = x.view(2, 2, 2).permute(2, 0, 1).flip(0)
            h = torch.stack(h.unbind(0)[::-1]).permute(1, 2, 0).reshape(2, 4)
            mean = (h @ torch.ones(4, 4).triu(1))[:, order]
            x = x.clone()
            x[:, i] = mean[:, i] + noise[:, i]
            return x

        return ffc.fori_loop(0, 4, step, torch.zeros_like(noise))

    refusal = ffc.compile(sample, (torch.ones(2, 4),)).plan.refusal
    assert refusal is not None
    assert "step 0 writes [:, 0] and may read [:, 0], which it writes itself" in refusal
    assert "through aten.mm.default" in refusal and "(element [0, 2] reads element [0, 0])" in refusal
