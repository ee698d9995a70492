"""Windows of fused attention: some queries, by all of their keys.

Keys are summed over, so they are never cut. A causal call says "row *i* reads keys up to *i*" by counting rows from the
first one; on a part of the rows the same is said by a mask, made for the call.
"""

from __future__ import annotations

from ...graph import Ref, Symbol, SymbolKind
from ...ops import OPS
from ...windows import Box, Instruction, Part, WindowArg, whole
from .asked import Asked, Reads, WindowRule, evaluate_whole, made, named

ATTENTION = "aten.scaled_dot_product_attention.default"
_FORMS = "_scaled_dot_product_flash_attention_for_cpu.default scaled_dot_product_attention.default"


def attention(a: Asked) -> Reads:
    """Rows of queries and of the mask. Batch and heads are cut where they are alike in all operands."""
    known = a.given()
    q, k, v, mask = a.ref(0), a.ref(1), a.ref(2), known["attn_mask"]
    causal = bool(known["is_causal"])
    if known["dropout_p"] or (causal and mask is not None):
        return evaluate_whole(a)
    shapes = [a.shape(x) for x in (q, k, v)]
    alike = len({shape[:-2] for shape in shapes}) == 1
    lead, rows = (a.box[:-2] if alike else whole(a.out_shape[:-2])), a.box[-2]
    box = (*lead, rows, (0, a.out_shape[-1]))
    parts = tuple(
        Part(x, (*(lead if alike else whole(shape[:-2])), side, (0, shape[-1])))
        for x, shape, side in zip((q, k, v), shapes, (rows, (0, shapes[1][-2]), (0, shapes[2][-2])), strict=True)
    )
    if causal and rows != (0, a.out_shape[-2]):
        before = _seen(a, rows, shapes[1][-2])
        seen = Part(before[-1].ref, before[-1].box)
        rest: dict[str, WindowArg] = {name: known[name] for name in ("scale", "enable_gqa") if name in known}
        return Reads(box, (*parts, seen, 0.0, False), tuple(rest.items()), ATTENTION, before)
    laid = _laid(a, mask, (*lead, rows, (0, shapes[1][-2])))
    args = (*parts, *(laid if arg is mask and mask is not None else arg for arg in a.args[3:]))
    return Reads(box, args, tuple((key, laid if key == "attn_mask" else arg) for key, arg in a.node.kwargs))


def _laid(a: Asked, mask: WindowArg, scores: Box) -> WindowArg:
    """The part of a mask that broadcasting lays on these scores."""
    if not isinstance(mask, Ref):
        return mask
    shape = a.shape(mask)
    sides = scores[len(scores) - len(shape) :]
    return Part(mask, tuple((0, 1) if size == 1 else side for size, side in zip(shape, sides, strict=True)))


def _seen(a: Asked, rows: tuple[int, int], keys: int) -> tuple[Instruction, Instruction]:
    """Which keys a causal call lets these rows read, as calls that make a mask."""
    box = (rows, (0, keys))
    kind, device = Symbol(SymbolKind.DTYPE, "bool"), Symbol(SymbolKind.DEVICE, "run")
    ones = made(a, "ones", box, "aten.ones.default", ((rows[1] - rows[0], keys),), dtype=kind, device=device)
    return ones, made(a, "seen", box, "aten.tril.default", (Part(ones.ref, box), rows[0]))


TABLE: dict[str, WindowRule] = {name: rule for name, rule in named(attention, _FORMS).items() if name in OPS}
