"""What is measured: a function as its author would write it, and fresh arguments for each seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...plan import Bits, Equality, Tolerance

Function = Callable[..., Any]
Arguments = tuple[Tensor, ...]
Inputs = Callable[[int], Arguments]

BITS = Bits()
TIGHT, LOOSE = Tolerance(1e-6, 1e-6), Tolerance(1e-3, 1e-4)


@dataclass(frozen=True, slots=True)
class System:
    """A function, made anew by ``make``, with its arguments by seed: 0 is the example that it is compiled on.

    ``hard``: arguments of the same shapes and another distribution, which the guard must survive. ``forgets``: an error
    in a state fades, so that under a tolerance results are near the reference's. ``loops``: so many in a row.
    """

    name: str
    kind: str
    make: Callable[[], Function]
    inputs: Inputs
    equality: Equality = BITS
    hard: Mapping[str, Inputs] = field(default_factory=dict)
    forgets: bool = True
    loops: int = 1


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    """The same normal numbers for the same seed, whatever the order of calls."""
    return torch.randn(*shape, generator=generator(seed))


def rand(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def normal(*shape: int, scale: float = 1.0) -> Inputs:
    """One normal tensor for each seed; the weights of a system are seeded from 1,000,000 on."""
    return lambda seed: (scale * randn(*shape, seed=seed),)
