"""Memory for values that live within one sweep, used again as soon as they are dead, by every window of a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_ROUND = 64  # bytes; what the allocator aligns to


@dataclass(slots=True)
class Scratch:
    """Chunks of memory by place. One that is too small is replaced; programs bound to the old one keep it."""

    device: torch.device
    chunks: list[Tensor] = field(default_factory=list)


@dataclass(slots=True)
class Lease:
    """What one window program takes of a `Scratch`: every program begins with all places free."""

    scratch: Scratch
    _free: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self._free = set(range(len(self.scratch.chunks)))

    def take(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, int]:
        """A tensor that overlaps no other one taken and not given back, and its place."""
        span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if 0 not in shape else 0
        place = self._place(-(-span * dtype.itemsize // _ROUND) * _ROUND)
        chunk = self.scratch.chunks[place][: span * dtype.itemsize].view(dtype)
        return chunk.as_strided(shape, stride), place

    def give_back(self, place: int) -> None:
        self._free.add(place)

    def _place(self, size: int) -> int:
        chunks = self.scratch.chunks
        fitting = [p for p in self._free if chunks[p].numel() >= size]
        if fitting:
            place = min(fitting, key=lambda p: (chunks[p].numel(), p))
        elif self._free:
            place = max(self._free, key=lambda p: (chunks[p].numel(), p))
            chunks[place] = self._chunk(max(size, 2 * chunks[place].numel()))  # doubling bounds what is left behind
        else:
            place = len(chunks)
            chunks.append(self._chunk(size))
        self._free.discard(place)
        return place

    def _chunk(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.scratch.device)
