"""Every dependence rule, against the operator itself: disturb later positions and nothing earlier may change.

Positions are disturbed with noise, infinities, NaN, 1e30 and -0.0. Where a rule argued that 0 times a finite value is
0, it emitted a premise; disturbances under which a premise fails prove nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ffcompiler.capture.freeze import Freezer
from ffcompiler.capture.functional import Functional, Tables
from ffcompiler.capture.record import Outside, Recorder
from ffcompiler.graph import Graph, Ref
from ffcompiler.passes.latest import NEVER, Interpretation
from ffcompiler.passes.rules import RULES
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.graphs import graph_call

BATCH, POSITIONS = 3, 12
DISTURBANCES = (0.0, -0.0, 1.7, float("inf"), float("-inf"), float("nan"), 1e30, -1e30)


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


LOWER = torch.tril(seeded(POSITIONS, POSITIONS))
MASKED_2D = seeded(4, 2, 3, 3)
MASKED_2D[:, :, 1, 2:] = 0
MASKED_2D[:, :, 2:] = 0
PER_CHANNEL = seeded(4, 2, 3, 3) * (seeded(4, 2, 1, 1) > 0)
CAUSAL_1D = seeded(2, 1, 3)
CAUSAL_1D[:, :, 2] = 0


def image(x: Tensor) -> Tensor:
    """[batch, 12] as [batch, 2, 2, 3]: two channels of a 2 x 3 image."""
    return x.reshape(x.shape[0], 2, 2, 3)


def whole_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Under inference mode a linear layer is one operator."""
    with torch.inference_mode():
        return F.linear(x, weight, torch.ones(weight.shape[0]))


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + 1.5 * x,
    "sub and rsub": lambda x: (2 - x) - x,
    "mul by a mask keeps the sign of zero": lambda x: x * (torch.arange(POSITIONS) < 6),
    "div": lambda x: x / (x.abs() + 1),
    "where": lambda x: torch.where(x > 0, x, -x),
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp one side": lambda x: x.clamp(min=0.0).clamp(max=2.0),
    "relu": F.relu,
    "transcendental": lambda x: x.exp() + x.abs().log1p() + x.tanh() + x.sigmoid() + F.softplus(x) + x.erf(),
    "activations": lambda x: F.silu(x) + F.gelu(x) + F.elu(x) + F.leaky_relu(x),
    "power": lambda x: x**2 + x.square() + x.abs().sqrt() + x.abs().rsqrt(),
    "cast": lambda x: x.double().float(),
    "masked fill": lambda x: x.masked_fill(torch.arange(POSITIONS) > 8, 0.5),
    "comparison": lambda x: ((x > 0) & (x < 1)).float(),
    "linear": lambda x: F.linear(x, LOWER),
    "linear with bias": lambda x: F.linear(x, LOWER, torch.ones(POSITIONS)),
    "linear, three axes": lambda x: F.linear(x[:, None], LOWER, torch.ones(POSITIONS)),
    "linear kept whole": lambda x: whole_linear(x, LOWER),
    "mm from the left": lambda x: LOWER @ x.t(),
    "mm of two states": lambda x: x.t() @ x,
    "two layers": lambda x: F.linear(F.relu(F.linear(x, LOWER)), LOWER, torch.zeros(POSITIONS)),
    "scaled addmm": lambda x: torch.addmm(torch.ones(POSITIONS), x, LOWER.t(), beta=2, alpha=0.5),
    "conv1d": lambda x: F.conv1d(x[:, None], CAUSAL_1D, torch.ones(2), padding=1),
    "conv1d, dilated": lambda x: F.conv1d(x[:, None], CAUSAL_1D, padding=2, dilation=2),
    "conv1d, strided": lambda x: F.conv1d(x[:, None], CAUSAL_1D, padding=1, stride=2),
    "conv2d": lambda x: F.conv2d(image(x), MASKED_2D, torch.ones(4), padding=1),
    "conv2d, channels masked": lambda x: F.conv2d(image(x), PER_CHANNEL, padding=1),
    "conv2d, grouped": lambda x: F.conv2d(image(x), MASKED_2D[:, :1], padding=1, groups=2),
    "slice": lambda x: x[:, 2:9:2],
    "select": lambda x: x[:, 5],
    "select from the end": lambda x: x[:, -3],
    "transpose": lambda x: x.t(),
    "permute": lambda x: image(x).permute(0, 3, 1, 2),
    "view": lambda x: x.view(BATCH, 3, 4),
    "view over the batch": lambda x: x.view(-1),
    "unsqueeze and expand": lambda x: x[:, None].expand(BATCH, 4, POSITIONS),
    "squeeze": lambda x: x[:, None].squeeze(1),
    "cat": lambda x: torch.cat([x[:, :4], torch.zeros(BATCH, 2), x[:, 6:]], 1),
    "cat along the batch": lambda x: torch.cat([x, x + 1], 0),
    "pad": lambda x: F.pad(x, (2, 1)),
    "crop": lambda x: F.pad(x, (-2, 3)),
    "pad an image": lambda x: F.pad(image(x), (1, 0, 1, 0)),
    "softmax": lambda x: torch.softmax(image(x), 1),
    "log softmax": lambda x: torch.log_softmax(image(x), -1),
    "sum": lambda x: image(x).sum(1),
    "mean, keepdim": lambda x: image(x).mean((1, 2), keepdim=True),
    "amax": lambda x: image(x).amax(3),
    "argmax": lambda x: image(x).argmax(1),
    "chunk": lambda x: x.chunk(2, 1)[1] * 2,
    "zeros like": lambda x: torch.zeros_like(x) + 3,
    "without a rule: cumsum": lambda x: x.cumsum(1),
    "without a rule: flip": lambda x: x.flip(1),
}


