"""Functions of a state ``x`` ([3, 12]) that between them call every operator which has a dependence rule.

`CASES` are recorded as `compile` records a loop's body. Names say what is special, or just the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten
BATCH, POSITIONS = 3, 12
Case = Callable[[Tensor], "Tensor | tuple[Tensor, ...]"]


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def masked(weight: Tensor, *where: Any) -> Tensor:
    weight[where] = 0
    return weight


LOWER = torch.tril(seeded(POSITIONS, POSITIONS))
STACK = torch.tril(seeded(BATCH, POSITIONS, POSITIONS))
STACK[1] = torch.triu(STACK[1])
SAME_STACK = torch.tril(seeded(POSITIONS, POSITIONS)).expand(BATCH, -1, -1)
MASKED_2D = masked(masked(seeded(4, 2, 3, 3), ..., 1, slice(2, None)), ..., slice(2, None), slice(None))
PER_CHANNEL = seeded(4, 2, 3, 3) * (seeded(4, 2, 1, 1) > 0)
CAUSAL_1D = masked(seeded(2, 1, 3), ..., 2)
DEEP_3D = masked(seeded(2, 1, 2, 2, 2), ..., 1, slice(None), slice(None))
TRANSPOSED = masked(seeded(2, 2, 3, 3), slice(None), slice(None), 2)
ORDER = torch.tensor([3, 0, 7, 11, 2, 2, 5, 9, 1, 4, 6, 8])
PLACES = torch.tensor([[0, 3, 5], [1, 1, 11], [2, 0, 7]])
TABLE = seeded(5, 4)
LEFT, SMALL = masked(seeded(4, 2), 1, 1), masked(seeded(3, 4), 2, slice(1, None))
WIDE = masked(seeded(2, 5), 1, slice(2, None))
SPREAD_1D, GAP = masked(seeded(1, 2, 3), ..., 0), masked(seeded(POSITIONS), 3)
ONES, ROW = torch.ones(POSITIONS), seeded(POSITIONS)
MEAN, VAR = seeded(2), seeded(2).abs() + 0.5
NORMED = seeded(4, POSITIONS)
EDGES = torch.tensor([-1.0, 0.0, 0.5, 2.0])
PAIRS = (torch.tensor([0, 1, 2]), torch.tensor([2, 5, 2]))


def image(x: Tensor) -> Tensor:
    """[batch, 12] as [batch, 2, 2, 3]: two channels of a 2 x 3 image."""
    return x.reshape(x.shape[0], 2, 2, 3)


def volume(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 1, 2, 2, 3)


def classes(x: Tensor) -> Tensor:
    """Integers from 0 to 4."""
    return x.clamp(-1, 1).nan_to_num().mul(2).long() + 2


def whole(function: Case) -> Case:
    """In inference mode composite operators are recorded whole."""

    def call(x: Tensor) -> Tensor | tuple[Tensor, ...]:
        with torch.inference_mode():
            return function(x)

    return call


def each(names: str, *more: Any) -> Case:
    """The operators of these names, all on the same arguments."""
    ops = [getattr(getattr(aten, name.split(".")[0]), name.split(".")[1]) for name in names.split()]
    return lambda x: tuple(op(x, *[m(x) if callable(m) else m for m in more]) for op in ops)


UNARY = """
    neg.default abs.default sqrt.default rsqrt.default reciprocal.default square.default sign.default sgn.default
    signbit.default frac.default round.default floor.default ceil.default trunc.default exp.default exp2.default
    expm1.default log.default log1p.default log2.default log10.default sin.default cos.default tan.default tanh.default
    sinh.default cosh.default asin.default acos.default atan.default asinh.default acosh.default atanh.default
    sinc.default erf.default erfc.default erfinv.default lgamma.default digamma.default special_ndtri.default
    special_log_ndtr.default sigmoid.default logit.default relu.default hardtanh.default softplus.default silu.default
    gelu.default elu.default celu.default selu.default leaky_relu.default mish.default hardsigmoid.default
    hardswish.default softshrink.default hardshrink.default isnan.default isinf.default isfinite.default
    isposinf.default isneginf.default nan_to_num.default logical_not.default alias.default clone.default
    detach.default lift_fresh_copy.default zeros_like.default ones_like.default
