"""What a function writes while it is looked at, and how to undo it: a capture that fails leaves no trace in weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .dispatch import Dispatching
from .facts import mutated, place_of


class Kept:
    """Copies of tensors made before they are first written, and of where each one was in memory."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = {id(t): t for t in tensors if t.layout == torch.strided and not t.is_meta}
        self._memory = {id(t): t.detach() for t in self._tensors.values()}  # keeps alive what .data = ... lets go of
        self._storages = {t.untyped_storage()._cdata for t in self._tensors.values()}
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def before_write(self, t: Tensor) -> None:
        """Copy the memory of ``t``, unless that has been done, or ``t`` is none of the tensors."""
        storage = t.untyped_storage()
        if storage._cdata not in self._storages or storage._cdata in self._copies:
            return
        with _disable_current_modes():
            whole = torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage)
            self._copies[storage._cdata] = whole, whole.clone()

    def moved(self) -> list[Tensor]:
        """The tensors that are now elsewhere in memory: their ``.data`` was replaced."""
        return [t for key, t in self._tensors.items() if place_of(t) != place_of(self._memory[key])]

    def restore(self) -> None:
        """Everything as it was."""
        with torch.no_grad():
            for whole, copy in self._copies.values():
                whole.copy_(copy)
            for t in self.moved():
                t.data = self._memory[id(t)]


class Watch(Dispatching):
    """Tells ``kept`` of every write, where nothing is recorded yet."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "prim":
            for t in mutated(func, args, kwargs):
                self.kept.before_write(t)
        return func(*args, **kwargs)
