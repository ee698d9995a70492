"""Windows of what is computed along axes: these are taken whole, and all others are cut."""

from __future__ import annotations

from collections.abc import Iterator

from ...windows import Box, Part
from .asked import Asked, Reads, WindowRule, evaluate_whole, named, widened


def along(a: Asked) -> Reads:
    """Along one axis, which stays: softmax, running sums, order, gates."""
    dim, shape = a.given()["dim"], a.shape(a.ref(0))
    if not shape or not isinstance(dim, int):
        return evaluate_whole(a)
    dim %= len(shape)
    box = widened(a.box, (dim,), a.out_shape)
    return Reads(box, (Part(a.ref(0), widened(a.box, (dim,), shape)), *a.args[1:]), a.node.kwargs)


def reduction(a: Asked) -> Reads:
    """Over the axes in ``dim``, with or without keeping them."""
    shape, dims = a.shape(a.ref(0)), a.given()["dim"]
    if dims is None or dims == () or not shape:
        return evaluate_whole(a)
    axes = {d % len(shape) for d in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(d, int)}
    keep = len(a.box) == len(shape)
    rest = iter(a.box)
    box: Box = tuple(_side(rest, keep, size) if dim in axes else next(rest) for dim, size in enumerate(shape))
    out = tuple((0, 1) if keep and dim in axes else side for dim, side in enumerate(box) if keep or dim not in axes)
    return Reads(out, (Part(a.ref(0), box), *a.args[1:]), a.node.kwargs)


def _side(rest: Iterator[tuple[int, int]], keep: bool, size: int) -> tuple[int, int]:
    if keep:
        next(rest)
    return (0, size)


_ALONG = named(
    along,
    """_softmax.default _log_softmax.default softmax.int log_softmax.int _safe_softmax.default cumsum.default
    cumprod.default logcumsumexp.default cummax.default cummin.default sort.default sort.stable topk.default
    glu.default""",
)
_OVER = named(
    reduction,
    """sum.dim_IntList mean.dim amax.default amin.default argmax.default argmin.default logsumexp.default any.dim
    all.dim any.dims all.dims prod.dim_int max.dim min.dim median.dim kthvalue.default aminmax.default var.correction
    std.correction var_mean.correction std_mean.correction norm.ScalarOpt_dim linalg_vector_norm.default
    nansum.default count_nonzero.dim_IntList""",
)
TABLE: dict[str, WindowRule] = {**_ALONG, **_OVER}
ALL_RESULTS = frozenset(TABLE)
"""A second result, if any, has the shape of the first and is found with it."""
