"""The random numbers of a program, drawn for one call in the order in which the function draws them.

They come from the process's default generator, as the function's own do: two calls at once, from two threads, share it
as two runs of the function would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import TensorType
from ..program import Draw, DrawPlace, Program
from ..randomness import fill

ALIGNMENT = 64
"""Bytes: what each step reads begins in memory where a tensor of its own would."""


@dataclass(frozen=True, slots=True)
class Draws:
    """``draws()``: a tensor for each draw by name; of one in each step, those of all steps along a new first dimension.

    A draw in the steps that none of them reads is made, since it moves the generator, and not kept.
    """

    before: tuple[Draw, ...]
    each: tuple[Draw, ...]
    after: tuple[Draw, ...]
    steps: int
    kept: frozenset[str]
    device: torch.device

    def __bool__(self) -> bool:
        return bool(self.before or self.each or self.after)

    def __call__(self) -> dict[str, Tensor]:
        drawn = {draw.name: _empty(draw.node.type, self.device) for draw in (*self.before, *self.after)}
        stacks = {draw.name: self._stack(draw) for draw in self.each}
        _fill(self.before, [drawn[draw.name] for draw in self.before])
        for rows in zip(*(self._rows(draw, stacks[draw.name]) for draw in self.each), strict=True):
            _fill(self.each, rows)
        _fill(self.after, [drawn[draw.name] for draw in self.after])
        return {**drawn, **{name: stack for name, stack in stacks.items() if name in self.kept}}

    def _stack(self, draw: Draw) -> Tensor:
        """Room for what a draw gives in all steps, each in the layout of the author's own tensor."""
        kind = draw.node.type
        dtype = getattr(torch, kind.dtype)
        line = max(ALIGNMENT // dtype.itemsize, 1)
        span = -(-_span(kind) // line) * line
        count = self.steps if draw.name in self.kept else min(self.steps, 1)
        room = torch.empty(count * span, dtype=dtype, device=self.device)
        return room.as_strided((count, *kind.shape), (span, *kind.stride))

    def _rows(self, draw: Draw, stack: Tensor) -> Sequence[Tensor]:
        rows = stack.unbind(0)
        return rows if draw.name in self.kept else rows * self.steps


def make_draws(program: Program, device: torch.device) -> Draws:
    """What ``program`` draws on ``device``."""
    parts = {place: tuple(d for d in program.draws if d.place is place) for place in DrawPlace}
    loop = program.loop
    return Draws(
        parts[DrawPlace.BEFORE],
        parts[DrawPlace.EACH],
        parts[DrawPlace.AFTER],
        loop.hi - loop.lo,
        frozenset(given.stack.name for given in loop.inputs),
        device,
    )


def _fill(draws: Sequence[Draw], rooms: Sequence[Tensor]) -> None:
    for draw, room in zip(draws, rooms, strict=True):
        fill(draw.node.op, room, draw.node.args)  # type: ignore[arg-type]  # numbers, as the plan's rules say


def _empty(kind: TensorType, device: torch.device) -> Tensor:
    return torch.empty_strided(kind.shape, kind.stride, dtype=getattr(torch, kind.dtype), device=device)


def _span(kind: TensorType) -> int:
    """Elements from the first to the last, both included."""
    if 0 in kind.shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(kind.shape, kind.stride, strict=True))
