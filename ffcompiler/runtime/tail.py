"""The per-position part T_i of an array loop, evaluated for many positions at once (`lifted.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..graph import Node
from ..program import ArrayLoop
from .lift.lifted import Lifted
from .lift.window import Window

__all__ = ["Tail", "Window"]


class Tail:
    """``tail(window)``: the written value of every step of the window, ``[steps, *region]``.

    ``order``: for each step of ``loop`` its place in the user's loop, if that is another; what steps are handed stands
    in the user's order.
    """

    def __init__(self, loop: ArrayLoop, device: torch.device, order: tuple[int, ...] = ()) -> None:
        self._inputs = loop.inputs
        self._order = torch.tensor(order, device=device) if order and loop.inputs else None
        given = {handed.value.name: handed.value.type for handed in loop.inputs}
        self._lifted = Lifted(loop.tail, loop.tables, device, loop.blocks, given)

    @property
    def inexact(self) -> Sequence[Node]:
        """Operators that a certificate evaluates position by position."""
        return self._lifted.inexact

    @property
    def exact(self) -> bool:
        """Whether every sweep certifies, because no operator rounds by shape."""
        return self._lifted.exact

    def __call__(self, window: Window) -> Tensor:
        given = {handed.value.name: self._part(window.shared[handed.stack.key], window) for handed in self._inputs}
        return self._lifted(replace(window, given=given) if given else window)[0]

    def _part(self, stack: Tensor, window: Window) -> Tensor:
        """What the steps of a window are handed."""
        if self._order is None:
            return stack[window.steps]
        return stack.index_select(0, self._order[window.steps])
