"""A triangular system ready to run on one device: one sweep, one sequential step. Threads may share it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Ref
from ..plan import ArrayLoop, Finite, Premise
from .graphs import GraphCall, graph_call, key_of
from .positions import Indexed, Positions
from .premises import really_finite, reduced_precision, within_reduced_range
from .tail import Tail, Window

Env = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class System:
    """What the solve loop needs of an `ArrayLoop`."""

    loop: ArrayLoop
    device: torch.device
    invariant: GraphCall
    shared: GraphCall
    tail: Tail
    region: Positions
    finite: tuple[str, ...]  # values that every certifying sweep must find finite

    @property
    def blocks(self) -> int:
        return self.loop.blocks

    def constants(self, env: Env) -> Env:
        """``env`` with the work that depends on neither state nor step."""
        return self.invariant.extend(env)

    def evaluate(self, env: Env, state: Tensor) -> dict[str, Tensor]:
        """The shared part on ``state``, by the recorded calls: same operators, shapes and strides."""
        carried = {**env, self.loop.carry.name: state}
        return dict(zip(map(key_of, self.shared.outputs), self.shared.values(carried), strict=True))

    def update(self, env: Env, state: Tensor, lo: int, hi: int, exact: bool) -> tuple[Tensor, list[Tensor]]:
        """New values of blocks ``lo .. hi - 1`` in lifted form, and the tensors whose finiteness is a premise."""
        shared = self.evaluate(env, state)
        everything = {**env, **shared, self.loop.carry.name: state}
        values = self.tail(Window(lo, hi, everything, exact))
        if values.untyped_storage().data_ptr() == state.untyped_storage().data_ptr():
            values = values.clone()  # a step that only moves elements of the state: it is about to be written
        return values, [everything[name] for name in self.finite]

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        """Whether the values are finite, also once rounded to a reduced compute dtype; ``sums`` are their totals.

        A sum that overflows by itself is looked at again.
        """
        if not all(math.isfinite(s) for s in sums) and not really_finite(values):
            return False
        return not reduced_precision(self.device) or within_reduced_range(values)

    def step(self, env: Env, state: Tensor, k: int) -> None:
        """One sequential step in place: the loop's own calls for block ``k``."""
        values, _ = self.update(env, state, k, k + 1, True)
        self.region.write(state, k, k + 1, values)

    def start_from(self, init: Tensor) -> Tensor:
        """A fresh state with the contents of ``init`` in the layout that the author's loop has."""
        kind = self.loop.carry.type
        return torch.empty_strided(kind.shape, kind.stride, dtype=init.dtype, device=init.device).copy_(init)

    def reset_from(self, state: Tensor, init: Tensor, front: int) -> Tensor:
        """A state whose blocks before ``front`` are those of ``state`` and whose others are as at the start."""
        fresh = self.start_from(init)
        if front:
            self.region.write(fresh, 0, front, self.region.read(state, 0, front))
        return fresh


def make_system(loop: ArrayLoop, premises: tuple[Premise, ...], device: torch.device) -> System:
    """``loop`` compiled for ``device``."""
    finite = tuple(p.value for p in premises if isinstance(p, Finite))
    own = {node.name for node in loop.shared.nodes}
    extra = [Ref(name) for name in finite if name in own]
    axes = tuple(
        Indexed(axis.dim, tuple(int(v) for v in loop.tables[axis.table]), axis.length) for axis in loop.write.axes
    )
    return System(
        loop,
        device,
        graph_call(loop.invariant, device),
        graph_call(loop.shared, device, extra),
        Tail(loop, device),
        Positions(loop.carry.type.shape, axes),
        finite,
    )
