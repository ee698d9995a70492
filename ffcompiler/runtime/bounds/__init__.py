"""How large each operator's results can be, from how large its inputs are: the table `RULES`.

A rule gives a `Span` for the result, one for each of several. It must hold for what the operator computes, rounding
and overflow on the way included; room for one relative rounding is added afterwards. How to add one: `docs/ops.md`.
"""

from __future__ import annotations

from . import answers as answers
from . import cells as cells
from . import choices as choices
from . import combining, elementwise, moves
from .spans import ANY, Bounds, Rule, Span, around, extent, largest, limit, union

RULES: dict[str, Rule] = {
    **elementwise.TABLE,
    **choices.TABLE,
    **moves.TABLE,
    **combining.TABLE,
    **cells.TABLE,
    **answers.TABLE,
}
"""By the operator's full name."""

__all__ = ["ANY", "RULES", "Bounds", "Rule", "Span", "around", "extent", "largest", "limit", "union"]
