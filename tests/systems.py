"""A catalogue of small array-loop samplers, written as their authors would, for tests that run them all.

Each entry of `SYSTEMS` makes a fresh function and its example arguments. Weights look trained: random ones, scaled, so
that a solve takes more than two sweeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.runtime.runner import Runner

Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """``make()`` gives the function and its arguments; ``parallel`` says that a proof must be found."""

    name: str
    make: Callable[[], tuple[Function, tuple[Any, ...]]]
    blocks: int
    parallel: bool = True


SYSTEMS: dict[str, Case] = {}


def system(blocks: int, *, parallel: bool = True) -> Callable[[Any], Any]:
    def add(make: Any) -> Any:
        SYSTEMS[make.__name__] = Case(make.__name__, make, blocks, parallel)
        return make

    return add


# ---------------------------------------------------------------------------------------------------- networks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


class Masked(nn.Module):
    """A linear layer that multiplies its weight by a mask buffer, as MADE code does."""

    def __init__(self, mask: Tensor, seed: int, gain: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        out, inner = mask.shape
        self.weight = nn.Parameter(randn(out, inner, seed=seed, dtype=dtype) * gain / inner**0.5)
        self.bias = nn.Parameter(randn(out, seed=seed + 1, dtype=dtype) * 0.3)
        self.register_buffer("mask", mask.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Made(nn.Module):
    """A MADE of ``n`` inputs with ``heads`` outputs per input: head ``h`` of position ``i`` at ``h * n + i``.

    ``first`` and ``last`` move the two comparisons, to make the classic mask bugs.
    """

    def __init__(
        self, n: int, heads: int = 2, hidden: int = 24, gain: float = 2.0, seed: int = 0,
        order: list[int] | None = None, dtype: torch.dtype = torch.float32, first: int = 0, last: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        rank = torch.arange(n)
        if order is not None:
            rank[torch.tensor(order)] = torch.arange(n)
        degree = torch.arange(hidden) % max(n - 1, 1)
        self.fc = Masked(degree[:, None] + first >= rank, seed, gain, dtype)
        self.mid = Masked(degree[:, None] >= degree, seed + 10, gain, dtype)
        self.out = Masked(rank.repeat(heads)[:, None] + last > degree, seed + 20, gain, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(torch.tanh(self.fc(x)))))


def affine(model: nn.Module, n: int, scale: Callable[[Tensor], Tensor] = torch.exp) -> Function:
    """The plain sampler: whole array computed, then sliced."""

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = (mean + scale(log_scale * 0.3) * noise)[:, i]
            return x

        return ffc.fori_loop(0, n, step, torch.zeros_like(noise))

    return sample


def sliced(model: nn.Module, n: int, tail: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Function:
    """Sliced first: ``tail(mean, log_scale, noise)`` of one position, each [B]."""

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = tail(mean[:, i], log_scale[:, i], noise[:, i])
            return x

        return ffc.fori_loop(0, n, step, torch.zeros_like(noise))

    return sample


TAILS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "exp": lambda m, s, u: m + (0.3 * s).exp() * u,
    "softplus": lambda m, s, u: m + F.softplus(s) * u,
    "sigmoid": lambda m, s, u: m + torch.sigmoid(s) * u,
    "softmax": lambda m, s, u: m + torch.softmax(torch.stack([m, s, u], -1), -1)[:, 0] * u,
    "gelu": lambda m, s, u: m + F.gelu(s) * u,
    "exact": lambda m, s, u: (m + s.clamp(-1, 1) * u).clamp(-3, 3),
}


@system(16)
def made_whole_then_sliced() -> Any:
    return affine(Made(16), 16), (randn(5, 16, seed=7),)


def _sliced(name: str) -> None:
    def make() -> Any:
        return sliced(Made(13, gain=1.7), 13, TAILS[name]), (randn(7, 13, seed=7),)

    make.__name__ = f"made_sliced_then_{name}"
    system(13)(make)


for _name in TAILS:
    _sliced(_name)


@system(11)
def made_whole_softplus_then_sliced() -> Any:
    return affine(Made(11, gain=2.5), 11, F.softplus), (randn(9, 11, seed=3),)


@system(12)
def made_batch_one() -> Any:
    return affine(Made(12, gain=2.5), 12), (randn(1, 12, seed=4),)


@system(10)
def made_float64() -> Any:
    return affine(Made(10, dtype=torch.float64), 10), (randn(3, 10, dtype=torch.float64),)


@system(10)
def made_bfloat16() -> Any:
    return affine(Made(10, dtype=torch.bfloat16), 10), (randn(3, 10, dtype=torch.bfloat16),)


@system(9)
def noise_kept_in_the_array() -> Any:
    model = Made(9)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = mean[:, i] + (0.3 * log_scale[:, i]).exp() * x[:, i]
            return x

        return ffc.fori_loop(0, 9, step, noise)

    return sample, (randn(4, 9),)


@system(9)
def in_place_body() -> Any:
    model = Made(9)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x[:, i] = mean[:, i] + (0.3 * log_scale[:, i]).exp() * noise[:, i]
            return x

        return ffc.fori_loop(0, 9, step, torch.zeros_like(noise))

    return sample, (randn(4, 9),)


@system(8)
def select_scatter() -> Any:
    model = Made(8)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            return x.select_scatter((mean + (0.3 * log_scale).exp() * noise)[:, i], 1, i)

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    return sample, (randn(4, 8),)


@system(8)
def index_copy() -> Any:
    model = Made(8)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            value = mean + (0.3 * log_scale).exp() * noise
            return x.index_copy(1, torch.tensor([i]), value[:, i : i + 1])

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    return sample, (randn(4, 8),)


@system(8)
def slice_of_length_one() -> Any:
    model = Made(8)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i : i + 1] = mean[:, i : i + 1] + F.softplus(log_scale[:, i : i + 1]) * noise[:, i : i + 1]
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    return sample, (randn(4, 8),)


def ordered(order: list[int]) -> Any:
    n = len(order)
    model = Made(n, order=order)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            j = order[i]
            x[:, j] = mean[:, j] + F.softplus(log_scale[:, j]) * noise[:, j]
            return x

        return ffc.fori_loop(0, n, step, torch.zeros_like(noise))

    return sample, (randn(5, n),)


@system(10)
def reversed_order() -> Any:
    return ordered(list(range(9, -1, -1)))


@system(10)
def permuted_order() -> Any:
    return ordered([3, 7, 0, 9, 1, 8, 2, 6, 4, 5])


@system(7)
def negative_index() -> Any:
    model = Made(7, order=list(range(6, -1, -1)))

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, -1 - i] = mean[:, -1 - i] + torch.sigmoid(log_scale[:, -1 - i]) * noise[:, -1 - i]
            return x

        return ffc.fori_loop(0, 7, step, torch.zeros_like(noise))

    return sample, (randn(3, 7),)


@system(6)
def later_part_of_a_given_array() -> Any:
    """``lo`` is not 0: the first positions are the prompt."""
    model = Made(12)

    def sample(prompt: Tensor, noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = (mean + (0.3 * log_scale).exp() * noise)[:, i]
            return x

        return ffc.fori_loop(5, 11, step, prompt)  # the last position is never written

    return sample, (randn(4, 12), randn(4, 12, seed=1))


@system(9)
def argmax_levels() -> Any:
    """An integer array; each entry is the best of four levels."""
    model = Made(9, heads=4, gain=3.0)

    def sample(gumbel: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            logits = model(x.float() - 1.5).view(x.shape[0], 4, 9)
            x = x.clone()
            x[:, i] = (logits[:, :, i] + gumbel[:, :, i]).argmax(1)
            return x

        return ffc.fori_loop(0, 9, step, torch.zeros(gumbel.shape[0], 9, dtype=torch.long))

    return sample, (randn(5, 4, 9),)


@system(9)
def one_hot_levels() -> Any:
    """The network reads each level as a one-hot vector."""
    model = Made(36, heads=1, gain=3.0)
    first = torch.arange(36) // 4  # the four entries of a position have its degree
    model.fc.mask.copy_((torch.arange(24) % 8)[:, None] >= first)
    model.mid.mask.copy_((torch.arange(24) % 8)[:, None] >= torch.arange(24) % 8)
    model.out.mask.copy_(first[:, None] > torch.arange(24) % 8)

    def sample(gumbel: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            logits = model(F.one_hot(x, num_classes=4).float().flatten(1)).view(x.shape[0], 9, 4)
            x = x.clone()
            x[:, i] = (logits[:, i] + gumbel[:, i]).argmax(1)
            return x

        return ffc.fori_loop(0, 9, step, torch.zeros(gumbel.shape[0], 9, dtype=torch.long))

    return sample, (randn(5, 9, 4),)


@system(9)
def bool_array() -> Any:
    model = Made(9, heads=1, gain=3.0)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = model(x.float() - 0.5)[:, i] > noise[:, i]
            return x

        return ffc.fori_loop(0, 9, step, torch.zeros(noise.shape, dtype=torch.bool))

    return sample, (randn(5, 9),)


@system(6)
def pytrees_in_and_out() -> Any:
    """Nested arguments, a state in a dict, prologue and epilogue work, a result with constants."""
    model = Made(6)

    def sample(batch: dict[str, Any], scale: float, flag: bool = True) -> dict[str, Any]:
        u = (batch["noise"][0] * scale).clamp(-4, 4)

        def step(i: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
            x = state["x"].clone()
            mean, log_scale = model(state["x"]).chunk(2, dim=-1)
            x[:, i] = mean[:, i] + F.softplus(log_scale[:, i]) * u[:, i]
            return {"x": x}

        x = ffc.fori_loop(0, 6, step, {"x": torch.zeros_like(u)})["x"]
        return {"x": x, "parts": (x.exp().sum(1), [u, flag]), "scale": scale}

    return sample, ({"noise": [randn(4, 6)]}, 0.7)


class Causal1d(nn.Module):
    """Masked convolutions over a sequence; type A first."""

    def __init__(self, channels: int = 8, kernel: int = 3, leak: bool = False) -> None:
        super().__init__()
        taps = 2 * kernel + 1
        mask = torch.zeros(taps)
        mask[:kernel] = 1
        second = mask.clone()
        second[kernel] = 1
        self.register_buffer("mask1", second.clone() if leak else mask)
        self.register_buffer("mask2", second)
        self.kernel = kernel
        self.w1 = nn.Parameter(randn(channels, 1, taps, seed=1))
        self.w2 = nn.Parameter(randn(2, channels, taps, seed=2) * 0.4)
        self.b1 = nn.Parameter(randn(channels, seed=3) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(F.conv1d(x, self.w1 * self.mask1, self.b1, padding=self.kernel))
        return F.conv1d(h, self.w2 * self.mask2, None, padding=self.kernel)


def conv_1d_sampler(leak: bool = False) -> Any:
    model = Causal1d(leak=leak)

    def sample(noise: Tensor) -> Tensor:
        def step(t: int, x: Tensor) -> Tensor:
            mean, log_scale = model(x).chunk(2, dim=1)
            x = x.clone()
            x[:, :, t] = mean[:, :, t] + torch.sigmoid(log_scale[:, :, t]) * noise[:, :, t]
            return x

        return ffc.fori_loop(0, 14, step, torch.zeros_like(noise))

    return sample, (randn(3, 1, 14),)


@system(14)
def conv_1d() -> Any:
    return conv_1d_sampler()


@system(12)
def shifted_convolution() -> Any:
    """No mask: padding on the left and a crop on the right make it causal."""
    w1, w2 = randn(6, 1, 3, seed=1), randn(1, 6, 3, seed=2) * 0.7

    def sample(noise: Tensor) -> Tensor:
        def step(t: int, x: Tensor) -> Tensor:
            h = torch.tanh(F.conv1d(F.pad(x, (3, 0))[:, :, :-1], w1))
            mean = F.conv1d(F.pad(h, (2, 0)), w2)
            x = x.clone()
            x[:, :, t] = mean[:, :, t] + noise[:, :, t]
            return x

        return ffc.fori_loop(0, 12, step, torch.zeros_like(noise))

    return sample, (randn(2, 1, 12),)


class PixelNet(nn.Module):
    """Two masked 2-D convolutions in raster order over images of ``channels`` channels."""

    def __init__(self, channels: int = 1, hidden: int = 6, leak: bool = False) -> None:
        super().__init__()
        before = torch.zeros(3, 3)
        before[0] = 1
        before[1, 0] = 1
        upto = before.clone()
        upto[1, 1] = 1
        self.register_buffer("mask_a", (upto if leak else before).clone())
        self.register_buffer("mask_b", upto)
        self.w1 = nn.Parameter(randn(hidden, channels, 3, 3, seed=1))
        self.w2 = nn.Parameter(randn(2 * channels, hidden, 3, 3, seed=2) * 0.6)
        self.b2 = nn.Parameter(randn(2 * channels, seed=3) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(F.conv2d(torch.tanh(x), self.w1 * self.mask_a, padding=1))
        return F.conv2d(h, self.w2 * self.mask_b, self.b2, padding=1)


def raster(channels: int, size: int, batch: int, leak: bool = False) -> Any:
    model = PixelNet(channels, leak=leak)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            r, c = divmod(i, size)
            mean, log_scale = model(x).chunk(2, dim=1)
            x = x.clone()
            x[:, :, r, c] = mean[:, :, r, c] + torch.exp(0.2 * torch.tanh(log_scale[:, :, r, c])) * noise[:, :, r, c]
            return x

        return ffc.fori_loop(0, size * size, step, torch.zeros_like(noise))

    return sample, (randn(batch, channels, size, size, seed=5),)


@system(25)
def raster_2d() -> Any:
    return raster(1, 5, 3)


@system(16)
def raster_2d_with_channels() -> Any:
    return raster(3, 4, 2)


@system(1)
def one_step() -> Any:
    return affine(Made(1), 1), (randn(3, 1),)


@system(2)
def two_steps() -> Any:
    return affine(Made(2), 2), (randn(3, 2),)


@system(8)
def independent() -> Any:
    """Nothing depends on anything: one sweep and its certificate."""

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = F.softplus(noise[:, i])
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    return sample, (randn(4, 8),)


@system(16)
def logistic_map() -> Any:
    """A chain that forgets nothing: every sweep settles one block. ``x[:, i] = r x (1 - x)`` of the one before."""
    shift = torch.diag(torch.ones(15), 1)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            before = x @ shift + u
            x = x.clone()
            x[:, i] = (3.99 * before * (1 - before))[:, i]
            return x

        return ffc.fori_loop(0, 16, step, torch.zeros_like(u))

    first = torch.zeros(2, 16)
    first[:, 0] = torch.tensor([0.3, 0.61])
    return sample, (first,)


@system(9)
def no_batch_axis() -> Any:
    """A vector: what a step writes is a scalar."""
    model = Made(9)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            out = model(x[None])[0]
            x = x.clone()
            x[i] = out[i] + F.softplus(out[i + 9]) * noise[i]
            return x

        return ffc.fori_loop(0, 9, step, torch.zeros_like(noise))

    return sample, (randn(9),)


@system(8)
def step_number_in_the_tail() -> Any:
    """The body computes with its number: ``mean * (i + 1) / 8``."""
    model = Made(8)

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, _ = model(x).chunk(2, dim=-1)
            x = x.clone()
            x[:, i] = mean[:, i] * ((i + 1) / 8) + noise[:, i] * i
            return x

        return ffc.fori_loop(0, 8, step, torch.zeros_like(noise))

    return sample, (randn(4, 8),)


@system(8)
def strided_noise() -> Any:
    """An argument that is every second column of a larger tensor."""
    return affine(Made(8), 8), (randn(4, 16)[:, ::2],)


@system(8)
def transposed_noise() -> Any:
    return affine(Made(8), 8), (randn(8, 4).t(),)


@system(8, parallel=False)
def leaking() -> Any:
    return affine(Made(8, last=1), 8), (randn(4, 8),)


@system(8, parallel=False)
def recurrence() -> Any:
    w = randn(6, 6) * 0.5

    def run(xs: Tensor) -> Tensor:
        def step(i: int, h: Tensor) -> Tensor:
            return torch.tanh(h @ w + xs[:, i])

        return ffc.fori_loop(0, 8, step, torch.zeros(3, 6))

    return run, (randn(3, 8, 6),)


def bold(compiled: ffc.Compiled) -> ffc.Compiled:
    """``compiled`` without its guard: on arrays this small it would hand over to the reference and prove nothing."""
    if compiled.plan.program is not None:
        compiled.plan = replace(compiled.plan, costs=None)
        part = compiled.parts[0]
        part.plan = compiled.plan  # what a new proof begins from
        part.runner = Runner(compiled.plan, compiled.proof, compiled.device)
    return compiled
