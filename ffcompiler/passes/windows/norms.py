"""Windows of normalisations: whole over the axes of their statistics."""

from __future__ import annotations

from ...graph import Ref
from ...windows import Part
from .asked import Asked, Reads, WindowRule, evaluate_whole, named, widened


def over_last_axes(a: Asked) -> Reads:
    """Whole over the normalised axes, and so are weight and bias, if there are any."""
    normalized = a.args[1]
    assert isinstance(normalized, tuple)
    first = len(a.box) - len(normalized)
    box = widened(a.box, tuple(range(first, len(a.box))), a.out_shape)
    return Reads(box, (Part(a.ref(0), box), a.args[1], *(a.all_of(arg) for arg in a.args[2:])))


def over_groups(a: Asked) -> Reads:
    """Statistics of groups of channels go over all places: only the batch is cut."""
    box = (a.box[0], *((0, n) for n in a.out_shape[1:]))
    count = {3: a.box[0][1] - a.box[0][0]} if "native" in a.node.op else {}
    rest = (count.get(position, a.all_of(arg)) for position, arg in enumerate(a.args[1:], 1))
    return Reads(box, (Part(a.ref(0), box), *rest))


def per_channel(a: Asked) -> Reads:
    """In eval mode each channel has its own constants."""
    if a.given().get("training", False):
        return evaluate_whole(a)
    constants = [Part(arg, (a.box[1],)) if isinstance(arg, Ref) else arg for arg in a.args[1:]]
    return Reads(a.box, (Part(a.ref(0), a.box), *constants))


TABLE: dict[str, WindowRule] = {
    **named(over_last_axes, "native_layer_norm.default layer_norm.default _fused_rms_norm.default"),
    **named(over_groups, "native_group_norm.default group_norm.default"),
    **named(
        per_channel,
        """_native_batch_norm_legit_no_training.default batch_norm.default native_batch_norm.default
        _batch_norm_no_update.default cudnn_batch_norm.default""",
    ),
}
