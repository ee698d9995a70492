"""Windows of products of matrices: an axis that is summed over is never cut, which would round anew."""

from __future__ import annotations

from ...graph import Ref
from ...windows import ALIAS, Box, Instruction, Part, WindowArg, volume, whole
from .asked import Asked, Reads, WindowRule, evaluate_whole, named
from .attention import TABLE as ATTENTIONS
from .convolutions import CONVOLUTION


def mm(a: Asked) -> Reads:
    """Rows of the left factor by columns of the right one."""
    return Reads(a.box, _factors(a, a.ref(0), a.ref(1)))


def addmm(a: Asked) -> Reads:
    return Reads(a.box, (a.broadcast(a.args[0]), *_factors(a, a.ref(1), a.ref(2))), a.node.kwargs)


def _factors(a: Asked, left: Ref, right: Ref) -> tuple[Part, Part]:
    """Parts of two matrices, or of two batches of matrices."""
    rank = len(a.box)
    lead, summed = a.box[:-2], (0, a.shape(left)[-1])
    return (
        Part(left, (*lead, a.box[-2], summed), a.order_of(rank - 2, rank - 2)),
        Part(right, (*lead, summed, a.box[-1]), a.order_of(rank - 1, rank - 1)),
    )


def linear(a: Asked) -> Reads:
    state, weight = a.ref(0), a.ref(1)
    last = len(a.box) - 1
    if len(a.shape(weight)) != 2:
        return evaluate_whole(a)
    inner = a.shape(weight)[1]
    orders = tuple((d, o) for d, o in a.orders if d != last)
    args: tuple[WindowArg, ...] = (
        Part(state, (*a.box[:-1], (0, inner)), orders),
        Part(weight, (a.box[-1], (0, inner)), a.order_of(last, 0)),
    )
    bias = a.arg(2)
    if isinstance(bias, Ref):
        args = (*args, Part(bias, (a.box[-1],), a.order_of(last, 0)))
    return Reads(a.box, args)


def matmul(a: Asked) -> Reads:
    """Matrices, vectors, or batches of them that broadcast."""
    left, right = a.ref(0), a.ref(1)
    lead = list(a.box)
    columns = lead.pop() if len(a.shape(right)) > 1 else None
    rows = lead.pop() if len(a.shape(left)) > 1 else None
    return Reads(a.box, (_factor(a, left, tuple(lead), rows, -2), _factor(a, right, tuple(lead), columns, -1)))


def _factor(a: Asked, arg: Ref, lead: Box, side: tuple[int, int] | None, dim: int) -> Part:
    """A factor, ``side`` of it along ``dim`` and whole along the other of the last two, its batch as broadcast."""
    shape = a.shape(arg)
    if side is None:  # a vector
        return Part(arg, whole(shape))
    last = [(0, shape[-2]), (0, shape[-1])]
    last[dim] = side
    batch = shape[:-2]
    own = lead[len(lead) - len(batch) :]
    return Part(arg, (*((0, 1) if n == 1 else s for n, s in zip(batch, own, strict=True)), *last))


def addmv(a: Asked) -> Reads:
    """Rows of the matrix."""
    matrix, vector = a.ref(1), a.ref(2)
    parts = (Part(matrix, (a.box[0], (0, a.shape(matrix)[1]))), a.all_of(vector))
    return Reads(a.box, (a.broadcast(a.args[0]), *parts, *a.args[3:]), a.node.kwargs)


def addbmm(a: Asked) -> Reads:
    """A sum over the batch too."""
    left, right = a.ref(1), a.ref(2)
    batch, _, summed = a.shape(left)
    parts = (
        Part(left, ((0, batch), a.box[0], (0, summed))),
        Part(right, ((0, batch), (0, summed), a.box[1])),
    )
    return Reads(a.box, (a.broadcast(a.args[0]), *parts, *a.args[3:]), a.node.kwargs)


TABLE: dict[str, WindowRule] = {
    **named(mm, "mm.default bmm.default"),
    **named(addmm, "addmm.default baddbmm.default"),
    **named(linear, "linear.default"),
    **named(matmul, "matmul.default mv.default"),
    **named(addmv, "addmv.default"),
    **named(addbmm, "addbmm.default"),
}


def work(instruction: Instruction) -> int:
    """Roughly how many multiplications an instruction makes: terms of each sum, one for other operators."""
    sizes = [volume(part.box) for part in instruction.parts()]
    if instruction.op in ALIGNED:
        *_, left, right = (part for part in instruction.parts() if len(part.box) > 1)
        lo, hi = right.box[-1] if instruction.op == "aten.linear.default" else left.box[-1]
        return volume(instruction.box) * (hi - lo)
    if instruction.op == CONVOLUTION:
        _, weight, *_ = instruction.parts()
        if instruction.args[6]:  # transposed: each entry of the input goes to each output channel of its group
            return sizes[0] * sizes[1] // max(weight.box[0][1] - weight.box[0][0], 1)
        channels = instruction.box[1][1] - instruction.box[1][0]
        return volume(instruction.box) * sizes[1] // max(channels, 1)
    if instruction.op in ATTENTIONS:
        _, keys, *_ = instruction.parts()
        return (sizes[0] + volume(instruction.box)) * (keys.box[-2][1] - keys.box[-2][0])
    return 0 if instruction.op == ALIAS else volume(instruction.box)


ALIGNED = frozenset(f"aten.{name}.default" for name in "mm addmm bmm baddbmm linear".split())
"""Products whose kernels may round by the width of the result."""

ORDERED = frozenset({"aten.mm.default", "aten.addmm.default", "aten.linear.default"})
"""Products whose result may be computed in another order along an axis."""
