"""Windows of reads and writes by index: parts of the index; an axis that it picks from is read whole."""

from __future__ import annotations

from ...graph import Ref, Symbol, SymbolKind
from ...windows import ALIAS, Box, Instruction, Part, WindowArg, whole
from .asked import Asked, Reads, WindowRule, evaluate_whole, made, named, widened


def embedding(a: Asked) -> Reads:
    """Rows of a table for the indices in the box."""
    indices = Part(a.ref(1), a.box[:-1])
    box = widened(a.box, (len(a.box) - 1,), a.out_shape)
    return Reads(box, (a.all_of(a.args[0]), indices, *a.args[2:]))


def one_hot(a: Asked) -> Reads:
    classes = a.arg(1, -1)
    if not isinstance(classes, int) or classes < 0:  # as many as the largest index says
        return evaluate_whole(a)
    return Reads(widened(a.box, (len(a.box) - 1,), a.out_shape), (Part(a.ref(0), a.box[:-1]), classes))


def index_select(a: Asked) -> Reads:
    dim, state = _axis(a), a.ref(0)
    if dim is None or not a.shape(a.ref(2)):
        return evaluate_whole(a)
    box = (*a.box[:dim], (0, a.shape(state)[dim]), *a.box[dim + 1 :])
    return Reads(a.box, (Part(state, box), dim, Part(a.ref(2), (a.box[dim],))))


def gather(a: Asked) -> Reads:
    """``out[i, j] = state[i, index[i, j]]`` along axis 1, and so on for other axes."""
    dim, state = _axis(a), a.ref(0)
    if dim is None or len(a.shape(a.ref(2))) != len(a.shape(state)):
        return evaluate_whole(a)
    box = (*a.box[:dim], (0, a.shape(state)[dim]), *a.box[dim + 1 :])
    return Reads(a.box, (Part(state, box), dim, Part(a.ref(2), a.box)))


def take(a: Asked) -> Reads:
    """Elements of the flattened array."""
    return Reads(a.box, (a.all_of(a.args[0]), Part(a.ref(1), a.box)))


def index(a: Asked) -> Reads:
    """``state[index, :, index]``: the indices broadcast with each other, and stand where the first of them does.

    If other axes come between them, they stand in front.
    """
    state, indices = a.ref(0), _indices(a)
    if indices is None:
        return evaluate_whole(a)
    first, rank = _place(a, indices)
    chosen = a.box[first : first + rank]
    rest = iter((*a.box[:first], *a.box[first + rank :]))
    sides = [(0, n) if d in indices else next(rest) for d, n in enumerate(a.shape(state))]
    places = [_aligned(a, indices[d], chosen) if d in indices else None for d in range(max(indices) + 1)]
    return Reads(a.box, (Part(state, tuple(sides)), tuple(places)))


def index_put(a: Asked) -> Reads:
    """Axes that are written by index are taken whole, with all that is written; others are cut."""
    state, indices, values = a.ref(0), _indices(a), a.args[2]
    if indices is None or not isinstance(values, Ref):
        return evaluate_whole(a)
    first, rank = _place(a, indices)
    box = widened(a.box, tuple(indices), a.out_shape)
    written = [side for d, side in enumerate(box) if d not in indices]
    written[first:first] = whole(_broadcast([a.shape(ref) for ref in indices.values()], rank))
    places = tuple(a.all_of(indices.get(d)) for d in range(max(indices) + 1))
    return Reads(box, (Part(state, box), places, _aligned(a, values, tuple(written)), *a.args[3:]), a.node.kwargs)


def scatter(a: Asked) -> Reads:
    """Put along one axis, which is taken whole; off it, only what the index reaches is written."""
    dim, state, at, source = _axis(a), a.ref(0), a.ref(2), a.args[3]
    reach = a.shape(at)
    if dim is None or len(reach) != len(a.box):
        return evaluate_whole(a)
    box = widened(a.box, (dim,), a.out_shape)
    sides = [(0, n) if d == dim else (lo, min(hi, n)) for d, ((lo, hi), n) in enumerate(zip(box, reach, strict=True))]
    if any(lo >= hi for lo, hi in sides):
        return Reads(a.box, (Part(state, a.box),), op=ALIAS)
    put: WindowArg = Part(source, tuple(sides)) if isinstance(source, Ref) else source
    return Reads(box, (Part(state, box), dim, Part(at, tuple(sides)), put))


