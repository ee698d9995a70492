"""Train the zoo's weights: ``python -m ffcompiler.zoo.train made --mnist DIR``."""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, pi, sqrt
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import FFCompilerError, UsageError
from .made import MADE
from .mnist import load_images, to_logits


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: Adam with a cosine decay over ``epochs``, stopped after ``patience`` epochs without progress."""

    epochs: int
    seed: int = 0
    batch: int = 100
    learning_rate: float = 3e-3
    patience: int = 5


def train_made(images: Tensor, recipe: Recipe) -> tuple[MADE, float]:
    """A MADE fitted to all but the last tenth of ``images`` [N, 28, 28], and its mean NLL in nats on that tenth.

    The weights are those of the best epoch, by that NLL. The same recipe gives the same weights on the same machine
    with the same number of threads.
    """
    torch.manual_seed(recipe.seed)
    train, held_out = images[: -(len(images) // 10)], dequantise(images[-(len(images) // 10) :])
    model = MADE()
    start_at_marginals(model, dequantise(train))
    best, best_nll, best_epoch = copy.deepcopy(model), inf, 0
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs, recipe.learning_rate / 100)
    for epoch in range(1, recipe.epochs + 1):
        train_nll = run_epoch(model, optimizer, dequantise(train), recipe.batch)
        decay.step()
        nll = mean_nll(model, held_out)
        print(f"epoch {epoch}/{recipe.epochs}: train {train_nll:.1f}, held out {nll:.1f} nats", file=sys.stderr)
        if nll < best_nll:
            best, best_nll, best_epoch = copy.deepcopy(model), nll, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    return best, best_nll


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


def run_epoch(model: MADE, optimizer: torch.optim.Optimizer, x: Tensor, batch: int) -> float:
    """One pass over ``x`` in random order; the mean NLL met on the way, in nats."""
    total = 0.0
    for rows in torch.randperm(len(x)).split(batch):  # type: ignore[no-untyped-call]
        loss = -model.log_prob(x[rows]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(x)


@torch.no_grad()
def mean_nll(model: MADE, x: Tensor) -> float:
    return -model.log_prob(x).mean().item()


def write_atomically(path: Path, content: bytes) -> None:
    """Write all of ``content`` to ``path``, or leave what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ffcompiler.zoo.train", description=__doc__)
    models = parser.add_subparsers(dest="model", required=True)
    made = models.add_parser("made", help="the MADE of ffcompiler.zoo.made, on MNIST")
    made.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="folder with the t10k images (IDX)")
    made.add_argument("--epochs", type=int, default=25, help="at most this many (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument("--output", type=Path, default=Path("made.safetensors"), help="default: %(default)s")
    made.add_argument("--force", action="store_true", help="replace an existing output")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    if options.epochs < 1:
        raise UsageError(f"--epochs {options.epochs}: at least 1 is needed")
    if options.output.exists() and not options.force:
        raise UsageError(f"{options.output}: exists already; name another --output, or replace it with --force")
    images = load_images(options.mnist)
    if len(images) < 10:
        raise UsageError(f"{options.mnist}: {len(images)} images; at least 10 are needed")
    model, nll = train_made(images, Recipe(options.epochs, options.seed))
    write_atomically(options.output, save(model.state_dict()))
    print(f"{options.output}: held-out NLL {nll:.1f} nats in logit space")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        run(parse(arguments))
    except (FFCompilerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
