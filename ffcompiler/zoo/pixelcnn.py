"""A gated PixelCNN on MNIST in 16 grey levels: a sampler of 784 pixels, one after another.

The network is the gated PixelCNN of van den Oord et al. (*Conditional Image Generation with PixelCNN Decoders*, NeurIPS
2016), without labels: a vertical stack that sees the rows above, a horizontal one that sees the row to the left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import log
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..loops import fori_loop
from .mnist import LEVELS, SIDE, to_grey

__all__ = [
    "GatedLayer",
    "MaskedConv2d",
    "PixelCNN",
    "bits_per_pixel",
    "gumbel_noise",
    "load",
    "sample",
    "sample_digits",
    "sampler",
    "to_grey",
]

WEIGHTS = Path(__file__).with_name("weights") / "pixelcnn.safetensors"


class MaskedConv2d(nn.Conv2d):
    """A convolution that keeps the size of the image, and only the taps where ``mask`` [rows, columns] is true."""

    mask: Tensor

    def __init__(self, channels_in: int, channels_out: int, mask: Tensor) -> None:
        rows, columns = mask.shape
        super().__init__(channels_in, channels_out, (rows, columns), padding=(rows // 2, columns // 2))
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def rows_above(size: int, *, centre: bool) -> Tensor:
    """Mask [size, size] of the rows above the middle one, which is taken too if ``centre``."""
    row = torch.arange(size)[:, None].expand(size, size)
    return row <= size // 2 if centre else row < size // 2


def columns_left(size: int, *, centre: bool) -> Tensor:
    """Mask [1, size] of the columns left of the middle one, which is taken too if ``centre``."""
    column = torch.arange(size)[None]
    return column <= size // 2 if centre else column < size // 2


def gate(x: Tensor) -> Tensor:
    """``tanh(a) * sigmoid(b)`` of the two halves of the channels of ``x``."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks. The vertical one at a pixel knows rows above it, so the horizontal one may read it.

    The ``first`` layer reads the image: it leaves out the pixel itself and has no residual connection.
    """

    def __init__(self, channels: int, filters: int, kernel: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.vertical = MaskedConv2d(channels, 2 * filters, rows_above(kernel, centre=not first))
        self.horizontal = MaskedConv2d(channels, 2 * filters, columns_left(kernel, centre=not first))
        self.link = nn.Conv2d(2 * filters, 2 * filters, 1)
        self.mix = nn.Conv2d(filters, filters, 1)

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        above = self.vertical(vertical)
        mixed = self.mix(gate(self.horizontal(horizontal) + self.link(above)))
        return gate(above), mixed if self.first else horizontal + mixed


class PixelCNN(nn.Module):
    """Logits of the levels of every pixel, each a function of the pixels before it in raster order.

    A pixel reads what lies within the sum of ``kernel // 2`` over the layers: above it, up to that many rows and
    columns away, and to its left. Images of any height and width will do.
    """

    def __init__(self, filters: int = 24, kernels: tuple[int, ...] = (7, 5, 5, 5, 5), levels: int = LEVELS) -> None:
        super().__init__()
        self.levels = levels
        self.first = GatedLayer(1, filters, kernels[0], first=True)
        self.layers = nn.ModuleList(GatedLayer(filters, filters, kernel) for kernel in kernels[1:])
        self.hidden = nn.Conv2d(filters, 2 * filters, 1)
        self.output = nn.Conv2d(2 * filters, levels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, levels, H, W] of images ``x`` [B, 1, H, W] with levels scaled to 0 .. 1."""
        vertical, horizontal = self.first(x, x)
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        hidden = torch.relu(self.hidden(torch.relu(horizontal)))
        return cast(Tensor, self.output(hidden))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability [B] of images ``x`` [B, 1, H, W] with levels scaled to 0 .. 1, in nats."""
        level = (x[:, 0] * (self.levels - 1)).round().long()
        return -F.cross_entropy(self(x), level, reduction="none").sum((1, 2))


def bits_per_pixel(model: PixelCNN, x: Tensor) -> Tensor:
    """Code length [B] of images ``x`` [B, 1, H, W] under ``model``, in bits for each pixel."""
    return -model.log_prob(x) / (x[0].numel() * log(2))


def sample(model: nn.Module, noise: Tensor) -> Tensor:
    """Images [B, 1, H, W] that ``model`` makes of Gumbel ``noise`` [B, levels, H, W], one pixel after another.

    A level is drawn as the largest of ``logits + noise`` (the Gumbel-max trick), and scaled to 0 .. 1.
    """
    batch, levels, height, width = noise.shape
    x = noise.new_zeros(batch, 1, height, width)

    def step(i: int, x: Tensor) -> Tensor:
        row, column = divmod(i, width)
        logits = model(x)
        level = (logits[:, :, row, column] + noise[:, :, row, column]).argmax(1)
        x = x.clone()
        x[:, 0, row, column] = level.to(x.dtype) / (levels - 1)
        return x

    return cast(Tensor, fori_loop(0, height * width, step, x))


def gumbel_noise(batch: int, seed: int, side: int = SIDE, levels: int = LEVELS, temperature: float = 1.0) -> Tensor:
    """Gumbel noise, float32 [batch, levels, side, side], on the CPU: the same for the same ``seed``.

    ``temperature`` scales the noise: 1 draws from the model, less draws its likelier levels more often.
    """
    shape = (batch, levels, side, side)
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (-temperature * (-uniform.clamp(1e-12, 1 - 1e-12).log()).log()).float()


def load() -> PixelCNN:
    """The PixelCNN that comes with the package, ready to sample: eval mode, no gradients."""
    model = PixelCNN()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval().requires_grad_(False)


def sampler() -> Callable[[Tensor], Tensor]:
    """A function of the noise [B, 16, 28, 28] alone, with the shipped model in its closure."""
    model = load()

    def sample_noise(noise: Tensor) -> Tensor:
        return sample(model, noise)

    return sample_noise


@lru_cache(maxsize=1)
def _shipped() -> PixelCNN:
    return load()


def sample_digits(noise: Tensor) -> Tensor:
    """`sample` with the shipped model, which is loaded at the first call. ``noise``: [B, 16, 28, 28]."""
    return sample(_shipped().to(noise.device), noise)


def example_inputs() -> tuple[Tensor]:
    """The arguments that `sample_digits` is compiled and measured for: noise [1, 16, 28, 28], always the same."""
    return (gumbel_noise(1, seed=0),)


sample_digits.example_inputs = example_inputs  # type: ignore[attr-defined]
