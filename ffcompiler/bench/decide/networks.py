"""The networks that only this benchmark needs, with weights from fixed seeds."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .system import generator, randn

WEIGHTS = 1_000_000
"""Where the seeds of weights begin, so that no input shares one."""


def seeded(module: nn.Module, seed: int = 0, gain: float = 1.0) -> nn.Module:
    """``module`` with matrices that keep the size of what they read (times ``gain``) and small biases."""
    g = generator(WEIGHTS + seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                p.normal_(0.0, gain / p[0].numel() ** 0.5, generator=g)
            elif "bias" in name:
                p.normal_(0.0, 0.1, generator=g)
    return module.eval().requires_grad_(False)


def contraction(width: int, rate: float, seed: int = 0) -> Tensor:
    """A matrix [width, width] of spectral norm ``rate``."""
    w = randn(width, width, seed=WEIGHTS + seed)
    return cast(Tensor, w * (rate / torch.linalg.matrix_norm(w, 2)))


class Attention(nn.Module):
    """Causal attention of several heads over [B, T, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast(Tensor, self.out(y.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """A layer of a transformer: attention, then two products with a GELU between them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return cast(Tensor, x + self.down(F.gelu(self.up(self.norm2(x)))))


class Language(nn.Module):
    """Logits [B, T, tokens] of tokens [B, T], each a function of the tokens before it."""

    def __init__(self, length: int, tokens: int, width: int = 32, layers: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        h = F.pad(self.embedding(x), (0, 0, 1, 0))[:, :-1] + self.place
        for block in self.blocks:
            h = block(h)
        return cast(Tensor, self.head(self.norm(h)))


class Causal1d(nn.Module):
    """Mean and log-scale [B, 2, T] of a signal [B, 1, T], of what lies before, by dilated convolutions."""

    def __init__(self, channels: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, channels, 2)
        self.layers = nn.ModuleList(nn.Conv1d(channels, channels, 2, dilation=d) for d in dilations)
        self.dilations = dilations
        self.out = nn.Conv1d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.pad(x, (2, 0))[:, :, :-1])
        for layer, dilation in zip(self.layers, self.dilations, strict=True):
            h = h + torch.tanh(layer(F.pad(h, (dilation, 0))))
        return cast(Tensor, self.out(torch.relu(h)))


class Residual(nn.Module):
    """A residual MLP whose inner widths differ from layer to layer."""

    def __init__(self, width: int, inner: tuple[int, ...]) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, w) for w in inner)
        self.down = nn.ModuleList(nn.Linear(w, width) for w in inner)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + 0.5 * down(torch.relu(up(x)))
        return x


class Towers(nn.Module):
    """Two residual MLPs side by side, one reading what the other does, joined at their ends."""

    def __init__(self, width: int, inner: tuple[int, ...]) -> None:
        super().__init__()
        self.left, self.right = Residual(width, inner), Residual(width, inner[::-1])
        self.join = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.join(torch.cat([self.left(x), self.right(x)], -1)))
