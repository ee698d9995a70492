"""Functions that look at their values only to refuse bad ones, spelled such that capture need not look.

While the user's function is recorded, its calls of these give the same bits by other operators; bad values still raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """``F.one_hot``: where the number of classes is given, no value has to be read."""
    if num_classes < 0:
        return F.one_hot(tensor, num_classes)
    zeros = torch.zeros(*tensor.shape, num_classes, dtype=torch.int64, device=tensor.device)
    return zeros.scatter(-1, tensor.unsqueeze(-1), 1)


_SPELLED: Mapping[Any, Callable[..., Any]] = {F.one_hot: one_hot}


class Spelled(TorchFunctionMode):
    """Lets the functions above take the place of torch's own."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _SPELLED.get(func, func)(*args, **(kwargs or {}))
