"""Samplers: an array that is written position by position."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...loops import fori_loop
from ...zoo import draws, made, pixelcnn
from .networks import WEIGHTS, Causal1d, Language, seeded
from .system import TIGHT, Arguments, Function, Inputs, System, normal, rand, randn


def _shipped_made() -> Function:
    return made.sampler()


def _random_made(dims: int) -> Function:
    model = made.random_made(dims, seed=0, hidden=(256, 256))
    return lambda noise: made.sample(model, noise)


def _noise(batch: int, dims: int, temperature: float = 1.0) -> Inputs:
    return lambda seed: (made.logistic_noise(batch, seed, dims, temperature),)


def _random_pixelcnn() -> Function:
    """With random weights: the corner of a digit, which is all of it that fits, is blank for the trained one."""
    model = seeded(pixelcnn.PixelCNN(filters=16, kernels=(7, 5, 5), levels=4), gain=2.0)
    return lambda noise: pixelcnn.sample(model, noise)


def _pixels(batch: int, side: int, levels: int = 4) -> Inputs:
    return lambda seed: (pixelcnn.gumbel_noise(batch, seed, side, levels),)


def _flow(dims: int) -> Function:
    """The inverse of a masked autoregressive flow, dimension by dimension, in place."""
    model = made.random_made(dims, seed=1, hidden=(128, 128))

    def inverse(z: Tensor) -> Tensor:
        x = torch.zeros_like(z)
        for i in range(dims):
            mean, log_scale = model(x)
            x[:, i] = z[:, i] * torch.exp(0.5 * torch.tanh(log_scale[:, i])) + mean[:, i]
        return x

    return inverse


def _language(length: int, tokens: int) -> Function:
    """A causal transformer that takes, position by position, the best token of logits and noise [B, T, tokens]."""
    model = seeded(Language(length, tokens))

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            logits = model(x)
            x = x.clone()
            x[:, i] = (logits[:, i] + noise[:, i]).argmax(-1)
            return x

        return cast(Tensor, fori_loop(0, length, step, torch.zeros(noise.shape[:2], dtype=torch.long)))

    return sample


def _gumbel(*shape: int) -> Inputs:
    return lambda seed: (-torch.log(-torch.log(rand(*shape, seed=seed).clamp(1e-6, 1 - 1e-6))),)


def _signal(length: int, dilations: tuple[int, ...]) -> Function:
    """A signal, sample by sample, by a network of dilated convolutions."""
    model = seeded(Causal1d(16, dilations))

    def sample(noise: Tensor) -> Tensor:
        def step(t: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, 1)
            x = x.clone()
            x[:, :, t] = torch.tanh(mean[:, :, t]) + torch.exp(0.3 * torch.tanh(log_scale[:, :, t])) * noise[:, :, t]
            return x

        return cast(Tensor, fori_loop(0, length, step, torch.zeros_like(noise)))

    return sample


def _lattice(size: int) -> Function:
    """A plane of cells, each a function of the one above and the one to the left: many do not wait for each other."""
    mask = torch.zeros(3, 3)
    mask[0, 1] = mask[1, 0] = 1.0
    weight = randn(1, 1, 3, 3, seed=WEIGHTS) * mask

    def fill(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            row, column = divmod(i, size)
            value = torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1))
            x = x.clone()
            x[:, :, row, column] = value[:, :, row, column] + noise[:, :, row, column]
            return x

        return cast(Tensor, fori_loop(0, size * size, step, torch.zeros_like(noise)))

    return fill


def _leaking(dims: int) -> Function:
    """A MADE whose first mask was forgotten, as happens: every position may read every other."""
    model = made.random_made(dims, seed=2, hidden=(64, 64))
    model.layer1 = cast(made.MaskedLinear, seeded(nn.Linear(dims, 64)))
    return lambda noise: made.sample(model, noise)


def _zeros(batch: int) -> Inputs:
    def start(seed: int) -> Arguments:
        return (torch.zeros(batch, draws.DIMS),)

    return start


SYSTEMS = (
    System("made-784-batch1", "sampler", _shipped_made, _noise(1, 784)),
    System("made-784-batch16", "sampler", _shipped_made, _noise(16, 784), hard={"noise x8": _noise(16, 784, 8.0)}),
    System("made-512-batch64", "sampler", lambda: _random_made(512), _noise(64, 512)),
    System("made-64-batch1", "sampler", lambda: _random_made(64), _noise(1, 64), hard={"noise x8": _noise(1, 64, 8.0)}),
    System("made-256-batch4", "sampler", lambda: _random_made(256), _noise(4, 256)),
    System("made-256-batch32-tolerance", "sampler", lambda: _random_made(256), _noise(32, 256), TIGHT),
    System("pixelcnn-14-trained", "sampler", pixelcnn.sampler, _pixels(1, 14, 16)),
    System("pixelcnn-10-batch1", "sampler", _random_pixelcnn, _pixels(1, 10)),
    System("pixelcnn-16-batch4", "sampler", _random_pixelcnn, _pixels(4, 16)),
    System("transformer-48-batch1", "sampler", lambda: _language(48, 32), _gumbel(1, 48, 32)),
    System("transformer-96-batch4", "sampler", lambda: _language(96, 32), _gumbel(4, 96, 32)),
    System("flow-32-batch8", "sampler", lambda: _flow(32), normal(8, 32), hard={"x8": normal(8, 32, scale=8.0)}),
    System("flow-128-batch32", "sampler", lambda: _flow(128), normal(32, 128)),
    System("signal-192-batch1", "sampler", lambda: _signal(192, (1, 2, 4, 8, 16)), normal(1, 1, 192)),
    System("lattice-16-batch1", "sampler", lambda: _lattice(16), normal(1, 1, 16, 16)),
    System("draws-bernoulli", "sampler with draws", lambda: draws.bernoulli, _zeros(16)),
    System("draws-logistic-mixture", "sampler with draws", lambda: draws.logistic_mixture, _zeros(16)),
    System("made-32-leaking", "sampler", lambda: _leaking(32), _noise(4, 32)),
)
