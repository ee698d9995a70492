"""Windows as values: which elements of which tensors a sweep over part of the array has to compute, and how.

While the blocks before ``settled`` are unchanged and those from ``hi`` on are not in play, only elements with
``settled <= latest < hi - 1`` can have changed and can be read. Their bounding box in each tensor is a *window*.
`passes/windows` derives the boxes, `runtime/windowed/windowed.py` computes them; what they hand over is defined here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from .graph import Arg, Node, Ref, TensorType

Box: TypeAlias = tuple[tuple[int, int], ...]
"""``[lo, hi)`` along each dimension."""
Orders: TypeAlias = tuple[tuple[int, int], ...]
"""``(dimension, order)``: along that dimension, coordinates of a box count entries of ``Layout.orders[order]``."""


ALIAS = "aten.alias.default"
"""The operator of an instruction that only takes a part of a value."""
LIVE = Ref("*")
"""The array as the sweeps have it now, from which the kept copy of it is brought up to date."""


@dataclass(frozen=True, slots=True)
class Part:
    """The elements of a value inside a box; where the box reaches over the border, zeros."""

    ref: Ref
    box: Box
    orders: Orders = ()


WindowArg: TypeAlias = "Arg | Part | tuple[WindowArg, ...]"


@dataclass(frozen=True, slots=True)
class Instruction:
    """Elements ``box`` of value ``ref`` are ``op(*args, **kwargs)``, or its ``pick``-th result."""

    ref: Ref
    box: Box
    orders: Orders
    op: str
    args: tuple[WindowArg, ...]
    kwargs: tuple[tuple[str, WindowArg], ...] = ()
    pick: int | None = None

    def parts(self) -> Iterator[Part]:
        """What it reads."""
        yield from parts_in(self.args)
        for _, arg in self.kwargs:
            yield from parts_in(arg)


WindowProgram: TypeAlias = tuple[Instruction, ...]


def parts_in(arg: WindowArg) -> Iterator[Part]:
    """The parts inside nested tuples, in order."""
    if isinstance(arg, Part):
        yield arg
    elif isinstance(arg, tuple):
        for inner in arg:
            yield from parts_in(inner)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A value that is kept whole between sweeps, with ``margins`` zeros before and after each dimension."""

    ref: Ref
    type: TensorType
    margins: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements in memory, margins included."""
        product = 1
        for size, margin in zip(self.type.shape, self.margins, strict=True):
            product *= size + 2 * margin
        return product

    @property
    def bytes(self) -> int:
        """Memory; the dtype's name says how many bits an element has."""
        bits = re.search(r"\d+", self.type.dtype)
        return self.elements * (int(bits[0]) // 8 if bits else 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """What outlives a sweep: buffers, views of buffers, and the orders in which scattered axes are computed."""

    buffers: tuple[Buffer, ...]
    views: tuple[Node, ...]
    orders: tuple[tuple[int, ...], ...]

    @property
    def bytes(self) -> int:
        """Memory of the buffers."""
        return sum(buffer.bytes for buffer in self.buffers)


@dataclass(frozen=True, slots=True)
class Stage:
    """What one windowed sweep computes of one value: ``box`` out of ``shape``, with ``work`` multiplications or so."""

    ref: Ref
    op: str
    source: str
    box: Box
    shape: tuple[int, ...]
    work: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """One windowed sweep: its stages, and its work as a share of an evaluation of the whole shared part."""

    settled: int
    hi: int
    stages: tuple[Stage, ...]
    share: float


class Windows(Protocol):
    """The windows of one triangular system."""

    executors: dict[Any, Any]
    """What was made to compute them, by where and how: whoever has the proof finds it."""

    @property
    def layout(self) -> Layout: ...

    def footprint(self, settled: int, hi: int) -> Footprint:
        """What `program` of the same window amounts to."""
        ...

    def program(self, settled: int, hi: int, align: int = 1) -> WindowProgram:
        """What to compute when blocks before ``settled`` are unchanged and blocks up to ``hi`` are in play.

        Products are cut at multiples of ``align``.
        """
        ...


def volume(box: Box) -> int:
    """Number of elements inside."""
    product = 1
    for lo, hi in box:
        product *= max(hi - lo, 0)
    return product


def whole(shape: tuple[int, ...]) -> Box:
    """The box that holds everything."""
    return tuple((0, size) for size in shape)


def union(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return tuple((min(x, u), max(y, v)) for (x, y), (u, v) in zip(a, b, strict=True))


def inside(a: Box, b: Box) -> bool:
    """Whether ``a`` lies in ``b``."""
    return all(u <= x and y <= v for (x, y), (u, v) in zip(a, b, strict=True))
