"""Window programs bound to a workspace: convolutions as products, memory that is used again, calls with little work.

What windowed sweeps find is certified, so a fault here would cost time and show in no end result.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ffcompiler.capture.facts import tensor_type
from ffcompiler.graph import Ref
from ffcompiler.runtime.direct import DIRECT, guess
from ffcompiler.runtime.graphs import OVERLOADS
from ffcompiler.runtime.windowed import binding
from ffcompiler.runtime.windowed.lowering import CONVOLUTION
from ffcompiler.runtime.windowed.scratch import Lease, Scratch
from ffcompiler.runtime.windowed.workspace import Workspace
from ffcompiler.windows import ALIAS, Box, Buffer, Instruction, Layout, Part, WindowArg, whole

CPU = torch.device("cpu")


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def workspace_of(kept: Mapping[str, Tensor], margins: Sequence[int] = (), channels_last: bool = True) -> Workspace:
    """A workspace that keeps these values, "x" with zeros around it."""
    buffers = [
        Buffer(Ref(name), tensor_type(t), tuple(margins) if name == "x" and margins else (0,) * t.dim())
        for name, t in kept.items()
    ]
    last = frozenset(name for name, t in kept.items() if channels_last and t.dim() > 2)
    return Workspace(Layout(tuple(buffers), (), ()), CPU, [], False, last)


def run(
    workspace: Workspace, program: Sequence[Instruction], kept: Mapping[str, Tensor], env: Mapping[str, Tensor]
) -> None:
    workspace.begin(env, kept)
    workspace.run(workspace.bind(tuple(program), lambda: binding.bind(workspace, tuple(program))), torch.zeros(1))
    workspace.forget()


# ------------------------------------------------------------------------------------------------- convolutions


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution of 2 (or ``batch``) signals or images of 3 channels by 4 kernels of the given size."""

    taps: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0,)
    bias: bool = True
    batch: int = 2
    channels: tuple[int, int] = (3, 4)
    groups: int = 1

    @property
    def rank(self) -> int:
        return len(self.taps)

    def numbers(self, given: tuple[int, ...]) -> tuple[int, ...]:
        return given * self.rank if len(given) == 1 else given


CASES = {
    "one tap": Case((1, 1)),
    "one tap of one image": Case((1, 1), batch=1),
    "padded": Case((3, 3), padding=(1, 1)),
    "rows above only": Case((2, 5), padding=(2, 2), batch=1),
    "strided": Case((3, 2), stride=(2, 3), padding=(2, 1)),
    "strided one tap": Case((1, 1), stride=(2, 2)),
    "dilated": Case((3, 3), dilation=(2, 1), padding=(2, 1)),
    "one number for all": Case((3, 3), stride=(2,), dilation=(2,), padding=(1,)),
    "no bias": Case((3, 3), padding=(1, 1), bias=False),
    "one channel": Case((3, 3), padding=(1, 1), channels=(1, 1)),
    "signals": Case((3,), padding=(2,), dilation=(2,)),
    "one signal": Case((4,), batch=1),
    "volumes": Case((2, 1, 3), padding=(1, 0, 1)),
    "grouped": Case((3, 3), padding=(1, 1), channels=(4, 4), groups=2),
}
ALSO_AS_IT_IS = {"grouped"}


