"""Functions with several loops in a row, as people write them. Each entry gives the function and its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from unmarked import Program, cell, masked, randn

import ffcompiler as ffc

T = 16


def stacked_cells() -> Program:
    """A list of what the first loop leaves is what the second one reads, step by step."""
    first, second = cell(nn.GRUCell, 3, 4), cell(nn.GRUCell, 4, 4, seed=9)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = first(x[:, t], h)
            left.append(h)
        g, result = torch.zeros(2, 4), []
        for y in left:
            g = second(y, g)
            result.append(g)
        return torch.stack(result, 1), h

    return run, (randn(2, T, 3),)


def encoder_decoder() -> Program:
    """The second loop begins with what the first one ends with: they cannot be one."""
    first, second = cell(nn.GRUCell, 3, 4), cell(nn.GRUCell, 4, 4, seed=9)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = first(x[:, t], h)
            left.append(h)
        g, result = h, []
        for y in left:
            g = second(y, g)
            result.append(g)
        return torch.stack(result, 1), h

    return run, (randn(2, T, 3),)


def through_time() -> Program:
    """The forward loop, and by hand the loop of its gradients, from the last step to the first."""

    def gradients(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = [torch.zeros(2, 3)]
        for t in range(T):
            states.append(torch.tanh(x[:, t] + states[-1] @ w))
        d, of_w = torch.ones(2, 3), torch.zeros(3, 3)
        for t in reversed(range(T)):
            inner = d * (1 - states[t + 1] ** 2)
            of_w = of_w + states[t].T @ inner
            d = inner @ w.T
        return of_w, d, states[-1].sum()

    return gradients, (randn(2, T, 3), randn(3, 3, seed=1) * 0.5)


def layers() -> Program:
    """Two layers in two directions: four loops."""
    lstm = cell(nn.LSTM, 3, 4, 2)
    both = nn.GRU(3, 4, bidirectional=True)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        return lstm(x)[0], both(x)[0]

    return run, (randn(T, 2, 3),)


def four_loops() -> Program:
    """Later loops read a stack, a list, and a last state of earlier ones; one is handed on past a loop between."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        a, left = torch.zeros(5), []
        for t in range(T):
            a = torch.sin(a + x[t])
            left.append(a)
        ys = torch.stack(left)
        z, b, other = ys * 2, torch.zeros(5), []
        for t in range(T):
            b = torch.cos(b * 0.5 + z[t])
            other.append(b)
        n = torch.zeros(5)
        for y in ys.unbind(0):
            n = n * 0.5 + y
        for y in left[::-1]:
            n = n * 0.25 + y
        for y in other:
            n = n * 0.3 + y
        return n, a

    return run, (randn(T, 5),)


def drawing() -> Program:
    """Both loops draw, and so does what comes before, between and after them."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.rand(5)
        for t in range(T):
            a = torch.sin(a + x[t]) + torch.randn(5)
        b = torch.rand(5)
        for _ in range(T):
            b = torch.cos(b * 0.5 + a) * torch.rand(5)
        return b, torch.rand(2)

    return run, (randn(T, 5),)


def in_place() -> Program:
    """The second loop writes into what the first one made, and the result is read from both."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.zeros(5, T)
        for t in range(1, T):
            y[:, t] = torch.sin(y[:, t - 1] + x[t])
        before = y.sum(1)
        for t in range(1, T):
            y[:, t] = y[:, t] + 0.5 * y[:, t - 1]
        return y, before

    return run, (randn(T, 5),)


def sample_and_score() -> Program:
    """An autoregressive sampler, then a recurrence over what was sampled."""
    model, scorer = masked(T), cell(nn.GRUCell, 1, 4)

    def run(noise: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.zeros_like(noise)
        for i in range(T):
            mean, log_scale = model(x).chunk(2, dim=-1)
            x[:, i] = (mean + torch.tanh(log_scale).exp() * noise)[:, i]
        h = torch.zeros(len(noise), 4)
        for i in range(T):
            h = scorer(x[:, i : i + 1], h)
        return x, h

    return run, (randn(3, T),)


def allocated_ahead() -> Program:
    """What both loops fill is allocated before them, without values."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        one, two = torch.empty(T, 5), torch.empty(T, 5)
        h = torch.zeros(5)
        for t in range(T):
            h = torch.sin(h + x[t])
            one[t] = h
        for t in range(T):
            h = torch.cos(h * 0.5 + one[t])
            two[t] = h
        return one, two

    return run, (randn(T, 5),)


def half_each() -> Program:
    """Both loops fill a half of one array, which was allocated before them without values."""

    def run(x: Tensor) -> Tensor:
        both = torch.empty(2, T, 5)
        h = torch.zeros(5)
        for t in range(T):
            h = torch.sin(h + x[t])
            both[0, t] = h
        h = torch.zeros(5)
        for t in reversed(range(T)):
            h = torch.cos(h * 0.5 + x[t])
            both[1, t] = h
        return both

    return run, (randn(T, 5),)


def two_marked() -> Program:
    def run(x: Tensor) -> Tensor:
        h = ffc.fori_loop(0, T, lambda t, h: torch.tanh(h + x[t]), torch.zeros(5))
        last, left = ffc.scan(lambda h, y: (torch.sin(h * 0.5 + y), h), h, x)
        return last + left.sum(0)

    return run, (randn(T, 5),)


ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "stacked_cells": (stacked_cells, ("Recurrence", "Recurrence")),
    "encoder_decoder": (encoder_decoder, ("Recurrence", "Recurrence")),
    "through_time": (through_time, ("Recurrence", "Recurrence")),
    "layers": (layers, ("Recurrence",) * 4),
    "four_loops": (four_loops, ("Recurrence",) * 5),
    "drawing": (drawing, ("Recurrence", "Recurrence")),
    "in_place": (in_place, ("ArrayLoop", "ArrayLoop")),
    "sample_and_score": (sample_and_score, ("ArrayLoop", "Recurrence")),
    "half_each": (half_each, ("Recurrence", "Recurrence")),
    "allocated_ahead": (allocated_ahead, ("Recurrence", "Recurrence")),
    "two_marked": (two_marked, ("Recurrence", "Recurrence")),
}
"""By name: what makes the function, and the system of each of its parts."""
