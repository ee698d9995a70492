"""Windows of products, convolutions and reductions.

An axis that is summed over is never cut, which would round anew, but for taps of a convolution that are all zero.
"""

from __future__ import annotations

from ...graph import Arg, Ref
from ...windows import ALIAS, Box, Instruction, Part, WindowArg, volume
from .asked import Asked, Reads, WindowRule, evaluate_whole, named, widened


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


def convolution(a: Asked) -> Reads:
    """The input that the kernel reaches, padding included; output channels by rows of the kernel.

    Rows and columns of a masked kernel that are zero throughout add nothing, and are left out.
    """
    state, weight = a.ref(0), a.ref(1)
    bias, stride, padding, dilation, transposed, _, groups = a.args[2:9]
    if transposed:
        return evaluate_whole(a)
    kernel = a.taps(weight)
    channels = a.box[1] if groups == 1 else (0, a.out_shape[1])
    sides = []
    for d, (lo, hi) in enumerate(a.box[2:]):
        s, p, r = _number(stride, d), _number(padding, d), _number(dilation, d)
        tap, last = kernel[2 + d]
        first = lo * s - p + r * tap
        sides.append((first, first + (hi - lo - 1) * s + r * (last - tap - 1) + 1))
    box = (a.box[0], channels, *a.box[2:])
    no_padding = (0,) * len(sides)
    parts: tuple[WindowArg, ...] = (
        Part(state, (a.box[0], (0, a.shape(state)[1]), *sides)),
        Part(weight, (channels, *kernel[1:])),
        Part(bias, (channels,)) if isinstance(bias, Ref) else None,
    )
    return Reads(box, (*parts, stride, no_padding, dilation, False, no_padding, groups))


def _number(arg: Arg, d: int) -> int:
    """The number for spatial dimension ``d``; one number may stand for all."""
    assert isinstance(arg, tuple)
    found = arg[d if len(arg) > 1 else 0]
    assert isinstance(found, int)
    return found


def padding_of(args: tuple[Arg, ...], rank: int) -> tuple[int, ...]:
    """Zeros that a convolution reads before and after each dimension of its input."""
    return (0, 0, *(_number(args[4], d) for d in range(rank - 2)))


def softmax(a: Asked) -> Reads:
    dim = a.args[1]
    assert isinstance(dim, int)
    box = widened(a.box, (dim % len(a.box),), a.out_shape)
    return Reads(box, (Part(a.ref(0), box), *a.args[1:]))


def reduction(a: Asked) -> Reads:
    """A reduction over the axes in the second argument, with or without keeping them."""
    shape = a.shape(a.ref(0))
    dims = a.arg(1)
    if dims is None or dims == () or isinstance(dims, bool | Ref):
        return evaluate_whole(a)
    given = dims if isinstance(dims, tuple) else (dims,)
    axes = {d % len(shape) for d in given if isinstance(d, int)}
    keep = len(a.box) == len(shape)
    rest = iter(a.box)
    box: Box = tuple((_skip(rest, keep, size) if dim in axes else next(rest)) for dim, size in enumerate(shape))
    out = tuple((0, 1) if keep and dim in axes else side for dim, side in enumerate(box) if keep or dim not in axes)
    return Reads(out, (Part(a.ref(0), box), *a.args[1:]), a.node.kwargs)


def _skip(rest: object, keep: bool, size: int) -> tuple[int, int]:
    if keep:
        next(rest)  # type: ignore[call-overload]
    return (0, size)


def layer_norm(a: Asked) -> Reads:
    """Whole over the normalised axes."""
    normalized = a.args[1]
    assert isinstance(normalized, tuple)
    first = len(a.box) - len(normalized)
    box = widened(a.box, tuple(range(first, len(a.box))), a.out_shape)
    return Reads(box, (Part(a.ref(0), box), a.args[1], *(a.all_of(arg) for arg in a.args[2:])))


def batch_norm(a: Asked) -> Reads:
    """In eval mode each channel has its own constants."""
    per_channel = [Part(arg, (a.box[1],)) if isinstance(arg, Ref) else arg for arg in a.args[1:]]
    return Reads(a.box, (Part(a.ref(0), a.box), *per_channel))


def embedding(a: Asked) -> Reads:
    """Rows of a table for the indices in the box."""
    indices = Part(a.ref(1), a.box[:-1])
    box = widened(a.box, (len(a.box) - 1,), a.out_shape)
    return Reads(box, (a.all_of(a.args[0]), indices, *a.args[2:]))


TABLE: dict[str, WindowRule] = {
    **named(mm, "mm.default bmm.default"),
    **named(addmm, "addmm.default baddbmm.default"),
    **named(linear, "linear.default"),
    **named(convolution, "convolution.default"),
    **named(softmax, "_softmax.default _log_softmax.default cumsum.default cumprod.default"),
    **named(
        reduction,
        """sum.dim_IntList mean.dim amax.default amin.default argmax.default argmin.default logsumexp.default
        any.dim all.dim prod.dim_int""",
    ),
    **named(layer_norm, "native_layer_norm.default"),
    **named(batch_norm, "_native_batch_norm_legit_no_training.default"),
    **named(embedding, "embedding.default"),
    **named(evaluate_whole, "prelu.default"),  # elementwise, but its weight stands along the channels
}


def work(instruction: Instruction) -> int:
    """Roughly how many multiplications an instruction makes: terms of each sum, one for other operators."""
    sizes = [volume(part.box) for part in instruction.parts()]
    if instruction.op in ALIGNED:
        *_, left, right = (part for part in instruction.parts() if len(part.box) > 1)
        lo, hi = right.box[-1] if instruction.op == "aten.linear.default" else left.box[-1]
        return volume(instruction.box) * (hi - lo)
    if instruction.op == "aten.convolution.default":
        channels = instruction.box[1][1] - instruction.box[1][0]
        return volume(instruction.box) * sizes[1] // max(channels, 1)
    return 0 if instruction.op == ALIAS else volume(instruction.box)


ALIGNED = frozenset(f"aten.{name}.default" for name in "mm addmm bmm baddbmm linear".split())
"""Products whose kernels may round by the width of the result."""

ORDERED = frozenset({"aten.mm.default", "aten.addmm.default", "aten.linear.default"})
"""Products whose result may be computed in another order along an axis."""
