"""Loops over models with the layers that real ones have: proved, and solved by sweeps with the loop's bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_catalogue import unguarded
from torch import Tensor, nn
from torch.nn import functional as F

import ffcompiler as ffc
from ffcompiler.runtime.equality import same_bits

N, CHANNELS = 16, 8
Layer = Callable[[Tensor], Tensor]


def shifted(x: Tensor) -> Tensor:
    """[batch, n] as [batch, 1, n], moved on by one position."""
    return F.pad(x, (1, 0))[:, None, :-1]


def causal(x: Tensor) -> Tensor:
    return F.pad(x, (2, 0))


class Stack(nn.Module):
    """Two causal convolutions, with some layer between them."""

    def __init__(self, layer: Callable[[], Layer]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, CHANNELS, 3), nn.Conv1d(CHANNELS, 1, 3)
        self.layer = layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(causal(self.layer(self.first(causal(shifted(x))))))[:, 0]


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Quantised(nn.Module):
    """Four classes, embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.table((x[:, 0] * 2).clamp(0, 3).long()).transpose(1, 2).contiguous()


class UpAndDown(nn.Module):
    """Up by nearest copies, down by a strided convolution that looks at no later position."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(CHANNELS, CHANNELS, 2, stride=2, groups=4)
        self.up = nn.ConvTranspose1d(CHANNELS, CHANNELS, 2, stride=2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.interpolate(x, scale_factor=2)) + self.down(self.up(x))


LAYERS: dict[str, Callable[[], Layer]] = {
    "layer norm": lambda: ChannelNorm(CHANNELS),
    "batch norm": lambda: nn.BatchNorm1d(CHANNELS).eval(),
    "group norm of a position": lambda: (
        lambda x: F.group_norm(x.transpose(1, 2).reshape(-1, CHANNELS), 2).view(len(x), N, CHANNELS).transpose(1, 2)
    ),
    "weight norm and concat elu": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv1d(CHANNELS, 4, 1)), _Doubled()
    ),
    "gated unit": lambda: nn.Sequential(nn.Conv1d(CHANNELS, 2 * CHANNELS, 1), nn.GLU(1)),
    "up and down": UpAndDown,
    "running sum": lambda: lambda x: torch.tanh(x.cumsum(-1)),
    "order reversed twice": lambda: lambda x: x.flip(-1).relu()[..., torch.arange(N).flip(0)],
}


class _Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.elu(torch.cat([x, -x], 1))


def sampler(model: Layer) -> Callable[[Tensor], Tensor]:
    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = model(x)
            x = x.clone()
            x[:, i] = (torch.tanh(3 * y) + noise)[:, i]
            return x

        return ffc.fori_loop(0, N, step, torch.zeros_like(noise))

    return sample


@pytest.mark.parametrize("name", LAYERS)
def test_a_causal_model_with_this_layer_is_solved_by_sweeps(name: str) -> None:
    torch.manual_seed(0)
    function, noise = sampler(Stack(LAYERS[name])), torch.randn(3, N)
    compiled = ffc.compile(function, (noise,), schedule="jacobi")
    results, _ = unguarded(compiled, "jacobi", [noise * 1.5])
    assert same_bits(results[0], function(noise * 1.5))


def test_values_read_from_a_table_by_the_state_are_solved_by_sweeps() -> None:
    torch.manual_seed(0)
    table, last = Quantised(), nn.Conv1d(CHANNELS, 1, 3)
    function, noise = sampler(lambda x: last(causal(table(shifted(x))))[:, 0]), torch.randn(3, N)
    compiled = ffc.compile(function, (noise,), schedule="jacobi")
    results, _ = unguarded(compiled, "jacobi", [noise * 1.5])
    assert same_bits(results[0], function(noise * 1.5))


def test_a_layer_norm_over_positions_is_named_as_the_leak() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(N)
    refusal = ffc.compile(sampler(norm), (torch.randn(3, N),)).plan.refusal
    assert refusal is not None and "aten.native_layer_norm.default" in refusal


def test_a_batch_norm_in_training_mode_is_named_as_the_leak() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(1, track_running_stats=False)
    refusal = ffc.compile(sampler(lambda x: norm(shifted(x))[:, 0]), (torch.randn(3, N),)).plan.refusal
    assert refusal is not None and "batch_norm" in refusal
