"""Windows of pools, and of nearest up- and down-sampling: each output reads a block of the input around its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...graph import Arg
from ...windows import Box, Part, WindowArg
from .asked import Asked, Reads, WindowRule, evaluate_whole, named

Side: TypeAlias = tuple[int, int]
Divides: TypeAlias = Callable[[int, int], bool]
"""Whether an axis of the first size divides evenly into the second."""


def pool(a: Asked) -> Reads:
    """Averages or maxima of blocks. An axis is cut where no block in the box reaches over the border.

    There a block may have fewer elements, and padding is the same on both sides: such an axis is taken whole.
    """
    known, spatial = a.given(), 3 if "3d" in a.node.op else 2
    lead, shape = len(a.box) - spatial, a.shape(a.ref(0))
    kernel = _per_axis(known["kernel_size"], spatial)
    stride = _per_axis(known["stride"] or kernel, spatial)
    padding, dilation = list(_per_axis(known["padding"], spatial)), _per_axis(known.get("dilation", 1), spatial)
    box, sides = list(a.box), list(a.box)
    for d in range(spatial):
        dim = lead + d
        inner = _inner(a.box[dim], stride[d], padding[d], dilation[d] * (kernel[d] - 1) + 1)
        if inner[0] >= 0 and inner[1] <= shape[dim]:
            sides[dim], padding[d] = inner, 0
        else:
            box[dim], sides[dim] = (0, a.out_shape[dim]), (0, shape[dim])
    values = {**known, "stride": stride, "padding": tuple(padding)}
    return Reads(tuple(box), (Part(a.ref(0), tuple(sides)), *_rest(values)))


def _inner(side: Side, stride: int, padding: int, reach: int) -> Side:
    """What the blocks of these outputs span."""
    return side[0] * stride - padding, (side[1] - 1) * stride - padding + reach


def _rest(values: dict[str, Arg]) -> tuple[Arg, ...]:
    return tuple(value for name, value in values.items() if name != "self")


def columns(a: Asked) -> Reads:
    """Each block as a column: rows of blocks, where none reaches over the border, and whole blocks of channels."""
    known, shape = a.given(), a.shape(a.ref(0))
    kernel, dilation, padding, stride = (
        _per_axis(known[name], 2) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    wide, taps = (shape[-1] + 2 * padding[1] - reach[1]) // stride[1] + 1, kernel[0] * kernel[1]
    rows, channels = ((lo // size, -(-hi // size)) for (lo, hi), size in ((a.box[-1], wide), (a.box[-2], taps)))
    inner, side = _inner(rows, stride[0], padding[0], reach[0]), (rows[0] * wide, rows[1] * wide)
    if inner[0] < 0 or inner[1] > shape[-2]:
        inner, side = (0, shape[-2]), (0, a.out_shape[-1])
    else:
        padding = (0, padding[1])
    part = Part(a.ref(0), (*a.box[:-2], channels, inner, (0, shape[-1])))
    box = (*a.box[:-2], (channels[0] * taps, channels[1] * taps), side)
    return Reads(box, (part, kernel, dilation, padding, stride))


def adaptive_pool(a: Asked) -> Reads:
    """Averages of equal blocks; where an axis does not divide into such, it is taken whole."""
    box, sides = _sampled(a, lambda n, m: n % m == 0)
    sizes: WindowArg = tuple(hi - lo for lo, hi in box[-2:])
    return Reads(box, (Part(a.ref(0), sides), sizes))


def nearest(a: Asked) -> Reads:
    """Nearest neighbours, by whole factors up or down, axis by axis."""
    shape, scales = a.shape(a.ref(0)), _scales(a)
    if any(scale not in (None, m / n) for scale, n, m in zip(scales, shape[2:], a.out_shape[2:], strict=True)):
        return evaluate_whole(a)
    box, sides = _sampled(a, lambda n, m: n % m == 0 or m % n == 0)
    sizes: WindowArg = tuple(hi - lo for lo, hi in box[2:])
    nothing: tuple[Arg, ...] = (None,) if a.node.op.endswith(".vec") else (None,) * (len(shape) - 2)
    return Reads(box, (Part(a.ref(0), sides), sizes, *nothing))


def _scales(a: Asked) -> tuple[Arg, ...]:
    given: Arg = a.arg(2) if a.node.op.endswith(".vec") else a.args[2:]
    found = given if isinstance(given, tuple) else ()
    return (*found, *(None,) * (len(a.box) - 2 - len(found)))


def _sampled(a: Asked, divides: Divides) -> tuple[Box, Box]:
    """The boxes of the result and of the input, where output *o* of *m* reads inputs from ``o * n // m`` on."""
    shape, box, sides = a.shape(a.ref(0)), list(a.box), list(a.box)
    spatial = 2 if "pool" in a.node.op else len(shape) - 2
    for dim in range(len(shape) - spatial, len(shape)):
        n, m = shape[dim], a.out_shape[dim]
        if a.box[dim] == (0, m) or not divides(n, m):
            box[dim], sides[dim] = (0, m), (0, n)
        elif n >= m:
            sides[dim] = (a.box[dim][0] * (n // m), a.box[dim][1] * (n // m))
        else:
            factor = m // n
            sides[dim] = (a.box[dim][0] // factor, -(-a.box[dim][1] // factor))
            box[dim] = (sides[dim][0] * factor, sides[dim][1] * factor)
    return tuple(box), tuple(sides)


def _per_axis(arg: Arg, spatial: int) -> tuple[int, ...]:
    """One number for each spatial axis; one may stand for all."""
    found = tuple(n for n in (arg if isinstance(arg, tuple) else (arg,)) if isinstance(n, int))
    return found * (spatial // len(found))


TABLE: dict[str, WindowRule] = {
    **named(
        pool,
        """avg_pool2d.default avg_pool3d.default max_pool2d.default max_pool2d_with_indices.default
        max_pool3d_with_indices.default""",
    ),
    **named(columns, "im2col.default"),
    **named(adaptive_pool, "_adaptive_avg_pool2d.default"),
    **named(
        nearest,
        """upsample_nearest1d.default upsample_nearest2d.default upsample_nearest3d.default upsample_nearest1d.vec
        upsample_nearest2d.vec upsample_nearest3d.vec _upsample_nearest_exact1d.default
        _upsample_nearest_exact2d.default _upsample_nearest_exact3d.default""",
    ),
}
