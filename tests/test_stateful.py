"""What a function keeps from call to call in things of all kinds: compiling moves none of it, or says so."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ffcompiler as ffc


class Slotted:
    __slots__ = ("kept", "unset")

    def __init__(self) -> None:
        self.kept: Any = 0


def local() -> threading.local:
    made = threading.local()
    made.kept = 0
    return made


def more(held: Any) -> None:
    held.kept += 1


def next_number(held: Any) -> None:
    held[0] += 1


STATES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "random.Random": (lambda: random.Random(3), lambda v: v.random(), lambda v: v.getstate()),
    "numpy generator": (lambda: np.random.default_rng(3), lambda v: v.random(), lambda v: v.bit_generator.state),
    "numpy's old generator": (lambda: np.random.RandomState(3), lambda v: v.rand(), lambda v: repr(v.get_state())),
    "numpy array": (lambda: np.zeros(2), next_number, lambda v: v.tolist()),
    "array": (lambda: array("l", [0]), next_number, list),
    "thread's own": (local, more, lambda v: v.kept),
    "namespace": (lambda: SimpleNamespace(kept=0), more, lambda v: v.kept),
    "slots": (Slotted, more, lambda v: v.kept),
    "list": (list, lambda v: v.append(1.5), list),
    "set": (set, lambda v: v.add(len(v)), sorted),
    "dict": (dict, lambda v: v.update({len(v): 1}), dict),
}


def stepped(held: Any, use: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        use(held)
        for _ in range(12):
            x = torch.relu(x * 0.5 + 0.1)
        return x

    return run


@pytest.mark.parametrize("kind", STATES)
def test_what_each_call_moves_is_refused_and_not_moved_by_compiling(kind: str) -> None:
    make, use, peek = STATES[kind]
    held, untouched = make(), make()
    run = stepped(held, use)
    with pytest.raises(ffc.CaptureError, match="each call of the function"):
        ffc.compile(run, (torch.ones(3, 6),), schedule="jacobi")
    assert peek(held) == peek(untouched)
    compiled = ffc.compile(run, (torch.ones(3, 6),))
    assert peek(held) == peek(untouched)
    compiled(torch.ones(3, 6))
    use(untouched)
    assert peek(held) == peek(untouched), "a call moves it as the function does"


def test_an_iterator_that_each_call_moves_is_refused() -> None:
    with pytest.raises(ffc.CaptureError, match="each call of the function"):
        ffc.compile(stepped(iter(range(100)), next), (torch.ones(3, 6),), schedule="jacobi")


def test_tensors_that_each_call_adds_are_told_and_none_is_left_by_compiling() -> None:
    held: list[Tensor] = []
    compiled = ffc.compile(stepped(held, lambda v: v.append(torch.ones(1))), (torch.ones(3, 6),), schedule="jacobi")
    assert not held
    assert "held" in str(compiled.explain())


def test_what_the_first_call_loads_and_others_find_stays_loaded() -> None:
    held: dict[str, Tensor] = {}

    def run(x: Tensor) -> Tensor:
        if "table" not in held:
            held["table"] = torch.full((6,), 0.5)
        for _ in range(12):
            x = torch.relu(x * held["table"] + 0.1)
        return x

    compiled = ffc.compile(run, (torch.ones(3, 6),), schedule="jacobi")
    assert "table" in held
    assert torch.equal(compiled(torch.ones(3, 6)), run(torch.ones(3, 6)))