"""
BINARY = """
    add.Tensor sub.Tensor rsub.Tensor mul.Tensor div.Tensor remainder.Tensor floor_divide.default fmod.Tensor
    xlogy.Tensor logaddexp.default logaddexp2.default atan2.default hypot.default pow.Tensor_Tensor minimum.default
    maximum.default fmin.default fmax.default clamp.Tensor clamp_min.Tensor clamp_max.Tensor heaviside.default eq.Tensor
    ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor logical_and.default logical_or.default logical_xor.default
    copy.default
"""
SCALAR = """
    add.Scalar sub.Scalar rsub.Scalar mul.Scalar div.Scalar remainder.Scalar fmod.Scalar pow.Tensor_Scalar
    clamp_min.default clamp_max.default eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar full_like.default
    fill.Scalar
"""
BITWISE = "bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar __lshift__.Scalar __rshift__.Scalar"
TWO_INTEGERS = (
    "bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor bitwise_left_shift.Tensor bitwise_right_shift.Tensor"
)

ELEMENTWISE: dict[str, Case] = {
    "unary": each(UNARY),
    "binary": each(BINARY, lambda x: x.flip(0) * 0.5),
    "binary, broadcast": each(BINARY, lambda x: x[:1] + 2),
    "with a number": each(SCALAR, 1.5),
    "integers with a number": lambda x: each(BITWISE, 2)(classes(x)),
    "integers": lambda x: each(TWO_INTEGERS, classes)(classes(x)),
    "bitwise not": lambda x: (~(x > 0), ~classes(x)),
    "rounding modes": lambda x: (
        torch.div(x, 2, rounding_mode="floor"), torch.div(x, x + 1, rounding_mode="trunc"), x.round(decimals=1),
        aten.div.Scalar_mode(x, 0.5, rounding_mode="floor"), aten.remainder.Scalar_Tensor(3.0, x), 2.0**x,
    ),
    "three operands": lambda x: (
        torch.addcmul(x, x, x), torch.addcdiv(x, x, x), x.lerp(x.flip(0), 0.3), x.lerp(x, x), x.clamp(-1, 1),
    ),
    "add, scaled": lambda x: torch.add(x, x.flip(0), alpha=2),
    "mul by a mask keeps the sign of zero": lambda x: x * (torch.arange(POSITIONS) < 6),
    "where": lambda x: torch.where(x > 0, x, -x),
    "where with numbers": lambda x: (
        aten.where.ScalarSelf(x > 0, 1.0, x), aten.where.ScalarOther(x > 0, x, 1.0), torch.where(x > 0, 1.0, 0.0),
    ),
    "where by a constant": lambda x: torch.where(torch.arange(POSITIONS) > 5, x, torch.zeros(())),
    "clamp one side": lambda x: x.clamp(min=0.0).clamp(max=2.0),
    "activations with other constants": lambda x: (
        F.elu(x, 0.5), F.celu(x, 2.0), F.leaky_relu(x, 0.3), F.softplus(x, 2.0, 10.0), F.gelu(x, approximate="tanh"),
        F.hardtanh(x, -2.0, 0.5), F.threshold(x, 0.1, 5.0), F.relu6(x), F.softshrink(x, 0.2), torch.logit(x, 0.01),
        F.logsigmoid(x), F.softsign(x), F.tanhshrink(x),
    ),
    "prelu": lambda x: (F.prelu(x, torch.full((1,), 0.3)), F.prelu(image(x), torch.full((2,), 0.3))),
    "prelu kept whole": whole(lambda x: F.prelu(image(x), torch.full((2,), 0.3))),
    "power": lambda x: (x**2, x**3, x.abs() ** 0.5, x**-2),
    "cast": lambda x: x.double().half().float(),
    "masked fill": lambda x: x.masked_fill(torch.arange(POSITIONS) > 8, 0.5),
    "masked fill by the state": lambda x: (x.masked_fill(x > 0, 0.5), x.masked_fill(x > 0, x[0, 0])),
    "concat elu": lambda x: F.elu(torch.cat([image(x), -image(x)], 1)),
    "gated unit": lambda x: torch.tanh(x[:, :6]) * torch.sigmoid(x[:, 6:]),
    "made from constants": lambda x: x.new_zeros(12) + x.new_ones(12) + x.new_full((12,), 2.0) + torch.zeros(12)
    + torch.ones(12) + torch.full((12,), 3.0) + torch.arange(12) + torch.arange(1, 13) + torch.arange(0, 24, 2)
    + torch.linspace(0, 1, 12) + torch.eye(12)[0] + torch.eye(3, 12)[0] + aten.zero.default(x) + x,
    "fill with a tensor": lambda x: aten.fill.Tensor(x, x[0, 3]),
    "composite operators kept whole": whole(
        lambda x: (
            *each("isfinite.default selu.default square.default")(x), aten.where.ScalarSelf(x > 0, 1.0, x),
            aten.where.ScalarOther(x > 0, x, 1.0),
        )
    ),
    "in place": lambda x: x.clone().mul_(2).add_(1).clamp_(-1, 1).masked_fill_(x > 0, 0.5),
}  # fmt: skip

PRODUCTS: dict[str, Case] = {
    "linear": lambda x: F.linear(x, LOWER),
    "linear with bias": lambda x: F.linear(x, LOWER, ONES),
    "linear, three axes": lambda x: F.linear(x[:, None], LOWER, ONES),
    "linear, four axes": lambda x: F.linear(image(x), LOWER[:4, :3], torch.ones(4)),
    "linear kept whole": whole(lambda x: F.linear(x, LOWER, ONES)),
    "linear by a vector": whole(lambda x: aten.linear.default(x, LOWER[3])),
    "linear, weight from the state": whole(lambda x: F.linear(LOWER[:2], x)),
    "linear of a layer norm": lambda x: F.linear(F.layer_norm(image(x), (3,)), LOWER[:3, :3]),
    "linear of the larger of two": lambda x: F.linear(torch.stack([x, 1 - x], -1).max(-1).values, LOWER, ONES),
    "mm from the left": lambda x: LOWER @ x.t(),
    "mm with a layer norm": lambda x: LOWER @ F.layer_norm(x.t(), (BATCH,)),
    "mm of two states": lambda x: x.t() @ x,
    "two layers": lambda x: F.linear(F.relu(F.linear(x, LOWER)), LOWER, torch.zeros(POSITIONS)),
    "addmm": lambda x: torch.addmm(ONES, x, LOWER.t()),
    "scaled addmm": lambda x: torch.addmm(ONES, x, LOWER.t(), beta=2, alpha=0.5),
    "bmm": lambda x: torch.bmm(x[:, None], STACK),
    "bmm, one weight": lambda x: torch.bmm(x[:, None], SAME_STACK),
    "bmm from the left": lambda x: torch.bmm(STACK, x[:, :, None]),
    "bmm of two states": lambda x: torch.bmm(x[:, :, None], x[:, None]),
    "matmul of images": lambda x: image(x) @ image(x).transpose(-1, -2),
    "matmul from the left": lambda x: LEFT @ image(x),
    "matmul kept whole": whole(lambda x: image(x) @ SMALL),
    "matmul kept whole, vectors": whole(lambda x: (x @ ROW, LOWER @ x[0], x[0] @ x[1], ROW @ x.t())),
    "baddbmm": lambda x: torch.baddbmm(x[:, None], x[:, None], STACK),
    "addbmm": lambda x: torch.addbmm(torch.zeros(1, 1), x[:, None], x[:, :, None]),
    "mv, dot": lambda x: (x @ GAP, x[0] @ ROW, x[0] @ x[1], torch.vdot(x[0], x[1])),
    "addmv": lambda x: torch.addmv(torch.zeros(BATCH), x, ROW),
    "einsum": lambda x: torch.einsum("bchw,cd->bdhw", image(x), WIDE),
    "outer": lambda x: torch.einsum("bi,bj->bij", x, x),
    "mask in forward": lambda x: F.linear(x, LOWER.t() * torch.ones(POSITIONS, POSITIONS).tril()),
    "weight norm": lambda x: F.linear(x, torch._weight_norm(NORMED, torch.ones(4, 1))),
    "weight norm over all": lambda x: F.linear(x, torch._weight_norm(NORMED, torch.ones(()), -1)),
    "weight norm of the state": lambda x: aten._weight_norm_interface.default(x, torch.ones(BATCH, 1)),
}

CONVOLUTIONS: dict[str, Case] = {
    "conv1d": lambda x: F.conv1d(x[:, None], CAUSAL_1D, torch.ones(2), padding=1),
    "conv1d, dilated": lambda x: F.conv1d(x[:, None], CAUSAL_1D, padding=2, dilation=2),
    "conv1d, strided": lambda x: F.conv1d(x[:, None], CAUSAL_1D, padding=1, stride=2),
    "conv2d": lambda x: F.conv2d(image(x), MASKED_2D, torch.ones(4), padding=1),
    "conv2d, channels masked": lambda x: F.conv2d(image(x), PER_CHANNEL, padding=1),
    "conv2d, grouped": lambda x: F.conv2d(image(x), MASKED_2D[:, :1], padding=1, groups=2),
    "conv2d, strided and dilated": lambda x: F.conv2d(image(x), MASKED_2D, padding=2, dilation=2, stride=(2, 1)),
    "conv2d, same": lambda x: F.conv2d(image(x), MASKED_2D, padding="same"),
    "conv2d of one image": lambda x: F.conv2d(image(x)[0], MASKED_2D, padding=1),
    "conv2d, weight from the state": lambda x: F.conv2d(image(x), image(x)[:, :, :1, :2]),
    "conv3d": lambda x: F.conv3d(volume(x), DEEP_3D, torch.ones(2), padding=(1, 0, 0)),
    "convolutions kept whole": whole(
        lambda x: (
            F.conv1d(x[:, None], CAUSAL_1D, torch.ones(2), padding=1), F.conv2d(image(x), MASKED_2D, padding=1),
            F.conv2d(image(x)[0], MASKED_2D, padding=1), F.conv3d(volume(x), DEEP_3D),
        )
    ),
    "transposed conv1d": lambda x: F.conv_transpose1d(x[:, None], SPREAD_1D, padding=1),
    "transposed conv2d": lambda x: F.conv_transpose2d(image(x), TRANSPOSED, torch.ones(2), stride=2, output_padding=1),
    "transposed conv2d, grouped": lambda x: F.conv_transpose2d(
        image(x), PER_CHANNEL[:2], padding=1, groups=2, dilation=2
    ),
    "transposed conv3d": lambda x: F.conv_transpose3d(volume(x), DEEP_3D[:1], stride=(1, 2, 1)),
    "transposed convolutions kept whole": whole(
        lambda x: (
            F.conv_transpose1d(x[:, None], SPREAD_1D, padding=1),
            F.conv_transpose2d(image(x), TRANSPOSED, stride=2), F.conv_transpose3d(volume(x), DEEP_3D[:1]),
        )
    ),
    "average pool": lambda x: (
        F.avg_pool2d(image(x), 2), F.avg_pool2d(image(x), 2, 1, 1), F.avg_pool1d(x[:, None], 3, 2, ceil_mode=True),
        F.avg_pool3d(volume(x), (1, 2, 2)),
    ),
    "maximum pool": lambda x: (
        *aten.max_pool2d_with_indices.default(image(x), [2, 2], [1, 1], [1, 1], [1, 2]),
        *aten.max_pool3d_with_indices.default(volume(x), [1, 2, 2]),
    ),
    "maximum pool kept whole": whole(lambda x: F.max_pool2d(image(x), 2)),
    "adaptive pool": lambda x: (F.adaptive_avg_pool2d(image(x), 1), F.adaptive_avg_pool2d(image(x), (2, 2))),
    "nearest": lambda x: (
        F.interpolate(x[:, None], scale_factor=2), F.interpolate(image(x), scale_factor=2),
        F.interpolate(image(x), size=(1, 3)), F.interpolate(volume(x), scale_factor=2),
        *(F.interpolate(t, scale_factor=2, mode="nearest-exact") for t in (x[:, None], image(x), volume(x))),
    ),
    "nearest at other ratios": lambda x: (
        F.interpolate(x[:, None], scale_factor=0.7), F.interpolate(x[:, None], scale_factor=1.7),
        F.interpolate(image(x), size=(5, 2)), F.interpolate(x[:, None], size=31, mode="nearest-exact"),
    ),
    "nearest kept whole": whole(
        lambda x: tuple(F.interpolate(t, scale_factor=2) for t in (x[:, None], image(x), volume(x)))
    ),
}  # fmt: skip
