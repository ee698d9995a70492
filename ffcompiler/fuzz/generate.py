"""A random program from a source of chance: a seed's, or hypothesis', which then shrinks it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .arrays import array
from .chains import chain
from .maps import growing, integers, repeated_map, tokens
from .recurrent import recurrence
from .script import Program, Script

SMOOTH = ("recurrence", "array")
KINDS: dict[str, tuple[Callable[[Script], None], int]] = {
    "recurrence": (recurrence, 10),
    "array": (array, 8),
    "repeated map": (repeated_map, 2),
    "chain": (chain, 2),
    "growing": (growing, 1),
    "tokens": (tokens, 1),
    "integers": (integers, 1),
}
"""Generators, and how often each is taken."""


def generate(rng: Random, kinds: tuple[str, ...] = tuple(KINDS)) -> Program:
    """A program of one of these kinds."""
    kind = rng.choice([kind for kind in kinds for _ in range(KINDS[kind][1])])
    dtype = rng.choice(["float32", "float32", "float32", "float64", "bfloat16"])
    home = rng.choice(["globals", "module", "self", "dict"])
    smooth = kind in SMOOTH and rng.random() < 0.5
    script = Script(rng, dtype, home, smooth)
    KINDS[kind][0](script)
    return Program(kind, script.source(), smooth, dtype != "bfloat16")
