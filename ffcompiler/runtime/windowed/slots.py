"""Calls whose operands are known in part: the others stand in slots until a sweep runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """A place whose value is known when a sweep runs."""

    index: int


@dataclass(slots=True)
class Call:
    """One call; ``late`` arguments come from slots. The result goes into ``store``, or into slot ``to``."""

    function: Any
    args: list[Any]
    late: tuple[tuple[int, int], ...]
    kwargs: dict[str, Any]
    late_kwargs: tuple[tuple[str, int], ...] = ()
    to: int = 0
    pick: int | None = None
    store: Tensor | None = None
    index: Tensor | None = None  # entries of ``store`` along ``dim``
    dim: int = 0

    @property
    def bound(self) -> bool:
        """Whether all operands are there already."""
        return not self.late and not self.late_kwargs

    def run(self, values: list[Any]) -> None:
        args = self.args
        if self.late:
            args = args.copy()
            for position, slot in self.late:
                args[position] = values[slot]
        kwargs = self.kwargs
        if self.late_kwargs:
            kwargs = {**kwargs, **{key: values[slot] for key, slot in self.late_kwargs}}
        result = self.function(*args, **kwargs)
        if self.pick is not None:
            result = result[self.pick]
        if self.store is None:
            values[self.to] = result
        elif self.index is None:
            self.store.copy_(result)
        else:
            self.store.index_copy_(self.dim, self.index, result)


def make_call(function: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Call:
    """A call with its late arguments found among those given."""
    return Call(
        function,
        [None if isinstance(a, Slot) else a for a in args],
        tuple((position, a.index) for position, a in enumerate(args) if isinstance(a, Slot)),
        {k: a for k, a in named.items() if not isinstance(a, Slot)},
        tuple((k, a.index) for k, a in named.items() if isinstance(a, Slot)),
    )
