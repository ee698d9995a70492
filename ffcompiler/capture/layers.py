"""``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` as loops over their cells, one for each layer and direction.

Their own kernels multiply all inputs at once, so that the loops round otherwise in the last bits: a function that calls
them is compiled under a tolerance only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import CaptureError
from ..loops import drive_loops, scan
from .facts import user_line

Step = Callable[[Any, Tensor], tuple[Any, Tensor]]


@dataclass(frozen=True, slots=True)
class Layers:
    """The arguments of a call of ``torch.gru`` and the like, on sequences of one length."""

    x: Tensor  # [steps, batch, features]
    state: tuple[Tensor, ...]  # each [layers * directions, batch, size]
    params: Sequence[Tensor]
    biases: bool
    layers: int
    directions: int
    batch_first: bool
    dropout: float  # between layers; drawn for all steps of a layer at once

    @property
    def loops(self) -> int:
        return self.layers * self.directions

    def weights(self, loop: int) -> Sequence[Tensor]:
        count = len(self.params) // self.loops
        return self.params[loop * count : (loop + 1) * count]


def layers_of(args: Sequence[Any]) -> Layers:
    """The layers of a call. Raises: `CaptureError` for packed sequences."""
    if len(args) < 4 or isinstance(args[3], list | tuple):
        raise CaptureError(
            f"a recurrent layer is given packed sequences at {user_line()}; they are not compiled\n"
            "  give it sequences of one length, padded, or take the layer out of the function"
        )
    x, state, params, biases, layers, dropout, train, both, batch_first = args
    states = (state,) if isinstance(state, Tensor) else tuple(state)
    x = x.transpose(0, 1) if batch_first else x
    dropped = float(dropout) if train else 0.0
    return Layers(x, states, params, bool(biases), int(layers), 1 + bool(both), bool(batch_first), dropped)


def unrolled(kind: Callable[..., Any], call: Layers) -> tuple[Tensor, ...]:
    """What the layers give, by loops over cells: outputs, then the last state."""
    x, last = call.x, []
    for layer in range(call.layers):
        outputs = []
        for direction in range(call.directions):
            loop = layer * call.directions + direction
            init = tuple(leaf[loop] for leaf in call.state)
            step = _STEPS[kind](call.weights(loop), call.biases)
            state, y = scan(step, init, x.flip(0) if direction else x)
            outputs.append(y.flip(0) if direction else y)
            last.append(state)
        x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        if call.dropout > 0.0 and layer + 1 < call.layers:
            x = torch.dropout(x, call.dropout, True)
    out = x.transpose(0, 1) if call.batch_first else x
    return (out, *(torch.stack(column) for column in zip(*last, strict=True)))


def _step_of(cell: Callable[..., Tensor]) -> Callable[[Sequence[Tensor], bool], Step]:
    """Of a cell whose state is one tensor."""

    def make(weights: Sequence[Tensor], biases: bool) -> Step:
        def step(state: tuple[Tensor], x: Tensor) -> tuple[tuple[Tensor], Tensor]:
            h = cell(x, state[0], *weights)
            return (h,), h

        return step

    return make


def _lstm_step(weights: Sequence[Tensor], biases: bool) -> Step:
    if len(weights) > (4 if biases else 2):
        return _projected_step(weights, biases)

    def step(state: tuple[Tensor, Tensor], x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h, c = torch.lstm_cell(x, state, *weights)
        return (h, c), h

    return step


def _projected_step(weights: Sequence[Tensor], biases: bool) -> Step:
    """An LSTM whose output is projected, which no cell of torch computes."""
    w, u, *rest, project = weights
    b, d = rest if biases else (None, None)

    def step(state: tuple[Tensor, Tensor], x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        gates = F.linear(x, w, b) + F.linear(state[0], u, d)
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = F.linear(torch.sigmoid(o) * torch.tanh(c), project)
        return (h, c), h

    return step


_STEPS: Mapping[Any, Callable[[Sequence[Tensor], bool], Step]] = {
    torch.gru: _step_of(torch.gru_cell),
    torch.rnn_tanh: _step_of(torch.rnn_tanh_cell),
    torch.rnn_relu: _step_of(torch.rnn_relu_cell),
    torch.lstm: _lstm_step,
}


def is_layers(function: Any) -> bool:
    return function in _STEPS


class Watched(TorchFunctionMode):
    """Counts the loops that recurrent layers are, while a function runs as it is."""

    loops = 0

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if is_layers(func) and not kwargs:
            self.loops += layers_of(args).loops
            with _disable_current_modes():  # it writes nothing that is not its own: nobody has to see its steps
                return func(*args)
        return func(*args, **(kwargs or {}))


def spelled(kind: Callable[..., Any], call: Layers, alone: bool) -> tuple[Tensor, ...]:
    """The layers as loops: the function's marked one if they are ``alone``, else plain ones."""
    if alone:
        return unrolled(kind, call)
    with drive_loops(None):
        return unrolled(kind, call)
