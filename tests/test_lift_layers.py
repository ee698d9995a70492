"""Layers on many steps at once, each with weights of its own, give what they give one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from systems import randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.capture.facts import tensor_type
from ffcompiler.graph import Graph, Node, Ref, Value
from ffcompiler.runtime.graphs import OVERLOADS
from ffcompiler.runtime.lift.layers import has_batching_rule
from ffcompiler.runtime.lift.lifted import Lifted
from ffcompiler.runtime.lift.window import Window

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """An operator on operands of these shapes; a name stands for an operand, ``shared`` are the same in all steps."""

    op: str
    args: tuple[Any, ...]
    shapes: dict[str, tuple[int, ...]]
    shared: str = ""
    kwargs: tuple[tuple[str, Any], ...] = ()


ROWS = {"x": (3, 4), "w": (4, 6), "b": (6,)}
LINEAR = {"x": (2, 3, 4), "w": (6, 4), "b": (6,)}
NORM = {"x": (2, 3, 4), "w": (4,), "b": (4,)}
CHANNELS = {"x": (2, 3, 5, 4), "w": (3,), "b": (3,), "m": (3,), "v": (3,)}
HEADS = {"q": (2, 3, 5, 8), "k": (2, 3, 7, 8), "v": (2, 3, 7, 8)}
BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"
ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu.default"
CASES = {
    "rows by their matrices": Case("aten.mm.default", ("x", "w"), ROWS),
    "rows by their matrices and biases": Case("aten.addmm.default", ("b", "x", "w"), ROWS),
    "rows by their matrices and one bias": Case("aten.addmm.default", ("b", "x", "w"), ROWS, "b"),
    "rows by their matrices and biases for each row": Case(
        "aten.addmm.default", ("b", "x", "w"), {**ROWS, "b": (3, 6)}
    ),
    "linear layers": Case("aten.linear.default", ("x", "w", "b"), LINEAR),
    "linear layers without biases": Case("aten.linear.default", ("x", "w"), LINEAR),
    "linear layers on vectors": Case("aten.linear.default", ("x", "w", "b"), {**LINEAR, "x": (4,)}),
    "matrices by their vectors": Case("aten.mv.default", ("w", "x"), {"w": (6, 4), "x": (4,)}),
    "batches of products": Case("aten.bmm.default", ("a", "b"), {"a": (3, 2, 4), "b": (3, 4, 5)}),
    "layer norms": Case("aten.native_layer_norm.default", ("x", (4,), "w", "b", 1e-5), NORM),
    "layer norms over two dimensions": Case(
        "aten.native_layer_norm.default", ("x", (3, 4), "w", "b", 1e-5), {**NORM, "w": (3, 4), "b": (3, 4)}
    ),
    "layer norms by shared weights": Case("aten.native_layer_norm.default", ("x", (4,), "w", "b", 1e-5), NORM, "wb"),
    "layer norms by a shared bias": Case("aten.native_layer_norm.default", ("x", (4,), "w", "b", 1e-5), NORM, "b"),
    "layer norms by biases alone": Case("aten.native_layer_norm.default", ("x", (4,), None, "b", 1e-5), NORM),
    "layer norms by weights alone": Case("aten.native_layer_norm.default", ("x", (4,), "w", None, 1e-5), NORM),
    "batch norms": Case(BATCH_NORM, ("x", "w", "b", "m", "v", 0.1, 1e-5), CHANNELS),
    "batch norms by shared statistics": Case(BATCH_NORM, ("x", "w", "b", "m", "v", 0.1, 1e-5), CHANNELS, "mv"),
    "batch norms by shared everything": Case(BATCH_NORM, ("x", "w", "b", "m", "v", 0.1, 1e-5), CHANNELS, "wbmv"),
    "batch norms without weights": Case(BATCH_NORM, ("x", None, None, "m", "v", 0.1, 1e-5), CHANNELS),
    "batch norms of vectors": Case(BATCH_NORM, ("x", "w", "b", "m", "v", 0.1, 1e-5), {**CHANNELS, "x": (4, 3)}),
    "attention": Case(ATTENTION, ("q", "k", "v"), HEADS),
    "attention to what comes before": Case(ATTENTION, ("q", "q", "q", 0.0, True), HEADS),
    "attention to shared keys": Case(ATTENTION, ("q", "k", "v"), HEADS, "kv"),
    "attention by shared queries": Case(ATTENTION, ("q", "k", "v"), HEADS, "q", (("scale", 0.5),)),
    **{
        f"attention by {whose} masks {list(shape)}": Case(
            ATTENTION, ("q", "k", "v"), {**HEADS, "mask": shape}, shared, (("attn_mask", "mask"),)
        )
        for shape in ((5, 7), (1, 1, 5, 7), (2, 1, 5, 7), (2, 3, 5, 7))
        for whose, shared in (("shared", "mask"), ("own", ""))
    },
}


@pytest.mark.parametrize("name", CASES)
def test_layers_of_many_steps_are_one_call_that_gives_what_each_gives(name: str) -> None:
    case = CASES[name]
    apart = case.shared if case.shared in case.shapes else [*case.shared]
    shared = {apart} if isinstance(apart, str) else set(apart)
    read = [a for a in (*case.args, *(v for _, v in case.kwargs)) if isinstance(a, str)]
    values = {
        key: randn(*(() if key in shared else (STEPS,)), *case.shapes[key], seed=k).abs() + 0.1
        for k, key in enumerate(dict.fromkeys(read))
    }

    def alone(k: int) -> Sequence[Tensor]:
        own = {key: t if key in shared else t[k] for key, t in values.items()}
        made = OVERLOADS[case.op](
            *[own.get(a, a) if isinstance(a, str) else list(a) if isinstance(a, tuple) else a for a in case.args],
            **{key: own.get(v, v) for key, v in case.kwargs},
        )
        return [made] if isinstance(made, Tensor) else made

    types = tuple(tensor_type(t) for t in alone(0))
    args, kwargs = _referring(case.args, values), tuple((k, _referring((v,), values)[0]) for k, v in case.kwargs)
    node = Node("n", case.op, args, kwargs, types, "")
    inputs = tuple(Value(key, tensor_type(t if key in shared else t[0])) for key, t in values.items())
    graph = Graph(inputs, (node,), tuple(Ref("n", i if len(types) > 1 else None) for i in range(len(types))))
    given = {value.name: value.type for value in inputs if value.name not in shared}
    lifted = Lifted(graph, (), CPU, STEPS, given)
    assert not lifted.unlifted
    window = Window(1, 4, {k: values[k] for k in shared}, False, {k: values[k][1:4] for k in given})
    with Counted(case.op) as counted:
        made = lifted(window)
    assert counted.calls <= 1  # not one for each step
    for i, got in enumerate(made):
        torch.testing.assert_close(got, torch.stack([alone(k)[i] for k in (1, 2, 3)]), rtol=1e-5, atol=1e-5)


def _referring(args: tuple[Any, ...], values: dict[str, Tensor]) -> tuple[Any, ...]:
    return tuple(Ref(arg) if isinstance(arg, str) and arg in values else arg for arg in args)


class Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """How often an operator is called."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op, self.calls = op, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += str(func) == self.op
        return func(*args, **(kwargs or {}))


