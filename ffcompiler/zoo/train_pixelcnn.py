"""How the PixelCNN of the zoo is trained."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from .fit import Recipe, Unit, fit, split
from .mnist import PIXELS, to_levels
from .pixelcnn import PixelCNN

BITS_PER_PIXEL = Unit("bits per pixel", PIXELS * log(2), 4)


def train_pixelcnn(images: Tensor, recipe: Recipe) -> tuple[PixelCNN, float]:
    """A PixelCNN fitted to all but the last tenth of ``images`` [N, 28, 28], and its mean NLL in nats on that tenth.

    The weights are those of the best epoch, by that NLL. The same recipe gives the same weights on the same machine
    with the same number of threads.
    """
    torch.manual_seed(recipe.seed)
    train, held_out = split(to_levels(images))
    return fit(PixelCNN(), recipe, lambda: train, held_out, BITS_PER_PIXEL)
