"""Deep networks: chains of unlike layers, and stacks of layers that are alike but for their weights."""

from __future__ import annotations

from torch import Tensor, nn

from ...zoo.densenet import random_densenet
from .networks import Block, Residual, Towers, seeded
from .system import BITS, LOOSE, Function, System, normal

WIDTHS = tuple(32 + 4 * k for k in range(24))  # no two alike: nothing to roll up


def _module(module: nn.Module) -> Function:
    return module


def _densenet(layers: tuple[int, ...]) -> Function:
    return _module(random_densenet(layers, growth=12, classes=10))


def _residual(width: int) -> Function:
    return _module(seeded(Residual(width, WIDTHS)))


def _encoder(layers: int, width: int) -> Function:
    """A transformer encoder over [B, T, width]."""
    stack = nn.ModuleList(seeded(Block(width, 2), seed=k, gain=0.5) for k in range(layers))

    def run(x: Tensor) -> Tensor:
        for layer in stack:
            x = layer(x)
        return x

    return run


KIND = "deep network"
SYSTEMS = (
    System("densenet-small", KIND, lambda: _densenet((4, 6, 6)), normal(1, 3, 32, 32)),
    System("densenet-small-batch8", KIND, lambda: _densenet((4, 6, 6)), normal(8, 3, 32, 32)),
    System("densenet-121-shaped-loose", KIND, lambda: _densenet((6, 12, 24, 16)), normal(1, 3, 32, 32), LOOSE),
    System("residual-24-bits", KIND, lambda: _residual(64), normal(4, 64)),
    System("residual-24-loose", KIND, lambda: _residual(64), normal(4, 64), LOOSE),
    System("towers-24", KIND, lambda: _module(seeded(Towers(64, WIDTHS))), normal(4, 64), BITS),
    System("encoder-12-bits", KIND, lambda: _encoder(12, 64), normal(1, 32, 64)),
    System("encoder-12-loose", KIND, lambda: _encoder(12, 64), normal(1, 32, 64), LOOSE),
)
