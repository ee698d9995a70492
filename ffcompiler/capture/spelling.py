"""Functions of torch that are recorded in another way than by the operators that they are made of.

While the user's function is recorded, its calls of those below give the same bits by other operators:

* some look at their values only to refuse bad ones; they are spelled such that nothing has to be read;
* what is asked of values, with yes or no for an answer, is spelled as the test of one boolean;
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


def is_true(t: Tensor) -> bool:
    """``bool(t)``, as the truth of a boolean: only that becomes a test on values, no number does."""
    return bool(t if t.dtype == torch.bool or t.numel() != 1 else t != 0)


def equal(a: Tensor, b: Tensor) -> bool:
    """``torch.equal``, as the truth of one boolean."""
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return torch.equal(a, b)
    return bool((a == b).all())


def allclose(a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """``torch.allclose``, as the truth of one boolean."""
    return bool(torch.isclose(a, b, rtol, atol, equal_nan).all())


def set_item(tensor: Tensor, key: Any, value: Any) -> None:
    """``tensor[mask] = 0.0``: where one number is written, how many elements the mask has need not be read."""
    masked = isinstance(key, Tensor) and key.dtype == torch.bool and 0 < key.dim() <= tensor.dim()
    if masked and key.shape == tensor.shape[: key.dim()] and isinstance(value, int | float):
        tensor.masked_fill_(key[(..., *(None,) * (tensor.dim() - key.dim()))], value)
    else:
        tensor[key] = value


_SPELLED: Mapping[Any, Callable[..., Any]] = {
    Tensor.__setitem__: set_item,
    F.one_hot: one_hot,
    Tensor.__bool__: is_true,
    Tensor.is_nonzero: is_true,
    torch.is_nonzero: is_true,
    Tensor.equal: equal,
    torch.equal: equal,
    Tensor.allclose: allclose,
    torch.allclose: allclose,
    torch._is_all_true: Tensor.all,  # so `torch.distributions` asks
}
_LEAVING: frozenset[Any] = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__})
"""They give Python values without calling an operator that would be recorded."""
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
            self._recorder.otherwise = f"the recurrent layer at {user_line()}"
            with self:
                return spelled(func, call, self._alone)
        if func in _LEAVING:
            self._recorder.leave(f"Tensor.{func.__name__}", args)
        return _SPELLED.get(func, func)(*args, **(kwargs or {}))


def _as_it_is(arguments: Any) -> bool:
    """Whether nothing between a function and its operator changes the call: no casts, no batching."""
    tensors = tensors_in(arguments)
    casts = any(torch.is_autocast_enabled(t.device.type) for t in tensors)
    return not casts and not any(map(is_functorch_wrapped_tensor, tensors))
