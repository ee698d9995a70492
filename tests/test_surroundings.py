"""What a function can reach without being given it: every change that could change its calls is seen."""

from __future__ import annotations

import collections
import fractions
import os
import sys
import types
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.capture import look
from ffcompiler.runtime.record import Ending

CONFIG = types.ModuleType("a_users_configuration")
CONFIG.inner = types.ModuleType("a_users_configuration.inner")  # type: ignore[attr-defined]
CONFIG.inner.SCALE = 0.5  # type: ignore[attr-defined]
NUMPY, WHOLE, STEPS, PART = np.float32(0.5), np.int64(3), range(6), slice(0, 3)
HALF, TENTH, BYTES = fractions.Fraction(1, 2), Decimal("0.1"), bytearray(b"\x03")
USERS, BEHIND = collections.UserDict(s=0.5), {"s": 0.5}
SEEN_THROUGH = types.MappingProxyType(BEHIND)


class Settings(dict[str, float]):
    """A dict with attributes of its own."""

    scale: float


SETTINGS = Settings()
SETTINGS.scale = 0.5


def helper(x: Tensor) -> Tensor:
    scale: float = helper.scale  # type: ignore[attr-defined]
    return x * scale


helper.scale = 0.5  # type: ignore[attr-defined]


class Base:
    gain = 0.3

    def scaled(self, x: Tensor) -> Tensor:
        return x * 0.1


class Own(Base):
    gain = 0.5

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.gain


OWN = Own()


def imported(x: Tensor) -> Tensor:
    import a_users_configuration.inner as inner  # type: ignore[import-not-found]  # noqa: PLC0415

    return x * inner.SCALE


def variable(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(globals(), name, value)


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[pytest.MonkeyPatch], Any]]] = {
    "numpy.float32": (lambda x: x * float(NUMPY), variable("NUMPY", np.float32(2.0))),
    "numpy.int64": (lambda x: x * int(WHOLE), variable("WHOLE", np.int64(5))),
    "range": (lambda x: x * len(STEPS), variable("STEPS", range(3))),
    "slice": (lambda x: x * x[:, PART].sum(), variable("PART", slice(0, 2))),
    "fraction": (lambda x: x * float(HALF), variable("HALF", fractions.Fraction(3, 2))),
    "decimal": (lambda x: x * float(TENTH), variable("TENTH", Decimal("0.3"))),
    "bytearray": (lambda x: x * BYTES[0], variable("BYTES", bytearray(b"\x07"))),
    "user dict": (lambda x: x * USERS["s"], lambda patch: patch.setitem(USERS, "s", 2.0)),
    "mapping proxy": (lambda x: x * SEEN_THROUGH["s"], lambda patch: patch.setitem(BEHIND, "s", 2.0)),
    "dict attribute": (lambda x: x * SETTINGS.scale, lambda patch: patch.setattr(SETTINGS, "scale", 2.0)),
    "function attribute": (lambda x: helper(x), lambda patch: patch.setattr(helper, "scale", 2.0)),
    "module in a module": (
        lambda x: x * CONFIG.inner.SCALE,
        lambda patch: patch.setattr(CONFIG.inner, "SCALE", 2.0),
    ),
    "import inside": (imported, lambda patch: patch.setattr(CONFIG.inner, "SCALE", 2.0)),
    "environment": (lambda x: x * float(os.environ["FF_SCALE"]), lambda patch: patch.setenv("FF_SCALE", "2")),
    "globals()": (lambda x: x * float(globals()["NUMPY"]), variable("NUMPY", np.float32(3.0))),
    "overriding attribute": (lambda x: OWN.scaled(x), lambda patch: patch.setattr(Own, "gain", 2.0)),
    "overriding method": (
        lambda x: OWN.scaled(x),
        lambda patch: patch.setattr(Own, "scaled", lambda self, x: x * 0.9),
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_what_is_in_reach_is_seen_by_the_next_call(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled, change = CHANGES[kind]
    monkeypatch.setitem(sys.modules, "a_users_configuration", CONFIG)
    monkeypatch.setitem(sys.modules, "a_users_configuration.inner", CONFIG.inner)
    monkeypatch.setenv("FF_SCALE", ".5")

    def run(x: Tensor) -> Tensor:
        for _ in range(8):
            x = torch.relu(scaled(x) * 0.25 + 0.1)
        return x

    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    compiled = ffc.compile(run, (x,), schedule="jacobi")
    before = run(x)
    assert torch.equal(compiled(x), before)
    change(monkeypatch)
    assert not torch.equal(run(x), before), "the change changes nothing"
    assert torch.equal(compiled(x), run(x))


def test_a_variable_that_is_named_like_an_attribute_is_none_of_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(x: Tensor) -> Tensor:
        x = x - x.mean()
        for _ in range(50):
            x = torch.relu(x * 0.5 - 0.1)
        return x

    x = torch.randn(64, 600, generator=torch.Generator().manual_seed(0))
    compiled = ffc.compile(run, (x,), schedule="jacobi")
    assert compiled.run(x)[1].ending is not Ending.STALE
    monkeypatch.setitem(globals(), "mean", 0.3)
    assert compiled.run(x)[1].ending is not Ending.STALE


def test_what_does_not_change_looks_the_same() -> None:
    for scaled, _ in CHANGES.values():
        os.environ.setdefault("FF_SCALE", ".5")
        first = look(scaled)
        assert look(scaled).changes(first.others) is None


def test_kernels_that_are_chosen_by_what_requires_gradients_are_not_taken_for_each_other() -> None:
    weight = torch.nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).triu(1) * 0.4)

    def run(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)
        for i in range(16):
            x[:, i] = (torch.tanh((x.transpose(1, 2) @ weight).transpose(1, 2)) + noise)[:, i]
        return x

    with torch.no_grad():
        noise = torch.randn(8, 16, 3, generator=torch.Generator().manual_seed(1))
        compiled = ffc.compile(run, (noise,), schedule="jacobi")
        weight.requires_grad_(False)
        result, record = compiled.run(noise)
        assert record.ending is Ending.STALE and torch.equal(result, run(noise))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            assert compiled.run(noise)[1].ending is not Ending.SWEEPS
