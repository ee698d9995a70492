"""How the character GRU of the zoo is trained: truncated back-propagation through time, on one text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import log
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .char_gru import CharGRU, encode
from .fit import Recipe, Unit

BITS_PER_CHARACTER = Unit("bits per character", log(2), 4)
UNROLLED = 64
"""Steps through which a gradient goes back."""


def load_text(path: Path) -> Tensor:
    """The characters [N] of the file at ``path``. Raises: `UsageError` for one that the model does not know."""
    return encode(path.read_text(encoding="utf-8"))[0]


def train_char_gru(text: Tensor, recipe: Recipe) -> tuple[CharGRU, float]:
    """A model fitted to all but the last tenth of ``text`` [N], and its mean NLL per character on that, in nats.

    ``recipe.batch`` parts of the text are read side by side, each with the state that its last piece left.
    """
    torch.manual_seed(recipe.seed)
    held_out = text[-(len(text) // 10) :]
    train = text[: -len(held_out)]
    model = CharGRU()
    layer = _layer(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs, recipe.learning_rate / 100)
    for epoch in range(1, recipe.epochs + 1):
        shift = int(torch.randint(UNROLLED, ()))
        nll = _run_epoch(model, layer, optimizer, _parts(train[shift:], recipe.batch), recipe.clip)
        decay.step()
        train_nll, rest_nll = map(BITS_PER_CHARACTER.show, (nll, mean_nll(model, held_out)))
        shown = f"train {train_nll}, held out {rest_nll} {BITS_PER_CHARACTER.name}"
        print(f"epoch {epoch}/{recipe.epochs}: {shown}", file=sys.stderr)
    return model, mean_nll(model, held_out)


def _layer(model: CharGRU) -> nn.GRU:
    """torch's layer for many steps at once, on the weights of the model's cell."""
    layer = nn.GRU(model.cell.input_size, model.cell.hidden_size, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(layer, f"{name}_l0", getattr(model.cell, name))
    return layer


def _parts(text: Tensor, count: int) -> Tensor:
    """The text in ``count`` parts of one length, [count, length]."""
    count = min(count, max(len(text) // (2 * UNROLLED), 1))
    length = len(text) // count
    return text[: count * length].view(count, length)


def _pieces(parts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Characters to read, and those that follow them."""
    for start in range(0, parts.shape[1] - 1, UNROLLED):
        end = min(start + UNROLLED, parts.shape[1] - 1)
        yield parts[:, start:end], parts[:, start + 1 : end + 1]


def _run_epoch(model: CharGRU, layer: nn.GRU, optimizer: torch.optim.Optimizer, parts: Tensor, clip: float) -> float:
    """One pass over ``parts``; the mean NLL met on the way, in nats."""
    state: Tensor | None = None
    total, count = 0.0, 0
    for given, wanted in _pieces(parts):
        states, last = layer(model.embedding(given), state)
        state = last.detach()
        loss = F.cross_entropy(model.head(states).flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        total, count = total + loss.item() * wanted.numel(), count + wanted.numel()
    return total / count


@torch.no_grad()
def mean_nll(model: CharGRU, text: Tensor) -> float:
    """Mean NLL per character of ``text`` [N] but of the first, in nats, read from a state of zeros."""
    states, _ = _layer(model)(model.embedding(text[None, :-1]))
    return F.cross_entropy(model.head(states)[0], text[1:]).item()
