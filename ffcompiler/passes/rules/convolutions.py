"""Convolutions: tap by tap, entries where a constant kernel is zero are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Node, Ref
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from .common import along, given, last, named, rank_of

Mask = npt.NDArray[np.bool_]
Tap = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the taps of a kernel lie; one number per spatial axis."""

    stride: Tap
    padding: Tap
    dilation: Tap
    transposed: bool
    groups: int

    def taken(self, tap: Tap, out: Sequence[int]) -> tuple[slice, ...]:
        """What a tap reads of the padded input; transposed: what of the padded output it adds to, ``out`` the input."""
        start = [t * d for t, d in zip(tap, self.dilation, strict=True)]
        return tuple(slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(start, out, self.stride, strict=True))


def convolution(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """A convolution, or a transposed one, in one to three dimensions."""
    known = given(node, args)
    state, weight, bias = args[:3]
    spatial = len(it.shape(weight)) - 2

    def per_axis(name: str) -> Tap:
        value = known.get(name, 0)
        return (value,) * spatial if isinstance(value, int) else tuple(value) * (spatial // len(value))

    transposed = bool(known.get("transposed", "conv_transpose" in node.op))
    if isinstance(known["padding"], str) or 0 in it.shape(state):
        return it.everything(node)
    geometry = Geometry(per_axis("stride"), per_axis("padding"), per_axis("dilation"), transposed, known["groups"])
    constant = it.is_constant(weight)
    nonzero = it.cut(weight, state, node, bias) if constant else np.ones(it.shape(weight), np.bool_)
    latest, shape = it.of(state), it.shape(state)
    batched = len(shape) == spatial + 2
    latest, shape = (latest, shape) if batched else (latest[None], (1, *shape))
    result = _convolve(geometry, along(latest, shape, *range(2, spatial + 2)), shape[1], nonzero, node.type.shape)
    if not constant:
        result = np.maximum(result, last(it.of(weight)))
    if isinstance(bias, Ref):
        result = np.maximum(result, it.of(bias).reshape(1, -1, *(1,) * spatial))
    return result if batched else result[0]


def _convolve(g: Geometry, latest: Latest, channels: int, nonzero: Mask, out: tuple[int, ...]) -> Latest:
    """``latest`` is [N or 1, C or 1, *S], ``nonzero`` as the operator has it; gives [N or 1, O or 1, *out].

    Channels of the result that read the same channels of the input through the same pattern are computed once.
    """
    spatial = nonzero.ndim - 2
    kernel, size = nonzero.shape[2:], out[-spatial:]
    compact = latest.shape[1] == 1
    masks = _by_result(nonzero, g) if g.transposed else nonzero  # [O, C / groups, *kernel]
    group = np.arange(masks.shape[0]) // (masks.shape[0] // g.groups)
    key = np.concatenate([group[:, None] * (not compact), masks.reshape(len(masks), -1)], axis=1)
    _, first, which = np.unique(key, axis=0, return_index=True, return_inverse=True)
    place = _spread if g.transposed else _gathered
    per_group = channels // g.groups
    rows = []
    for o in first:
        own = latest if compact else latest[:, group[o] * per_group : (group[o] + 1) * per_group]
        rows.append(place(g, own, masks[o], kernel, size))
    result = np.stack(rows, axis=1)
    return result if len(first) == 1 else result[:, which.reshape(-1)]


def _by_result(nonzero: Mask, g: Geometry) -> Mask:
    """The kernel of a transposed convolution, [C, O / groups, *k], as [O, C / groups, *k]."""
    grouped = nonzero.reshape(g.groups, -1, *nonzero.shape[1:])
    return np.swapaxes(grouped, 1, 2).reshape(-1, grouped.shape[1], *nonzero.shape[2:])


def _taps(latest: Latest, mask: Mask, kernel: Tap) -> Iterator[tuple[Tap, Latest]]:
    """For each tap of one output channel the maximum over the channels that it lets through, [N, *S]."""
    for tap in np.ndindex(*kernel):
        through = mask[(slice(None), *tap)]
        if through.any():
            seen = latest if latest.shape[1] == 1 or through.all() else latest[:, through]
            yield tap, seen.max(axis=1)


def _gathered(g: Geometry, latest: Latest, mask: Mask, kernel: Tap, out: Tap) -> Latest:
    result = np.full((latest.shape[0], *out), NEVER, np.int32)
    for tap, seen in _taps(latest, mask, kernel):
        padded = np.pad(seen, [(0, 0), *((p, p) for p in g.padding)], constant_values=NEVER)
        np.maximum(result, padded[(slice(None), *g.taken(tap, out))], out=result)
    return result


def _spread(g: Geometry, latest: Latest, mask: Mask, kernel: Tap, out: Tap) -> Latest:
    """Each element of the input adds to a window of the output; the padding is cut off at the end."""
    sizes = latest.shape[2:]
    full = [
        max((n - 1) * s + d * (k - 1) + 1, p + o)
        for n, s, d, k, p, o in zip(sizes, g.stride, g.dilation, kernel, g.padding, out, strict=True)
    ]
    result = np.full((latest.shape[0], *full), NEVER, np.int32)
    for tap, seen in _taps(latest, mask, kernel):
        window = (slice(None), *g.taken(tap, sizes))
        result[window] = np.maximum(result[window], seen)
    return result[(slice(None), *(slice(p, p + o) for p, o in zip(g.padding, out, strict=True)))]


# ---------------------------------------------------------------------------------------------------- pools


def pool(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Windows of each channel by itself: an average, or a maximum."""
    known, spatial = given(node, args), 3 if "3d" in node.op else 2

    def per_axis(name: str, default: Any) -> Tap:
        value = known.get(name) or default
        return (value,) * spatial if isinstance(value, int) else tuple(value) * (spatial // len(value))

    kernel = per_axis("kernel_size", None)
    geometry = Geometry(per_axis("stride", kernel), per_axis("padding", 0), per_axis("dilation", 1), False, 1)
    return _windows(it, node, args[0], spatial, lambda full, out: _pooled(geometry, full, kernel, out))


def _pooled(g: Geometry, latest: Latest, kernel: Tap, out: Tap) -> Latest:
    """``latest`` is [rows, *S]; with ceil_mode a window may reach beyond the padding."""
    result = np.full((latest.shape[0], *out), NEVER, np.int32)
    ends = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, g.stride, g.dilation, kernel, strict=True)]
    widths = [(p, max(p, e - n - p)) for p, e, n in zip(g.padding, ends, latest.shape[1:], strict=True)]
    padded = np.pad(latest, [(0, 0), *widths], constant_values=NEVER)
    for tap in np.ndindex(*kernel):
        np.maximum(result, padded[(slice(None), *g.taken(tap, out))], out=result)
    return result


def pool_with_indices(it: Interpretation, node: Node, args: tuple[Any, ...]) -> tuple[Latest, ...]:
    return (pool(it, node, args),) * 2


def adaptive_pool(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Output o of m averages the inputs from ``floor(o * n / m)`` to ``ceil((o + 1) * n / m)``."""

    def block(o: int, n: int, m: int) -> tuple[int, int]:
        return o * n // m, -(-(o + 1) * n // m)

    return _windows(it, node, args[0], 2, lambda full, out: _blocks(full, out, block))


def nearest(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """Nearest up- and down-sampling."""
    spatial = rank_of(node) - 2
    scales = args[2] if node.op.endswith("vec") else args[2:]
    sizes = zip(it.shape(args[0])[2:], node.type.shape[2:], strict=True)
    exact = all(_is_power_of_two(n, m, scale) for (n, m), scale in zip(sizes, scales or (None,) * spatial, strict=True))

    def block(o: int, n: int, m: int) -> tuple[int, int]:
        first, ratio = o * n // m, -(-n // m)
        if not exact:
            return max(0, first - ratio - 1), min(n, first + ratio + 1)
        first += ratio // 2 if "exact" in node.op else 0
        return first, first + 1

    return _windows(it, node, args[0], spatial, lambda full, out: _blocks(full, out, block))


def _is_power_of_two(n: int, m: int, scale: float | None) -> bool:
    """Whether sizes ``n`` to ``m`` have such a ratio, so that no rounding can lead to a neighbour."""
    ratio, rest = divmod(max(n, m), max(min(n, m), 1))
    return rest == 0 and ratio.bit_count() == 1 and (scale is None or scale == m / n)


def _blocks(latest: Latest, out: Tap, block: Callable[[int, int, int], tuple[int, int]]) -> Latest:
    """``latest`` is [rows, *S]: along each axis output o of m reads inputs a to b of n, ``(a, b) = block(o, n, m)``."""
    for axis, m in enumerate(out, 1):
        ranges = [block(o, latest.shape[axis], m) for o in range(m)]
        latest = np.stack([latest.take(range(a, b), axis=axis).max(axis=axis) for a, b in ranges], axis=axis)
    return latest


def _windows(
    it: Interpretation, node: Node, state: Ref, spatial: int, evaluate: Callable[[Latest, Tap], Latest]
) -> Latest:
    """``evaluate(latest, out)`` on the last axes, the others (batch and channels, compact or not) as rows."""
    latest, shape = it.of(state), it.shape(state)
    if 0 in shape:
        return it.everything(node)
    lead = latest.shape[:-spatial]
    kind = node.types[0]
    assert kind is not None
    full = along(latest, shape, *range(len(shape) - spatial, len(shape)))
    result = evaluate(full.reshape(prod(lead), *shape[-spatial:]), kind.shape[-spatial:])
    return result.reshape(*lead, *result.shape[1:])


TABLE: dict[str, Rule] = {
    **named(convolution, "convolution.default conv1d.default conv2d.default conv3d.default"),
    **named(convolution, "conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input"),
    **named(pool, "avg_pool2d.default avg_pool3d.default max_pool2d.default"),
    **named(pool_with_indices, "max_pool2d_with_indices.default max_pool3d_with_indices.default"),
    **named(adaptive_pool, "_adaptive_avg_pool2d.default"),
    **named(
        nearest,
        """upsample_nearest1d.default upsample_nearest2d.default upsample_nearest3d.default upsample_nearest1d.vec
        upsample_nearest2d.vec upsample_nearest3d.vec _upsample_nearest_exact1d.default
        _upsample_nearest_exact2d.default _upsample_nearest_exact3d.default""",
    ),
}
