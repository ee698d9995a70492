"""Whole samplers with attention: every style of mask is solved by sweeps to the loop's bits, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from leaking import Transformer, causal, transformer_sampler
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.plan import Bounded, Finite, Unchanged
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.record import Ending, RunRecord

N = 14
ALLOWED = causal(N)
MINUS_INF = float("-inf")

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_fill -inf": lambda s: s.masked_fill(ALLOWED == 0, MINUS_INF),
    "masked_fill -1e10": lambda s: s.masked_fill(ALLOWED == 0, -1e10),
    "masked_fill lowest": lambda s: s.masked_fill(ALLOWED == 0, torch.finfo(s.dtype).min),
    "where": lambda s: torch.where(ALLOWED == 1, s, MINUS_INF),
    "where of a tensor": lambda s: torch.where(ALLOWED == 0, torch.tensor(-1e9), s),
    "added -inf": lambda s: s + torch.full((N, N), MINUS_INF).triu(1),
    "added -1e10": lambda s: s + (ALLOWED - 1) * 1e10,
    "added -inf with distances": lambda s: s + torch.full((N, N), MINUS_INF).triu(1) - torch.arange(N).float(),
    "multiplied and lowered": lambda s: s * ALLOWED - 1e10 * (1 - ALLOWED),
    "slice of a larger buffer": lambda s: s.masked_fill(causal(64)[:N, :N] == 0, MINUS_INF),
}


class Fused(Transformer):
    """The operator of torch in place of the written-out attention."""

    def __init__(self, n: int, one_head: bool = False, **options: Any) -> None:
        super().__init__(n, lambda scores: scores)
        self.one_head, self.options = one_head, options

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.one_head:
            return F.scaled_dot_product_attention(q, k, v, **self.options)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2)


FUSED: dict[str, Callable[[], nn.Module]] = {
    "fused, causal": lambda: Fused(N, is_causal=True),
    "fused, one head, causal": lambda: Fused(N, one_head=True, is_causal=True),
    "fused, boolean": lambda: Fused(N, attn_mask=ALLOWED.bool()),
    "fused, one head, boolean": lambda: Fused(N, one_head=True, attn_mask=ALLOWED.bool()),
    "fused, -inf": lambda: Fused(N, attn_mask=torch.full((N, N), MINUS_INF).triu(1)),
    "fused, -1e10": lambda: Fused(N, attn_mask=(ALLOWED - 1) * 1e10),
}
MODELS = {name: (lambda mask=mask: Transformer(N, mask)) for name, mask in MASKS.items()} | FUSED


def run(compiled: ffc.Compiled, *arguments: Tensor) -> tuple[Any, RunRecord]:
    return bold(compiled).run(*arguments)


@pytest.mark.parametrize("name", MODELS)
def test_every_style_of_mask_is_solved_by_sweeps_to_the_same_bits(name: str) -> None:
    sample, arguments = transformer_sampler(MODELS[name](), N)
    compiled = ffc.compile(sample, arguments, schedule="jacobi")
    for noise in (arguments[0], randn(3, N, seed=8) * 1.5):
        result, record = run(compiled, noise)
        assert same_bits(result, sample(noise))
        assert record.certified == N, record.detail
        assert len(record.sweeps) > 2


class Tokens(nn.Module):
    """A small language model: embedding, norms before attention and a gated layer, all as torch has them."""

    def __init__(self, n: int, levels: int = 7, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(levels, width)
        self.place = nn.Parameter(randn(n, width, seed=1))
        self.start = nn.Parameter(randn(1, 1, width, seed=2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 24), nn.Linear(24, width), nn.Linear(width, levels)
        self.register_buffer("bias", causal(2 * n).view(1, 1, 2 * n, 2 * n))
        with torch.no_grad():
            for index, p in enumerate(p for p in self.parameters() if p.dim() > 1):
                p.copy_(randn(*p.shape, seed=20 + index) * (2.0 / p.shape[-1] ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, n, levels] of tokens [B, n]."""
        h = torch.cat([self.start.expand(x.shape[0], 1, -1), self.embed(x)[:, :-1]], 1) + self.place
        b, n, c = h.shape
        q, k, v = (t.view(b, n, 2, c // 2).transpose(1, 2) for t in self.qkv(self.norms[0](h)).split(c, dim=2))
        scores = (q @ k.transpose(-2, -1)) * (c // 2) ** -0.5
        scores = scores.masked_fill(self.bias[:, :, :n, :n] == 0, MINUS_INF)
        mixed = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, n, c)
        h = h + self.project(mixed)
        h = h + self.down(F.gelu(self.up(self.norms[1](h))))
        return self.head(self.norms[2](h))


def token_sampler(model: nn.Module, n: int) -> Callable[[Tensor], Tensor]:
    def sample(gumbel: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = (model(x)[:, i] * 2.0 + gumbel[:, i]).argmax(-1)
            return x

        return ffc.fori_loop(0, n, step, torch.zeros(gumbel.shape[:2], dtype=torch.long))

    return sample


def test_a_language_model_of_embedding_norm_attention_and_gelu_is_solved_by_sweeps() -> None:
    sample = token_sampler(Tokens(N), N)
    compiled = ffc.compile(sample, (randn(4, N, 7),), schedule="jacobi")
    for gumbel in (randn(4, N, 7), randn(4, N, 7, seed=3)):
        result, record = run(compiled, gumbel)
        assert same_bits(result, sample(gumbel))
        assert record.certified == N, record.detail
        assert len(record.sweeps) > 2


def scaled(factor: float) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Attention under a mask of -1e4 whose scores grow with ``factor``."""
    return transformer_sampler(Transformer(N, lambda scores: (scores * factor).masked_fill(ALLOWED == 0, -1e4)), N)


def test_a_mask_of_minus_ten_thousand_is_certified_while_the_scores_stay_below_it() -> None:
    sample, arguments = scaled(1.0)
    compiled = ffc.compile(sample, arguments, schedule="jacobi")
    assert any(isinstance(p, Bounded) and p.bound < 1e4 for p in compiled.plan.premises)
    assert "stays below" in str(compiled.explain())
    result, record = run(compiled, *arguments)
    assert same_bits(result, sample(*arguments)) and record.certified == N


def test_scores_that_reach_the_filler_certify_nothing_and_give_the_loops_result() -> None:
    sample, arguments = scaled(3e4)
    compiled = ffc.compile(sample, arguments, schedule="jacobi")
    result, record = run(compiled, *arguments)
    assert same_bits(result, sample(*arguments))
    assert record.ending is Ending.PREMISE and record.certified < N


def test_scores_that_may_have_reached_the_filler_between_the_sweeps_certify_nothing() -> None:
    """All sweeps stay below it; a bound over the reference's own arrays does not."""
    sample, arguments = scaled(150.0)
    result, record = run(ffc.compile(sample, arguments, schedule="jacobi"), *arguments)
    assert same_bits(result, sample(*arguments))
    assert record.ending is Ending.PREMISE and record.certified == 0
    assert "may not have been below 8280 in magnitude in some step of the reference" in record.detail


def test_values_that_overflow_under_hidden_keys_certify_nothing() -> None:
    """0 times infinity is NaN: a hidden key is left out for finite values only."""
    model = Transformer(N, MASKS["added -inf"])

    def sample(noise: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            mean, _ = model(torch.where(x.abs() > 3, x * 3e38, x)).unbind(-1)
            x = x.clone()
            x[:, i] = torch.nan_to_num(mean[:, i]) + noise[:, i]
            return x

        return ffc.fori_loop(0, N, step, torch.zeros_like(noise))

    noise = randn(2, N) * 3
    result, record = run(ffc.compile(sample, (noise,)), noise)
    assert same_bits(result, sample(noise))
    assert record.certified < N


def in_buffer(filler: float = -1e10) -> tuple[nn.Module, Callable[[Tensor], Tensor], Tensor]:
    model = Transformer(N, lambda scores: scores + model.allowed)
    model.register_buffer("allowed", torch.zeros(N, N).masked_fill(ALLOWED == 0, filler))
    sample, (noise,) = transformer_sampler(model, N)
    return model, sample, noise


def test_a_mask_that_was_changed_so_that_it_leaks_is_run_sequentially() -> None:
    model, sample, noise = in_buffer()
    compiled = bold(ffc.compile(sample, (noise,), schedule="jacobi"))
    assert any(isinstance(p, Unchanged) for p in compiled.plan.premises)
    model.allowed.data[3, 9] = 0.0
    result, record = compiled.run(noise)
    assert same_bits(result, sample(noise))
    assert record.ending is Ending.STALE and "step 3 writes" in record.detail


def test_a_mask_that_was_changed_and_is_still_causal_is_proved_again() -> None:
    model, sample, noise = in_buffer()
    compiled = bold(ffc.compile(sample, (noise,), schedule="jacobi"))
    model.allowed.data[9, 3] = -1e10
    result, record = compiled.run(noise)
    assert same_bits(result, sample(noise)) and record.certified == N


def test_an_artifact_with_an_attention_mask_gives_the_same_bits(tmp_path: Any) -> None:
    _, sample, noise = in_buffer(MINUS_INF)
    compiled = bold(ffc.compile(sample, (noise,), schedule="jacobi"))
    compiled.save(tmp_path / "attention.ffc")
    again = bold(ffc.load(tmp_path / "attention.ffc"))
    result, record = again.run(noise)
    assert same_bits(result, sample(noise)) and record.certified == N
    assert any(isinstance(p, Finite) for p in again.plan.premises)
