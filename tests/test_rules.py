"""Every dependence rule, against the operator itself: disturb later elements and nothing earlier may change.

Elements are disturbed with noise, infinities, NaN, 1e30 and -0.0. Where a rule argued that 0 times a finite value is
0, it emitted a premise; disturbances under which a premise fails prove nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from rule_cases import BATCH, POSITIONS, Case, classes, image, seeded
from rule_cases_moves import CASES
from torch import Tensor
from torch.nn import functional as F

from ffcompiler.capture.freeze import Freezer
from ffcompiler.capture.functional import Functional, Tables
from ffcompiler.capture.record import Outside, Recorder, tensor_type
from ffcompiler.graph import Graph, Node, Ref
from ffcompiler.ops import OPS
from ffcompiler.passes.latest import NEVER, Interpretation
from ffcompiler.passes.rules import RULES
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.graphs import graph_call
from ffcompiler.signatures import overload

DISTURBANCES = (0.0, -0.0, 1.7, float("inf"), float("-inf"), float("nan"), 1e30, -1e30)
SCATTERED = torch.randperm(BATCH * POSITIONS, generator=torch.Generator().manual_seed(0)).reshape(BATCH, POSITIONS)
LAYOUTS = {
    "columns": torch.arange(POSITIONS)[None],
    "rows": torch.arange(BATCH)[:, None],
    "scattered": SCATTERED,
}
"""``latest`` of the input."""


def graph_of(function: Case, x: Tensor) -> tuple[Graph, dict[str, Tensor]]:
    """The graph of ``function`` with its argument named ``x``, and the constants it uses by name."""
    recorder = Recorder([x])
    with torch.no_grad(), recorder:
        y = function(x)
    recorder.segment.results = tuple(recorder.token(t) for t in (y if isinstance(y, tuple) else (y,)))
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


def interpret(graph: Graph, constants: Mapping[str, Tensor], latest: Tensor | None = None) -> Interpretation:
    types = {v.name: v.type for v in graph.inputs}
    it = Interpretation({}, types, {**constants, **invariants(graph, constants)}, RULES)
    for value in graph.inputs:
        it.latest[value.name] = np.full((1,) * len(value.type.shape), NEVER, np.int32)
    it.latest["x"] = (LAYOUTS["columns"] if latest is None else latest).numpy().astype(np.int32)
    it.run(graph)
    return it


def invariants(graph: Graph, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values that do not depend on ``x``, as a run has them."""
    env = dict(constants)
    for node in graph.nodes:
        call = graph_call(Graph((), (node,), tuple(refs_to(node))), torch.device("cpu"))
        if set(call.inputs) <= env.keys():
            env = call.extend(env)
    return env


def refs_to(node: Node) -> list[Ref]:
    """All results of a node."""
    return [Ref(node.name)] if len(node.types) == 1 else [Ref(node.name, k) for k in range(len(node.types))]


def disturbances(x: Tensor, latest: Tensor) -> Iterator[tuple[int, Tensor]]:
    """``x`` with all elements from some front on set to something else."""
    count = int(latest.max()) + 1
    for front in sorted({round(k * count / 6) for k in range(4)}):
        for value in DISTURBANCES:
            yield front, torch.where(latest < front, x, torch.tensor(value))


def premises_hold(it: Interpretation, values: Mapping[str, Tensor]) -> bool:
    finite = all(bool(values[p].isfinite().all()) for p in it.finite)
    return finite and all(bool((values[p].abs() < b.bound).all()) for p, b in it.bounded.items())


def check(graph: Graph, constants: Mapping[str, Tensor], x: Tensor, layout: str) -> int:
    """How many disturbances met the premises; fails where an element changed that the rule says does not notice."""
    latest = LAYOUTS[layout]
    it = interpret(graph, constants, latest)
    call = graph_call(graph, x.device, [Ref.of(p) for p in (*it.finite, *it.bounded) if p != "x"])
    keys = [ref.key for ref in call.outputs]
    before = dict(zip(keys, call.values({**constants, "x": x}), strict=True))
    found = {out: torch.from_numpy(np.broadcast_to(it.of(out), before[out.key].shape).copy()) for out in graph.outputs}
    checked = 0
    for front, disturbed in disturbances(x, latest):
        after = dict(zip(keys, call.values({**constants, "x": disturbed}), strict=True))
        if premises_hold(it, {**after, "x": disturbed}):
            checked += 1
            for out, own in found.items():
                early = own < front
                assert same_bits(after[out.key][early], before[out.key][early]), f"{out}, from {front} on"
    return checked


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_nothing_before_a_disturbed_element_changes(name: str, layout: str) -> None:
    x = seeded(BATCH, POSITIONS)
    graph, constants = graph_of(CASES[name], x)
    assert check(graph, constants, x, layout) >= 6


