"""The per-position part T_i of an array loop, evaluated for many positions at once (`lifted.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..graph import Graph, Node
from ..program import ArrayLoop
from .lift.lifted import Lifted
from .lift.window import Window

__all__ = ["Tail", "Window"]


class Tail:
    """``tail(window)``: the written value of every step of the window, ``[steps, *region]``.

    ``tail.all(window)``: with what steps leave besides, if ``besides``.

    ``order``: for each step of ``loop`` its place in the user's loop, if that is another; what steps are handed stands
    in the user's order.
    """

    def __init__(
        self, loop: ArrayLoop, device: torch.device, order: tuple[int, ...] = (), besides: bool = False
    ) -> None:
        graph = loop.tail
        if besides:
            outputs = (*loop.tail.outputs, *loop.besides.outputs)
            inputs = {value.name: value for value in (*loop.tail.inputs, *loop.besides.inputs)}
            graph = Graph(tuple(inputs.values()), (*loop.tail.nodes, *loop.besides.nodes), outputs)
        read = {value.name for value in graph.inputs}
        self._inputs = tuple(handed for handed in loop.inputs if handed.value.name in read)
        self._order = torch.tensor(order, device=device) if order and loop.inputs else None
        given = {handed.value.name: handed.value.type for handed in self._inputs}
        self._lifted = Lifted(graph, loop.tables, device, loop.blocks, given)

    @property
    def inexact(self) -> Sequence[Node]:
        """Operators that a certificate evaluates position by position."""
        return self._lifted.inexact

    @property
    def exact(self) -> bool:
        """Whether every sweep certifies, because no operator rounds by shape."""
        return self._lifted.exact

    def __call__(self, window: Window) -> Tensor:
        return self.all(window)[0]

    def all(self, window: Window) -> tuple[Tensor, ...]:
        """The written values, then what is left besides, each ``[steps, ..]``."""
        given = {handed.value.name: self._part(window.shared[handed.stack.key], window) for handed in self._inputs}
        return self._lifted(replace(window, given=given) if given else window)

    def _part(self, stack: Tensor, window: Window) -> Tensor:
        """What the steps of a window are handed."""
        if self._order is None:
            return stack[window.steps]
        return stack.index_select(0, self._order[window.steps])
