"""Several loops in a row in one function: layers of a network, and what is sampled and then scored."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...loops import fori_loop
from ...zoo import made
from .networks import contraction, seeded
from .system import LOOSE, Function, System, normal


def _layers(features: int, width: int, layers: int) -> Function:
    """`nn.GRU` over x [B, T, features]: a loop for each layer."""
    network = seeded(nn.GRU(features, width, layers, batch_first=True), gain=0.7)
    return lambda x: network(x)[0]


def _scored(dims: int, width: int) -> Function:
    """What a MADE samples of noise [B, dims], read position by position by a recurrent network: its last state."""
    model, w = made.random_made(dims, seed=0, hidden=(128, 128)), contraction(width, 0.6)

    def run(noise: Tensor) -> tuple[Tensor, Tensor]:
        sample = made.sample(model, noise)
        start = sample.new_zeros(sample.shape[0], width)
        h = fori_loop(0, dims, lambda t, h: torch.tanh(h @ w + sample[:, t : t + 1]), start)
        return sample, cast(Tensor, h)

    return run


KIND = "several loops"
SYSTEMS = (
    System("gru-2-layers-loose", KIND, lambda: _layers(8, 32, 2), normal(1, 400, 8), LOOSE, loops=2),
    System("made-scored-loose", KIND, lambda: _scored(96, 16), normal(4, 96), LOOSE, loops=2),
)