def test_what_vmap_would_compute_step_by_step_has_no_batching_rule() -> None:
    assert not has_batching_rule(OVERLOADS[ATTENTION]) and not has_batching_rule(OVERLOADS[BATCH_NORM])
    assert has_batching_rule(OVERLOADS["aten.convolution.default"]) and has_batching_rule(OVERLOADS["aten.mm.default"])


def encoder() -> tuple[Callable[..., Any], Tensor]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    return lambda x: model(x), randn(2, 5, 8)


def test_encoder_layers_are_solved_without_a_word_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    function, x = encoder()
    compiled = ffc.compile(function, (x,), equality=ffc.tolerance(1e-6, 1e-6), schedule="jacobi")
    assert compiled.plan.refusal is None
    assert "performance drop" not in capfd.readouterr().err
    torch.testing.assert_close(compiled(x), function(x), rtol=1e-4, atol=1e-4)


def test_an_operator_that_is_evaluated_for_one_step_at_a_time_is_named() -> None:
    """Dropout inside attention is not compiled; a weight norm has no batching rule, and none here."""
    weights = randn(4, 6, 4), randn(4, 6, 1)

    def run(x: Tensor) -> Tensor:
        def step(i: int, h: Tensor) -> Tensor:
            scaled, _ = torch.ops.aten._weight_norm_interface.default(weights[0][i] * h.mean(), weights[1][i])
            return torch.tanh(h @ scaled.t())[:, :4] + x

        return ffc.fori_loop(0, 4, step, x)  # type: ignore[no-any-return]

    why = ffc.compile(run, (randn(3, 4),), equality=ffc.tolerance()).plan.refusal or ""
    assert "aten._weight_norm_interface.default at " in why and "cannot be evaluated for many steps at once" in why
