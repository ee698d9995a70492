"""What a function can reach without being given it: every change that could change its calls is seen."""

from __future__ import annotations

import collections
import contextvars
import datetime
import fractions
import functools
import io
import itertools
import logging
import operator
import os
import sys
import threading
import types
import weakref
from array import array
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
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


class Meta(type):
    gain = 0.5


class OfMeta(metaclass=Meta):
    pass


class Partly:
    def by(self, k: float) -> float:
        return k

    half = functools.partialmethod(by, 0.5)

    @functools.cached_property
    def unused(self) -> float:
        return 0.0


class Held:
    """Holds one thing."""

    def __init__(self, value: Any) -> None:
        self.value = value


OPTIMIZER = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
VARIABLE = contextvars.ContextVar("VARIABLE", default=0.5)
LOCAL = threading.local()
LOCAL.gain = 0.5
EVENT, LOG = threading.Event(), logging.getLogger("test_surroundings")
CHAIN = collections.ChainMap({"s": 0.5})
NUMBERS = array("d", [0.5])
QUEUE = collections.deque([0.5], maxlen=4)
PRIOR = torch.distributions.Normal(torch.zeros(6), torch.full((6,), 0.5))
OBJECTS = np.array([0.5, [0.5]], dtype=object)


def imported(x: Tensor) -> Tensor:
    import a_users_configuration.inner as inner  # type: ignore[import-not-found]  # noqa: PLC0415

    return x * inner.SCALE


def variable(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(globals(), name, value)


REPLACED: dict[str, tuple[Any, Any, Callable[[Any], Any]]] = {
    "duration": (datetime.timedelta(seconds=0.5), datetime.timedelta(seconds=0.9), lambda v: v.total_seconds()),
    "date": (datetime.date(2000, 1, 1), datetime.date(2000, 1, 2), lambda v: v.day * 0.3),
    "path": (Path("0.5"), Path("0.9"), lambda v: float(v.name)),
    "getter": (operator.itemgetter(0), operator.itemgetter(1), lambda v: v((0.5, 0.9))),
    "caller": (operator.methodcaller("count", 1), operator.methodcaller("count", 2), lambda v: 0.3 * v([1, 2, 2])),
    "limits": (torch.finfo(torch.float16), torch.finfo(torch.bfloat16), lambda v: v.eps * 100),
    "buffer": (io.BytesIO(b"0.5"), io.BytesIO(b"0.9"), lambda v: float(v.getvalue())),
    "what is opaque": (itertools.repeat(0.5), itertools.repeat(0.9), next),
    "reference": (weakref.ref(OWN), weakref.ref(OPTIMIZER), lambda v: getattr(v(), "gain", 0.9)),
}
PARTLY = Partly()
HELD = {
    "get": Held(BEHIND.get),
    "default": Held(collections.defaultdict(lambda: 0.5)),
    **{name: Held(was) for name, (was, _, _) in REPLACED.items()},
}


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
    "optimizer's setting": (
        lambda x: x * OPTIMIZER.param_groups[0]["lr"],
        lambda patch: patch.setitem(OPTIMIZER.param_groups[0], "lr", 0.9),
    ),
    "context variable": (lambda x: x * VARIABLE.get(), lambda patch: VARIABLE.set(0.9)),
    "thread's own": (lambda x: x * LOCAL.gain, lambda patch: patch.setattr(LOCAL, "gain", 0.9)),
    "event": (lambda x: x * (0.9 if EVENT.is_set() else 0.5), lambda patch: EVENT.set()),
    "log level": (
        lambda x: x * (0.9 if LOG.isEnabledFor(logging.DEBUG) else 0.5),
        lambda patch: LOG.setLevel(logging.DEBUG),
    ),
    "chain of maps": (lambda x: x * CHAIN["s"], lambda patch: patch.setitem(CHAIN.maps[0], "s", 0.9)),
    "array": (lambda x: x * NUMBERS[0], lambda patch: operator.setitem(NUMBERS, 0, 0.9)),
    "deque": (lambda x: x * QUEUE[0], lambda patch: operator.setitem(QUEUE, 0, 0.9)),
    "prior": (
        lambda x: x * PRIOR.scale,
        lambda patch: patch.setattr(PRIOR, "scale", torch.full((6,), 0.9)),
    ),
    "prior replaced": (
        lambda x: x * PRIOR.scale,
        variable("PRIOR", torch.distributions.Normal(torch.zeros(6), torch.full((6,), 0.9))),
    ),
    "objects in an array": (lambda x: x * OBJECTS[1][0], lambda patch: operator.setitem(OBJECTS[1], 0, 0.9)),
    "metaclass": (lambda x: x * OfMeta.gain, lambda patch: patch.setattr(Meta, "gain", 0.9)),
    "part of a method": (
        lambda x: x * PARTLY.half(),
        lambda patch: patch.setattr(Partly, "half", functools.partialmethod(Partly.by, 0.9)),
    ),
    "bound method of a dict": (lambda x: x * HELD["get"].value("s"), lambda patch: patch.setitem(BEHIND, "s", 0.9)),
    "default of a dict": (
        lambda x: x * HELD["default"].value.copy()["s"],
        lambda patch: patch.setattr(HELD["default"].value, "default_factory", lambda: 0.9),
    ),
}


