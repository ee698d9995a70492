"""Recurrent networks: their weights forget as trained ones do, remember for long, or are chaotic."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...loops import fori_loop, scan
from ...zoo import char_gru
from .networks import WEIGHTS, contraction, seeded
from .system import BITS, LOOSE, TIGHT, Function, Inputs, System, normal, randn


def _tanh(width: int, rate: float) -> Function:
    """``h = tanh(h W + x_t)`` with W of spectral norm ``rate``: it forgets for sure below 1."""
    w = contraction(width, rate)

    def run(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[0], width), []
        for t in range(x.shape[1]):
            h = torch.tanh(h @ w + x[:, t])
            outputs.append(h)
        return torch.stack(outputs, 1)

    return run


def _long_tanh(width: int, rate: float) -> Function:
    """The same over x [T, B, width] as a marked loop: quicker to capture, so that it can be long."""
    w = contraction(width, rate)

    def run(x: Tensor) -> Tensor:
        def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(h @ w + x_t)
            return h, h

        return cast(Tensor, scan(step, x.new_zeros(x.shape[1], width), x)[1])

    return run


def _long_gru(width: int) -> Function:
    """`nn.GRUCell` over x [T, B, width], marked too."""
    cell = seeded(nn.GRUCell(width, width), gain=0.7)

    def run(x: Tensor) -> Tensor:
        def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            h = cell(x_t, h)
            return h, h

        return cast(Tensor, scan(step, x.new_zeros(x.shape[1], width), x)[1])

    return run


def _chaotic(width: int, gain: float) -> Function:
    """The same with random weights of that gain and no spectral bound: chaotic from 1 on, for small inputs."""
    w = randn(width, width, seed=WEIGHTS) * (gain / width**0.5)

    def run(x: Tensor) -> Tensor:
        def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(h @ w + 0.1 * x_t)
            return h, h

        _, outputs = scan(step, x.new_zeros(x.shape[1], width), x)
        return cast(Tensor, outputs)

    return run


def _gru(features: int, width: int) -> Function:
    """`nn.GRUCell` in a loop over x [B, T, features]."""
    cell = seeded(nn.GRUCell(features, width), gain=0.7)

    def run(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[0], width), []
        for t in range(x.shape[1]):
            h = cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)

    return run


def _reader() -> Function:
    """The trained character-level GRU of the zoo, which reads a text [1, T]."""
    return char_gru.reader(char_gru.load())


def _text(length: int) -> Inputs:
    """A text that the model itself writes."""
    return lambda seed: (char_gru.encode(char_gru.write(char_gru.load(), length, seed)),)


def _lstm(features: int, width: int, forget: float) -> Function:
    """`nn.LSTMCell` in a loop; ``forget`` is added to the bias of the forget gate: it lengthens the memory."""
    cell = cast(nn.LSTMCell, seeded(nn.LSTMCell(features, width), gain=0.7))
    cell.bias_ih[width : 2 * width] += forget

    def run(x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], width)
        outputs = []
        for t in range(x.shape[1]):
            h, c = cell(x[:, t], (h, c))
            outputs.append(h)
        return torch.stack(outputs, 1)

    return run


def _layer(layer: nn.Module) -> Function:
    """torch's own module over x [B, T, features]."""
    module = seeded(layer, gain=0.7)
    return lambda x: module(x)[0]


def _leaky(width: int, keep: float) -> Function:
    """An echo state network: ``h`` keeps a share of itself in every step, and gives its last value."""
    w = contraction(width, 0.9)

    def run(x: Tensor) -> Tensor:
        def step(t: int, h: Tensor) -> Tensor:
            return keep * h + (1.0 - keep) * torch.tanh(h @ w + x[:, t])

        return cast(Tensor, fori_loop(0, x.shape[1], step, x.new_zeros(x.shape[0], width)))

    return run


LONG = 10_000
KIND = "recurrent network"
SYSTEMS = (
    System("tanh-4-forgets", KIND, lambda: _tanh(4, 0.6), normal(1, 1500, 4), TIGHT),
    System("tanh-4-forgets-long", KIND, lambda: _long_tanh(4, 0.6), normal(LONG, 1, 4), TIGHT),
    System("tanh-16-forgets-long", KIND, lambda: _long_tanh(16, 0.8), normal(LONG, 1, 16), LOOSE),
    System("tanh-4-forgets-loose", KIND, lambda: _tanh(4, 0.6), normal(1, 1500, 4), LOOSE),
    System("tanh-32-forgets", KIND, lambda: _tanh(32, 0.6), normal(1, 600, 32), TIGHT),
    System("tanh-4-remembers", KIND, lambda: _tanh(4, 0.99), normal(1, 1500, 4, scale=0.1), TIGHT),
    System("tanh-16-chaotic", KIND, lambda: _chaotic(16, 2.5), normal(1000, 1, 16), TIGHT, forgets=False),
    System("gru-2", KIND, lambda: _gru(2, 2), normal(1, 1000, 2), TIGHT, {"x8": normal(1, 1000, 2, scale=8.0)}),
    System("gru-2-long", KIND, lambda: _long_gru(2), normal(LONG, 1, 2), TIGHT, {"x8": normal(LONG, 1, 2, scale=8.0)}),
    System("gru-48-batch4", KIND, lambda: _gru(16, 48), normal(4, 400, 16), TIGHT),
    System("gru-48-bits", KIND, lambda: _gru(16, 48), normal(1, 400, 16), BITS),
    System("char-gru-256-trained", KIND, _reader, _text(1024), BITS),
    System("char-gru-256-trained-loose", KIND, _reader, _text(1024), LOOSE),
    System("lstm-16", KIND, lambda: _lstm(8, 16, 0.0), normal(1, 600, 8), TIGHT),
    System("lstm-16-long-memory", KIND, lambda: _lstm(8, 16, 5.0), normal(1, 600, 8), TIGHT),
    System("nn-gru-32", KIND, lambda: _layer(nn.GRU(8, 32, batch_first=True)), normal(2, 500, 8), TIGHT),
    System("echo-state-32", KIND, lambda: _leaky(32, 0.7), normal(8, 800, 32), LOOSE),
)
