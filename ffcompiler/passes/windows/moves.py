"""Windows of operators that move elements."""

from __future__ import annotations

from math import prod

from ...graph import Arg, Ref
from ...windows import ALIAS, Box, Part, WindowArg
from .asked import Asked, Reads, WindowRule, evaluate_whole, named, widened


def elementwise(a: Asked) -> Reads:
    return Reads(a.box, tuple(map(a.broadcast, a.args)), tuple((k, a.broadcast(v)) for k, v in a.node.kwargs))


def select(a: Asked) -> Reads:
    dim, index = _ints(a.args[1:3])
    size = a.shape(a.ref(0))
    dim %= len(size)
    index %= size[dim]
    return Reads(a.box, (Part(a.ref(0), (*a.box[:dim], (index, index + 1), *a.box[dim:])), dim, 0))


def take_slice(a: Asked) -> Reads:
    dim, start, step = a.arg(1, 0), a.arg(2), a.arg(4, 1)
    if not isinstance(dim, int) or step != 1:
        return evaluate_whole(a)
    shape = a.shape(a.ref(0))
    dim %= len(shape)
    first = int(start) if isinstance(start, int) else 0
    first = min(max(first + shape[dim], 0) if first < 0 else first, shape[dim])
    lo, hi = a.box[dim]
    return Reads(a.box, (Part(a.ref(0), (*a.box[:dim], (lo + first, hi + first), *a.box[dim + 1 :])),), op=ALIAS)


def transpose(a: Asked) -> Reads:
    rank = len(a.box)
    one, other = _ints(a.args[1:3]) if len(a.args) > 1 else (0, -1)
    sides = list(a.box)
    if rank > 1:
        sides[one % rank], sides[other % rank] = a.box[other % rank], a.box[one % rank]
    return Reads(a.box, (Part(a.ref(0), tuple(sides)), *a.args[1:]))


def permute(a: Asked) -> Reads:
    dims = _ints(a.args[1])
    sides: dict[int, tuple[int, int]] = {d % len(dims): a.box[place] for place, d in enumerate(dims)}
    return Reads(a.box, (Part(a.ref(0), tuple(sides[d] for d in range(len(dims)))), a.args[1]))


def expand(a: Asked) -> Reads:
    return Reads(a.box, (a.broadcast(a.args[0]), tuple(hi - lo for lo, hi in a.box)))


def reshape(a: Asked) -> Reads:
    """Groups of dimensions that hold the same elements on both sides; a group that is regrouped is cut by rows."""
    box_in: list[tuple[int, int]] = []
    box_out: list[tuple[int, int]] = []
    for ins, outs in groups(a.shape(a.ref(0)), a.out_shape):
        sides = a.box[len(box_out) : len(box_out) + len(outs)]
        rows_in, rows_out = _regrouped(ins, outs, sides)
        box_in += rows_in
        box_out += rows_out
    sizes = tuple(hi - lo for lo, hi in box_out)
    return Reads(tuple(box_out), (Part(a.ref(0), tuple(box_in)), sizes), op="aten.reshape.default")


