"""What the solve loop asks of a triangular system, whatever its blocks are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from .watch import Watch
from .windowed.windowed import Windowed
from .windowed.workspace import Workspace

Env: TypeAlias = Mapping[str, Tensor]
State: TypeAlias = Any
"""All blocks of a system: the array of an array loop; of a recurrence its trajectory, one tensor for each leaf."""
Values: TypeAlias = tuple[Tensor, ...]
"""Values of consecutive blocks: for each leaf one tensor, the blocks along its first dimension."""


class Blocks(Protocol):
    """A triangular system ready to run. It holds no state of any run."""

    @property
    def blocks(self) -> int: ...

    @property
    def exact(self) -> bool:
        """Whether every sweep gives a block the bits that its step gives."""
        ...

    @property
    def ends_anywhere(self) -> bool:
        """Whether a sweep may leave out the last blocks of its window."""
        ...

    @property
    def priced_by_width(self) -> bool:
        """Whether a sweep costs what its window has, and not what the whole system has."""
        ...

    @property
    def levels(self) -> tuple[int, ...]:
        """Where each level ends, if the blocks are sorted by level."""
        ...

    @property
    def windowed(self) -> Windowed | None: ...

    def prepare(self, env: Env) -> Env:
        """``env`` with what only sweeps need, once per run."""
        ...

    def start_from(self, init: Any) -> State:
        """A guess of all blocks, from the loop's first state."""
        ...

    def read(self, state: State, lo: int, hi: int) -> Values:
        """What blocks ``lo .. hi - 1`` hold: those of them that are compared with new values."""
        ...

    def write(self, state: State, lo: int, hi: int, values: Values) -> None:
        """The same put in place."""
        ...

    def update(
        self, env: Env, state: State, lo: int, hi: int, exact: bool, watch: Watch | None = None
    ) -> tuple[Values, list[Tensor]]:
        """New values of blocks ``lo .. hi - 1``, and the tensors that premises are about.

        Of blocks that are not compared the new values are in place already. Raises: `LeftError`, where a look at
        ``watch`` says so; blocks before ``lo`` are then as they were.
        """
        ...

    def unmoved(self, lo: int, hi: int, compared: int) -> int:
        """The first block of ``lo .. hi - 1`` that moved, where the first so many of the compared ones did not."""
        ...

    def window(
        self, env: Env, workspace: Workspace, state: State, lo: int, hi: int, watch: Watch | None = None
    ) -> Values:
        """New values from the kept values of a workspace. Raises: `LeftError`."""
        ...

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool: ...

    def failed(self, values: list[Tensor]) -> str: ...

    def final(self, known: int, computed: int) -> int:
        """How many leading blocks are final after a sweep computed those before ``computed`` from ``known`` final."""
        ...

    def steps_done(self, blocks: int) -> int:
        """How many leading steps of the reference are among the first ``blocks`` blocks."""
        ...
