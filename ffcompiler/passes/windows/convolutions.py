"""Windows of convolutions and transposed ones: what the kernel reaches, by output channels.

Channels of the input and taps are summed over and never cut, but for outer rows and columns of a masked kernel that are
zero throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ...graph import Arg, Ref
from ...windows import Box, Part, WindowArg
from .asked import Asked, Reads, WindowRule, evaluate_whole, named

CONVOLUTION = "aten.convolution.default"
Side: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """A spatial axis of a convolution: entry *o* of the result reads ``o * stride - padding + t * dilation``.

    ``tap``: the first tap that is not all zeros; ``reach``: how far the last such tap lies from it.
    """

    stride: int
    padding: int
    dilation: int
    tap: int
    reach: int

    def inputs(self, side: Side) -> Side:
        """What entries ``side`` of the result read."""
        first = side[0] * self.stride - self.padding + self.dilation * self.tap
        return first, first + (side[1] - side[0] - 1) * self.stride + self.reach + 1


@dataclass(frozen=True, slots=True)
class Crop:
    """A transposed convolution of entries ``inputs`` whose result, ``padding`` cut off on both sides, is ``box``."""

    inputs: Side
    box: Side
    padding: int
    output_padding: int


def cropped(axis: Axis, side: Side, size: int) -> Crop:
    """The call that gives entries ``side`` of ``size``: where inputs lie over the border, zeros are read.

    Input *i* adds to entries from ``i * stride - offset`` on. Those of a call on ``a .. b - 1`` are complete if enough
    is cut off at both ends: ``reach + 1 - stride``.
    """
    s, offset = axis.stride, axis.padding - axis.dilation * axis.tap
    (lo, hi), need = side, max(axis.reach + 1 - axis.stride, 0)
    a = (lo + offset - need) // s
    crop = lo + offset - a * s
    b, extra = divmod(hi + crop + offset - axis.reach - 1, s)
    b += 1
    if crop - extra >= axis.reach + 1 - s:
        return Crop((a, b), side, crop, extra)
    if hi - extra + s <= size:  # one more input makes the last entries complete, and some beyond them
        return Crop((a, b + 1), (lo, hi - extra + s), crop, 0)
    return Crop((a - 1, b + 1), side, crop + s, extra)


def convolution(a: Asked) -> Reads:
    """The input that the kernel reaches, padding included; output channels by rows of the kernel."""
    known, axes = a.given(), axes_of(a)
    if axes is None:
        return evaluate_whole(a)
    state, weight, bias, groups = a.ref(0), a.ref(1), known["bias"], known["groups"]
    channels = a.box[1] if groups == 1 else (0, a.out_shape[1])
    rows: Box = ((0, a.shape(weight)[0]), channels if groups == 1 else (0, a.shape(weight)[1]))
    if transposed := _is_transposed(a):
        crops = [cropped(x, side, n) for x, side, n in zip(axes, a.box[2:], a.out_shape[2:], strict=True)]
    else:
        rows = (channels, (0, a.shape(weight)[1]))
        crops = [Crop(x.inputs(side), side, 0, 0) for x, side in zip(axes, a.box[2:], strict=True)]
    parts: tuple[WindowArg, ...] = (
        Part(state, (a.box[0], (0, a.shape(state)[1]), *(c.inputs for c in crops))),
        Part(weight, (*rows, *a.taps(weight)[2:])),
        Part(bias, (channels,)) if isinstance(bias, Ref) else None,
        tuple(x.stride for x in axes),
        tuple(c.padding for c in crops),
        tuple(x.dilation for x in axes),
        transposed,
        tuple(c.output_padding for c in crops),
        groups,
    )
    return Reads((a.box[0], channels, *(c.box for c in crops)), parts, op=CONVOLUTION)


def axes_of(a: Asked) -> list[Axis] | None:
    """The spatial axes; None if there is no batch axis, or nothing to convolve."""
    state, weight, known = a.shape(a.ref(0)), a.shape(a.ref(1)), a.given()
    if len(state) != len(weight) or 0 in (*state, *weight, *a.out_shape):
        return None
    found = []
    for d, (tap, last) in enumerate(a.taps(a.ref(1))[2:]):
        stride, padding, dilation = (_number(known[name], d) for name in ("stride", "padding", "dilation"))
        found.append(Axis(stride, padding, dilation, tap, (last - tap - 1) * dilation))
    return found


def margins(a: Asked) -> tuple[int, ...]:
    """Zeros that windows read before and after each dimension of the input."""
    shape, axes = a.shape(a.ref(0)), axes_of(a)
    if axes is None:
        return (0,) * len(shape)
    if not _is_transposed(a):
        return (0, 0, *(x.padding for x in axes))
    return (0, 0, *(reach_over(x, n, out) for x, n, out in zip(axes, shape[2:], a.out_shape[2:], strict=True)))


def reach_over(axis: Axis, size: int, out: int) -> int:
    """How far windows of a transposed convolution reach over the border of an input of ``size``."""
    crops = [cropped(axis, (lo, hi), out) for lo, hi in _border_windows(axis.stride, out)]
    return max(0, *(-c.inputs[0] for c in crops), *(c.inputs[1] - size for c in crops))


def _border_windows(stride: int, out: int) -> list[Side]:
    """Windows that reach out farthest: which inputs are read depends on where each end falls between strides."""
    starts = range(min(stride, out))
    ends = range(max(out - stride, 0) + 1, out + 1)
    firsts = [(lo, hi) for lo in starts for hi in range(lo + 1, min(lo + stride, out) + 1)]
    lasts = [(lo, hi) for hi in ends for lo in range(max(hi - stride, 0), hi)]
    return [*firsts, *lasts, *((lo, hi) for lo in starts for hi in ends if lo < hi)]


def _is_transposed(a: Asked) -> bool:
    return bool(a.given().get("transposed", "conv_transpose" in a.node.op))


def _number(arg: Arg, d: int) -> int:
    """The number for spatial dimension ``d``; one number may stand for all."""
    found = arg[d if len(arg) > 1 else 0] if isinstance(arg, tuple) else arg
    assert isinstance(found, int)
    return found


TABLE: dict[str, WindowRule] = named(
    convolution,
    """convolution.default conv1d.default conv2d.default conv3d.default conv_transpose1d.default
    conv_transpose2d.input conv_transpose3d.input""",
)
