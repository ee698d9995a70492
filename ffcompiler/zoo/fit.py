"""Fit a density to data: what the trainings of the zoo's models have in common."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import torch
from torch import Tensor

from .made import MADE
from .pixelcnn import PixelCNN

Model = TypeVar("Model", MADE, PixelCNN)
EVALUATED_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: Adam with a cosine decay over ``epochs``, stopped after ``patience`` epochs without progress.

    ``clip`` limits the norm of the gradient of the mean negative log-likelihood, in nats.
    """

    epochs: int
    seed: int = 0
    batch: int = 100
    learning_rate: float = 3e-3
    patience: int = 5
    clip: float = 500.0


@dataclass(frozen=True, slots=True)
class Unit:
    """What a negative log-likelihood is reported in."""

    name: str
    nats: float  # nats per unit
    digits: int

    def show(self, nats: float) -> str:
        return f"{nats / self.nats:.{self.digits}f}"


NATS = Unit("nats", 1.0, 1)


def split(images: Tensor) -> tuple[Tensor, Tensor]:
    """What to train on, and the last tenth of ``images``, to hold out."""
    held_out = len(images) // 10
    return images[:-held_out], images[-held_out:]


def fit(
    model: Model, recipe: Recipe, draw: Callable[[], Tensor], held_out: Tensor, unit: Unit = NATS
) -> tuple[Model, float]:
    """``model`` at its best epoch by its mean NLL on ``held_out``, and that NLL, in nats.

    ``draw`` gives the training data of an epoch.
    """
    best, best_nll, best_epoch = copy.deepcopy(model), inf, 0
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs, recipe.learning_rate / 100)
    for epoch in range(1, recipe.epochs + 1):
        train_nll = run_epoch(model, optimizer, draw(), recipe)
        decay.step()
        nll = mean_nll(model, held_out)
        shown = f"train {unit.show(train_nll)}, held out {unit.show(nll)} {unit.name}"
        print(f"epoch {epoch}/{recipe.epochs}: {shown}", file=sys.stderr)
        if nll < best_nll:
            best, best_nll, best_epoch = copy.deepcopy(model), nll, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    return best, best_nll


def run_epoch(model: Model, optimizer: torch.optim.Optimizer, x: Tensor, recipe: Recipe) -> float:
    """One pass over ``x`` in random order; the mean NLL met on the way, in nats."""
    total = 0.0
    for rows in torch.randperm(len(x)).split(recipe.batch):  # type: ignore[no-untyped-call]
        loss = -model.log_prob(x[rows]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(x)


@torch.no_grad()
def mean_nll(model: Model, x: Tensor) -> float:
    parts = x.split(EVALUATED_AT_ONCE)  # type: ignore[no-untyped-call]
    return -sum(model.log_prob(part).sum().item() for part in parts) / len(x)
