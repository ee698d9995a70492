"""The admitted ATen operators, one by one by name, with what the compiler may assume of each.

*Numerics* says when evaluating the operator on many positions at once gives each position the bits that it would have
alone; *failure* says what bad data does. An operator that is not in the table is not admitted: never by prefix
(``aten.from_file`` writes files). Adding one: `docs/ops.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Numerics(Enum):
    MOVE = "move"  # copies elements unchanged
    EXACT = "exact"  # elementwise, and correctly rounded or a comparison: the same bits at any shape
    POINTWISE = "pointwise"  # elementwise, but vector body and scalar tail may differ (rounding, sign of zero)
    REDUCE = "reduce"  # combines elements; bits depend on shape, strides and threads
    CREATE = "create"  # makes a tensor from constants only


class Failure(Enum):
    TOTAL = "total"  # every value of the right type is accepted
    RAISES = "raises"  # bad values raise (on the devices in `Op.kills_on` they lose the device's context instead)
    KILLS = "kills"  # bad values can end the process


@dataclass(frozen=True, slots=True)
class Op:
    name: str
    numerics: Numerics
    failure: Failure = Failure.TOTAL
    kills_on: tuple[str, ...] = ()  # device kinds on which bad values end the process or lose the context


def _ops(numerics: Numerics, names: str, failure: Failure = Failure.TOTAL, kills_on: tuple[str, ...] = ()) -> list[Op]:
    return [Op(f"aten.{name}", numerics, failure, kills_on) for name in names.split()]


_TABLE = [
    *_ops(
        Numerics.MOVE,
        """alias.default clone.default detach.default copy.default lift_fresh_copy.default
        view.default _unsafe_view.default reshape.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims
        expand.default permute.default transpose.int t.default slice.Tensor select.int narrow.default unfold.default
        diagonal.default select_scatter.default slice_scatter.default cat.default stack.default
        constant_pad_nd.default repeat.default flip.default roll.default
        tril.default triu.default movedim.int unsafe_split.Tensor diag_embed.default diagonal_scatter.default
        pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default rot90.default im2col.default
        reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default replication_pad1d.default
        replication_pad2d.default replication_pad3d.default""",
    ),
    *_ops(
        Numerics.MOVE,
        """index_select.default gather.default index.Tensor index_put.default index_copy.default scatter.src
        scatter.value embedding.default take.default index_fill.int_Scalar index_fill.int_Tensor""",
        Failure.RAISES,
        ("cuda",),
    ),
    *_ops(
        Numerics.EXACT,
        """add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar rsub.Tensor mul.Tensor mul.Scalar div.Tensor
        div.Scalar neg.default abs.default sqrt.default sign.default clamp.default
        clamp_min.default clamp_max.default round.default floor.default ceil.default trunc.default
        relu.default where.self where.ScalarSelf where.ScalarOther masked_fill.Scalar masked_fill.Tensor
        eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
        ge.Scalar logical_and.default logical_or.default logical_not.default logical_xor.default bitwise_and.Tensor
        bitwise_or.Tensor bitwise_not.default bitwise_xor.Tensor isnan.default isinf.default isfinite.default
        isposinf.default isneginf.default bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar
        _to_copy.default hardtanh.default""",
    ),
    *_ops(
        Numerics.POINTWISE,
        """minimum.default maximum.default clamp.Tensor
        exp.default exp2.default expm1.default log.default log1p.default log2.default log10.default sin.default
        cos.default tan.default tanh.default sinh.default cosh.default asin.default acos.default atan.default
        atan2.default erf.default erfc.default erfinv.default sigmoid.default log_sigmoid_forward.default
        softplus.default silu.default gelu.default elu.default leaky_relu.default logit.default
        pow.Tensor_Scalar pow.Scalar pow.Tensor_Tensor rsqrt.default reciprocal.default square.default mish.default
        hardsigmoid.default hardswish.default celu.default selu.default softshrink.default threshold.default
        addcmul.default addcdiv.default lerp.Scalar lerp.Tensor xlogy.Tensor logaddexp.default
        prelu.default _prelu_kernel.default clamp_min.Tensor clamp_max.Tensor fmin.default fmax.default
        nan_to_num.default heaviside.default sgn.default signbit.default frac.default round.decimals hypot.default
        asinh.default acosh.default atanh.default sinc.default lgamma.default digamma.default special_ndtri.default
        special_log_ndtr.default hardshrink.default logaddexp2.default __lshift__.Scalar __rshift__.Scalar
        bitwise_left_shift.Tensor bitwise_right_shift.Tensor""",
    ),
    *_ops(
        Numerics.POINTWISE,
        """div.Tensor_mode div.Scalar_mode floor_divide.default remainder.Scalar remainder.Tensor fmod.Scalar
        fmod.Tensor remainder.Scalar_Tensor""",
        Failure.KILLS,
    ),
    *_ops(
        Numerics.REDUCE,
        """mm.default addmm.default bmm.default baddbmm.default linear.default matmul.default convolution.default
        sum.default sum.dim_IntList mean.default mean.dim amax.default amin.default max.dim min.dim max.default
        min.default argmax.default argmin.default prod.dim_int cumsum.default cumprod.default logsumexp.default
        _softmax.default _safe_softmax.default _log_softmax.default softmax.int log_softmax.int glu.default
        native_layer_norm.default native_group_norm.default _native_batch_norm_legit_no_training.default
        native_batch_norm.default var.correction std.correction norm.Scalar any.default any.dim all.default all.dim
        topk.default sort.default one_hot.default
        _scaled_dot_product_flash_attention_for_cpu.default scaled_dot_product_attention.default
        avg_pool2d.default upsample_nearest2d.default upsample_nearest2d.vec mv.default dot.default
        linalg_vector_norm.default searchsorted.Tensor bucketize.Tensor masked_scatter.default vdot.default
        addmv.default addbmm.default conv1d.default conv2d.default conv3d.default conv_transpose1d.default
        conv_transpose2d.input conv_transpose3d.input prod.default any.dims all.dims norm.ScalarOpt_dim nansum.default
        count_nonzero.default count_nonzero.dim_IntList aminmax.default median.dim kthvalue.default
        var_mean.correction std_mean.correction sort.stable logcumsumexp.default cummax.default cummin.default
        layer_norm.default group_norm.default batch_norm.default _batch_norm_no_update.default
        cudnn_batch_norm.default _fused_rms_norm.default _weight_norm_interface.default
        max_pool2d.default max_pool2d_with_indices.default max_pool3d_with_indices.default avg_pool3d.default
        _adaptive_avg_pool2d.default upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest3d.default
        upsample_nearest3d.vec _upsample_nearest_exact1d.default _upsample_nearest_exact2d.default
        _upsample_nearest_exact3d.default gru_cell.default lstm_cell.default rnn_tanh_cell.default
        rnn_relu_cell.default""",
        Failure.RAISES,
    ),
    *_ops(Numerics.REDUCE, "scatter_add.default index_add.default", Failure.RAISES, ("cuda",)),
    *_ops(
        Numerics.CREATE,
        """zeros.default ones.default full.default zeros_like.default ones_like.default
        full_like.default new_zeros.default new_ones.default new_full.default arange.default arange.start
        arange.start_step scalar_tensor.default eye.default eye.m linspace.default zero.default fill.Scalar
        fill.Tensor""",
    ),
]

DRAWS: frozenset[str] = frozenset(
    f"aten.{name}"
    for name in """uniform_.default normal_.default exponential_.default random_.default random_.to random_.from
    bernoulli_.float cauchy_.default log_normal_.default geometric_.default randperm.default""".split()
)
"""Operators that draw random numbers, as many for any data: those that end in ``_`` fill a new tensor."""

OPS: dict[str, Op] = {op.name: op for op in _TABLE}
"""Every admitted operator by name."""
assert len(OPS) == len(_TABLE), "an operator is listed twice"
