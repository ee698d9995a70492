"""Masks and attention in the dependence proof: hidden keys are not depended on, and nothing else is left out.

Each style of mask is interpreted with `latest` of position k equal to k, and compared with the operators themselves:
later positions are set to noise, zeros, infinities, NaN and 1e30, and no earlier element may change its bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from systems import randn
from test_rules import graph_of
from torch import Tensor, nn

from ffcompiler.graph import Graph, Ref
from ffcompiler.passes.latest import NEVER, Interpretation
from ffcompiler.passes.rules import RULES
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.graphs import graph_call
from ffcompiler.runtime.premises import below, really_finite

BATCH, LENGTH, HEADS, WIDTH = 3, 8, 2, 4
ALLOWED = torch.ones(LENGTH, LENGTH).tril()
STRICT = torch.ones(LENGTH, LENGTH).tril(-1)
MINUS_INF = float("-inf")
LOWEST = torch.finfo(torch.float32).min
DISTURBANCES = (0.0, -0.0, 1.7, -40.0, 3e4, float("inf"), MINUS_INF, float("nan"), 1e30, -1e30)
WEIGHTS = randn(3, HEADS * WIDTH, seed=1)

Heads = tuple[Tensor, Tensor, Tensor]


def heads(x: Tensor) -> Heads:
    """Queries, keys and values [batch, heads, length, width] of ``x`` [batch, length]."""
    q, k, v = (torch.sin(x[:, :, None] * w) if x.is_floating_point() else x for w in WEIGHTS)
    return tuple(t.view(*x.shape, HEADS, WIDTH).transpose(1, 2) for t in (q, k, v))  # type: ignore[return-value]


def raw_heads(x: Tensor) -> Heads:
    """As `heads`, but not bounded by a sine: what is disturbed reaches the scores."""
    q, k, v = (x[:, :, None] * w for w in WEIGHTS)
    return tuple(t.view(*x.shape, HEADS, WIDTH).transpose(1, 2) for t in (q, k, v))  # type: ignore[return-value]


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / math.sqrt(WIDTH)


def by_hand(mask: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Attention written out, with ``mask`` laid on the scores."""

    def attend(x: Tensor) -> Tensor:
        q, k, v = raw_heads(x)
        return (torch.softmax(mask(scores_of(q, k)), -1) @ v).transpose(1, 2).flatten(2)

    return attend


def fused(heads: Callable[[Tensor], Heads] = raw_heads, **options: object) -> Callable[[Tensor], Tensor]:
    def attend(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*heads(x), **options).transpose(1, 2).flatten(2)  # type: ignore[arg-type]

    return attend