def groups(ins: tuple[int, ...], outs: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """``ins`` and ``outs`` cut into runs of equal product, as short as possible."""
    found = []
    i = o = 0
    while i < len(ins) or o < len(outs):
        j, p = min(i + 1, len(ins)), min(o + 1, len(outs))
        while prod(ins[i:j]) != prod(outs[o:p]):
            if (prod(ins[i:j]) < prod(outs[o:p]) or p == len(outs)) and j < len(ins):
                j += 1
            else:
                p += 1
        if i == j and o == p:
            break
        found.append((ins[i:j], outs[o:p]))
        i, o = j, p
    return found


def _regrouped(ins: tuple[int, ...], outs: tuple[int, ...], sides: Box) -> tuple[Box, Box]:
    """The boxes of one group on both sides: rows of whole trailing dimensions."""
    if ins == outs:
        return sides, sides
    if not outs:
        return tuple((0, size) for size in ins), ()
    if not ins or 0 in (*ins, *outs):
        return tuple((0, s) for s in ins), tuple((0, s) for s in outs)
    row_in, row_out = prod(ins[1:]), prod(outs[1:])
    row = max(row_in, row_out)
    if row % row_in or row % row_out:
        return tuple((0, s) for s in ins), tuple((0, s) for s in outs)
    lo, hi = sides[0][0] * row_out // row, -(-sides[0][1] * row_out // row)
    cut = [(lo * row // r, min(hi * row // r, size)) for r, size in ((row_in, ins[0]), (row_out, outs[0]))]
    return (cut[0], *((0, s) for s in ins[1:])), (cut[1], *((0, s) for s in outs[1:]))


def concatenate(a: Asked) -> Reads:
    """The parts that reach into the box."""
    tensors, dim = a.args[0], a.arg(1, 0)
    assert isinstance(tensors, tuple) and isinstance(dim, int)
    dim %= len(a.box)
    refs = [t for t in tensors if isinstance(t, Ref)]
    if any(len(a.shape(ref)) != len(a.box) for ref in refs):
        return evaluate_whole(a)
    parts: list[Part] = []
    lo, hi = a.box[dim]
    first = 0
    for ref in refs:
        size = a.shape(ref)[dim]
        side = (max(lo - first, 0), min(hi - first, size))
        if side[0] < side[1]:
            parts.append(Part(ref, (*a.box[:dim], side, *a.box[dim + 1 :])))
        first += size
    return Reads(a.box, (tuple(parts), dim))


def pad(a: Asked) -> Reads:
    """The part of the input inside the box, padded to the box."""
    shape, amounts = a.shape(a.ref(0)), _ints(a.args[1])
    sides, missing = list(a.box), [0] * len(amounts)
    for index in range(len(amounts) // 2):
        dim = len(shape) - 1 - index
        lo, hi = (side - amounts[2 * index] for side in a.box[dim])
        inner = (min(max(lo, 0), shape[dim]), max(min(hi, shape[dim]), 0))
        if inner[0] >= inner[1]:
            return evaluate_whole(a)
        sides[dim] = inner
        missing[2 * index : 2 * index + 2] = [inner[0] - lo, hi - inner[1]]
    return Reads(a.box, (Part(a.ref(0), tuple(sides)), tuple(missing), *a.args[2:]))


def scatter(a: Asked) -> Reads:
    """Put along one axis, which is taken whole; elsewhere the index must be as large as what it puts into."""
    dim = a.args[1]
    shape, reach = a.out_shape, a.shape(a.ref(2))
    assert isinstance(dim, int)
    dim %= len(shape)
    if len(reach) != len(shape) or any(
        n != size for d, (n, size) in enumerate(zip(reach, shape, strict=True)) if d != dim
    ):
        return evaluate_whole(a)
    box = widened(a.box, (dim,), shape)
    index = (*a.box[:dim], (0, reach[dim]), *a.box[dim + 1 :])
    source = a.args[3]
    put: WindowArg = Part(source, index) if isinstance(source, Ref) and a.shape(source) == reach else source
    if isinstance(put, Ref):
        return evaluate_whole(a)
    return Reads(box, (Part(a.ref(0), box), dim, Part(a.ref(2), index), put))


def flip(a: Asked) -> Reads:
    dims = {d % len(a.box) for d in _ints(a.args[1])}
    sides = [
        (s - hi, s - lo) if d in dims else (lo, hi)
        for d, (s, (lo, hi)) in enumerate(zip(a.out_shape, a.box, strict=True))
    ]
    return Reads(a.box, (Part(a.ref(0), tuple(sides)), a.args[1]))


def upsample(a: Asked) -> Reads:
    """Nearest neighbours, by whole factors."""
    shape = a.shape(a.ref(0))
    box, sides = list(a.box), list(a.box)
    for dim in range(2, len(shape)):
        factor, rest = divmod(a.out_shape[dim], shape[dim])
        if rest:
            return evaluate_whole(a)
        sides[dim] = (a.box[dim][0] // factor, -(-a.box[dim][1] // factor))
        box[dim] = (sides[dim][0] * factor, sides[dim][1] * factor)
    sizes: WindowArg = tuple(hi - lo for lo, hi in box[2:])
    nothing: tuple[Arg, ...] = (None,) if a.node.op.endswith(".vec") else (None,) * (len(shape) - 2)
    return Reads(tuple(box), (Part(a.ref(0), tuple(sides)), sizes, *nothing))


def _ints(arg: Arg) -> tuple[int, ...]:
    assert isinstance(arg, tuple)
    return tuple(v for v in arg if isinstance(v, int))


TABLE: dict[str, WindowRule] = {
    **named(select, "select.int"),
    **named(take_slice, "slice.Tensor"),
    **named(transpose, "transpose.int t.default"),
    **named(permute, "permute.default"),
    **named(expand, "expand.default"),
    **named(
        reshape,
        """view.default _unsafe_view.default reshape.default unsqueeze.default squeeze.default squeeze.dim
        squeeze.dims""",
    ),
    **named(concatenate, "cat.default"),
    **named(pad, "constant_pad_nd.default"),
    **named(scatter, "scatter.value scatter.src"),
    **named(flip, "flip.default"),
    **named(
        upsample, "upsample_nearest1d.default upsample_nearest2d.default upsample_nearest1d.vec upsample_nearest2d.vec"
    ),
    **named(elementwise, "alias.default clone.default detach.default lift_fresh_copy.default"),
}

VIEWS = frozenset(
    f"aten.{name}"
    for name in """alias.default detach.default select.int slice.Tensor transpose.int t.default permute.default
    expand.default view.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims diagonal.default
    unfold.default narrow.default movedim.int""".split()
)
"""Operators whose result is a view of their first argument, so that it follows when that is written."""
