"""One call in place of several alike: an operator on packs, whose first dimension is the layers'.

A rule gets the nodes, each with its layer, and gives the pack of their results, or None where it does not fit them.
Only operators that a batch of layers has at little more than the cost of one are here; others are called one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from ...graph import Arg, Node, Ref, Symbol, SymbolKind, TensorType, contiguous
from ...ops import OPS, Numerics

CONTIGUOUS = (("memory_format", Symbol(SymbolKind.MEMORY_FORMAT, "contiguous_format")),)


class Packs(Protocol):
    """Where a rule has its operands from, and puts its operators."""

    local: set[str]

    @property
    def types(self) -> dict[str, TensorType]: ...

    def pack(self, items: tuple[tuple[Ref, int], ...]) -> Ref: ...

    def emit(
        self, op: str, args: tuple[Arg, ...], *kinds: TensorType | None, kwargs: Sequence[tuple[str, Arg]] = ()
    ) -> Ref: ...


Rule: TypeAlias = Callable[[Packs, Sequence[Node], Sequence[int], int | None], Ref | None]


def alike(nodes: Sequence[Node], types: Mapping[str, TensorType]) -> bool:
    """Whether they are the same call, but for which values of the same types they read."""
    return len({_signature(node, types) for node in nodes}) == 1 and not any(any(node.steps()) for node in nodes)


def _signature(node: Node, types: Mapping[str, TensorType]) -> tuple[object, ...]:
    def form(arg: Arg) -> object:
        match arg:
            case Ref():
                return types[arg.key].dtype, types[arg.key].shape
            case tuple():
                return tuple(map(form, arg))
        return type(arg), arg

    results = tuple(kind and (kind.dtype, kind.shape) for kind in node.types)
    return node.op, tuple(map(form, node.args)), tuple((key, form(arg)) for key, arg in node.kwargs), results


class _Operands:
    """The packs of what nodes that are alike read, by position."""

    def __init__(self, packs: Packs, nodes: Sequence[Node], stages: Sequence[int]) -> None:
        self.packs, self.nodes, self.stages = packs, nodes, stages
        self.first = nodes[0]
        self.count = len(nodes)

    def kind(self, *shape: int) -> TensorType:
        """Of a pack whose members have this shape."""
        dtype = next(kind.dtype for kind in self.first.types if kind is not None)
        return TensorType(dtype, (self.count, *shape), contiguous((self.count, *shape)))

    def shape(self, position: int) -> tuple[int, ...]:
        """Of an operand."""
        arg = self.first.args[position]
        assert isinstance(arg, Ref)
        return self.packs.types[arg.key].shape

    def __getitem__(self, position: int) -> Ref:
        return self.of([node.args[position] for node in self.nodes])

    def of(self, args: Sequence[Arg]) -> Ref:
        refs = [arg for arg in args if isinstance(arg, Ref)]
        assert len(refs) == self.count
        return self.packs.pack(tuple(zip(refs, self.stages, strict=True)))

    def emit(self, op: str, args: tuple[Arg, ...], *shape: int, kwargs: Sequence[tuple[str, Arg]] = ()) -> Ref:
        return self.packs.emit(f"aten.{op}", args, self.kind(*shape), kwargs=kwargs)

    def with_rank(self, of: Ref, shape: tuple[int, ...], rank: int) -> Ref:
        """A pack of values of this shape, with dimensions of 1 in front of theirs."""
        for _ in range(rank - len(shape)):
            shape = (1, *shape)
            of = self.emit("unsqueeze.default", (of, 1), *shape)
        return of


# ---------------------------------------------------------------------------------------------------- elements


def _elementwise(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    """The same call, operands of fewer dimensions made to fit after that of the layers."""
    first, of = nodes[0], _Operands(packs, nodes, stages)
    if output is not None or any(isinstance(arg, tuple | Ref) for _, arg in first.kwargs):
        return None
    rank = len(first.type.shape)
    if not _promotes_alike([packs.types[ref.key] for ref in first.refs()]):
        return None
    args: list[Arg] = []
    for position, arg in enumerate(first.args):
        if isinstance(arg, tuple):
            return None
        if isinstance(arg, Ref):
            args.append(of.with_rank(of[position], of.shape(position), rank))
        else:
            args.append(arg)
    return packs.emit(first.op, tuple(args), of.kind(*first.type.shape), kwargs=first.kwargs)


def _promotes_alike(kinds: Sequence[TensorType]) -> bool:
    """Whether results have the same element type with one dimension more: a single number counts for less than many."""
    return len({kind.dtype for kind in kinds}) <= 1 or all(kind.shape for kind in kinds)


def _inner(dim: Arg, rank: int) -> int:
    assert isinstance(dim, int)
    return dim % max(rank, 1) + 1


def _dims(place: int, added: int = 0) -> Rule:
    """Calls whose argument at ``place`` names dimensions; of a result that has ``added`` more."""

    def rule(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
        first, of = nodes[0], _Operands(packs, nodes, stages)
        if output is not None or first.kwargs or not isinstance(first.args[0], Ref) or len(first.types) != 1:
            return None
        if any(isinstance(arg, Ref) for arg in first.args[1:]):
            return None
        rank = len(of.shape(0)) + added
        dims = first.args[place] if place < len(first.args) else (0 if first.op == "aten.slice.Tensor" else None)
        if dims is None or not rank:
            return None
        inner = tuple(_inner(d, rank) for d in dims) if isinstance(dims, tuple) else _inner(dims, rank)
        args = (of[0], *first.args[1:place], inner, *first.args[place + 1 :])
        return packs.emit(first.op, args, of.kind(*first.type.shape))

    return rule


_SLICE: tuple[Arg, ...] = (0, None, None, 1)


def _slice(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    """As `narrow`, which is called in less time."""
    first, of = nodes[0], _Operands(packs, nodes, stages)
    dim, start, end, step = (*first.args[1:], *_SLICE[len(first.args) - 1 :])
    if first.kwargs or step != 1 or not isinstance(start, int | None) or not isinstance(end, int | None):
        return None
    dim = _inner(dim, len(of.shape(0)))
    lo, hi, _ = slice(start, end).indices(of.shape(0)[dim - 1])
    return packs.emit("aten.narrow.default", (of[0], dim, lo, max(hi - lo, 0)), of.kind(*first.type.shape))


def _transposed(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    first, of = nodes[0], _Operands(packs, nodes, stages)
    rank = len(of.shape(0))
    if first.kwargs or not rank:
        return None
    match first.op, first.args[1:]:
        case "aten.transpose.int", (int(a), int(b)):
            dims = (_inner(a, rank), _inner(b, rank))
        case "aten.t.default", ():
            dims = (1, rank)
        case "aten.permute.default", (tuple(order),):
            inner = (0, *(_inner(d, rank) for d in order))
            return packs.emit(first.op, (of[0], inner), of.kind(*first.type.shape))
        case _:
            return None
    return packs.emit("aten.transpose.int", (of[0], *dims), of.kind(*first.type.shape))


def _reshaped(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    first, of = nodes[0], _Operands(packs, nodes, stages)
    return of.emit("reshape.default", (of[0], (of.count, *first.type.shape)), *first.type.shape)


def _expanded(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    first, of = nodes[0], _Operands(packs, nodes, stages)
    if first.kwargs:
        return None
    shape = first.type.shape
    whole = of.with_rank(of[0], of.shape(0), len(shape))
    return of.emit("expand.default", (whole, (of.count, *shape)), *shape)


def _copied(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    """A copy is the value itself: graphs are functional."""
    return _Operands(packs, nodes, stages)[0]


def _joined(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    first, of = nodes[0], _Operands(packs, nodes, stages)
    dim = first.args[1] if len(first.args) > 1 else 0
    lists = [node.args[0] for node in nodes]
    if first.kwargs or not isinstance(dim, int) or not all(isinstance(parts, tuple) for parts in lists):
        return None
    columns = list(zip(*[parts for parts in lists if isinstance(parts, tuple)], strict=True))
    if not all(isinstance(arg, Ref) for column in columns for arg in column):
        return None
    shape = first.type.shape
    whole = tuple(of.of(column) for column in columns)
    return packs.emit(first.op, (whole, _inner(dim, len(shape))), of.kind(*shape))


# ---------------------------------------------------------------------------------------------------- products


def _rows_by(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    """``linear(x, w, b)``, ``addmm(b, x, m)`` and ``mm(x, m)`` as a batch of products."""
    first, of = nodes[0], _Operands(packs, nodes, stages)
    bias, rows, weight = {"linear": (2, 0, 1), "addmm": (0, 1, 2), "mm": (None, 0, 1)}[first.op.split(".")[1]]
    if bias is not None and (bias >= len(first.args) or first.args[bias] is None):
        bias = None
    if first.kwargs or len(of.shape(weight)) != 2 or (bias is not None and len(of.shape(bias)) > 2):
        return None
    shape = of.shape(rows)
    width = first.type.shape[-1]
    x = of[rows]
    count = 1
    for size in shape[:-1]:
        count *= size
    if len(shape) != 2:
        x = of.emit("reshape.default", (x, (of.count, count, shape[-1])), count, shape[-1])
    w = _columns(of, of[weight]) if first.op == "aten.linear.default" else of[weight]
    if bias is None:
        made = of.emit("bmm.default", (x, w), count, width)
    else:
        added = of.with_rank(of[bias], of.shape(bias), 2)
        made = of.emit("baddbmm.default", (added, x, w), count, width)
    return (
        made
        if len(shape) == 2
        else of.emit("reshape.default", (made, (of.count, *shape[:-1], width)), *shape[:-1], width)
    )


def _columns(of: _Operands, w: Ref) -> Ref:
    """Each matrix transposed: where they are made once, laid out anew."""
    turned = of.emit("transpose.int", (w, 1, 2))
    if turned.name in of.packs.local:
        return turned
    return of.emit("clone.default", (turned,), kwargs=CONTIGUOUS)


def _matrix_by(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    """``mv(m, x)``."""
    first, of = nodes[0], _Operands(packs, nodes, stages)
    if first.kwargs:
        return None
    (height,) = first.type.shape
    column = of.emit("unsqueeze.default", (of[1], 2), *of.shape(1), 1)
    made = of.emit("bmm.default", (of[0], column), height, 1)
    return of.emit("squeeze.dim", (made, 2), height)


def _normalised(packs: Packs, nodes: Sequence[Node], stages: Sequence[int], output: int | None) -> Ref | None:
    """A layer norm over the last dimensions, then each layer's own weights."""
    first, of = nodes[0], _Operands(packs, nodes, stages)
    if first.kwargs or output != 0 or len(first.args) != 5 or not isinstance(first.args[0], Ref):
        return None
    shape = of.shape(0)
    kinds = [kind and of.kind(*kind.shape) for kind in first.types]
    made = packs.emit(first.op, (of[0], first.args[1], None, None, first.args[4]), *kinds)
    result = Ref(made.name, 0)
    scale, shift = (
        (of.with_rank(of[k], of.shape(k), len(shape)) if first.args[k] is not None else None) for k in (2, 3)
    )
    if scale is not None and shift is not None:
        return of.emit("addcmul.default", (shift, result, scale), *shape)
    if scale is not None:
        return of.emit("mul.Tensor", (result, scale), *shape)
    return result if shift is None else of.emit("add.Tensor", (result, shift), *shape)


_WITH_DIMS = """select.int squeeze.dim squeeze.dims sum.dim_IntList mean.dim amax.default amin.default _softmax.default
_log_softmax.default logsumexp.default cumsum.default flip.default unsafe_chunk.default"""

RULES: dict[str, Rule] = {
    **{name: _elementwise for name, op in OPS.items() if op.numerics in (Numerics.EXACT, Numerics.POINTWISE)},
    **{f"aten.{name}": _dims(1) for name in _WITH_DIMS.split()},
    "aten.unsqueeze.default": _dims(1, added=1),
    "aten.slice.Tensor": _slice,
    **{f"aten.{name}": _transposed for name in "transpose.int t.default permute.default".split()},
    **{
        f"aten.{name}": _reshaped
        for name in "view.default _unsafe_view.default reshape.default squeeze.default".split()
    },
    "aten.expand.default": _expanded,
    **{f"aten.{name}": _copied for name in "clone.default alias.default detach.default".split()},
    **{f"aten.{name}": _joined for name in "cat.default stack.default".split()},
    **{f"aten.{name}": _rows_by for name in "linear.default addmm.default mm.default".split()},
    "aten.mv.default": _matrix_by,
    "aten.native_layer_norm.default": _normalised,
}
"""By operator."""
