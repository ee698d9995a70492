"""Samplers that draw inside their loop, as most code in the wild does: ``ffc verify ffcompiler.zoo.draws:bernoulli``.

Both go through an untrained MADE of `DIMS` dimensions; what is of interest is the drawing.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor

from ..loops import fori_loop
from .made import MADE, random_made

DIMS = 128
COMPONENTS = 5


@cache
def _model() -> MADE:
    return random_made(DIMS, seed=0, hidden=(256, 256))


def bernoulli(start: Tensor) -> Tensor:
    """Zeros and ones in ``start`` [B, DIMS], one column after another."""
    model = _model()

    def step(i: int, x: Tensor) -> Tensor:
        p = torch.sigmoid(model(x)[0])
        x = x.clone()
        x[:, i] = torch.bernoulli(p[:, i])
        return x

    return cast(Tensor, fori_loop(0, DIMS, step, start))


def logistic_mixture(start: Tensor) -> Tensor:
    """Numbers in -1 .. 1: a component by Gumbel noise, then a logistic variable of it, as PixelCNN++ draws."""
    model, offsets = _model(), torch.linspace(-1.0, 1.0, COMPONENTS)

    def step(i: int, x: Tensor) -> Tensor:
        mean, log_scale = (t[:, i, None] + offsets for t in model(x))
        gumbel = -torch.log(-torch.log(torch.empty_like(mean).uniform_(1e-5, 1.0 - 1e-5)))
        chosen = (mean + gumbel).argmax(1, keepdim=True)
        u = torch.empty_like(mean[:, :1]).uniform_(1e-5, 1.0 - 1e-5)
        logistic = torch.log(u) - torch.log(1.0 - u)
        value = mean.gather(1, chosen) + log_scale.gather(1, chosen).exp() * logistic
        x = x.clone()
        x[:, i] = value[:, 0].clamp(-1.0, 1.0)
        return x

    return cast(Tensor, fori_loop(0, DIMS, step, start))


def example_inputs() -> tuple[Tensor]:
    """A start of zeros, [16, DIMS]."""
    return (torch.zeros(16, DIMS),)


bernoulli.example_inputs = example_inputs  # type: ignore[attr-defined]
logistic_mixture.example_inputs = example_inputs  # type: ignore[attr-defined]
