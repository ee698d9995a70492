"""Cells of recurrent networks: rows of the batch do not meet."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...proof import Latest
from ..latest import Interpretation, Rule
from .common import joined, last, named, over, rank_of


def cell(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest | tuple[Latest, ...]:
    """Every element of a row depends on all of the input's and the state's row, and on the weights."""
    states = args[1] if isinstance(args[1], tuple) else (args[1],)
    rows = joined([over(it.of(arg), -1) for arg in (args[0], *states)], rank_of(node))
    result = rows.clip(min=last(*map(it.of, args[2:])))
    return result if len(node.types) == 1 else (result, result)


TABLE: dict[str, Rule] = named(cell, "gru_cell.default lstm_cell.default rnn_tanh_cell.default rnn_relu_cell.default")
