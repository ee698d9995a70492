"""Convolutions of windows as products: small ones spend their time on preparation that a product does not need.

before:  result = convolution(x, kernel, bias)
after:   patches <- x;  result = bias + patches @ matrix          (a 1 x 1 kernel reads x where it stands)

Only windowed sweeps do this. They guess, and what they find is certified by the reference's own calls, so any kernel
may find it (docs/exactness.md). Values that convolutions read and make are kept with their channels innermost and their
rows outermost: a window of whole rows is then one matrix, and what a kernel's row reads of a position is one run of
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...graph import Node, Ref
from ...program import ArrayLoop
from ...windows import Instruction, Layout

CONVOLUTION = "aten.convolution.default"

LARGEST = 2**24
"""Elements of the patches of one convolution; one that would need more is left as it is."""

_DTYPES = frozenset({"float32", "float64"})


def channels_last(loop: ArrayLoop, layout: Layout, device: torch.device) -> frozenset[str]:
    """The kept values that stand with their channels innermost: what convolutions on a CPU read and make.

    Not what others read by the strides that the author gave it: views, and the tail.
    """
    if device.type != "cpu":
        return frozenset()
    found = {
        key
        for node in loop.shared.nodes
        if node.op == CONVOLUTION and node.type.dtype in _DTYPES and _is_plain(node.args[6], node.args[8])
        for key in _state_and_result(node)
    }
    tail = {ref.key for node in loop.tail.nodes for ref in node.refs()} | {ref.key for ref in loop.tail.outputs}
    views = {ref.key for node in layout.views for ref in node.refs()} | {loop.carry.name}
    return frozenset(found - tail - views)


def _state_and_result(node: Node) -> Iterator[str]:
    state = node.args[0]
    assert isinstance(state, Ref)
    yield from (state.key, node.name)


def _is_plain(transposed: object, groups: object) -> bool:
    return transposed is False and groups == 1


def memory_order(rank: int) -> tuple[int, ...]:
    """Dimensions of ``[batch, channels, *positions]``, outermost in memory first."""
    return (0, 2, 1) if rank == 3 else (2, 0, *range(3, rank), 1)


def in_memory_order(t: Tensor) -> Tensor:
    """``t`` with its dimensions as they stand in memory."""
    return t.permute(memory_order(t.dim()))


def as_author_has_it(t: Tensor) -> Tensor:
    """A tensor in memory order, as ``[batch, channels, *positions]``."""
    order = memory_order(t.dim())
    return t.permute([order.index(dim) for dim in range(t.dim())])


def has_product(state: object, made: Instruction) -> bool:
    """Whether a convolution of ``state``, if that is a tensor by now, is made a product."""
    if not isinstance(state, Tensor) or state.device.type != "cpu" or not 3 <= state.dim() == len(made.box):
        return False
    known = str(state.dtype).removeprefix("torch.") in _DTYPES
    padding, transposed, groups = made.args[4], made.args[6], made.args[8]
    unpadded = isinstance(padding, tuple) and not any(padding)
    innermost = state.shape[1] == 1 or state.stride(1) == 1
    return known and unpadded and innermost and _is_plain(transposed, groups)


def patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What each position of the result reads: a view ``[*positions and batch in memory order, *kernel, channels]``."""
    spatial = range(x.dim() - 2)
    stride, dilation = _each(stride, x.dim() - 2), _each(dilation, x.dim() - 2)
    counts = [(x.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in spatial]
    sizes = [x.shape[0], x.shape[1], *counts]
    steps = [x.stride(0), x.stride(1), *(x.stride(2 + d) * stride[d] for d in spatial)]
    *outer, channels = memory_order(x.dim())
    return x.as_strided(
        [*(sizes[d] for d in outer), *kernel, sizes[channels]],
        [*(steps[d] for d in outer), *(x.stride(2 + d) * dilation[d] for d in spatial), steps[channels]],
        x.storage_offset(),
    )


def _each(numbers: Sequence[int], count: int) -> Sequence[int]:
    """One number for each spatial dimension; one may stand for all."""
    return numbers if len(numbers) == count else list(numbers) * count


def matrix(kernel: Tensor) -> Tensor:
    """``[taps and channels in, channels out]`` of a kernel ``[channels out, channels in, *taps]``."""
    return kernel.permute(*range(2, kernel.dim()), 1, 0).reshape(-1, kernel.shape[0])


def rows_of(t: Tensor, columns: int) -> Tensor | None:
    """``t`` as a matrix with so many columns, if it stands like one in memory."""
    shape = (t.numel() // columns if columns else 0, columns)
    try:
        return t.view(shape)
    except RuntimeError:  # the only way to ask
        return None
