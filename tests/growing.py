"""Small causal models and the loops in which people sample from them: the array of tokens grows in every step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from systems import randn
from torch import Tensor, nn

VOCABULARY = 11
Sampler = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def fused_open(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def masked_scores(filler: float, shift: int = 0) -> Attend:
    """Attention written out, under a buffer of ones up to ``shift`` places after the diagonal."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        t = q.shape[-2]
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(bias.tril(shift)[:, :, :t, :t] == 0, filler)
        return F.softmax(scores, dim=-1) @ v

    return attend


def masked_afterwards(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    t = q.shape[-2]
    return (F.softmax(q @ k.transpose(-2, -1), dim=-1) * bias.tril()[:, :, :t, :t]) @ v


class Block(nn.Module):
    def __init__(self, width: int, heads: int, longest: int, attend: Attend) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.register_buffer("bias", torch.ones(1, 1, longest, longest))
        self.heads, self.attend = heads, attend

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.qkv(self.norm1(x)).split(c, dim=2)
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in (q, k, v))
        y = self.attend(q, k, v, self.bias).transpose(1, 2).contiguous().view(b, t, c)
        x = x + self.project(y)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Logits of all positions, or (``last``) of the last one."""

    def __init__(self, attend: Attend = fused, longest: int = 16, layers: int = 1, last: bool = False) -> None:
        super().__init__()
        width = 8
        self.longest, self.last = longest, last
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block(width, 2, longest, attend) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        with torch.no_grad():
            for index, p in enumerate(p for p in self.parameters() if p.dim() > 1):
                p.copy_(randn(*p.shape, seed=40 + index) * (2.0 / p.shape[-1] ** 0.5))
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(0, tokens.size(1), dtype=torch.long, device=tokens.device)
        x = self.tokens(tokens) + self.places(places)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, [-1], :]) if self.last else self.head(x)


class Convolutions(nn.Module):
    """Two causal convolutions, padded before (``chomp``: on both sides, and cut)."""

    def __init__(self, chomp: bool) -> None:
        super().__init__()
        self.tokens, self.chomp = nn.Embedding(VOCABULARY, 6), chomp
        self.first = nn.Conv1d(6, 6, 3, padding=2 if chomp else 0)
        self.second = nn.Conv1d(6, VOCABULARY, 3, dilation=2, padding=4 if chomp else 0)
        with torch.no_grad():
            for index, p in enumerate(self.parameters()):
                p.copy_(randn(*p.shape, seed=60 + index))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens).transpose(1, 2)
        if self.chomp:
            return self.second(self.first(x)[:, :, :-2].relu())[:, :, :-4].transpose(1, 2)
        return self.second(F.pad(self.first(F.pad(x, (2, 0))).relu(), (4, 0))).transpose(1, 2)


def drawn(logits: Tensor) -> Tensor:
    return torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)


def likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(-1, keepdim=True)


def one_of_three(logits: Tensor) -> Tensor:
    v, _ = torch.topk(logits, 3)
    logits[logits < v[:, [-1]]] = -float("inf")
    return drawn(logits)


def categorical(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).sample()[:, None]


def generator(model: nn.Module, steps: int, choose: Sampler = drawn, longest: int | None = None) -> Sampler:
    """As nanoGPT has it."""

    def generate(idx: Tensor) -> Tensor:
        for _ in range(steps):
            idx_cond = idx if longest is None or idx.size(1) <= longest else idx[:, -longest:]
            logits = model(idx_cond)[:, -1, :] / 0.8
            idx_next = choose(logits)
            idx = torch.cat((idx, idx_next), dim=1)
        return idx

    return generate


def in_a_list(model: nn.Module, steps: int) -> Sampler:
    def generate(idx: Tensor) -> Tensor:
        tokens = [idx]
        for _ in range(steps):
            tokens.append(drawn(model(torch.cat(tokens, 1))[:, -1]))
        return torch.cat(tokens, 1)

    return generate


def in_a_stack(model: nn.Module, steps: int) -> Sampler:
    def generate(idx: Tensor) -> Tensor:
        tokens = list(idx.unbind(1))
        for _ in range(steps):
            tokens.append(drawn(model(torch.stack(tokens, 1))[:, -1])[:, 0])
        return torch.stack(tokens, 1)

    return generate


def cropped(model: nn.Module, steps: int) -> Sampler:
    def generate(idx: Tensor) -> Tensor:
        b, t0 = idx.shape
        x = torch.zeros(b, t0 + steps, dtype=torch.long)
        x[:, :t0] = idx
        for t in range(t0, t0 + steps):
            x[:, t] = drawn(model(x[:, :t])[:, -1])[:, 0]
        return x

    return generate


def sliding(model: nn.Module, steps: int, longest: int) -> Sampler:
    def generate(idx: Tensor) -> Tensor:
        for _ in range(steps):
            idx = torch.cat((idx, drawn(model(idx[:, -longest:])[:, -1])), dim=1)
        return idx

    return generate
