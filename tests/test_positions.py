"""Reading and writing the regions of many steps at once is the same as one after the other."""

from __future__ import annotations

import pytest
import torch

from ffcompiler.runtime.positions import Indexed, Positions

RASTER = tuple((k // 5, k % 5) for k in range(20))
CASES = {
    "columns": ((3, 7), (Indexed(1, tuple(range(7)), None),)),
    "columns, kept": ((3, 7), (Indexed(1, tuple(range(7)), 1),)),
    "columns from 2": ((3, 7), (Indexed(1, tuple(range(2, 7)), None),)),
    "rows": ((7, 3), (Indexed(0, tuple(range(7)), None),)),
    "reversed": ((3, 7), (Indexed(1, tuple(range(6, -1, -1)), None),)),
    "permuted": ((3, 4), (Indexed(1, (2, 0, 3, 1), None),)),
    "pairs": ((3, 8), (Indexed(1, (0, 2, 4, 6), 2),)),
    "pixels": ((2, 3, 4, 5), tuple(Indexed(d + 2, tuple(r[d] for r in RASTER), None) for d in range(2))),
    "pixels, kept": ((2, 3, 4, 5), tuple(Indexed(d + 2, tuple(r[d] for r in RASTER), 1) for d in range(2))),
    "pixels by columns": ((2, 3, 5, 4), tuple(Indexed(d + 2, tuple(r[1 - d] for r in RASTER), None) for d in range(2))),
    "one vector": ((9,), (Indexed(0, tuple(range(9)), None),)),
    "dims apart": (
        (5, 2, 4),
        (Indexed(0, tuple(r[1] for r in RASTER), None), Indexed(2, tuple(r[0] for r in RASTER), 1)),
    ),
}
LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "part of more": lambda t: torch.zeros(*t.shape[:-1], 2 * t.shape[-1])[..., : t.shape[-1]].copy_(t),
}


def one(array: torch.Tensor, axes: tuple[Indexed, ...], k: int) -> torch.Tensor:
    """The region of step ``k``, as an author indexes it."""
    index: list[int | slice] = [slice(None)] * array.dim()
    for axis in axes:
        start = axis.starts[k]
        index[axis.dim] = start if axis.length is None else slice(start, start + axis.length)
    return array[tuple(index)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_reading_many_is_reading_each(name: str, layout: str) -> None:
    shape, axes = CASES[name]
    array = LAYOUTS[layout](torch.randn(shape))
    steps = len(axes[0].starts)
    for lo, hi in ((0, steps), (1, steps - 1), (steps - 1, steps)):
        read = Positions(shape, axes).read(array, lo, hi)
        assert torch.equal(read, torch.stack([one(array, axes, k) for k in range(lo, hi)]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_writing_many_is_writing_each(name: str, layout: str) -> None:
    shape, axes = CASES[name]
    array = LAYOUTS[layout](torch.randn(shape))
    expected = array.clone()
    positions, steps = Positions(shape, axes), len(axes[0].starts)
    lifted = torch.randn(positions.read(array, 0, steps).shape)
    positions.write(array, 1, steps, lifted[1:])
    for k in range(1, steps):
        one(expected, axes, k).copy_(lifted[k])
    assert torch.equal(array, expected)
