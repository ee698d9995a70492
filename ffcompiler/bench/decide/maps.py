"""Filters, maps and automata: recurrences of a few operators, some chaotic, and the same map again and again.

Those of the parameter ``p`` contract on their own inputs; the hard ones make them expand, or chaotic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ...loops import fori_loop, scan
from ...zoo import made
from .networks import contraction
from .system import TIGHT, Arguments, Function, Inputs, System, generator, normal, rand, randn

Map = Callable[[Tensor, Tensor], Tensor]


def _iterated(step: Map, steps: int) -> Function:
    """All states [T, B] of ``x = step(p, x)``, a step reading its own entry of a parameter p [T, 1] and x [B]."""

    def run(p: Tensor, x: Tensor) -> Tensor:
        outputs = []
        for t in range(steps):
            x = step(p[t], x)
            outputs.append(x)
        return torch.stack(outputs)

    return run


def _scanned(step: Map) -> Function:
    """The same as a marked loop over all of p: quicker to capture, so that it can be long."""

    def run(p: Tensor, x: Tensor) -> Tensor:
        def marked(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
            x = step(p, x)
            return x, x

        return cast(Tensor, scan(marked, x, p)[1])

    return run


def _parameters(steps: int, batch: int, low: float, high: float) -> Inputs:
    """Parameters [T, 1] between ``low`` and ``high``, first states [B] between 0.2 and 0.8."""

    def inputs(seed: int) -> Arguments:
        return low + (high - low) * rand(steps, 1, seed=seed), 0.2 + 0.6 * rand(batch, seed=seed + 500_000)

    return inputs


def _logistic(p: Tensor, x: Tensor) -> Tensor:
    return p * x * (1.0 - x)


def _linear(p: Tensor, x: Tensor) -> Tensor:
    return p * x + 0.1


def _tent(p: Tensor, x: Tensor) -> Tensor:
    return p * torch.minimum(x, 1.0 - x)


def _lorenz(steps: int) -> Function:
    """Lorenz's system by Euler steps from points [B, 3] with rho [B]: at rest for small rho, chaotic at 28."""

    def run(rho: Tensor, points: Tensor) -> Tensor:
        x, y, z = points.unbind(1)
        outputs = []
        for _ in range(steps):
            x, y, z = (
                x + 0.01 * (10.0 * (y - x)),
                y + 0.01 * (x * (rho - z) - y),
                z + 0.01 * (x * y - 8.0 / 3.0 * z),
            )
            outputs.append(torch.stack([x, y, z], 1))
        return torch.stack(outputs)

    return run


def _points(batch: int, rho: float) -> Inputs:
    return lambda seed: (torch.full((batch,), rho), randn(batch, 3, seed=seed))


def _automaton(steps: int) -> Function:
    """A generator of random numbers [T, B] from seeds [B]: whole numbers, the same bits at any shape."""

    def run(state: Tensor) -> Tensor:
        outputs = []
        for _ in range(steps):
            state = (state * 1103515245 + 12345) % 2147483648
            outputs.append(state)
        return torch.stack(outputs)

    return run


def _seeds(batch: int) -> Inputs:
    return lambda seed: (torch.randint(2**31, (batch,), generator=generator(seed)),)


def _inverse(dims: int) -> Function:
    """The inverse of a masked autoregressive flow as flow libraries write it: the whole array, once per dimension."""
    model = made.random_made(dims, seed=3, hidden=(128, 128))

    def inverse(z: Tensor) -> Tensor:
        x = torch.zeros_like(z)
        for _ in range(dims):
            mean, log_scale = model(x)
            x = z * torch.exp(0.5 * torch.tanh(log_scale)) + mean
        return x

    return inverse


def _equilibrium(width: int, rate: float, steps: int) -> Function:
    """A deep equilibrium model: one layer again and again."""
    w = contraction(width, rate)

    def solve(z: Tensor) -> Tensor:
        return cast(Tensor, fori_loop(0, steps, lambda i, x: torch.tanh(x @ w + z), torch.zeros_like(z)))

    return solve


def _turning(steps: int) -> Function:
    """A chaotic map of a whole array, again and again: it never comes to rest."""

    def turn(z: Tensor) -> Tensor:
        x = torch.sigmoid(z)
        for _ in range(steps):
            x = 3.9 * x * (1.0 - x)
        return x

    return turn


LONG = 10_000
FILTERS = "filter or chaotic map"
REPEATED = "repeated map"
SYSTEMS = (
    System(
        "filter-fast-long", FILTERS, lambda: _scanned(_linear), _parameters(LONG, 4, 0.3, 0.5),
        hard={"expanding": _parameters(LONG, 4, 1.001, 1.002), "denormal": _parameters(LONG, 4, 1e-30, 1e-29)},
    ),
    System(
        "filter-fast", FILTERS, lambda: _iterated(_linear, 2000), _parameters(2000, 4, 0.3, 0.5),
        hard={"expanding": _parameters(2000, 4, 1.01, 1.02)},
    ),
    System(
        "filter-slow", FILTERS, lambda: _iterated(_linear, 2000), _parameters(2000, 4, 0.95, 0.99),
        hard={"expanding": _parameters(2000, 4, 1.01, 1.02)},
    ),
    System("filter-expanding", FILTERS, lambda: _iterated(_linear, 1500), _parameters(1500, 4, 1.0, 1.02)),
    System(
        "logistic-at-rest-long", FILTERS, lambda: _scanned(_logistic), _parameters(LONG, 8, 1.5, 2.5),
        hard={"chaotic": _parameters(LONG, 8, 3.8, 4.0)},
    ),
    System(
        "logistic-at-rest", FILTERS, lambda: _iterated(_logistic, 1500), _parameters(1500, 8, 1.5, 2.5),
        hard={"chaotic": _parameters(1500, 8, 3.8, 4.0)},
    ),
    System("logistic-chaotic", FILTERS, lambda: _iterated(_logistic, 1500), _parameters(1500, 8, 3.8, 4.0)),
    System(
        "tent-at-rest-tolerance", FILTERS, lambda: _iterated(_tent, 1500), _parameters(1500, 64, 0.3, 0.8), TIGHT,
        {"chaotic": _parameters(1500, 64, 1.7, 1.9)}, forgets=False,
    ),
    System(
        "lorenz-at-rest", FILTERS, lambda: _lorenz(500), _points(4, 0.5), TIGHT, {"chaotic": _points(4, 28.0)},
        forgets=False,
    ),
    System("lorenz-chaotic", FILTERS, lambda: _lorenz(500), _points(4, 28.0), TIGHT, forgets=False),
    System("automaton", FILTERS, lambda: _automaton(800), _seeds(16)),
    System("flow-inverse-64", REPEATED, lambda: _inverse(64), normal(8, 64), hard={"x8": normal(8, 64, scale=8.0)}),
    System("flow-inverse-256", REPEATED, lambda: _inverse(256), normal(16, 256)),
    System("equilibrium-64", REPEATED, lambda: _equilibrium(64, 0.5, 300), normal(8, 64)),
    System("equilibrium-64-slow", REPEATED, lambda: _equilibrium(64, 0.98, 300), normal(8, 64, scale=0.1)),
    System("turning", REPEATED, lambda: _turning(300), normal(8, 32)),
)  # fmt: skip
