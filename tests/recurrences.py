"""A catalogue of small recurrences, written as their authors would: their whole state is carried from step to step.

``exact`` says that a batched step has the bits of a single one, so that sweeps may run under ``bits``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from systems import randn
from torch import Tensor, nn

import ffcompiler as ffc

Function = Callable[..., Any]
Made = tuple[Function, tuple[Any, ...]]


@dataclass(frozen=True)
class Recurrence:
    name: str
    make: Callable[[], Made]
    blocks: int
    exact: bool = False


RECURRENCES: dict[str, Recurrence] = {}


def recurrence(blocks: int, *, exact: bool = False) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    def add(make: Callable[[], Made]) -> Callable[[], Made]:
        RECURRENCES[make.__name__] = Recurrence(make.__name__, make, blocks, exact)
        return make

    return add


def cell(kind: type[nn.Module], inputs: int, hidden: int, gain: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A cell whose weights look trained: random ones, scaled."""
    made = kind(inputs, hidden)
    for number, parameter in enumerate(made.parameters()):
        parameter.data = randn(*parameter.shape, seed=number) * gain / hidden**0.5
    return made.to(dtype)


def over_time(step: Callable[[Tensor, Any], Any], init: Callable[[Tensor], Any]) -> Function:
    """``state = step(x[:, i], state)`` for every ``i``."""

    def run(x: Tensor) -> Any:
        return ffc.fori_loop(0, x.shape[1], lambda i, state: step(x[:, i], state), init(x))

    return run


def zeros(*shape: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.new_zeros(shape)


@recurrence(60)
def tanh_rnn() -> Made:
    rnn = cell(nn.RNNCell, 3, 4, 1.5)
    return over_time(rnn, zeros(2, 4)), (randn(2, 60, 3, seed=9),)


@recurrence(60)
def gru() -> Made:
    gru_cell = cell(nn.GRUCell, 3, 4, 2.0)
    return over_time(gru_cell, zeros(2, 4)), (randn(2, 60, 3, seed=9),)


@recurrence(50)
def lstm() -> Made:
    lstm_cell = cell(nn.LSTMCell, 3, 4, 2.0)
    return over_time(lstm_cell, lambda x: (x.new_zeros(2, 4), x.new_zeros(2, 4))), (randn(2, 50, 3, seed=9),)


@recurrence(50)
def gru_with_a_readout() -> Made:
    gru_cell, head = cell(nn.GRUCell, 3, 4, 2.0), nn.Linear(4, 2)

    def run(x: Tensor) -> dict[str, Tensor]:
        h = over_time(gru_cell, zeros(1, 4))(torch.tanh(x))
        return {"state": h, "logits": head(h)}

    return run, (randn(1, 50, 3, seed=9),)


@recurrence(40)
def rnn_of_double_precision() -> Made:
    rnn = cell(nn.RNNCell, 3, 4, 1.5, torch.float64)
    return over_time(rnn, zeros(2, 4)), (randn(2, 40, 3, seed=9, dtype=torch.float64),)


@recurrence(40)
def matrices_from_the_left() -> Made:
    w, u = randn(4, 4) * 0.4, randn(4, 3, seed=1)
    return over_time(lambda x, h: torch.tanh(w @ h + u @ x.t()), zeros(4, 2)), (randn(2, 40, 3, seed=9),)


@recurrence(40)
def a_vector_without_batch() -> Made:
    w = randn(4, 4) * 0.4

    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 40, lambda i, h: torch.sin(w @ h) + x[i], torch.zeros(4))

    return run, (randn(40, 4, seed=9),)


@recurrence(40)
def layer_norm_and_softmax() -> Made:
    w, norm = randn(5, 5) * 0.8, nn.LayerNorm(5)

    def step(x: Tensor, h: Tensor) -> Tensor:
        return torch.softmax(norm(h @ w), -1) * x

    return over_time(step, zeros(2, 5)), (randn(2, 40, 5, seed=9),)


@recurrence(40)
def convolved_state() -> Made:
    conv = nn.Conv1d(2, 2, 3, padding=1)
    conv.weight.data = randn(2, 2, 3) * 0.4
    return over_time(lambda x, h: torch.tanh(conv(h) + x), zeros(1, 2, 6)), (randn(1, 40, 2, 6, seed=9),)