def convolved(
    case: Case, dtype: torch.dtype, part: bool, store: bool, channels_last: bool = True
) -> tuple[Tensor, Tensor]:
    """A window of the convolution as the runtime computes it, and that part of the whole."""
    inner = (7, 6, 5)[: case.rank]
    x = randn(case.batch, case.channels[0], *inner, dtype=dtype)
    w = randn(case.channels[1], case.channels[0] // case.groups, *case.taps, dtype=dtype)
    b = randn(case.channels[1], dtype=dtype) if case.bias else None
    stride, dilation, padding = map(case.numbers, (case.stride, case.dilation, case.padding))
    zeros = (0,) * case.rank
    expected = OVERLOADS[CONVOLUTION](x, w, b, stride, padding, dilation, False, zeros, case.groups)
    box: Box = whole(tuple(expected.shape))
    if part:
        first = (1, box[2][1] - 1) if box[2][1] > 2 else box[2]
        box = (*box[:2], first, *box[3:])
    sides = tuple(
        (lo * s - p, (hi - 1) * s - p + r * (k - 1) + 1)
        for (lo, hi), s, p, r, k in zip(box[2:], stride, padding, dilation, case.taps, strict=True)
    )
    parts: tuple[WindowArg, ...] = (
        Part(Ref("x"), (*whole(tuple(x.shape[:2])), *sides)),
        Part(Ref("w"), whole(tuple(w.shape))),
        None if b is None else Part(Ref("b"), whole(tuple(b.shape))),
    )
    spelled = (case.stride, zeros, case.dilation, False, zeros, case.groups)
    made = Ref("y") if store else Ref("passing")
    program = [Instruction(made, box, (), CONVOLUTION, (*parts, *spelled))]
    if not store:
        program.append(Instruction(Ref("y"), box, (), "aten.neg.default", (Part(made, box),)))
    kept = {"x": x, "y": torch.zeros_like(expected)}
    workspace = workspace_of(kept, (0, 0, *padding), channels_last)
    run(workspace, program, kept, {"w": w} if b is None else {"w": w, "b": b})
    found = workspace.kept["y"] if store else -workspace.kept["y"]
    wanted = torch.zeros_like(expected)
    inside = tuple(slice(lo, hi) for lo, hi in box)
    wanted[inside] = expected[inside]
    return found, wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("part", [False, True], ids=["whole", "some rows"])
@pytest.mark.parametrize("store", [False, True], ids=["passed on", "kept"])
@pytest.mark.parametrize("name", CASES)
def test_a_lowered_convolution_is_the_convolution(name: str, store: bool, part: bool, dtype: torch.dtype) -> None:
    torch.testing.assert_close(*convolved(CASES[name], dtype, part, store))


def _unexpected(*_: object) -> Tensor:
    raise AssertionError("a convolution was called")


@pytest.mark.parametrize("name", CASES)
def test_ungrouped_convolutions_become_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = OVERLOADS[CONVOLUTION]
    case = CASES[name]
    monkeypatch.setattr(binding, "OVERLOADS", {**OVERLOADS, CONVOLUTION: _unexpected})
    if name in ALSO_AS_IT_IS:
        with pytest.raises(AssertionError, match="convolution was called"):
            convolved(case, torch.float32, part=True, store=True)
    else:
        found, wanted = convolved(case, torch.float32, part=True, store=True)
        torch.testing.assert_close(found, wanted)
    assert OVERLOADS[CONVOLUTION] is expected


def test_a_convolution_of_channels_that_lie_apart_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "OVERLOADS", {**OVERLOADS, CONVOLUTION: _unexpected})
    with pytest.raises(AssertionError, match="convolution was called"):
        convolved(CASES["padded"], torch.float32, part=True, store=True, channels_last=False)


