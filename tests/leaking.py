"""Models that only look autoregressive, each with its corrected twin: the mistakes that published ones make.

`make(wrong)` gives the sampler with the mistake or without it, and its arguments. Weights are scaled, so that the
corrected ones take more than two sweeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from systems import Made, affine, randn
from torch import Tensor, nn

import ffcompiler as ffc

Sampler = Callable[..., Tensor]
Made_ = tuple[Sampler, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Mistake:
    """``named``: what the refusal must name beside step and position: the operator and the line it stands in."""

    make: Callable[[bool], Made_]
    step: int
    writes: str
    reads: str
    named: tuple[str, str]


MISTAKES: dict[str, Mistake] = {}


def mistake(step: int, writes: str, reads: str, *named: str) -> Callable[[Any], Any]:
    def add(make: Callable[[bool], Made_]) -> Any:
        MISTAKES[make.__name__] = Mistake(make, step, writes, reads, (named[0], named[1]))
        return make

    return add


# ---------------------------------------------------------------------------------------------------- MADE


@mistake(0, "[:, 0]", "[:, 0], which it writes itself", "mm.default", "systems.py")
def output_mask_includes_the_own_position(wrong: bool) -> Made_:
    """``>=`` for ``>`` in the mask of the last layer."""
    return affine(Made(12, last=int(wrong), gain=2.5), 12), (randn(4, 12),)


ORDER = [4, 9, 1, 7, 0, 3, 8, 2, 6, 5]


@mistake(0, "[:, 5]", "[:, 4], which step 9 writes later", "mm.default", "systems.py")
def random_order_is_looped_over_backwards(wrong: bool) -> Made_:
    return _in_order(ORDER[::-1] if wrong else ORDER)


@mistake(1, "[:, 2]", "[:, 9], which step 5 writes later", "mm.default", "systems.py")
def random_order_is_inverted(wrong: bool) -> Made_:
    """The loop goes by the rank of each position where it should go by the position of each rank."""
    return _in_order([ORDER.index(i) for i in range(len(ORDER))] if wrong else ORDER)


def _in_order(loop: list[int]) -> Made_:
    model = Made(len(ORDER), order=ORDER, gain=2.5)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            j = loop[i]
            x[:, j] = mean[:, j] + F.softplus(log_scale[:, j]) * noise[:, j]
            return x

        return ffc.fori_loop(0, len(ORDER), step, torch.zeros_like(noise))

    return sample, (randn(5, len(ORDER)),)


# ---------------------------------------------------------------------------------------------------- attention


class Transformer(nn.Module):
    """Two blocks of masked attention over ``n`` positions; ``shift`` gives position i the input of position i - 1."""

    def __init__(self, n: int, mask: Callable[[Tensor], Tensor], shift: bool = True, width: int = 12) -> None:
        super().__init__()
        self.mask, self.shift, self.width = mask, shift, width
        self.place = nn.Parameter(randn(n, width, seed=1))
        self.inner = nn.Parameter(randn(width, seed=2) * 2.0)
        self.blocks = nn.ParameterList(randn(width, 4 * width, seed=s) * 2.0 / width**0.5 for s in (3, 4))
        self.out = nn.Parameter(randn(width, 2, seed=5) * 1.5 / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Mean and logarithm of the scale, [B, n, 2], of ``x`` [B, n]."""
        if self.shift:
            x = F.pad(x, (1, 0))[:, :-1]
        h = torch.tanh(x[:, :, None] * self.inner + self.place)
        for weight in self.blocks:
            q, k, v, rest = (h @ weight).chunk(4, dim=-1)
            h = torch.tanh(h + self.attend(q, k, v) + torch.relu(rest))
        return h @ self.out

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / (self.width / 2) ** 0.5
        weights = torch.softmax(self.mask(scores), -1)
        return (weights @ v).transpose(1, 2).flatten(2)


def transformer_sampler(model: nn.Module, n: int, batch: int = 3) -> Made_:
    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).unbind(-1)
            x = x.clone()
            x[:, i] = mean[:, i] + torch.exp(0.3 * torch.tanh(log_scale[:, i])) * noise[:, i]
            return x

        return ffc.fori_loop(0, n, step, torch.zeros_like(noise))

    return sample, (randn(batch, n),)