def along_axis(a: Asked) -> Reads:
    """Whole slices of an axis, by a list of indices."""
    dim, state, source = _axis(a), a.ref(0), a.args[3]
    if dim is None:
        return evaluate_whole(a)
    box = widened(a.box, (dim,), a.out_shape)
    put: WindowArg = source
    if isinstance(source, Ref):
        shape = a.shape(source)
        put = Part(source, (*box[:dim], (0, shape[dim]), *box[dim + 1 :]) if shape else ())
    return Reads(box, (Part(state, box), dim, a.all_of(a.args[2]), put), a.node.kwargs)


def bucketize(a: Asked) -> Reads:
    """The place of each value among sorted ones."""
    values = _copied(a, "values", Part(a.ref(0), a.box))
    return Reads(a.box, (_all_of(values), a.all_of(a.args[1])), a.node.kwargs, before=(values,))


def searchsorted(a: Asked) -> Reads:
    """The same, perhaps among those of its own row."""
    among, values = a.ref(0), a.args[1]
    if a.given()["sorter"] is not None or not isinstance(values, Ref):
        return evaluate_whole(a)
    shape = a.shape(among)
    rows = (*a.box[:-1], (0, shape[-1])) if len(shape) > 1 else whole(shape)
    before = (_copied(a, "among", Part(among, rows)), _copied(a, "values", Part(values, a.box)))
    return Reads(a.box, tuple(map(_all_of, before)), a.node.kwargs, before=before)


def _copied(a: Asked, what: str, part: Part) -> Instruction:
    """A contiguous copy: searches warn of operands that are not."""
    contiguous = Symbol(SymbolKind.MEMORY_FORMAT, "contiguous_format")
    return made(a, what, part.box, "aten.clone.default", (part,), memory_format=contiguous)


def _all_of(call: Instruction) -> Part:
    return Part(call.ref, call.box)


def _axis(a: Asked) -> int | None:
    """The axis that is read or written by index; None for a number without axes."""
    dim, rank = a.args[1], len(a.shape(a.ref(0)))
    return dim % rank if isinstance(dim, int) and rank else None


def _indices(a: Asked) -> dict[int, Ref] | None:
    """Indices by axis; None if one of them chooses by truth."""
    given = a.args[1]
    assert isinstance(given, tuple)
    found = {d: i for d, i in enumerate(given) if isinstance(i, Ref)}
    if not found or any(a.type(ref).dtype in ("bool", "uint8") for ref in found.values()):
        return None
    return found


def _place(a: Asked, indices: dict[int, Ref]) -> tuple[int, int]:
    """Where the axes of the indices stand in what they pick, and how many they are."""
    axes = sorted(indices)
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    return axes[0] if adjacent else 0, max(len(a.shape(ref)) for ref in indices.values())


def _aligned(a: Asked, arg: Ref, box: Box) -> Part:
    """The part of an operand that broadcasting brings to ``box``."""
    shape = a.shape(arg)
    sides = box[len(box) - len(shape) :]
    return Part(arg, tuple((0, 1) if size == 1 else side for size, side in zip(shape, sides, strict=True)))


def _broadcast(shapes: list[tuple[int, ...]], rank: int) -> tuple[int, ...]:
    full = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*full, strict=True))


TABLE: dict[str, WindowRule] = {
    **named(embedding, "embedding.default"),
    **named(one_hot, "one_hot.default"),
    **named(index_select, "index_select.default"),
    **named(gather, "gather.default"),
    **named(take, "take.default"),
    **named(index, "index.Tensor"),
    **named(index_put, "index_put.default"),
    **named(scatter, "scatter.value scatter.src scatter_add.default"),
    **named(along_axis, "index_copy.default index_add.default index_fill.int_Scalar index_fill.int_Tensor"),
    **named(bucketize, "bucketize.Tensor"),
    **named(searchsorted, "searchsorted.Tensor"),
}
