"""Functions of torch that are recorded in another way than by the operators that they are made of.

While the user's function is recorded, its calls of those below give the same bits by other operators:

* some look at their values only to refuse bad ones; they are spelled such that nothing has to be read;
* cells of recurrent networks are recorded whole, as the single operators that they are in ATen;
* recurrent layers become loops over cells, which round otherwise: the recorder notes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

from .facts import tensors_in, user_line
from .layers import is_layers, layers_of, spelled
from .record import Recorder

aten = torch.ops.aten


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """``F.one_hot``: where the number of classes is given, no value has to be read."""
    if num_classes < 0:
        return F.one_hot(tensor, num_classes)
    zeros = torch.zeros(*tensor.shape, num_classes, dtype=torch.int64, device=tensor.device)
    return zeros.scatter(-1, tensor.unsqueeze(-1), 1)


_SPELLED: Mapping[Any, Callable[..., Any]] = {F.one_hot: one_hot}
_WHOLE: Mapping[Any, Any] = {
    torch.gru_cell: aten.gru_cell.default,
    torch.lstm_cell: aten.lstm_cell.default,
    torch.rnn_tanh_cell: aten.rnn_tanh_cell.default,
    torch.rnn_relu_cell: aten.rnn_relu_cell.default,
}


class Spelled(TorchFunctionMode):
    """Lets the functions above take the place of torch's own while ``recorder`` records.

    ``alone``: a recurrent layer is the function's only loop, and may be marked as such.
    """

    def __init__(self, recorder: Recorder, alone: bool = False) -> None:
        super().__init__()
        self._recorder, self._alone = recorder, alone

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        op = _WHOLE.get(func)
        if op is not None and _as_it_is((args, kwargs or {})):
            return self._recorder.whole(op, args, dict(kwargs or {}))
        if is_layers(func) and not kwargs and _as_it_is(args):
            call = layers_of(args)
            if call is not None:
                self._recorder.otherwise = f"the recurrent layer at {user_line()}"
                with self:
                    return spelled(func, call, self._alone)
        return _SPELLED.get(func, func)(*args, **(kwargs or {}))


def _as_it_is(arguments: Any) -> bool:
    """Whether nothing between a function and its operator changes the call: no casts, no batching."""
    tensors = list(tensors_in(arguments))
    casts = any(torch.is_autocast_enabled(t.device.type) for t in tensors)
    return not casts and not any(map(is_functorch_wrapped_tensor, tensors))
