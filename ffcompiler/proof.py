"""What a dependence analysis comes to: a proof with its premises, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .plan import Premise, Program

Latest: TypeAlias = npt.NDArray[np.int32]
Patterns: TypeAlias = Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no parallel schedule is sound, with the place in the user's code where there is one."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Proof:
    """The system is triangular while ``premises`` hold.

    ``patterns``: for each value whose zeros the proof uses, where it was not zero. ``latest``: for each shared value
    that the tail reads, the last step that each element can depend on (-1: none).
    """

    premises: tuple[Premise, ...]
    patterns: Patterns
    latest: Mapping[str, Latest]


Prover: TypeAlias = Callable[[Program, Mapping[str, Tensor]], Proof | Refusal]
"""Proves the loop of a program triangular, given the values that do not depend on the loop's state."""