def causal(n: int) -> Tensor:
    return torch.ones(n, n).tril()


@mistake(0, "[:, 0]", "[:, 0], which it writes itself", "bmm.default", "leaking.py")
def attention_with_a_row_of_fillers_is_uniform(wrong: bool) -> Made_:
    """The first pixel may see none, so all of its scores are -1e10, and the softmax is uniform over all pixels."""
    allowed = causal(12).tril(-1)

    def mask(scores: Tensor) -> Tensor:
        return scores.masked_fill(allowed == 0, -1e10)

    def corrected(scores: Tensor) -> Tensor:
        return scores.masked_fill((allowed == 0) & (torch.arange(12) > 0), -1e10)

    return transformer_sampler(Transformer(12, mask if wrong else corrected), 12)


@mistake(0, "[:, 0]", "[:, 0], which it writes itself", "mm.default", "leaking.py")
def attention_mask_with_its_diagonal_needs_shifted_inputs(wrong: bool) -> Made_:
    allowed = causal(12)
    model = Transformer(12, lambda scores: scores.masked_fill(allowed == 0, float("-inf")), shift=not wrong)
    return transformer_sampler(model, 12)


@mistake(0, "[:, 0]", "[:, 0], which it writes itself", "bmm.default", "leaking.py")
def attention_mask_is_the_wrong_triangle(wrong: bool) -> Made_:
    allowed = causal(12).t() if wrong else causal(12)
    return transformer_sampler(Transformer(12, lambda scores: scores + (allowed - 1) * 1e10), 12)


# ---------------------------------------------------------------------------------------------------- PixelCNN


SIZE = 5


class Pixels(nn.Module):
    """Masked convolutions over [B, C, 5, 5]; ``first``, ``middle`` and ``last`` are the masks of the kernels."""

    def __init__(self, channels: int, hidden: int, first: Tensor, middle: Tensor, last: Tensor) -> None:
        super().__init__()
        self.w1 = nn.Parameter(randn(hidden, channels, 3, 3, seed=1) * 1.5)
        self.w2 = nn.Parameter(randn(hidden, hidden, 3, 3, seed=2))
        self.w3 = nn.Parameter(randn(channels, hidden, 1, 1, seed=3) * 1.5)
        self.register_buffer("first", first)
        self.register_buffer("middle", middle)
        self.register_buffer("last", last)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(F.conv2d(x, self.w1 * self.first, padding=1))
        h = torch.tanh(F.conv2d(h, self.w2 * self.middle, padding=1))
        return F.conv2d(h, self.w3 * self.last[:, :, None, None])


def before(centre: float) -> Tensor:
    """Taps in raster order before the centre, and the centre."""
    return torch.tensor([[1.0, 1.0, 1.0], [1.0, centre, 0.0], [0.0, 0.0, 0.0]])


def raster_sampler(model: nn.Module, batch: int = 3) -> Made_:
    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            row, column = divmod(i, SIZE)
            x = x.clone()
            x[:, :, row, column] = (1.5 * model(x) + noise)[:, :, row, column]
            return x

        return ffc.fori_loop(0, SIZE * SIZE, step, torch.zeros_like(noise))

    return sample, (randn(batch, 1, SIZE, SIZE),)


@mistake(0, "[:, :, 0, 0]", "[:, :, 0, 0], which it writes itself", "convolution.default", "leaking.py")
def first_convolution_is_of_type_b(wrong: bool) -> Made_:
    first = before(float(wrong)).expand(6, 1, 3, 3)
    return raster_sampler(Pixels(1, 6, first, before(1.0).expand(6, 6, 3, 3), torch.ones(1, 6)))


