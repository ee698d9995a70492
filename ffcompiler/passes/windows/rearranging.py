"""Windows of operators that put elements in other places: rolls, repeats, joins, triangles, shuffles, borders."""

from __future__ import annotations

from ...graph import Arg, Ref
from ...windows import ALIAS, Part, WindowArg
from .asked import Asked, Reads, WindowRule, evaluate_whole, named, widened

Side = tuple[int, int]


def roll(a: Asked) -> Reads:
    """Moved along its axes; one that begins again inside the box is taken whole and rolled."""
    shape, (shifts, dims) = a.shape(a.ref(0)), (a.given()[name] for name in ("shifts", "dims"))
    if not dims or 0 in shape:  # flattened, then rolled
        return evaluate_whole(a)
    by: dict[int, int] = {}
    for shift, dim in zip(_ints(shifts), _ints(dims), strict=True):
        by[dim % len(shape)] = by.get(dim % len(shape), 0) + shift
    box, sides, rolled = list(a.box), list(a.box), {}
    for dim, shift in by.items():
        first = (a.box[dim][0] - shift) % shape[dim]
        sides[dim] = (first, first + a.box[dim][1] - a.box[dim][0])
        if sides[dim][1] > shape[dim]:
            box[dim] = sides[dim] = (0, shape[dim])
            rolled[dim] = shift
    part = Part(a.ref(0), tuple(sides))
    if not rolled:
        return Reads(a.box, (part,), op=ALIAS)
    return Reads(tuple(box), (part, tuple(rolled.values()), tuple(rolled)))


def repeat(a: Asked) -> Reads:
    """Inside one copy, a part of it; else as many whole copies as the box touches."""
    shape = a.shape(a.ref(0))
    lead = len(a.box) - len(shape)
    if 0 in a.out_shape:
        return evaluate_whole(a)
    box, sides, counts = list(a.box), [], [hi - lo for lo, hi in a.box[:lead]]
    for dim, n in enumerate(shape, lead):
        lo, hi = a.box[dim]
        copy, end = lo // n, -(-hi // n)
        if end - copy == 1:
            sides.append((lo - copy * n, hi - copy * n))
        else:
            sides.append((0, n))
            box[dim] = (copy * n, end * n)
        counts.append(end - copy)
    return Reads(tuple(box), (Part(a.ref(0), tuple(sides)), tuple(counts)))


def stack(a: Asked) -> Reads:
    """The tensors that reach into the box."""
    tensors, dim = a.args[0], a.arg(1, 0)
    assert isinstance(tensors, tuple) and isinstance(dim, int)
    dim %= len(a.box)
    lo, hi = a.box[dim]
    box = (*a.box[:dim], *a.box[dim + 1 :])
    parts: tuple[WindowArg, ...] = tuple(Part(t, box) for t in tensors[lo:hi] if isinstance(t, Ref))
    return Reads(a.box, (parts, dim))


def split(a: Asked) -> Reads:
    """One of the pieces: a slice."""
    size, dim = a.args[1], a.arg(2, 0)
    assert isinstance(size, int) and isinstance(dim, int)
    dim %= len(a.box)
    lo, hi = (side + a.output * size for side in a.box[dim])
    return Reads(a.box, (Part(a.ref(0), (*a.box[:dim], (lo, hi), *a.box[dim + 1 :])),), op=ALIAS)


def triangle(a: Asked) -> Reads:
    """The diagonal, counted from the corner of the box."""
    offset = a.arg(1, 0)
    assert isinstance(offset, int)
    return Reads(a.box, (Part(a.ref(0), a.box), offset + a.box[-2][0] - a.box[-1][0]))


def whole_along_two(a: Asked) -> Reads:
    """What happens between two axes of the result: these are taken whole, others are cut."""
    known, rank = a.given(), len(a.box)
    given = _ints(known["dims"] if "dims" in known else (known["dim1"], known["dim2"]))
    dims = tuple(d % rank for d in given)
    box = widened(a.box, dims, a.out_shape)
    if a.node.op == "aten.rot90.default":
        shape = a.shape(a.ref(0))
        return Reads(box, (Part(a.ref(0), widened(a.box, dims, shape)), *a.args[1:]), a.node.kwargs)
    rest = tuple(side for d, side in enumerate(box) if d not in dims)
    if a.node.op == "aten.diag_embed.default":
        return Reads(box, (Part(a.ref(0), (*rest, (0, a.shape(a.ref(0))[-1]))), *a.args[1:]), a.node.kwargs)
    source = Part(a.ref(1), (*rest, (0, a.shape(a.ref(1))[-1])))
    return Reads(box, (Part(a.ref(0), box), source, *a.args[2:]), a.node.kwargs)


