"""Whole samplers whose windows cut transposed convolutions, gathers, pools, fused attention: less work, same bits.

What windows compute is certified at the end, so wrong ones would cost time only: the kept values are looked at too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from leaking import Transformer, transformer_sampler
from systems import Made, bold, randn
from test_catalogue import assert_same
from test_windows import kept_and_expected, solver
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.passes.windows.analysis import WindowAnalysis
from ffcompiler.runtime.record import Ending
from ffcompiler.windows import volume, whole

ROWS, COLUMNS = 16, 5


def shifted(x: Tensor, rows: int = 1) -> Tensor:
    """Moved down: row *r* has what stood in row ``r - rows``, and the first ones are zero."""
    return F.pad(x, (0, 0, rows, 0))[:, :, :-rows]


class DownAndUp(nn.Module):
    """In the manner of PixelCNN++: causal by shifts and crops, half the resolution in between, and a way around it."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        sizes = {"first": (8, 1, 2, 3), "down": (8, 8, 2, 3), "middle": (8, 8, 2, 3), "up": (8, 6, 2, 3)}
        for seed, (name, shape) in enumerate(sizes.items()):
            setattr(self, name, nn.Parameter(randn(*shape, seed=seed) * (1.6 / (shape[1] * 6) ** 0.5)))
        self.head = nn.Parameter(randn(4, 14, 1, 1, seed=9))
        self.bias = nn.Parameter(randn(6, seed=8) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 4, ROWS, COLUMNS]; those of a row depend on the rows above it."""
        fine = torch.tanh(F.conv2d(F.pad(shifted(x), (1, 1, 1, 0)), self.first))
        coarse = F.conv2d(F.pad(fine, (1, 1, 0, 0)), self.down, stride=(2, 2))
        coarse = F.max_pool2d(coarse, (1, 2), 1) if self.pooled else coarse
        coarse = torch.tanh(F.conv2d(F.pad(shifted(coarse), (1, 1, 1, 0)), self.middle))
        up = F.conv_transpose2d(coarse, self.up, self.bias, stride=2, output_padding=(0, 1))
        up = F.interpolate(up, scale_factor=2)[:, :, ::2, ::2] if self.pooled else up
        return F.conv2d(torch.cat([fine, torch.tanh(up[..., :COLUMNS])], 1), self.head)


def rows_sampler(model: nn.Module) -> tuple[Callable[[Tensor], Tensor], tuple[Tensor]]:
    """A row of grey levels at a time."""

    def sample(gumbel: Tensor) -> Tensor:
        def step(r: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, 0, r] = (2 * model(x)[:, :, r] + gumbel[:, :, r]).argmax(1) - 1.5
            return x

        return ffc.fori_loop(0, ROWS, step, torch.zeros(2, 1, ROWS, COLUMNS))

    return sample, (randn(2, 4, ROWS, COLUMNS),)


class Attending(Transformer):
    """Two heads of a causal call of the fused operator."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


ORDER = torch.tensor([2, 0, 1, 5, 3, 4, 8, 6, 7, 11, 9, 10, 14, 12, 13, 15])


class Gathered(nn.Module):
    """A MADE whose inputs stand in another order, brought back by index, and a table entry for each."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.table = Made(16, gain=2.5), nn.Parameter(randn(5, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        levels = (x.clamp(-1, 1) * 2).round().long() + 2
        back = torch.index_select(x, 1, ORDER)[:, ORDER.argsort()]
        embedded = self.table[levels] + torch.gather(back, 1, torch.arange(16).expand(x.shape[0], -1))
        return self.made(torch.tanh(embedded))


def gathered_sampler() -> tuple[Callable[[Tensor], Tensor], tuple[Tensor]]:
    model = Gathered()

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = mean[:, i] + torch.exp(0.3 * log_scale[:, i]) * noise[:, i]
            return x

        return ffc.fori_loop(0, 16, step, torch.zeros_like(noise))

    return sample, (randn(3, 16),)


@dataclass(frozen=True)
class Sampler:
    """``cut``: operators of which a window of two blocks computes a part only; ``share`` of the work of all of them."""

    make: Callable[[], tuple[Callable[..., Tensor], tuple[Tensor, ...]]]
    cut: tuple[str, ...]
    share: float = 0.15


ATTENTION = "_scaled_dot_product_flash_attention_for_cpu.default"
SAMPLERS = {
    "down and up": Sampler(lambda: rows_sampler(DownAndUp()), ("convolution.default", "cat.default")),
    "with pools": Sampler(
        lambda: rows_sampler(DownAndUp(pooled=True)),
        ("convolution.default", "max_pool2d_with_indices.default", "upsample_nearest2d.default", "slice.Tensor"),
    ),
    "attention": Sampler(
        lambda: transformer_sampler(Attending(24, lambda s: s), 24), (ATTENTION, "mm.default", "_unsafe_view.default")
    ),
    "gathers": Sampler(gathered_sampler, ("index_select.default", "index.Tensor", "gather.default"), 0.6),
}


@pytest.mark.parametrize(
    "schedule", ["sliding(4)+windows", "jacobi+windows", "gauss-seidel+windows", "wavefront+windows"]
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_windows_of_these_models_end_with_the_reference_bits(name: str, schedule: str) -> None:
    sample, args = SAMPLERS[name].make()
    compiled = bold(ffc.compile(sample, args, schedule=schedule))
    for arguments in (args, (randn(*args[0].shape, seed=7),)):
        result, record = compiled.run(*arguments)
        assert_same(result, sample(*arguments))
        assert record.ending is Ending.SWEEPS and record.certified == record.blocks
        assert not record.sweeps[0].certified and record.sweeps[-1].certified


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_window_computes_a_part_of_each_operator_and_a_fraction_of_the_whole(name: str) -> None:
    sample, args = SAMPLERS[name].make()
    compiled = ffc.compile(sample, args, schedule="jacobi")
    windows = compiled.proof.windows
    assert windows is not None
    middle = compiled.plan.system.blocks // 2  # type: ignore[union-attr]
    footprint = windows.footprint(middle, middle + 2)
    assert footprint.share < SAMPLERS[name].share, [(s.op, s.box, s.shape) for s in footprint.stages]
    whole_ones = {s.op for s in footprint.stages if volume(s.box) == volume(whole(s.shape))}
    seen = {s.op for s in footprint.stages} | {n.op for n in windows.layout.views}
    expected = {f"aten.{op}" for op in SAMPLERS[name].cut}
    assert expected <= seen and not expected & whole_ones


@pytest.mark.parametrize("schedule", ["sliding(4)+windows", "gauss-seidel+windows"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_kept_values_of_these_models_are_up_to_date_where_they_are_read(name: str, schedule: str) -> None:
    sample, args = SAMPLERS[name].make()
    compiled = bold(ffc.compile(sample, args, schedule="jacobi"))
    analysis: Any = compiled.proof.windows
    assert isinstance(analysis, WindowAnalysis)
    with torch.no_grad():
        solve, state = solver(compiled, args, schedule)
        while solve.working < solve.system.blocks:
            before = state.clone()
            hi = solve._window(False)[1]
            solve.sweep(state, False)
            for ref, kept, expected in kept_and_expected(solve, before):
                read = torch.from_numpy(np.broadcast_to(analysis.latest[ref], expected.shape).copy()) < hi - 1
                torch.testing.assert_close(kept[read], expected[read], equal_nan=True)