def replaced(name: str) -> tuple[Callable[[Tensor], Tensor], Callable[[pytest.MonkeyPatch], Any]]:
    _, new, number = REPLACED[name]
    return lambda x: x * number(HELD[name].value), lambda patch: patch.setattr(HELD[name], "value", new)


CHANGES |= {f"{name} replaced": replaced(name) for name in REPLACED}


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


class Trainer:
    """What a training script keeps beside its model: none of it makes a compiled function stale by itself."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(6, 6)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.prior = torch.distributions.Categorical(logits=torch.zeros(6))
        self.log, self.lock, self.numbers = LOG, threading.Lock(), itertools.count()
        self.averages = weakref.WeakKeyDictionary[torch.nn.Module, float]()
        self.cast = torch.autocast("cpu", enabled=False)
        self.sums = dict.fromkeys(self.model.parameters(), 0.0)

    def sample(self, x: Tensor) -> Tensor:
        for _ in range(12):
            x = torch.relu(self.model(x) * 0.25 + 0.1)
        return x

    def train(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        self.sample(x).square().mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with self.lock, self.cast:
            self.log.info("step %d: %s", next(self.numbers), self.prior.probs.sum())


def test_a_training_step_leaves_a_function_compiled() -> None:
    trainer = Trainer()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    compiled = ffc.compile(trainer.sample, (x,), schedule="jacobi")
    for _ in range(3):
        trainer.train(x)
        result, record = compiled.run(x)
        assert record.ending is not Ending.STALE, record.detail
        with torch.no_grad():
            assert torch.equal(result, trainer.sample(x))
    trainer.optimizer.param_groups[0]["lr"] = 1e-4  # that is a number which the function can reach
    result, record = compiled.run(x)
    assert record.ending is Ending.STALE and "param_groups" in record.detail


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


class Ring(torch.nn.Module):
    """Sets an attribute anew in each call; with gradients it then holds what requires them."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Tensor] = []
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.held = [x, x]
        for _ in range(12):
            self.held = [self.held[1], torch.tanh(self.layer(self.held[0]) * 0.5)]
        return self.held[1]


class Normed(torch.nn.Module):
    """Its weight is an attribute that a hook sets anew before each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.utils.spectral_norm(torch.nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(12):
            x = torch.tanh(self.layer(x) * 0.5)
        return x


@pytest.mark.parametrize("kind", [Ring, Normed])
def test_calls_with_gradients_do_not_make_what_each_call_sets_anew_stale(kind: type[torch.nn.Module]) -> None:
    module = kind().eval()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    compiled = ffc.compile(module, (x,), schedule="jacobi", equality=ffc.tolerance())
    for _ in range(2):
        want = module(x)
        assert want.requires_grad
        result, record = compiled.run(x)
        assert record.ending is not Ending.STALE, record.detail
        torch.testing.assert_close(result, want)
