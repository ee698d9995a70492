"""A Python module in the making: lines of the function, weights that it reads, arguments that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

T = TypeVar("T")

HEAD = """\
import torch
import torch.nn.functional as F
from torch import nn

import ffcompiler as ffc

DTYPE = torch.{dtype}


def rnd(*shape, seed=0, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(DTYPE)


def ints(*shape, below, seed=0):
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


def odd(x, seed):
    # for some seeds: with numbers that computations seldom meet
    numbers = {{2: [-0.0, 1e30, 0.0], 4: [float("inf"), -0.0, float("nan")]}}.get(seed, [])
    for k, number in enumerate(numbers[: x.numel()]):
        x.view(-1)[(7 * k + 3 * seed) % x.numel()] = number
    return x


def trained(module, seed, scale):
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p.copy_(rnd(*p.shape, seed=seed + k, scale=scale))
    return module.to(DTYPE)
"""


@dataclass(frozen=True, slots=True)
class Program:
    """``source`` is a module with ``function``, ``arguments(seed)`` and ``weights()``.

    ``smooth``: neighbouring states have neighbouring successors, and the program forgets: an error of a step stays of
    its order of magnitude. ``kind``: which generator wrote it.
    """

    kind: str
    source: str
    smooth: bool
    precise: bool  # float32 or float64


@dataclass(slots=True)
class Script:
    """``home``: where weights live: ``globals``, ``module`` (a module beside the function), ``self`` or ``dict``."""

    rng: Random
    dtype: str
    home: str
    smooth: bool
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    names: int = 0
    parameters: list[str] = field(default_factory=list)
    arguments: list[tuple[str, str]] = field(default_factory=list)  # name, expression of `seed`
    setup: list[str] = field(default_factory=list)
    readable: list[str] = field(default_factory=list)  # weights as tensors, by expressions

    # ------------------------------------------------------------------------------------------ chance

    def some(self, share: float) -> bool:
        """True in about this share of programs; shrinks to False."""
        return self.rng.random() > 1.0 - share

    def pick(self, choices: Sequence[T]) -> T:
        """One of them; shrinks to the first."""
        return choices[self.rng.randrange(len(choices))]

    def number(self, lo: int, hi: int) -> int:
        return self.rng.randint(lo, hi)

    # ------------------------------------------------------------------------------------------ text

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines under ``head``; ``pass`` if there are none."""
        self.line(head)
        self.depth += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.line("pass")
        self.depth -= 1

    def fresh(self, letter: str) -> str:
        self.names += 1
        return f"{letter}{self.names}"

    # ------------------------------------------------------------------------------------------ weights, arguments

    def argument(self, letter: str, value: str) -> str:
        """An argument; ``value`` is made from ``seed``."""
        name = self.fresh(letter)
        self.arguments.append((name, value))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        """A tensor to read in the function, by the expression that reads it."""
        sizes = ", ".join(map(str, shape))
        return self.tensor(f"rnd({sizes}, seed={self.number(0, 99)}, scale={scale:.3g})")

    def tensor(self, value: str, trainable: bool = True) -> str:
        name = self._own(self.fresh("w"), value, trainable)
        self.readable.append(self._outside(name))
        return name

    def module(self, value: str) -> str:
        """A module to call in the function."""
        name = self._own(self.fresh("m"), value, False)
        self.readable.append(f"*{self._outside(name)}.parameters()")
        return name

    def constant(self, letter: str, value: str) -> str:
        """A plain value from outside the function."""
        name = self.fresh(letter)
        self.setup.append(f"{name} = {value}")
        return name

    def _own(self, name: str, value: str, parameter: bool) -> str:
        if self.home == "globals":
            self.setup.append(f"{name} = {value}")
            return name
        if self.home == "dict":
            self.setup.append(f"table[{name!r}] = {value}")
            return f"table[{name!r}]"
        self.setup.append(f"model.{name} = nn.Parameter({value})" if parameter else f"model.{name} = {value}")
        return f"{'self' if self.home == 'self' else 'model'}.{name}"

    def _outside(self, name: str) -> str:
        return name.replace("self.", "model.") if self.home == "self" else name

    # ------------------------------------------------------------------------------------------ the module

    def source(self) -> str:
        """The whole module."""
        names = ", ".join(name for name, _ in self.arguments)
        values = "".join(f"{value}, " for _, value in self.arguments)
        given = f"def arguments(seed):\n    return ({values.strip()})"
        weights = f"def weights():\n    return [{', '.join(self.readable)}]"
        return "\n\n\n".join([HEAD.format(dtype=self.dtype).strip(), *self._function(names), given, weights]) + "\n"

    def _function(self, names: str) -> list[str]:
        decorated = "@torch.no_grad()\n" if self.some(0.1) else ""
        if self.home == "self":
            lines = ["class Model(nn.Module):", f"    def forward(self{', ' + names if names else ''}):"]
            lines += ["    " + line for line in self.lines]
            return ["\n".join(lines), "\n".join(["model = Model()", *self.setup, "function = model"])]
        home = {"module": ["model = nn.Module()"], "dict": ["table = {}"]}.get(self.home, [])
        outside = "\n".join([*home, *self.setup])
        return [*([outside] if outside else []), f"{decorated}def function({names}):\n" + "\n".join(self.lines)]
