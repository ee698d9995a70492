"""Train the zoo's weights: ``python -m ffcompiler.zoo.train made --mnist DIR``; or pixelcnn; or char_gru, on a text."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import FFCompilerError, UsageError
from .fit import NATS, Recipe, Unit
from .mnist import load_images
from .train_char_gru import BITS_PER_CHARACTER, load_text, train_char_gru
from .train_made import train_made
from .train_pixelcnn import BITS_PER_PIXEL, train_pixelcnn

__all__ = ["Recipe", "main", "train_char_gru", "train_made", "train_pixelcnn", "write_atomically"]


@dataclass(frozen=True, slots=True)
class Data:
    """What a model is trained on: ``load`` reads what the option ``--name`` gives."""

    name: str
    metavar: str
    help: str
    load: Callable[[Path], Tensor]
    least: int
    entries: str


@dataclass(frozen=True, slots=True)
class Training:
    """A model that can be trained: ``train`` gives it and its held-out NLL in nats, reported as ``report`` says."""

    train: Callable[[Tensor, Recipe], tuple[nn.Module, float]]
    recipe: Recipe
    unit: Unit
    report: str
    data: Data
    dtype: torch.dtype = torch.float32  # of the weights in the file


DIGITS = Data("mnist", "DIR", "folder with the t10k images (IDX)", load_images, 10, "images")
TEXT = Data("text", "FILE", "a text in the characters that the model knows", load_text, 1000, "characters")


TRAININGS = {
    "made": Training(train_made, Recipe(epochs=25), NATS, "nats in logit space", DIGITS),
    "pixelcnn": Training(
        train_pixelcnn, Recipe(epochs=6, batch=16, clip=200.0), BITS_PER_PIXEL, "bits per pixel of 16 levels", DIGITS
    ),
    "char_gru": Training(
        train_char_gru,
        Recipe(epochs=8, batch=32, clip=1.0),
        BITS_PER_CHARACTER,
        "bits per character",
        TEXT,
        torch.float16,
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
        data = training.data
        model = models.add_parser(name, help=f"the model of ffcompiler.zoo.{name}")
        model.add_argument(
            f"--{data.name}", dest="data", type=Path, required=True, metavar=data.metavar, help=data.help
        )
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
    training = TRAININGS[options.model]
    data = training.data.load(options.data)
    if len(data) < training.data.least:
        needed = f"at least {training.data.least} are needed"
        raise UsageError(f"{options.data}: {len(data)} {training.data.entries}; {needed}")
    model, nll = training.train(data, replace(training.recipe, epochs=options.epochs, seed=options.seed))
    write_atomically(options.output, save({name: t.to(training.dtype) for name, t in model.state_dict().items()}))
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