def one_head(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: attend(*(t[:, 0] for t in raw_heads(x)))


def additive(filler: float, allowed: Tensor = ALLOWED) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(allowed == 0, filler)


def flattened_image(s: Tensor) -> Tensor:
    """Keys of a 2 x 4 image in raster order: the mask as row and column say it."""
    row, column = torch.arange(LENGTH) // 4, torch.arange(LENGTH) % 4
    before = (row[:, None] > row) | ((row[:, None] == row) & (column[:, None] >= column))
    return s.masked_fill(~before, MINUS_INF)


def multi_head_module() -> nn.Module:
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    with torch.no_grad():
        for index, p in enumerate(module.parameters()):
            p.copy_(randn(*p.shape, seed=index))
    return module


MODULE = multi_head_module()


def with_module(x: Tensor, weights: bool) -> Tensor:
    h = x[:, :, None] * WEIGHTS[0, :WIDTH]
    return MODULE(h, h + 0, h, attn_mask=~ALLOWED.bool(), need_weights=weights)[0]  # type: ignore[no-any-return]


CAUSAL = list(range(LENGTH))  # position i reads positions up to i
BEFORE = [max(i - 1, 0) for i in range(LENGTH)]
ALIBI = -2.0 * (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()

STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "masked_fill -inf": by_hand(lambda s: s.masked_fill(ALLOWED == 0, MINUS_INF)),
    "masked_fill -1e4": by_hand(lambda s: s.masked_fill(ALLOWED == 0, -1e4)),
    "masked_fill -1e10": by_hand(lambda s: s.masked_fill(ALLOWED == 0, -1e10)),
    "masked_fill lowest": by_hand(lambda s: s.masked_fill(ALLOWED == 0, LOWEST)),
    "masked_fill of a tensor": by_hand(lambda s: s.masked_fill(ALLOWED == 0, torch.tensor(-1e9))),
    "where -inf": by_hand(lambda s: torch.where(ALLOWED == 1, s, MINUS_INF)),
    "where, a tensor of -1e10 first": by_hand(lambda s: torch.where(ALLOWED == 0, torch.full_like(s, -1e10), s)),
    "where of 0-d tensors": by_hand(lambda s: torch.where(ALLOWED == 1, s, torch.tensor(-1e10))),
    "added -inf": by_hand(lambda s: s + additive(MINUS_INF)),
    "added -1e4": by_hand(lambda s: s + additive(-1e4)),
    "added -1e10, mask first": by_hand(lambda s: additive(-1e10) + s),
    "added lowest": by_hand(lambda s: s + additive(LOWEST)),
    "added -inf and distances": by_hand(lambda s: s + (ALIBI + additive(MINUS_INF))),
    "distances, then -inf": by_hand(lambda s: s + ALIBI + additive(MINUS_INF)),
    "-inf, then distances": by_hand(lambda s: s.masked_fill(ALLOWED == 0, MINUS_INF) + ALIBI),
    "scores times mask minus 1e10": by_hand(lambda s: s * ALLOWED - 1e10 * (1 - ALLOWED)),
    "masked, then scaled": by_hand(lambda s: s.masked_fill(ALLOWED == 0, -1e9) / 3.0 * 0.5),
    "masked in float64": by_hand(lambda s: s.double().masked_fill(ALLOWED == 0, -1e9).float()),
    "masked by a triangle of a larger mask": by_hand(
        lambda s: s.masked_fill(torch.ones(1, 1, 16, 16).tril()[:, :, :LENGTH, :LENGTH] == 0, MINUS_INF)
    ),
    "window of three": by_hand(lambda s: s.masked_fill((ALLOWED == 0) | (ALLOWED.tril(-3) == 1), -1e10)),
    "masks of batch and position": by_hand(
        lambda s: s + additive(MINUS_INF) + additive(-1e4, torch.ones(BATCH, 1, 1, LENGTH))
    ),
    "rows over a flattened image": by_hand(flattened_image),
    "weights set to zero afterwards": by_hand(lambda s: s.masked_fill(ALLOWED == 0, -1e10)),
    "one head": one_head(lambda q, k, v: torch.softmax(scores_of(q, k) + additive(MINUS_INF), -1) @ v),
    "no batch": lambda x: (
        torch.softmax(scores_of(raw_heads(x)[0][0, 0], raw_heads(x)[1][0, 0]) + additive(-1e9), -1)
        @ raw_heads(x)[2][0, 0]
    ),
    "mask and scores in one call": one_head(
        lambda q, k, v: torch.bmm(torch.softmax(torch.baddbmm(additive(-1e6)[None], q, k.transpose(1, 2)), -1), v)
    ),
    "einsum": one_head(
        lambda q, k, v: torch.einsum(
            "bij,bjd->bid", torch.softmax(torch.einsum("bid,bjd->bij", q, k).masked_fill(ALLOWED == 0, -1e10), -1), v
        )
    ),
    "values first": one_head(
        lambda q, k, v: (
            v.transpose(1, 2) @ torch.softmax(scores_of(q, k).masked_fill(ALLOWED == 0, -1e10), -1).transpose(1, 2)
        ).transpose(1, 2)
    ),
    "linear attention": one_head(lambda q, k, v: (scores_of(q, k) * ALLOWED) @ v),
    "linear attention, lower triangle": one_head(lambda q, k, v: scores_of(q, k).tril() @ v),
    "fused, causal": fused(is_causal=True),
    "fused, boolean mask": fused(attn_mask=ALLOWED.bool()),
    "fused, -inf": fused(attn_mask=additive(MINUS_INF)),
    "fused, -1e10": fused(attn_mask=additive(-1e10)),
    "fused, -1e4": fused(heads, attn_mask=additive(-1e4)),
    "fused, scaled, -inf and distances": fused(attn_mask=additive(MINUS_INF) + ALIBI, scale=0.3),
    "fused, one head, causal": one_head(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "fused, one head, boolean": one_head(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=ALLOWED.bool())
    ),
    "multi-head module": lambda x: with_module(x, weights=False),
    "multi-head module with weights": lambda x: with_module(x, weights=True),
    "mask of ones like the scores": by_hand(lambda s: s.masked_fill(torch.ones_like(s).tril() == 0, MINUS_INF)),
    "mask made by new_full": by_hand(lambda s: s + s.new_full((LENGTH, LENGTH), MINUS_INF).triu(1)),
    "not the mask": by_hand(lambda s: s.masked_fill(~ALLOWED.bool(), MINUS_INF)),
}


@dataclass(frozen=True)
class Analysis:
    graph: Graph
    constants: dict[str, Tensor]
    it: Interpretation

    @property
    def latest(self) -> Tensor:
        out = self.graph.outputs[0]
        return torch.from_numpy(np.broadcast_to(self.it.of(out), self.it.shape(out)).copy())

    def rows(self) -> list[int]:
        """The largest `latest` of each position of the result [batch, length, width]."""
        latest = self.latest if self.latest.dim() == 3 else self.latest[None]
        return latest.amax((0, 2)).tolist()


def analyse(function: Callable[[Tensor], Tensor], x: Tensor) -> Analysis:
    """``function`` interpreted as the shared part of a loop; what does not depend on ``x`` is known."""
    graph, constants = graph_of(function, x)
    carried = {"x"}
    for node in graph.nodes:
        if {ref.name for ref in node.refs()} & carried:
            carried.add(node.name)
    known = [Ref(node.name) for node in graph.nodes if node.name not in carried]
    invariant = dict(
        zip(known, graph_call(graph, x.device, known).values({**constants, "x": x})[-len(known) :], strict=True)
    )
    constants |= {ref.name: value for ref, value in invariant.items()} if known else {}
    it = Interpretation({}, {v.name: v.type for v in graph.inputs}, constants, RULES)
    for value in graph.inputs:
        it.latest[value.name] = np.full((1,) * len(value.type.shape), NEVER, np.int32)
    it.latest["x"] = np.arange(x.shape[1], dtype=np.int32).reshape(1, -1)
    it.run(graph)
    return Analysis(graph, constants, it)


def assert_sound(name: str, a: Analysis, x: Tensor) -> int:
    """Disturb positions from each front on; nothing with `latest` before it may change while the premises hold."""
    names = [*a.it.finite, *a.it.bounded]
    call = graph_call(a.graph, x.device, [Ref(p) for p in names if p != "x"])
    before = call.values({**a.constants, "x": x})
    checked = 0
    for front in range(LENGTH):
        for value in (*DISTURBANCES, None):
            disturbed = x.clone()
            disturbed[:, front:] = value if value is not None else randn(*disturbed[:, front:].shape, seed=9)
            after = call.values({**a.constants, "x": disturbed})
            operands = {p: disturbed if p == "x" else after[call.outputs.index(Ref(p))] for p in names}
            if really_finite(operands.values()) and below(operands, {p: b.bound for p, b in a.it.bounded.items()}):
                early = a.latest < front
                assert same_bits(after[0][early], before[0][early]), f"{name}: position {front} set to {value}"
                checked += 1
    return checked


@pytest.mark.parametrize("name", STYLES)
def test_a_masked_style_of_attention_reads_no_hidden_key(name: str) -> None:
    x = randn(BATCH, LENGTH, seed=5)
    analysis = analyse(STYLES[name], x)
    assert analysis.rows() == CAUSAL
    assert assert_sound(name, analysis, x) >= LENGTH * 3


def masked_later(x: Tensor) -> Tensor:
    """The weights are masked, their sum is not: every key has its share in the normaliser."""
    q, k, v = raw_heads(x)
    return ((torch.softmax(scores_of(q, k), -1) * ALLOWED) @ v).transpose(1, 2).flatten(2)


ALL = [LENGTH - 1] * LENGTH
FIRST_ALL = [LENGTH - 1, *CAUSAL[1:]]  # the first row reads everything

OTHERS: dict[str, tuple[Callable[[Tensor], Tensor], list[int]]] = {
    "a filler that scores could reach": (by_hand(lambda s: s.masked_fill(ALLOWED == 0, -50.0)), ALL),
    "a filler that is too large": (by_hand(lambda s: s.masked_fill(ALLOWED == 0, 1e10)), ALL),
    "a mask that is taken off again": (by_hand(lambda s: s + additive(-1e10) + 1e10 * (1 - ALLOWED)), ALL),
    "scores that may overflow after the mask": (
        by_hand(lambda s: s.masked_fill(ALLOWED == 0, MINUS_INF) + 1e38 * ALLOWED),
        ALL,
    ),
    "a mask of plus infinity": (by_hand(lambda s: s + additive(MINUS_INF) - additive(MINUS_INF)), ALL),
    "a first row of -1e10 throughout": (by_hand(lambda s: s.masked_fill(STRICT == 0, -1e10)), FIRST_ALL),
    "a first row of -1e10 added": (by_hand(lambda s: s + additive(-1e10, STRICT)), FIRST_ALL),
    "a first row of -inf, which gives NaN": (by_hand(lambda s: s.masked_fill(STRICT == 0, MINUS_INF)), FIRST_ALL),
    "fused, a first row of -1e10": (fused(attn_mask=additive(-1e10, STRICT)), FIRST_ALL),
    "fused, a first row of -inf, which gives zeros": (fused(attn_mask=STRICT.bool()), CAUSAL),
    "one head, a first row of -inf, which gives zeros": (
        one_head(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=STRICT.bool())),
        [NEVER, *CAUSAL[1:]],
    ),
    "a first row of -1e10, taken out afterwards": (
        by_hand(lambda s: torch.where(STRICT.sum(-1, keepdim=True) == 0, 0.0, s.masked_fill(STRICT == 0, -1e10))),
        FIRST_ALL,
    ),
    "masked after the softmax": (masked_later, ALL),
    "softmax over the queries": (
        one_head(lambda q, k, v: torch.softmax(scores_of(q, k).masked_fill(ALLOWED == 0, -1e10), -2) @ v),
        ALL,
    ),
    "a mask that the state makes": (
        lambda x: by_hand(lambda s: s.masked_fill(x[:, None, None, :] > 0, MINUS_INF))(x),
        ALL,
    ),
    "no mask": (fused(), ALL),
    "fused, a mask of moderate numbers": (fused(attn_mask=additive(-50.0)), ALL),
    "fused, keys before the window at -1e10": (
        fused(attn_mask=additive(-1e10, ALLOWED.triu(-1))),
        CAUSAL,
    ),
    "logarithm of the softmax": (
        one_head(lambda q, k, v: torch.log_softmax(scores_of(q, k).masked_fill(ALLOWED == 0, -1e10), -1)),
        CAUSAL,
    ),
    "logarithm of the softmax, mask added": (
        one_head(lambda q, k, v: torch.log_softmax(scores_of(q, k) + additive(-1e10), -1)),
        ALL,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_mask_does_not_hide_is_depended_on(name: str) -> None:
    function, rows = OTHERS[name]
    x = randn(BATCH, LENGTH, seed=5)
    analysis = analyse(function, x)
    assert analysis.rows() == rows
    assert assert_sound(name, analysis, x) >= LENGTH * 3


def test_weights_of_a_row_without_keys_may_be_multiplied_away() -> None:
    """The first row attends to all, uniformly; a factor of 0 takes it out again."""

    def attend(x: Tensor) -> Tensor:
        q, k, v = raw_heads(x)
        weights = torch.softmax(scores_of(q, k).masked_fill(STRICT == 0, -1e10), -1)
        return ((weights * (STRICT.sum(-1, keepdim=True) > 0).float()) @ v).transpose(1, 2).flatten(2)

    x = randn(BATCH, LENGTH, seed=5)
    analysis = analyse(attend, x)
    assert analysis.rows() == [NEVER, *CAUSAL[1:]]
    assert assert_sound("taken out", analysis, x) >= LENGTH * 3


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("masked_fill -inf", []),
        ("masked_fill -1e4", [8280.0]),
        ("added -1e4", [4140.0]),
        ("added -inf", []),
        ("where -inf", []),
    ],
)
def test_a_finite_filler_costs_a_bound_of_the_scores(name: str, bounds: list[float]) -> None:
    it = analyse(STYLES[name], randn(BATCH, LENGTH)).it
    assert [premise.bound for premise in it.bounded.values()] == bounds
    assert len(it.finite) == (1 if bounds else 2)  # the values; and the scores, where a bound does not say it


def test_a_rule_that_ignores_the_largest_of_a_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffcompiler.passes.rules.ranges.UNDERFLOW", -1e6)
    monkeypatch.setattr("ffcompiler.passes.rules.ranges.FAR", 1.0)
    x = randn(BATCH, LENGTH, seed=5)
    analysis = analyse(by_hand(lambda s: s.masked_fill(ALLOWED == 0, -3.0)), x)
    with pytest.raises(AssertionError, match=r"broken: position \d set to"):
        assert_sound("broken", analysis, x)
