"""Train the zoo's weights: ``python -m ffcompiler.zoo.train made --mnist DIR``, or ``pixelcnn``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from ..errors import FFCompilerError, UsageError
from .fit import NATS, Recipe, Unit
from .mnist import load_images
from .train_made import train_made
from .train_pixelcnn import BITS_PER_PIXEL, train_pixelcnn

__all__ = ["Recipe", "main", "train_made", "train_pixelcnn", "write_atomically"]


@dataclass(frozen=True, slots=True)
class Training:
    """A model that can be trained: ``train`` gives it and its held-out NLL in nats, reported as ``report`` says."""

    train: Callable[[Tensor, Recipe], tuple[nn.Module, float]]
    recipe: Recipe
    unit: Unit
    report: str


TRAININGS = {
    "made": Training(train_made, Recipe(epochs=25), NATS, "nats in logit space"),
    "pixelcnn": Training(
        train_pixelcnn, Recipe(epochs=6, batch=16, clip=200.0), BITS_PER_PIXEL, "bits per pixel of 16 levels"
    ),
}


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
    for name, training in TRAININGS.items():
        model = models.add_parser(name, help=f"the model of ffcompiler.zoo.{name}, on MNIST")
        model.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="folder with the t10k images (IDX)")
        epochs = training.recipe.epochs
        model.add_argument("--epochs", type=int, default=epochs, help="at most this many (default: %(default)s)")
        model.add_argument("--seed", type=int, default=0, help="default: %(default)s")
        model.add_argument("--output", type=Path, default=Path(f"{name}.safetensors"), help="default: %(default)s")
        model.add_argument("--force", action="store_true", help="replace an existing output")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    if options.epochs < 1:
        raise UsageError(f"--epochs {options.epochs}: at least 1 is needed")
    if options.output.exists() and not options.force:
        raise UsageError(f"{options.output}: exists already; name another --output, or replace it with --force")
    images = load_images(options.mnist)
    if len(images) < 10:
        raise UsageError(f"{options.mnist}: {len(images)} images; at least 10 are needed")
    training = TRAININGS[options.model]
    model, nll = training.train(images, replace(training.recipe, epochs=options.epochs, seed=options.seed))
    write_atomically(options.output, save(model.state_dict()))
    print(f"{options.output}: held-out NLL {training.unit.show(nll)} {training.report}")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        run(parse(arguments))
    except (FFCompilerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
