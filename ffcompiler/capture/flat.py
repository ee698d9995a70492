"""A run of a function without a marked loop, recorded as one segment, with what it takes to find its loop in there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..randomness import States, states
from .facts import Place, mutated, storage_of
from .record import REBIND, Recorder, Token
from .repeats import Footprints
from .restore import Kept


@dataclass(slots=True)
class Memory:
    """Which tensors of a run share memory, and which calls wrote into it; a storage is a number of its own."""

    of: dict[Token, int] = field(default_factory=dict)
    writes: dict[int, list[int]] = field(default_factory=dict)  # by storage: the calls, ascending
    weights: dict[int, list[int]] = field(default_factory=dict)  # by handle: the calls that write it, ascending
    of_weights: set[int] = field(default_factory=set)  # storages that were written in place as those of weights

    def written(self, token: Token, first: int, end: int) -> bool:
        """Whether one of the calls ``first .. end - 1`` wrote into the memory of ``token``."""
        return any(first <= call < end for call in self.writes.get(self.of.get(token, -1), ()))


class FlatRecorder(Recorder):
    """Records a whole run into one segment. ``looks``: before these calls, the tensors that live are copied."""

    def __init__(
        self,
        inputs: Iterable[Tensor],
        kept: Kept | None = None,
        looks: Iterable[int] = (),
    ) -> None:
        self.footprints = Footprints()
        self.memory = Memory()
        self.number_starts = [0]  # how many numbers stand in the segment before each call, and after the last
        self.seen: dict[int, dict[Token, Tensor]] = {}
        self.generators: dict[int, States] = {}  # at the same calls
        self._looks = frozenset(looks)
        self._storages: dict[int, int] = {}  # storages that live: their numbers
        self._count = 0
        super().__init__(inputs, kept)
        self.in_loop = True  # where the loop is, is not known yet: `roll` looks at writes into weights
        self.with_sources = False

    def look(self) -> None:
        """Copy what lives, if that is asked for at this call, and at those that are noticed before it."""
        self._copy()
        super().look()

    def _copy(self) -> None:
        call = len(self.segment.calls)
        if call in self._looks and call not in self.seen:
            with _disable_current_modes():
                self.seen[call] = {token: copied(t) for t, token in self.living()}
                self.generators[call] = states()

    def _note(self, op: Any, args: Any, kwargs: Any, results: tuple[Any, ...], taint: frozenset[int]) -> None:
        super()._note(op, args, kwargs, results, taint)
        self.number_starts.append(len(self.segment.numbers))
        self.segment.sources[-1] = self.footprints.add(op)

    def check_whole(self) -> None:
        """After the run: note memory that was replaced last; no weight that was written shares its memory."""
        self.check_places(range(len(self.outside)))
        self.check_overwritten()

    def _rebind(self, handle: int, was: Place) -> None:
        super()._rebind(handle, was)
        self.number_starts.append(self.number_starts[-1])  # numbers that are there already are of the call to come
        self.segment.sources[-1] = self.footprints.add_here(REBIND)
        self.memory.weights.setdefault(handle, []).append(len(self.segment.calls) - 1)
        self._copy()

    def _overwrite(self, func: Any, t: Tensor) -> None:
        super()._overwrite(func, t)
        self.memory.weights.setdefault(self._foreign[storage_of(t)], []).append(len(self.segment.calls))
        self.memory.of_weights.add(self._number(storage_of(t)))

    def _hold(self, t: Tensor, token: Token) -> None:
        self.memory.of[token] = self._number(storage_of(t))
        super()._hold(t, token)

    def _died(self, key: int, storage: int) -> None:
        super()._died(key, storage)
        self._retire(storage)

    def _leave(self, storage: int, handle: int) -> None:
        super()._leave(storage, handle)
        self._retire(storage)

    def _retire(self, storage: int) -> None:
        """A storage that nobody holds any more, as far as is known, may be another's from now on."""
        if storage not in self._tenants and storage not in self._foreign:
            self._storages.pop(storage, None)

    def _number(self, storage: int) -> int:
        if storage not in self._storages:
            self._storages[storage] = self._count
            self._count += 1
        return self._storages[storage]

    def _meet(self, t: Tensor) -> Any:
        token = super()._meet(t)
        self.memory.of[token] = self._number(storage_of(t))
        return token

    def _check_writes(self, func: Any, args: Any, kwargs: Any) -> None:
        super()._check_writes(func, args, kwargs)
        for t in mutated(func, args, kwargs):
            self.memory.writes.setdefault(self._number(storage_of(t)), []).append(len(self.segment.calls))


def copied(t: Tensor) -> Tensor:
    """A copy in the same layout, as far as a layout without overlaps has one."""
    if 0 in t.stride() and t.numel():
        small = t.detach()[tuple(slice(1) if stride == 0 else slice(None) for stride in t.stride())]
        return copied_densely(small).expand(t.shape)
    return copied_densely(t)


def copied_densely(t: Tensor) -> Tensor:
    """A copy with the strides of ``t``, of which no two elements overlap."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t.detach())