UNRECORDED: dict[str, tuple[Case, tuple[Any, ...]]] = {
    "aten.one_hot.default": (classes, (5,)),
    "aten.unsafe_split.Tensor": (lambda x: x + 1, (5, 1)),
}
"""What capture refuses, but a plan may hold: a function before the operator, and the operator's other arguments."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", UNRECORDED)
def test_nothing_before_a_disturbed_element_changes_in_what_capture_refuses(op: str, layout: str) -> None:
    x = seeded(BATCH, POSITIONS)
    function, args = UNRECORDED[op]
    before, constants = graph_of(function, x)
    results = overload(op)(function(x), *args)
    results = results if isinstance(results, list) else [results]
    node = Node("c0", op, (before.outputs[0], *args), (), tuple(map(tensor_type, results)), "")
    refs = tuple(Ref("c0", k if len(results) > 1 else None) for k in range(len(results)))
    assert check(Graph(before.inputs, (*before.nodes, node), refs), constants, x, layout) >= 6


ELSEWHERE = {"aten.cudnn_batch_norm.default"}  # has no kernel here; the rule is that of the other batch norms
ATTENTION = {name for name in RULES if "attention" in name or name == "aten._safe_softmax.default"}  # test_attention.py


def test_every_operator_that_has_a_rule_is_reached_by_a_case() -> None:
    x = seeded(BATCH, POSITIONS)
    used = {node.op for function in CASES.values() for node in graph_of(function, x)[0].nodes}
    assert sorted(RULES.keys() - used - UNRECORDED.keys() - ATTENTION) == sorted(ELSEWHERE)


def test_every_admitted_operator_has_a_rule() -> None:
    assert sorted(OPS.keys() - RULES.keys()) == []


def test_a_rule_that_forgets_a_dependence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "aten.t.default", RULES["aten.zeros_like.default"])
    with pytest.raises(AssertionError):
        test_nothing_before_a_disturbed_element_changes("transpose", "columns")


def test_channels_that_agree_and_the_batch_cost_nothing() -> None:
    weight = seeded(8, 8, 3, 3)
    weight[:, :, 1, 2:] = weight[:, :, 2] = 0

    def layers(x: Tensor) -> Tensor:
        hidden = F.conv2d(image(x)[:, :1], weight[:, :1], padding=1)
        return F.conv2d(F.relu(hidden), weight, padding=1).flatten(2)

    graph, constants = graph_of(layers, seeded(BATCH, POSITIONS))
    it = interpret(graph, constants)
    assert {it.latest[n.name].shape for n in graph.nodes if n.op == "aten.convolution.default"} == {(1, 1, 2, 3)}
    assert it.of(graph.outputs[0]).tolist() == [[[0, 1, 2, 3, 4, 5]]]


# ------------------------------------------------------------------------------------- tight enough to be of use

LOOSE = {
    "nearest at other ratios",
    "rows of an identity",
    "index by the state",
    "index select",
    "gather",
    "take",
    "index put",
    "scatter",
    "index copy, add, fill",
    "masked scatter",
    "one hot, by comparison",
    "gru cell, weights from the state",
}
"""Cases in which a rule says more than an experiment shows, or, with indices, the experiment shows too little."""


def observed(graph: Graph, constants: Mapping[str, Tensor], x: Tensor, it: Interpretation) -> dict[str, Tensor]:
    """By experiment, the last column that each element notices when it alone is disturbed."""
    call = graph_call(graph, x.device, [Ref.of(p) for p in (*it.finite, *it.bounded) if p != "x"])
    keys = [ref.key for ref in call.outputs]
    before = call.values({**constants, "x": x})
    last = [torch.full(t.shape, -1) for t in before]
    for column in range(POSITIONS):
        for value in (*DISTURBANCES, -0.3, 0.2, 0.9, -7.0):
            disturbed = x.clone()
            disturbed[:, column] = value
            after = call.values({**constants, "x": disturbed})
            if premises_hold(it, {**dict(zip(keys, after, strict=True)), "x": disturbed}):
                for own, a, b in zip(last, after, before, strict=True):
                    own[(a != b) & ~((a != a) & (b != b))] = column
    return dict(zip(keys, last, strict=True))


@pytest.mark.parametrize("name", [name for name in CASES if name not in LOOSE])
def test_a_rule_claims_no_dependence_that_there_is_not(name: str) -> None:
    x = seeded(BATCH, POSITIONS)
    graph, constants = graph_of(CASES[name], x)
    it = interpret(graph, constants)
    seen = observed(graph, constants, x, it)
    types = {node.name: node.types for node in graph.nodes}
    for out in graph.outputs:
        kind = types[out.name][out.output or 0]
        if kind is None or "float" not in kind.dtype:
            continue  # values that change seldom
        claimed = torch.from_numpy(np.broadcast_to(it.of(out), seen[out.key].shape).copy())
        # what one row of the batch does not notice by chance, another does
        same = (torch.atleast_2d(claimed).amax(0) == torch.atleast_2d(seen[out.key]).amax(0)).all()
        assert same, f"{out} = {next(n.op for n in graph.nodes if n.name == out.name)}"
