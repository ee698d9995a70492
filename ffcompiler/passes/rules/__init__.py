"""How each operator passes dependence on: the table `RULES`; the rules stand in the modules beside this one.

A rule gives, for every element of the result, the largest ``latest`` of the input elements that it can depend on, bits
of zeros and NaN included. Too large is sound and costs speed; too small is wrong. `docs/ops.md` shows how to add one.
"""

from __future__ import annotations

from ..latest import Rule
from . import attention, cells, convolutions, elementwise, indexing, moves, norms, products, reductions

RULES: dict[str, Rule] = {
    **elementwise.TABLE,
    **moves.TABLE,
    **indexing.TABLE,
    **products.TABLE,
    **convolutions.TABLE,
    **reductions.TABLE,
    **norms.TABLE,
    **attention.TABLE,
    **cells.TABLE,
}
"""By the operator's full name."""
