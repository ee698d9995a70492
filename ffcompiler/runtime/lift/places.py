"""Parts of lifted values whose place differs from step to step: ``state[:, i]``, read or replaced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...graph import Node, Ref, Step
from .folds import Shapes

PLACED = frozenset(
    f"aten.{name}" for name in "select.int slice.Tensor select_scatter.default slice_scatter.default".split()
)


@dataclass(frozen=True, slots=True)
class Place:
    """``table`` says where along ``dim`` of value ``of``; ``length`` None: one entry, its dimension dropped.

    ``value``: the key of what is put there, if it is not read.
    """

    of: str
    value: str | None
    dim: int
    table: int
    length: int | None


def place_of(node: Node, types: Shapes, lifted: frozenset[str]) -> Place | None:
    """The place that a node reads or replaces, if it is one of a lifted value and differs from step to step."""
    if node.op not in PLACED or node.kwargs or not isinstance(node.args[0], Ref):
        return None
    of, *rest = node.args
    value = rest.pop(0) if "scatter" in node.op else None
    dim, *where = rest
    if not isinstance(of, Ref) or of.key not in lifted or not isinstance(dim, int) or not 1 <= len(where) <= 2:
        return None
    if not all(isinstance(place, Step) for place in where) or (value is not None and not isinstance(value, Ref)):
        return None
    part = node.type if value is None else types[value.key]
    dim = dim % len(types[of.key].shape)
    length = part.shape[dim] if "slice" in node.op else None
    first = where[0]
    assert isinstance(first, Step)
    return Place(of.key, None if value is None else value.key, dim, first.table, length)


def read_places(t: Tensor, place: Place, starts: Tensor) -> Tensor:
    """Of each step its own part of one step's value."""
    moved = t.movedim(place.dim + 1, 1)
    return (
        moved[_where(t, place, starts)].movedim(1, place.dim + 1) if place.length else moved[_where(t, place, starts)]
    )


def write_places(t: Tensor, value: Tensor, place: Place, starts: Tensor) -> Tensor:
    """``t`` with each step's own part replaced."""
    new = t.clone()
    moved = new.movedim(place.dim + 1, 1)
    moved[_where(t, place, starts)] = value.movedim(place.dim + 1, 1) if place.length else value
    return new


def _where(t: Tensor, place: Place, starts: Tensor) -> tuple[Tensor, Tensor]:
    steps = torch.arange(t.shape[0], device=t.device)
    if place.length is None:
        return steps, starts
    return steps[:, None], starts[:, None] + torch.arange(place.length, device=t.device)