@recurrence(40)
def two_layers_in_a_dict() -> Made:
    below, above = cell(nn.RNNCell, 3, 4, 1.2), cell(nn.GRUCell, 4, 2, 1.5)

    def step(x: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        h = below(x, state["below"])
        return {"below": h, "above": [above(h, state["above"][0]), state["above"][1] + 1]}

    def init(x: Tensor) -> dict[str, Any]:
        return {"below": x.new_zeros(2, 4), "above": [x.new_zeros(2, 2), torch.zeros(2, dtype=torch.int64)]}

    return over_time(step, init), (randn(2, 40, 3, seed=9),)


# ------------------------------------------------------------------------------------------ the same bits when batched


@recurrence(50, exact=True)
def linear_filter() -> Made:
    decay = torch.rand(6) * 0.9
    return over_time(lambda x, h: decay * h + x, zeros(2, 6)), (randn(2, 50, 6, seed=9),)


@recurrence(40, exact=True)
def driven_logistic_map() -> Made:
    """An expanding map: an error grows about twofold in each step."""
    return over_time(lambda x, h: 3.9 * h * (1 - h) + 0.01 * x, lambda x: torch.full((2,), 0.3)), (
        torch.rand(2, 40, generator=torch.Generator().manual_seed(9)),
    )


@recurrence(64, exact=True)
def congruential_generator() -> Made:
    def run(seed: Tensor) -> Tensor:
        return ffc.fori_loop(0, 64, lambda i, s: (s * 1103515245 + 12345 + i) % 2147483648, seed)

    return run, (torch.tensor([1, 2, 3]),)


@recurrence(32, exact=True)
def cellular_automaton() -> Made:
    """Rule 30, with one cell flipped in each step."""

    def run(cells: Tensor, flips: Tensor) -> Tensor:
        def step(i: int, s: Tensor) -> Tensor:
            left, right = s.roll(1, -1), s.roll(-1, -1)
            return left ^ (s | right) ^ flips[i]

        return ffc.fori_loop(0, 32, step, cells)

    generator = torch.Generator().manual_seed(3)
    cells = torch.randint(0, 2, (21,), generator=generator).bool()
    return run, (cells, torch.randint(0, 2, (32, 21), generator=generator).bool())


@recurrence(30, exact=True)
def step_numbers_as_numbers_and_as_places() -> Made:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        def step(i: int, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            total, ring = state
            ring = ring.clone()
            ring[:, i % 4] = total / (i + 1) + x[:, 29 - i]
            return total * 0.5 + ring[:, (i + 1) % 4] + i * 0.25, ring

        return ffc.fori_loop(0, 30, step, (torch.zeros(3), torch.zeros(3, 4)))

    return run, (randn(3, 30, seed=9),)


@recurrence(30, exact=True)
def fibonacci_whose_parts_change_places() -> Made:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        return ffc.fori_loop(0, 30, lambda i, s: (s[1], s[0] + s[1] + x[i]), (x[0], x[1]))

    return run, (torch.arange(60).reshape(30, 2),)


@recurrence(30, exact=True)
def the_largest_so_far_and_where() -> Made:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        def step(i: int, s: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            best, place = s
            larger = x[:, i] > best
            return torch.where(larger, x[:, i], best), torch.where(larger, torch.full_like(place, i), place)

        return ffc.fori_loop(0, 30, step, (torch.full((4,), -torch.inf), torch.zeros(4, dtype=torch.int64)))

    return run, (randn(4, 30, seed=9),)


@recurrence(20, exact=True)
def nan_and_inf_in_the_state() -> Made:
    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 20, lambda i, h: h * x[:, i] + 1, torch.ones(4))

    x = randn(4, 20, seed=9)
    x[1, 7], x[2, 5], x[3, 3] = torch.nan, torch.inf, -torch.inf
    return run, (x,)


@recurrence(25, exact=True)
def half_precision() -> Made:
    return over_time(lambda x, h: h * 0.5 + x, lambda x: x.new_zeros(3)), (randn(3, 25, dtype=torch.bfloat16),)


@recurrence(25)
def complex_rotation() -> Made:
    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 25, lambda i, h: torch.roll(h, 1, -1) + x[i], torch.zeros(3, dtype=torch.complex64))

    return run, (torch.complex(randn(25, 3), randn(25, 3, seed=1)),)


@recurrence(12, exact=True)
def array_whose_steps_write_it_twice() -> Made:
    """No array loop, since positions are written twice."""

    def run(x: Tensor) -> Tensor:
        def step(i: int, s: Tensor) -> Tensor:
            s = s.clone()
            s[:, i % 6] = s[:, 3] * 0.5 + x[:, i]
            return s

        return ffc.fori_loop(0, 12, step, torch.zeros(2, 6))

    return run, (randn(2, 12),)


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a result."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