def graph_of(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Graph, dict[str, Tensor]]:
    """The graph of ``function`` with its argument named ``x``, and the constants it uses by name."""
    recorder = Recorder([x])
    with torch.no_grad(), recorder:
        y = function(x)
    recorder.segment.results = (recorder.token(y),)
    columns = [(n,) for n in recorder.segment.numbers]
    functional = Functional(recorder.segment, columns, Tables(), lambda t: tuple(recorder.outside[t.handle].shape))
    names, tensors = {}, {}
    for index, (key, node) in enumerate(functional.inputs.items()):
        is_state = isinstance(key, Outside) and recorder.outside[key.handle] is x
        names[node.name] = "x" if is_state else f"w{index}"
        tensors[node.name] = (
            recorder.outside[key.handle]
            if isinstance(key, Outside)
            else torch.tensor(key.numbers, dtype=key.dtype).reshape(key.shape)  # type: ignore[union-attr]
        )
    graph, _ = Freezer("b", x.device, names, tensors).freeze(functional.graph)
    return graph, {names[n]: t for n, t in tensors.items() if names[n] != "x"}


def interpret(graph: Graph, constants: dict[str, Tensor]) -> Interpretation:
    types = {v.name: v.type for v in graph.inputs}
    it = Interpretation({}, types, constants, RULES)
    for value in graph.inputs:
        it.latest[value.name] = np.full((1,) * len(value.type.shape), NEVER, np.int32)
    it.latest["x"] = np.arange(POSITIONS, dtype=np.int32).reshape(1, -1)
    it.run(graph)
    return it


@pytest.mark.parametrize("name", CASES)
def test_nothing_before_a_disturbed_position_changes(name: str) -> None:
    x = seeded(BATCH, POSITIONS)
    graph, constants = graph_of(CASES[name], x)
    it = interpret(graph, constants)
    out = graph.outputs[0]
    call = graph_call(graph, x.device, [Ref(p) for p in it.finite if p != "x"])
    before = call.values({**constants, "x": x})
    latest = torch.from_numpy(np.broadcast_to(it.of(out), before[0].shape).copy())
    checked = 0
    for front in range(POSITIONS):
        for value in DISTURBANCES:
            disturbed = x.clone()
            disturbed[:, front:] = value
            after = call.values({**constants, "x": disturbed})
            operands = [disturbed if p == "x" else after[call.outputs.index(Ref(p))] for p in it.finite]
            if all(bool(t.isfinite().all()) for t in operands):
                early = latest < front
                assert same_bits(after[0][early], before[0][early]), f"{name}: position {front} set to {value}"
                checked += 1
    assert checked >= POSITIONS * 3


def test_every_rule_is_exercised_by_a_case() -> None:
    x = seeded(BATCH, POSITIONS)
    used = {node.op for function in CASES.values() for node in graph_of(function, x)[0].nodes}
    assert {rule for name, rule in RULES.items() if name in used} == set(RULES.values())


def test_a_rule_that_forgets_a_dependence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "aten.t.default", RULES["aten.zeros_like.default"])
    with pytest.raises(AssertionError):
        test_nothing_before_a_disturbed_position_changes("transpose")
