"""How the MADE of the zoo is trained."""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor

from .fit import Recipe, fit, split
from .made import MADE
from .mnist import to_logits


def train_made(images: Tensor, recipe: Recipe) -> tuple[MADE, float]:
    """A MADE fitted to all but the last tenth of ``images`` [N, 28, 28], and its mean NLL in nats on that tenth.

    The weights are those of the best epoch, by that NLL. The same recipe gives the same weights on the same machine
    with the same number of threads.
    """
    torch.manual_seed(recipe.seed)
    train, rest = split(images)
    held_out = dequantise(rest)
    model = MADE()
    start_at_marginals(model, dequantise(train))
    return fit(model, recipe, lambda: dequantise(train), held_out)


def dequantise(images: Tensor) -> Tensor:
    """Logits [N, 784] of ``images``, with fresh noise."""
    return to_logits(images, torch.rand(len(images), images[0].numel()))


def start_at_marginals(model: MADE, x: Tensor) -> None:
    """Let the biases of the output be the mean and the log-scale of each pixel of ``x``, its weights small.

    Most pixels are background, about -6 in logit space: Adam would need thousands of steps to get there.
    """
    log_scale = (x.std(0) * sqrt(3) / pi).log()
    with torch.no_grad():
        model.output.bias.copy_(torch.cat([x.mean(0), log_scale]))
        model.output.weight.mul_(0.1)
