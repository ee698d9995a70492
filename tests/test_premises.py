"""Premises of a proof, checked at run time: bounds, masks, zeros."""

from __future__ import annotations

import pytest
import torch

from ffcompiler.passes.latest import mask_premise
from ffcompiler.proof import Proof
from ffcompiler.runtime.premises import Zeros, below

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("value", "holds"), [(0.5, True), (-2.9, True), (3.0, False), (-3.0, False), (float("nan"), False)]
)
def test_a_bound_holds_for_numbers_below_it_on_both_sides(value: float, holds: bool) -> None:
    values = {"a": torch.tensor([0.0, value]), "b": torch.tensor([1e9])}
    assert below(values, {"a": 3.0}) is holds


def test_a_bound_of_nothing_holds() -> None:
    assert below({"a": torch.zeros(0)}, {"a": 1.0})


@pytest.mark.parametrize(
    "mask",
    [
        torch.eye(3, dtype=torch.bool),
        torch.eye(3),
        torch.full((3, 3), float("-inf")).triu(1),
        torch.arange(9).view(3, 3),
    ],
)
def test_a_mask_that_differs_in_one_element_is_noticed(mask: torch.Tensor) -> None:
    patterns = Zeros(Proof((), {"m": mask.clone()}, {}), CPU)
    assert patterns.broken({"m": mask.clone()}) == []
    changed = mask.clone()
    changed[2, 0] = 1 if mask[2, 0] == 0 else 0
    assert patterns.broken({"m": changed}) == ["m"]
    assert patterns.broken({"m": mask[:2]}) == ["m"]


def test_a_mask_and_zeros_are_looked_at_side_by_side() -> None:
    weight = torch.tril(torch.ones(3, 3))
    patterns = Zeros(Proof((), {"w": (weight != 0).numpy(), "m": weight.clone()}, {}), CPU)
    assert patterns.broken({"w": weight * 5, "m": weight}) == []
    assert patterns.broken({"w": weight.t(), "m": weight * 5}) == ["m", "w"]


def test_the_fingerprint_of_a_mask_is_of_its_elements_shape_and_dtype() -> None:
    mask = torch.tensor([[0.0, 1.0]])
    others = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]]), mask.double(), torch.tensor([[-0.0, 1.0]])]
    prints = {mask_premise("m", m).sha256 for m in (mask, *others)}
    assert len(prints) == 5
    assert mask_premise("m", mask) == mask_premise("m", torch.stack([mask, mask], -1)[..., 0])  # strides do not matter
