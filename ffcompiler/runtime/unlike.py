"""Values of blocks that are unlike each other, as the solve loop handles them."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from .blocks import Values

Block = tuple[Tensor, ...]


class Unlike(list[Block]):
    """Consecutive blocks, each of some tensors: stands where other systems have a tensor with a first dimension."""

    @staticmethod
    def of(blocks: list[Block]) -> Values:
        """These blocks as the only leaf of their values."""
        return cast(Values, (Unlike(blocks),))

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Unlike(found) if isinstance(at, slice) else found