def test_a_product_does_not_write_on_the_zeros_around_a_value() -> None:
    x, w = randn(2, 3, 5, 5), randn(3, 3, 1, 1)
    box = whole((2, 3, 5, 5))
    args = (Part(Ref("y"), box), Part(Ref("w"), whole((3, 3, 1, 1))), None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    kept = {"x": x, "y": x}
    workspace = workspace_of(kept, (0, 0, 1, 2))
    run(workspace, [Instruction(Ref("x"), box, (), CONVOLUTION, args)], kept, {"w": w})
    around = workspace.kept_part(Part(Ref("x"), ((0, 2), (0, 3), (-1, 6), (-2, 7)))).clone()
    torch.testing.assert_close(around[:, :, 1:-1, 2:-2], torch.conv2d(x, w))
    around[:, :, 1:-1, 2:-2] = 0
    assert not around.any()


def test_a_run_sees_the_kernel_of_its_own_call() -> None:
    x = randn(1, 3, 4, 4)
    box = whole((1, 3, 4, 4))
    args = (Part(Ref("x"), box), Part(Ref("w"), whole((3, 3, 1, 1))), None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    kept = {"x": x, "y": torch.zeros_like(x)}
    workspace = workspace_of(kept)
    for factor in (1.0, 2.0):
        w = factor * randn(3, 3, 1, 1)
        run(workspace, [Instruction(Ref("y"), box, (), CONVOLUTION, args)], kept, {"w": w})
        torch.testing.assert_close(workspace.kept["y"], torch.conv2d(x, w))


# ------------------------------------------------------------------------------------------------- scratch memory


def test_tensors_taken_and_not_given_back_overlap_no_other() -> None:
    choose = random.Random(0)
    scratch = Scratch(CPU)
    for _ in range(20):
        lease = Lease(scratch)
        live: list[tuple[Tensor, int, float]] = []
        for number in range(30):
            if live and choose.random() < 0.5:
                tensor, place, filled = live.pop(choose.randrange(len(live)))
                assert (tensor == filled).all()
                lease.give_back(place)
            rows, columns = choose.randrange(40), choose.randint(1, 40)
            dtype = choose.choice([torch.float32, torch.float64, torch.bfloat16])
            tensor, place = lease.take((columns, rows), (1, columns), dtype)
            tensor.fill_(number)
            live.append((tensor, place, float(number)))
        assert all((tensor == filled).all() for tensor, _, filled in live)
    assert len(scratch.chunks) <= 31


def elementwise(to: str, op: str, *operands: str) -> Instruction:
    box = whole((3, 5))
    return Instruction(Ref(to), box, (), f"aten.{op}", tuple(Part(Ref(o), box) for o in operands))


@pytest.mark.parametrize("between", ["aten.alias.default", "aten.view.default", "aten.t.default"])
def test_memory_is_not_used_again_while_a_view_of_it_is_read(between: str) -> None:
    box: Box = ((0, 5), (0, 3)) if between == "aten.t.default" else whole((3, 5))
    more: tuple[WindowArg, ...] = ((3, 5),) if between == "aten.view.default" else ()
    program = [
        elementwise("a", "exp.default", "x"),
        Instruction(Ref("b"), box, (), between, (Part(Ref("a"), whole((3, 5))), *more)),
        elementwise("c", "neg.default", "x"),  # the first that could take the memory of "a"
        elementwise("d", "tanh.default", "c"),
        Instruction(Ref("y"), box, (), ALIAS, (Part(Ref("b"), box),)),
    ]
    x = randn(3, 5)
    y = torch.zeros(tuple(hi for _, hi in box))
    workspace = workspace_of({"x": x, "y": y})
    run(workspace, program, {"x": x, "y": y}, {})
    assert torch.equal(workspace.kept["y"], x.exp().T if between == "aten.t.default" else x.exp())


def test_a_chain_of_elementwise_calls_needs_two_places() -> None:
    chain = [elementwise(f"v{k + 1}", "tanh.default", f"v{k}" if k else "x") for k in range(8)]
    x = randn(3, 5)
    workspace = workspace_of({"x": x, "y": x})
    run(workspace, [*chain, elementwise("y", "neg.default", "v8")], {"x": x, "y": x}, {})
    expected = x
    for _ in range(8):
        expected = expected.tanh()
    assert torch.equal(workspace.kept["y"], -expected)
    assert len(workspace.scratch.chunks) == 2


# ------------------------------------------------------------------------------------------------- direct calls

BINARY = frozenset(f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div")) | {
    "aten.maximum.default",
    "aten.minimum.default",
}
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "aten.mul.Scalar": (2.0,),
    "aten.div.Scalar": (2.0,),
    "aten.pow.Tensor_Scalar": (2.0,),
    "aten.clamp.default": (0.2, 0.7),
    "aten.clamp_min.default": (0.5,),
    "aten.clamp_max.default": (0.5,),
}


def arguments_of(op: str) -> tuple[object, ...]:
    x, y = randn(4, 4).abs() + 0.1, randn(4, 4).abs() + 0.3
    if op == "aten.where.self":
        return (x > y, x, y)
    if op == "aten.cat.default":
        return ([x, y], 1)
    if op in ("aten.mm.default", *BINARY):
        return (x, y)
    if op == "aten.addmm.default":
        return (x[0], x, y)
    if op == "aten.bmm.default":
        return (x[None], y[None])
    return (x, *ARGUMENTS.get(op, ()))


@pytest.mark.parametrize("op", sorted(DIRECT))
def test_a_direct_call_is_the_operator_and_writes_into_a_tensor(op: str) -> None:
    args = arguments_of(op)
    expected = OVERLOADS[op](*args)
    assert torch.equal(DIRECT[op](*args), expected)
    out = torch.empty_like(expected)
    assert DIRECT[op](*args, out=out).data_ptr() == out.data_ptr()
    assert torch.equal(out, expected)
    inputs = [a for a in args if isinstance(a, Tensor)]
    assert all(expected.untyped_storage().data_ptr() != a.untyped_storage().data_ptr() for a in inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", ["tanh", "sigmoid", "exp", "gelu"])
def test_a_guess_is_the_operator_but_for_rounding(op: str, dtype: torch.dtype) -> None:
    wide = randn(1000, 40, dtype=dtype) * 5
    wide[0, :4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    x = wide[:, :20]
    name = f"aten.{op}.default"
    function = guess(name, [x])
    assert function is not DIRECT[name]
    torch.testing.assert_close(function(x, out=torch.empty(x.shape, dtype=dtype)), DIRECT[name](x), equal_nan=True)
