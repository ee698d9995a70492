"""Many positions at once: read or write the regions of consecutive steps of one array.

The *lifted* form of a value that each step has is one tensor with the steps along a new first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Indexed:
    """One indexed dimension: its start at every step, and how many entries are taken (None: one, dimension dropped)."""

    dim: int
    starts: tuple[int, ...]
    length: int | None


@dataclass(slots=True)
class Positions:
    """The regions of an array of the given shape, one per step."""

    shape: tuple[int, ...]
    axes: tuple[Indexed, ...]  # by ascending dimension
    first: int | None = field(init=False)  # of the flattened axes, where they run in raster order

    def __post_init__(self) -> None:
        self.first = _raster_start(self.shape, self.axes)

    def read(self, array: Tensor, lo: int, hi: int, every: int = 1) -> Tensor:
        """Lifted regions of steps ``lo .. hi - 1``, or every so many of them: ``[steps, *region]``.

        A view where the steps run in order.
        """
        if self._runs_in(array):
            return self._kept(self._raster(array, lo, hi, every))
        others = self._permuted(array)
        picked = others[self._grid(slice(lo, hi, every), array.device)]
        return self._to_region(picked)

    def write(self, array: Tensor, lo: int, hi: int, lifted: Tensor, every: int = 1) -> None:
        """Put lifted regions back in place."""
        if self._runs_in(array):
            self._kept(self._raster(array, lo, hi, every)).copy_(lifted)
            return
        grid = self._grid(slice(lo, hi, every), array.device)
        self._permuted(array)[grid] = self._from_region(lifted)

    # ------------------------------------------------------------------------------------------ in raster order

    def _runs_in(self, array: Tensor) -> bool:
        """Whether the indexed dimensions of this array are one run in memory, so that flattening them is a view."""
        if self.first is None:
            return False
        dims = [axis.dim for axis in self.axes]
        return all(array.stride(a) == array.stride(b) * array.shape[b] for a, b in pairwise(dims))

    def _raster(self, array: Tensor, lo: int, hi: int, every: int) -> Tensor:
        dim, last = self.axes[0].dim, self.axes[-1].dim
        flat = array.flatten(dim, last) if last > dim else array
        assert self.first is not None
        return flat.narrow(dim, self.first + lo, hi - lo).movedim(dim, 0)[::every]

    def _kept(self, lifted: Tensor) -> Tensor:
        """Put back, with size 1, the dimensions that a slice of length 1 keeps."""
        for axis in self.axes:
            if axis.length is not None:
                dropped = sum(1 for a in self.axes if a.length is None and a.dim < axis.dim)
                lifted = lifted.unsqueeze(1 + axis.dim - dropped)
        return lifted

    # ------------------------------------------------------------------------------------------ in any order

    def _permuted(self, array: Tensor) -> Tensor:
        return array.permute(*[a.dim for a in self.axes], *self._others())

    def _others(self) -> list[int]:
        indexed = {a.dim for a in self.axes}
        return [dim for dim in range(len(self.shape)) if dim not in indexed]

    def _grid(self, steps: slice, device: torch.device) -> tuple[Tensor, ...]:
        """Index tensors ``[steps, length of axis 0, length of axis 1, ...]``."""
        grids = []
        for position, axis in enumerate(self.axes):
            starts = torch.tensor(axis.starts[steps], device=device)
            offsets = torch.arange(axis.length or 1, device=device)
            grid = starts[:, None] + offsets
            ones_before, ones_after = (1,) * position, (1,) * (len(self.axes) - 1 - position)
            grids.append(grid.reshape(len(starts), *ones_before, axis.length or 1, *ones_after))
        return tuple(grids)

    def _order(self) -> list[int]:
        """For each dimension of the array, where it stands in ``[axes..., others...]``."""
        layout = [a.dim for a in self.axes] + self._others()
        return [layout.index(dim) for dim in range(len(self.shape))]

    def _to_region(self, picked: Tensor) -> Tensor:
        full = picked.permute(0, *[1 + place for place in self._order()])
        for axis in reversed(self.axes):
            if axis.length is None:
                full = full.squeeze(1 + axis.dim)
        return full

    def _from_region(self, lifted: Tensor) -> Tensor:
        for axis in self.axes:
            if axis.length is None:
                lifted = lifted.unsqueeze(1 + axis.dim)
        layout = [a.dim for a in self.axes] + self._others()
        return lifted.permute(0, *[1 + dim for dim in layout])


def _raster_start(shape: Sequence[int], axes: Sequence[Indexed]) -> int | None:
    """Where the steps start if they visit adjacent dimensions in raster order, one entry each; else None."""
    dims = [a.dim for a in axes]
    if not axes or not axes[0].starts or dims != list(range(dims[0], dims[0] + len(dims))):
        return None
    if any(a.length not in (None, 1) for a in axes) or len({a.length for a in axes}) != 1:
        return None
    flat = [0] * len(axes[0].starts)
    for axis in axes:
        flat = [f * shape[axis.dim] + s for f, s in zip(flat, axis.starts, strict=True)]
    if len(axes) > 1 and axes[0].length == 1:
        return None
    return flat[0] if flat == list(range(flat[0], flat[0] + len(flat))) else None
