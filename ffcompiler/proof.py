"""What a dependence analysis comes to: a proof with its premises, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .plan import Premise
from .program import Program
from .windows import Windows

Latest: TypeAlias = npt.NDArray[np.int32]
Patterns: TypeAlias = Mapping[str, npt.NDArray[np.bool_] | Tensor]
"""For each value, where it was not zero; or the value itself, where the proof uses all of it (a mask)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no parallel schedule is sound, with the place in the user's code where there is one."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Proof:
    """The system is triangular while ``premises`` hold. Step ``k`` reads blocks up to ``reads[k]`` (-1: none).

    ``patterns``: what was there, for each value whose zeros, or elements, the proof uses. ``latest``: for each shared
    value that the tail reads, the last step that each element can depend on (-1: none). ``unseen``: the tests in steps
    that read what later steps write, or may.
    """

    premises: tuple[Premise, ...]
    patterns: Patterns
    latest: Mapping[str, Latest]
    reads: tuple[int, ...] = ()
    windows: Windows | None = None
    wave: Wave | None = None
    unseen: tuple[Unseen, ...] = ()


@dataclass(frozen=True, slots=True)
class Unseen:
    """A test that the last array does not show, and ``why``: it is collected as ``name``, and came out as ``holds``."""

    name: str
    holds: bool
    why: str


@dataclass(frozen=True, slots=True)
class Wave:
    """The steps by level: ``order`` holds them sorted, ``ends`` where each level ends, ``proof`` is for that order."""

    order: tuple[int, ...]
    ends: tuple[int, ...]
    proof: Proof


NO_PROOF = Proof((), {}, {})
"""Of a plan that runs sequentially."""

Prover: TypeAlias = Callable[[Program, Mapping[str, Tensor]], Proof | Refusal]
"""Proves the loop of a program triangular, given the values that do not depend on the loop's state."""
