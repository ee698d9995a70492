"""MADE on MNIST: a sampler of 784 pixels, one after another, as in Song, Meng, Liao and Ermon (ICML 2021).

The network is the masked autoencoder of Germain et al. (ICML 2015). Each pixel, in logit space, is logistic, with a
mean and a scale that depend on the pixels before it in raster order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..loops import fori_loop
from .mnist import PIXELS, to_pixels

__all__ = [
    "MADE",
    "MaskedLinear",
    "load",
    "logistic_noise",
    "random_made",
    "sample",
    "sample_mnist",
    "sampler",
    "to_pixels",
]

WEIGHTS = Path(__file__).with_name("weights") / "made.safetensors"
LOG_SCALE_RANGE = (-5.0, 3.0)


class MaskedLinear(nn.Linear):
    """A linear layer that keeps only the connections where ``mask`` [out, in] is true."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Mean and log-scale of every pixel, each a function of the pixels before it.

    A hidden unit of degree ``k`` reads inputs ``0 .. k`` and feeds outputs ``k + 1 ..``; the degrees are spread evenly
    over ``0 .. dims - 2``. The network reads ``(x + 0.5).clamp(0, 1)``: 0 for the background, 1 for ink, so that the
    long tails of logit space do not reach it.
    """

    def __init__(self, dims: int = PIXELS, hidden: tuple[int, int] = (512, 512)) -> None:
        super().__init__()
        pixel = torch.arange(dims)
        degree1, degree2 = (torch.arange(width) * (dims - 1) // width for width in hidden)
        self.layer1 = MaskedLinear(degree1[:, None] >= pixel)
        self.layer2 = MaskedLinear(degree2[:, None] >= degree1)
        self.output = MaskedLinear(torch.cat([pixel, pixel])[:, None] > degree2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(mean, log_scale)``, each [B, dims], of logits ``x`` [B, dims]."""
        hidden = torch.relu(self.layer1((x + 0.5).clamp(0, 1)))
        hidden = torch.relu(self.layer2(hidden))
        mean, log_scale = self.output(hidden).chunk(2, dim=-1)
        return mean, log_scale.clamp(*LOG_SCALE_RANGE)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density [B] of logits ``x`` [B, dims], in nats, in logit space."""
        mean, log_scale = self(x)
        z = (x - mean) * (-log_scale).exp()
        return cast(Tensor, (-z - log_scale - 2 * F.softplus(-z)).sum(-1))


def sample(model: nn.Module, noise: Tensor) -> Tensor:
    """Logits [B, dims] that ``model`` makes of standard logistic ``noise`` [B, dims], one pixel after another."""
    x = torch.zeros_like(noise)

    def step(i: int, x: Tensor) -> Tensor:
        mean, log_scale = model(x)
        x = x.clone()
        x[:, i] = (mean + log_scale.exp() * noise)[:, i]
        return x

    return cast(Tensor, fori_loop(0, noise.shape[1], step, x))


def logistic_noise(batch: int, seed: int, dims: int = PIXELS, temperature: float = 1.0) -> Tensor:
    """Logistic noise, float32 [batch, dims], on the CPU: the same for the same ``seed``.

    ``temperature`` scales the noise: 1 draws from the model, less draws closer to its means (cleaner, less varied).
    """
    uniform = torch.rand(batch, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (temperature * torch.logit(uniform, eps=1e-9)).float()


def load() -> MADE:
    """The MADE that comes with the package, ready to sample: eval mode, no gradients."""
    model = MADE()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def random_made(dims: int, seed: int, gain: float = 2.0, hidden: tuple[int, int] = (512, 512)) -> MADE:
    """An *untrained* MADE, random and ready to sample: for measurements where no trained weights are at hand.

    A unit that reads ``k`` others has normal weights of standard deviation ``gain / sqrt(k)``. With PyTorch's own
    initial weights a pixel hardly notices the others; at gain 2 Jacobi needs tens of sweeps, as for a trained model
    (3,072 pixels: 23 to 27). The samples are finite and look like nothing. The global random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MADE(dims, hidden)
        for layer in (model.layer1, model.layer2, model.output):
            connections = layer.mask.sum(1, keepdim=True).clamp(min=1)
            layer.weight.copy_(gain * torch.randn_like(layer.weight) / connections.sqrt())
            layer.bias.copy_(0.1 * torch.randn_like(layer.bias))
    return model.eval().requires_grad_(False)


def sampler() -> Callable[[Tensor], Tensor]:
    """A function of the noise [B, 784] alone, with the shipped model in its closure."""
    model = load()

    def sample_noise(noise: Tensor) -> Tensor:
        return sample(model, noise)

    return sample_noise


@lru_cache(maxsize=1)
def _shipped() -> MADE:
    return load()


def sample_mnist(noise: Tensor) -> Tensor:
    """`sample` with the shipped model, which is loaded at the first call. ``noise``: [B, 784]."""
    return sample(_shipped().to(noise.device), noise)


def example_inputs() -> tuple[Tensor]:
    """The arguments that `sample_mnist` is compiled and measured for: noise [100, 784], always the same."""
    return (logistic_noise(100, seed=0),)


sample_mnist.example_inputs = example_inputs  # type: ignore[attr-defined]