@mistake(0, "[:, 0, 0, 0]", "[:, 0, 0, 0], which it writes itself", "convolution.default", "leaking.py")
def centre_tap_leaks_between_channels(wrong: bool) -> Made_:
    """Channel after channel within a pixel: the centre of the first layer must be strictly lower triangular."""
    channels, hidden = 3, 9
    of_input, of_hidden = torch.arange(channels), torch.arange(hidden) // 3
    first = before(0.0).expand(hidden, channels, 3, 3).clone()
    first[:, :, 1, 1] = ((of_hidden[:, None] >= of_input) if wrong else (of_hidden[:, None] > of_input)).float()
    middle = before(0.0).expand(hidden, hidden, 3, 3).clone()
    middle[:, :, 1, 1] = (of_hidden[:, None] >= of_hidden).float()
    model = Pixels(channels, hidden, first, middle, (of_input[:, None] >= of_hidden).float())

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            pixel, channel = divmod(i, channels)
            row, column = divmod(pixel, SIZE)
            x = x.clone()
            x[:, channel, row, column] = (1.5 * model(x) + noise)[:, channel, row, column]
            return x

        return ffc.fori_loop(0, SIZE * SIZE * channels, step, torch.zeros_like(noise))

    return sample, (randn(2, channels, SIZE, SIZE),)


class Shifted(nn.Module):
    """No masks: what lies above comes from a kernel padded at the top, what lies left from one padded at the left."""

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.crop = crop
        self.above = nn.Parameter(randn(6, 1, 2, 3, seed=1) * 1.5)
        self.left = nn.Parameter(randn(6, 1, 1, 2, seed=2) * 1.5)
        self.out = nn.Parameter(randn(1, 6, 1, 1, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        above = F.conv2d(F.pad(x, (1, 1, 2, 0)), self.above)[:, :, :-1]
        left = F.conv2d(F.pad(x, (2, 0, 0, 0)), self.left)[:, :, :, self.crop : self.crop + SIZE]
        return F.conv2d(torch.tanh(above + left), self.out)


@mistake(0, "[:, :, 0, 0]", "[:, :, 0, 0], which it writes itself", "convolution.default", "leaking.py")
def crop_of_a_shifted_convolution_is_off_by_one(wrong: bool) -> Made_:
    return raster_sampler(Shifted(int(wrong)))


# ---------------------------------------------------------------------------------------------------- normalisation


class Normalised(nn.Module):
    """Shifted causal convolutions over [B, n], normalised over ``axis`` of [B, n, C], or by batch statistics."""

    def __init__(self, n: int, normal: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.normal = normal
        self.w1 = nn.Parameter(randn(8, 1, 4, seed=1) * 1.5)
        self.w2 = nn.Parameter(randn(1, 8, 3, seed=2) * 1.5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv1d(F.pad(x[:, None], (4, 0))[:, :, :-1], self.w1)
        h = torch.tanh(self.normal(h.transpose(1, 2)).transpose(1, 2))
        return F.conv1d(F.pad(h, (2, 0)), self.w2)[:, 0]


def sequence_sampler(model: nn.Module, n: int) -> Made_:
    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = (model(x) + noise)[:, i]
            return x

        return ffc.fori_loop(0, n, step, torch.zeros_like(noise))

    return sample, (randn(4, n),)


@mistake(0, "[:, 0]", "[:, 0], which it writes itself", "native_layer_norm.default", "leaking.py")
def layer_norm_runs_over_the_positions(wrong: bool) -> Made_:
    def over_positions(h: Tensor) -> Tensor:
        return F.layer_norm(h.transpose(1, 2), (12,)).transpose(1, 2)

    def over_channels(h: Tensor) -> Tensor:
        return F.layer_norm(h, (8,))

    return sequence_sampler(Normalised(12, over_positions if wrong else over_channels), 12)


@mistake(0, "[:, 0]", "[:, 0], which it writes itself", "batch_norm", "leaking.py")
def batch_norm_takes_the_statistics_of_the_batch(wrong: bool) -> Made_:
    mean, variance = randn(8, seed=6) * 0.1, randn(8, seed=7).abs() + 0.5

    def normal(h: Tensor) -> Tensor:
        at = h.transpose(1, 2)
        norm = F.batch_norm(at, None, None, training=True) if wrong else F.batch_norm(at, mean, variance)
        return norm.transpose(1, 2)

    return sequence_sampler(Normalised(12, normal), 12)
