"""Windows of operators that move elements."""

from __future__ import annotations

from math import prod

from ...graph import Arg, Ref
from ...windows import ALIAS, Box, Part
from .asked import Asked, Reads, WindowRule, evaluate_whole, named


def elementwise(a: Asked) -> Reads:
    return Reads(a.box, tuple(map(a.broadcast, a.args)), tuple((k, a.broadcast(v)) for k, v in a.node.kwargs))


def prelu(a: Asked) -> Reads:
    """Elementwise, but the weight stands along the channels."""
    weight = a.ref(1)
    sides = ((0, 1) if a.shape(weight) == (1,) else a.box[1],) if a.shape(weight) else ()
    return Reads(a.box, (Part(a.ref(0), a.box), Part(weight, sides)))


def new(a: Asked) -> Reads:
    """As large as the box; of the tensor that it is made like, one element says the dtype."""
    like = tuple((0, min(size, 1)) for size in a.shape(a.ref(0)))
    return Reads(a.box, (Part(a.ref(0), like), tuple(hi - lo for lo, hi in a.box), *a.args[2:]), a.node.kwargs)


def select(a: Asked) -> Reads:
    dim, index = _ints(a.args[1:3])
    size = a.shape(a.ref(0))
    dim %= len(size)
    index %= size[dim]
    return Reads(a.box, (Part(a.ref(0), (*a.box[:dim], (index, index + 1), *a.box[dim:])), dim, 0))


def take_slice(a: Asked) -> Reads:
    known = a.given()
    dim, start, step = known["dim"], known["start"], known["step"]
    assert isinstance(dim, int) and isinstance(step, int)
    shape = a.shape(a.ref(0))
    dim %= len(shape)
    first = int(start) if isinstance(start, int) else 0
    first = min(max(first + shape[dim], 0) if first < 0 else first, shape[dim])
    lo, hi = a.box[dim]
    if step == 1:
        return Reads(a.box, (Part(a.ref(0), (*a.box[:dim], (lo + first, hi + first), *a.box[dim + 1 :])),), op=ALIAS)
    side = (first + lo * step, first + (hi - 1) * step + 1)
    part = Part(a.ref(0), (*a.box[:dim], side, *a.box[dim + 1 :]))
    return Reads(a.box, (part, dim, 0, side[1] - side[0], step)) if lo < hi else evaluate_whole(a)


def narrow(a: Asked) -> Reads:
    dim, start = _ints(a.args[1:3])
    size = a.shape(a.ref(0))[dim]
    lo, hi = a.box[dim]
    sides = list(a.box)
    sides[dim] = (lo + start % max(size, 1), hi + start % max(size, 1))
    return Reads(a.box, (Part(a.ref(0), tuple(sides)),), op=ALIAS)


def move_axis(a: Asked) -> Reads:
    rank = len(a.box)
    source, destination = (d % rank for d in _ints(a.args[1:3]))
    sides = list(a.box)
    sides.insert(source, sides.pop(destination))
    return Reads(a.box, (Part(a.ref(0), tuple(sides)), *a.args[1:]))


def unfold(a: Asked) -> Reads:
    """Runs of an axis, one after another; their elements, along the last axis, are taken whole."""
    dim, size, step = _ints(a.args[1:4])
    rank = len(a.box) - 1
    if rank == 0 or not a.box[dim % rank][0] < a.box[dim % rank][1]:
        return evaluate_whole(a)
    lo, hi = a.box[dim % rank]
    sides = list(a.box[:-1])
    sides[dim % rank] = (lo * step, (hi - 1) * step + size)
    return Reads((*a.box[:-1], (0, size)), (Part(a.ref(0), tuple(sides)), *a.args[1:]))


def diagonal(a: Asked) -> Reads:
    """A diagonal of a box that it begins in the corner of."""
    known, rank = a.given(), len(a.box) + 1
    offset, row, column = _ints((known["offset"], known["dim1"], known["dim2"]))
    lo, hi = a.box[-1]
    rest = iter(a.box[:-1])
    along = {row % rank: (lo - min(offset, 0), hi - min(offset, 0))}
    along[column % rank] = (lo + max(offset, 0), hi + max(offset, 0))
    sides = tuple(along[d] if d in along else next(rest) for d in range(rank))
    return Reads(a.box, (Part(a.ref(0), sides), 0, row, column))


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


def flip(a: Asked) -> Reads:
    dims = {d % len(a.box) for d in _ints(a.args[1])}
    sides = [
        (s - hi, s - lo) if d in dims else (lo, hi)
        for d, (s, (lo, hi)) in enumerate(zip(a.out_shape, a.box, strict=True))
    ]
    return Reads(a.box, (Part(a.ref(0), tuple(sides)), a.args[1]))


def _ints(arg: Arg) -> tuple[int, ...]:
    assert isinstance(arg, tuple)
    return tuple(v for v in arg if isinstance(v, int))


TABLE: dict[str, WindowRule] = {
    **named(select, "select.int"),
    **named(take_slice, "slice.Tensor"),
    **named(narrow, "narrow.default"),
    **named(move_axis, "movedim.int"),
    **named(unfold, "unfold.default"),
    **named(diagonal, "diagonal.default"),
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
    **named(flip, "flip.default"),
    **named(
        elementwise,
        """alias.default clone.default detach.default lift_fresh_copy.default copy.default zeros_like.default
        ones_like.default full_like.default zero.default fill.Scalar fill.Tensor""",
    ),
    **named(new, "new_zeros.default new_ones.default new_full.default"),
    **named(prelu, "prelu.default"),
}

VIEWS = frozenset(
    f"aten.{name}"
    for name in """alias.default detach.default select.int slice.Tensor transpose.int t.default permute.default
    expand.default view.default _unsafe_view.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims
    diagonal.default unfold.default narrow.default movedim.int""".split()
)
"""Operators whose result is a view of their first argument, so that it follows when that is written."""
