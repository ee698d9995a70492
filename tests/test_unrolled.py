"""Stacks of layers of one width: loops that no sweep may solve under bits, and chains of layers that it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.capture import capture
from ffcompiler.program import Chain, Loop, Recurrence
from ffcompiler.runtime.record import Ending
from ffcompiler.unrolled import is_stack

pytestmark = pytest.mark.usefixtures("one_thread")


def layers(count: int = 12, width: int = 8) -> list[nn.Module]:
    return [part for _ in range(count) for part in (nn.Linear(width, width), nn.ReLU())]


def stack() -> tuple[Callable[..., Any], Tensor]:
    model = nn.Sequential(*layers())
    return lambda x: model(x), randn(3, 8)


def two_stacks() -> tuple[Callable[..., Any], Tensor]:
    model = nn.Sequential(*layers(6, 8), nn.Linear(8, 12), *layers(6, 12))
    return lambda x: model(x), randn(3, 8)


def encoders() -> tuple[Callable[..., Any], Tensor]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    return lambda x: model(x), randn(2, 5, 8)


@pytest.fixture
def one_way() -> Iterator[None]:
    """Attention by the same kernels whether it is watched or not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


STACKS = {f.__name__: f for f in (stack, two_stacks, encoders)}


@pytest.mark.usefixtures("one_way")
@pytest.mark.parametrize("schedule", ["jacobi", "sliding(3)", "jacobi-gs(4)", "wavefront"])
@pytest.mark.parametrize("name", STACKS)
def test_layers_of_one_width_are_solved_for_their_bits_as_a_chain(name: str, schedule: str) -> None:
    function, x = STACKS[name]()
    compiled = bold(ffc.compile(function, (x,), schedule=schedule))
    system = compiled.plan.system
    assert isinstance(system, Chain) and compiled.plan.refusal is None and compiled.plan.rest is None
    for inputs in (x, x * 0.3 + 0.1):
        _, record = compiled.run(inputs)
        assert record.ending is Ending.SWEEPS and record.certificate is not None
        assert record.certificate.certified_blocks == system.blocks
        assert compiled.verify(inputs).equal


@pytest.mark.parametrize("name", STACKS)
def test_under_a_tolerance_the_same_layers_are_a_loop(name: str) -> None:
    function, x = STACKS[name]()
    compiled = ffc.compile(function, (x,), equality=ffc.tolerance(1e-6, 1e-6), schedule="jacobi")
    assert all(isinstance(part.system, Recurrence) for part in compiled.plan.parts)


def test_auto_stays_sequential_and_says_what_a_tolerance_would_give() -> None:
    function, x = stack()
    compiled = ffc.compile(function, (x,))
    assert not compiled.plan.schedule.sweeps and compiled.plan.refusal is None
    text = str(compiled.explain())
    assert "12 blocks in 1 family" in text and "one sweep over all blocks takes" in text
    assert "equality=ffc.tolerance(0.0, 0.001): " in text


def test_what_torch_computes_otherwise_where_nothing_watches_is_not_claimed() -> None:
    """The fast path of attention rounds otherwise than the operators that a recorder sees."""
    function, x = encoders()
    with pytest.raises(ffc.CaptureError, match=r"while it is recorded differs .*\n.*set_fastpath_enabled"):
        ffc.compile(function, (x,), schedule="jacobi")
    compiled = ffc.compile(function, (x,))
    assert compiled.plan.program is None and compiled.verify(x).equal


def test_the_fast_path_of_attention_is_a_mode_of_the_call(one_way: None) -> None:
    function, x = encoders()
    compiled = bold(ffc.compile(function, (x,), schedule="jacobi", on_unsupported="sequential"))
    torch.backends.mha.set_fastpath_enabled(True)
    _, record = compiled.run(x)
    assert record.ending is Ending.SEQUENTIAL
    assert compiled.verify(x).equal


def test_sequential_by_name_keeps_the_loop() -> None:
    function, x = stack()
    compiled = ffc.compile(function, (x,), schedule="sequential")
    assert compiled.plan.program is not None and isinstance(compiled.plan.program.loop, Loop)


def test_a_saved_chain_of_layers_gives_the_same_bits(tmp_path: Path) -> None:
    function, x = stack()
    bold(ffc.compile(function, (x,), schedule="jacobi")).save(tmp_path / "a.ffc")
    with torch.no_grad():
        assert torch.equal(bold(ffc.load(tmp_path / "a.ffc"))(x), function(x))


def test_changed_weights_of_layers_are_seen() -> None:
    model = nn.Sequential(*layers())
    x = randn(3, 8)
    compiled = bold(ffc.compile(lambda x: model(x), (x,), schedule="jacobi"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.data.mul_(1.5)
    assert compiled.verify(x).equal


def test_steps_that_share_their_weights_are_no_layers() -> None:
    cell = nn.RNNCell(4, 4)

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(6):
            h = cell(x[t], h)
        return h

    x = randn(6, 2, 4)
    assert not is_stack(capture(run, (x,)).program)
    with pytest.raises(ffc.CausalityError, match="may round otherwise"):
        ffc.compile(run, (x,), schedule="jacobi")


def test_a_table_of_numbers_for_each_step_makes_no_layers() -> None:
    betas, weight = torch.linspace(0.1, 0.9, 6), nn.Linear(4, 4)

    def run(x: Tensor) -> Tensor:
        for t in range(6):
            x = torch.tanh(weight(x)) * betas[t]
        return x

    assert not is_stack(capture(run, (randn(2, 4),)).program)


def test_layers_that_sweeps_may_solve_stay_a_loop() -> None:
    scales = nn.ParameterList([nn.Parameter(randn(4, seed=k)) for k in range(6)])

    def run(x: Tensor) -> Tensor:
        for scale in scales:
            x = x * scale + 1.0
        return x

    compiled = ffc.compile(run, (randn(2, 4),), schedule="jacobi")
    assert isinstance(compiled.plan.system, Recurrence) and compiled.verify(randn(2, 4, seed=9)).equal


def test_a_stack_beside_a_loop_that_can_be_solved_leaves_both_as_they_are() -> None:
    model = nn.Sequential(*layers(6, 4))

    def run(x: Tensor) -> Tensor:
        x = model(x)
        for k in range(12):
            x = x * 0.5 + float(k)
        return x

    compiled = ffc.compile(run, (randn(2, 4),), schedule="jacobi")
    assert [isinstance(part.system, Recurrence) for part in compiled.plan.parts] == [False, True]
    assert compiled.verify(randn(2, 4, seed=9)).equal
