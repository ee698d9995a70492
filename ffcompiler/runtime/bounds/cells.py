"""Bounds of the cells of recurrent networks: their gates lie between 0 and 1, or -1 and 1."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from .combining import linear
from .elementwise import plus, table
from .spans import ANY, Bounds, Rule, Span, around, union

Args = tuple[Any, ...]


def gates(b: Bounds, node: Node, args: Args, state: Any) -> Span:
    """What activations are taken of: if it does not overflow on the way, they are finite."""
    _, _, w, u, wb, ub = args
    return plus(linear(b, node, (args[0], w, wb)), linear(b, node, (state, u, ub)))


def gru(b: Bounds, node: Node, args: Args) -> Span:
    """Between the state and a new value."""
    if not gates(b, node, args, args[1]).size < 1e37:
        return ANY
    return union([b.of(args[1]), around(1.0)]) if b.of(args[1]).size > 1 else around(1.0)


def lstm(b: Bounds, node: Node, args: Args) -> tuple[Span, Span]:
    """The output, and the memory: kept in part, and something new added."""
    h, c = args[1]
    if not gates(b, node, args, h).size < 1e37:
        return ANY, ANY
    return around(1.0), plus(around(b.size(c)), around(1.0))


def tanh(b: Bounds, node: Node, args: Args) -> Span:
    return around(1.0) if gates(b, node, args, args[1]).known else ANY


def relu(b: Bounds, node: Node, args: Args) -> Span:
    span = gates(b, node, args, args[1])
    return Span(0.0, span.size) if span.known else ANY


TABLE: dict[str, Rule] = {
    **table(gru, "gru_cell.default"),
    **table(lstm, "lstm_cell.default"),
    **table(tanh, "rnn_tanh_cell.default"),
    **table(relu, "rnn_relu_cell.default"),
}