def put_selected(a: Asked) -> Reads:
    """One entry of an axis is replaced, if it is in the box."""
    dim, at = _ints(a.args[2:4])
    dim %= len(a.box)
    lo, hi = a.box[dim]
    at %= a.out_shape[dim]
    if not lo <= at < hi:
        return Reads(a.box, (Part(a.ref(0), a.box),), op=ALIAS)
    source = Part(a.ref(1), (*a.box[:dim], *a.box[dim + 1 :]))
    return Reads(a.box, (Part(a.ref(0), a.box), source, dim, at - lo))


def put_slice(a: Asked) -> Reads:
    """Every so many entries of an axis are replaced: those in the box."""
    known = a.given()
    dim, step = _ints((known["dim"], known["step"]))
    dim %= len(a.box)
    n, (lo, hi) = a.out_shape[dim], a.box[dim]
    start = known["start"] if isinstance(known["start"], int) else 0
    start = min(max(start + n, 0) if start < 0 else start, n)
    count = a.shape(a.ref(1))[dim]
    first, end = max(-(-(lo - start) // step), 0), min(-(-(hi - start) // step), count)
    if first >= end:
        return Reads(a.box, (Part(a.ref(0), a.box),), op=ALIAS)
    source = Part(a.ref(1), (*a.box[:dim], (first, end), *a.box[dim + 1 :]))
    begin = start + first * step - lo
    stop = min(begin + (end - first - 1) * step + 1, hi - lo)
    return Reads(a.box, (Part(a.ref(0), a.box), source, dim, begin, stop, step))


def pixel_shuffle(a: Asked) -> Reads:
    """Blocks of channels to blocks of pixels."""
    r = a.args[1]
    assert isinstance(r, int)
    rows, columns = (_blocks(side, r) for side in a.box[-2:])
    box = (*a.box[:-2], *((lo * r, hi * r) for lo, hi in (rows, columns)))
    channels = (a.box[-3][0] * r * r, a.box[-3][1] * r * r)
    return Reads(box, (Part(a.ref(0), (*a.box[:-3], channels, rows, columns)), r))


def pixel_unshuffle(a: Asked) -> Reads:
    """Blocks of pixels to blocks of channels."""
    r = a.args[1]
    assert isinstance(r, int)
    channels = _blocks(a.box[-3], r * r)
    box = (*a.box[:-3], (channels[0] * r * r, channels[1] * r * r), *a.box[-2:])
    pixels = ((lo * r, hi * r) for lo, hi in a.box[-2:])
    return Reads(box, (Part(a.ref(0), (*a.box[:-3], channels, *pixels)), r))


def channel_shuffle(a: Asked) -> Reads:
    """All channels of some places."""
    box = widened(a.box, (1,), a.out_shape)
    return Reads(box, (Part(a.ref(0), box), a.args[1]))


def border(a: Asked) -> Reads:
    """A border of copies: where the box touches it, as much of the input as is copied there."""
    amounts, shape = _ints(a.args[1]), a.shape(a.ref(0))
    if min(amounts) < 0 or 0 in a.out_shape:
        return evaluate_whole(a)
    box, sides, missing = list(a.box), list(a.box), [0] * len(amounts)
    copied = 1 if "reflection" in a.node.op else 0  # the outermost element itself is not
    for index in range(len(amounts) // 2):
        dim, before = len(shape) - 1 - index, amounts[2 * index]
        lo, hi = (side - before for side in a.box[dim])
        left, right = max(-lo, 0), max(hi - shape[dim], 0)
        first = 0 if left else min(lo, shape[dim] - 1 - right * copied)
        end = shape[dim] if right else max(hi, 1 + left * copied)
        sides[dim], box[dim] = (first, end), (first - left + before, end + right + before)
        missing[2 * index : 2 * index + 2] = [left, right]
    return Reads(tuple(box), (Part(a.ref(0), tuple(sides)), tuple(missing)))


def _blocks(side: Side, size: int) -> Side:
    """Blocks that hold these entries."""
    return side[0] // size, -(-side[1] // size)


def _ints(arg: Arg) -> tuple[int, ...]:
    """Numbers; one may stand without its tuple."""
    return tuple(v for v in (arg if isinstance(arg, tuple) else (arg,)) if isinstance(v, int))


TABLE: dict[str, WindowRule] = {
    **named(roll, "roll.default"),
    **named(repeat, "repeat.default"),
    **named(stack, "stack.default"),
    **named(split, "unsafe_split.Tensor"),
    **named(triangle, "tril.default triu.default"),
    **named(whole_along_two, "rot90.default diag_embed.default diagonal_scatter.default"),
    **named(put_selected, "select_scatter.default"),
    **named(put_slice, "slice_scatter.default"),
    **named(pixel_shuffle, "pixel_shuffle.default"),
    **named(pixel_unshuffle, "pixel_unshuffle.default"),
    **named(channel_shuffle, "channel_shuffle.default"),
    **named(
        border,
        """reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default replication_pad1d.default
        replication_pad2d.default replication_pad3d.default""",
    ),
}
ALL_RESULTS = frozenset({"aten.unsafe_split.Tensor"})
"""Each piece by itself."""
