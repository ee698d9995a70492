"""Modules, functions and settings as arguments: part of the function, each served by a plan of its own."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import sys
from collections.abc import Callable
from enum import Enum, IntEnum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from systems import randn
from test_catalogue import assert_same
from test_signatures import assert_sweeps, compiled_for, counted, plain, sampled
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.calls import as_stored, key_of
from ffcompiler.cli import main
from ffcompiler.constants import Written, constant_in, key_of_constant, text_of_constant
from ffcompiler.recipe import _device_of
from ffcompiler.runtime.record import Ending

LOWER = torch.ones(6, 6).triu(1)
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"

    def __init__(self, word: str) -> None:
        self.gain = 1.0 if word == "fast" else 0.5


class Level(IntEnum):
    ONE = 1


class Net(nn.Module):
    def __init__(self, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(6, 6, seed=seed))
        self.register_buffer("start", randn(3, 6, seed=seed + 50))
        self.drop = nn.Dropout(0.0)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(x) @ (self.weight * LOWER).to(x.dtype)
        return (h * 0.5 if self.training else torch.tanh(h)) * self.gain

    def half(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self(x) * 0.5


NET = f"{Net.__module__}.Net"


def sample(model: Any, n: int, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """As most people write it."""
    noise = torch.linspace(-1.0, 1.0, n * 6, device=device).to(dtype).reshape(n, 6)
    return sampled(noise, model)


def by_all(parts: Any, u: Tensor) -> Tensor:
    """``parts``: a list of modules."""

    def value(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x

    return sampled(u, value)


def assert_stale(compiled: ffc.Compiled, function: Callable[..., Any], what: str, *args: Any) -> None:
    result, record = compiled.run(*args)
    assert record.ending is Ending.STALE and what in record.detail, (record.ending, record.detail)
    with torch.no_grad():
        assert_same(result, function(*args))


# ---------------------------------------------------------------------------------------------------- constants

CONSTANTS: dict[str, tuple[Any, Any]] = {
    "dtype": (torch.float32, torch.float64),
    "device": (CPU, torch.device("cpu", 0)),
    "layout": (torch.strided, torch.sparse_coo),
    "memory format": (torch.contiguous_format, torch.channels_last),
    "enum": (Mode.FAST, Mode.SLOW),
    "bytes": (b"a", b"b"),
    "scalar of numpy": (np.float32(0.5), np.float32(0.25)),
    "type of a scalar": (np.float64(0.5), 0.5),
    "enum of integers": (Level.ONE, 1),
    "range": (range(6), range(5)),
    "complex": (1j, complex(0.0, -1.0)),
    "ellipsis": (..., None),
}


def using(u: Tensor, setting: Any = None) -> Tensor:
    """Another value of the setting makes another program."""
    return plain(u, scale=float(1 + len(str(setting)) + sum(map(ord, repr(setting)))) / 1000)


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_part_of_the_signature_and_another_value_is_another_one(name: str) -> None:
    one, other = CONSTANTS[name]
    u = randn(3, 6)
    compiled = compiled_for(using, u, one)
    for value in (one, other, one, other):
        assert_sweeps(compiled, using, u, value)
    assert len(compiled.variants) == 2
    first, second = (str(variant.signature) for variant in compiled.variants)
    assert first != second and str(text_of_constant(one)) in first.replace('\\"', '"')


@pytest.mark.parametrize("name", CONSTANTS)
def test_an_artifact_takes_the_constant_it_was_made_with_and_names_another(name: str, tmp_path: Path) -> None:
    one, other = CONSTANTS[name]
    u = randn(3, 6)
    ffc.compile(using, (u, one)).save(tmp_path / "c.ffc")
    loaded = ffc.load(tmp_path / "c.ffc")
    assert_same(loaded(u, one), using(u, one))
    assert_same(loaded(setting=one, u=u), using(u, one))
    with pytest.raises(ffc.SignatureError) as caught:
        loaded(u, other)
    assert f"setting is {text_of_constant(other)}; the plan has {text_of_constant(one)}" in str(caught.value)


@pytest.mark.parametrize("name", [*CONSTANTS, "of the plain ones"])
def test_a_constant_reads_back_from_its_text_or_stands_for_it(name: str) -> None:
    for value in CONSTANTS.get(name, (-0.0, float("inf"), float("nan"), "torch.float32", "it's", None, True, 7)):
        text = text_of_constant(value)
        assert text is not None
        back = constant_in(text)
        assert text_of_constant(back) == text
        if isinstance(value, Enum | range | np.generic | type(...)) or repr(value) == "-1j":
            assert back == Written(text)
        else:
            assert key_of_constant(back) == key_of_constant(value)


@pytest.mark.parametrize("text", ["torch.load", "torch.device('nowhere')", "print(1)", "__import__('os')", "f.<x>"])
def test_a_text_that_is_no_constant_is_evaluated_by_nobody(text: str) -> None:
    assert constant_in(text) == Written(text)


def test_a_default_that_is_a_dtype_may_be_given_or_left_out() -> None:
    model = Net().eval()
    compiled = compiled_for(sample, model, 3)
    for args, kwargs in [
        ((3,), {}),
        ((3, "cpu"), {}),
        ((3, "cpu", torch.float32), {}),
        ((3,), {"dtype": torch.float32}),
    ]:
        assert_sweeps(compiled, sample, model, *args, **kwargs)
    assert len(compiled.variants) == 1
    assert_sweeps(compiled, sample, model, 3, dtype=torch.float64)
    assert len(compiled.variants) == 2


def test_what_a_member_of_an_enum_holds_is_watched() -> None:
    def of(u: Tensor, mode: Mode) -> Tensor:
        return plain(u, scale=mode.gain)

    held = Mode.SLOW

    def closed(u: Tensor) -> Tensor:
        return of(u, held)

    u = randn(3, 6)
    by_argument, by_closure = compiled_for(of, u, Mode.SLOW), compiled_for(closed, u)
    try:
        Mode.SLOW.gain = 0.75
        assert_same(by_argument(u, Mode.SLOW), of(u, Mode.SLOW))
        assert_stale(by_closure, closed, "held.gain has changed", u)
    finally:
        Mode.SLOW.gain = 0.5


# ---------------------------------------------------------------------------------------------------- modules


def test_a_module_as_an_argument_is_compiled_with_its_weights_found_through_it() -> None:
    model = Net().eval()
    compiled = compiled_for(sample, model, 4, CPU)
    assert_sweeps(compiled, sample, model, 4, CPU)
    assert compiled.plan.program is not None
    assert {weight.path for weight in compiled.plan.program.weights} >= {"argument model.weight"}
    assert f"<object {NET}>" in str(compiled.signature)


def test_another_module_is_another_signature_and_never_served_by_the_plan_of_the_first() -> None:
    first, second, third = Net(0).eval(), Net(1).eval(), Net(0, gain=0.5).eval()
    compiled = compiled_for(sample, first, 3)
    for model in (second, first, third, second):
        assert_sweeps(compiled, sample, model, 3)
    assert len(compiled.variants) == 3


def test_two_modules_of_a_class_with_other_settings_are_told_apart_with_the_same_weights() -> None:
    one, two = (nn.Sequential(nn.Flatten(), nn.Softplus(beta)) for beta in (1.0, 4.0))

    def through(model: nn.Module, u: Tensor) -> Tensor:
        return sampled(u, lambda x: model(x @ LOWER))

    compiled = compiled_for(through, one, randn(3, 6))
    for model in (two, one):
        assert_sweeps(compiled, through, model, randn(3, 6, seed=2))


def test_weights_that_change_in_a_module_given_as_an_argument_are_read_anew() -> None:
    model = Net().eval()
    compiled = compiled_for(sample, model, 3)
    with torch.no_grad():
        model.weight.mul_(0.5)
    assert_sweeps(compiled, sample, model, 3)
    model.weight = nn.Parameter(randn(6, 6, seed=9))
    assert_sweeps(compiled, sample, model, 3)
    model.double()
    assert_stale(compiled, sample, "argument model.weight was float32[6, 6] and is float64[6, 6]", model, 3)
    assert len(compiled.variants) == 1


def test_train_and_eval_of_a_module_given_as_an_argument_are_signatures() -> None:
    model, other = Net().eval(), Net(3).eval()
    compiled = compiled_for(sample, model, 3)
    for training in (True, False, True):
        model.train(training)
        assert_sweeps(compiled, sample, model, 3)
        assert_sweeps(compiled, sample, other, 3)
    assert len(compiled.variants) == 3


def test_an_attribute_or_a_hook_that_changes_in_an_argument_makes_its_plan_stale() -> None:
    model, other = Net().eval(), Net(3).eval()
    compiled = compiled_for(sample, model, 3)
    assert_sweeps(compiled, sample, other, 3)
    model.gain = 0.25
    assert_stale(compiled, sample, "argument model.gain has changed", model, 3)
    assert_sweeps(compiled, sample, other, 3)
    model.gain = 1.0
    model.register_forward_hook(lambda module, args, out: out * 2)
    assert_stale(compiled, sample, "argument model.hooks", model, 3)


def test_a_module_in_a_module_that_is_replaced_in_another_mode_is_compiled_then() -> None:
    model = Net().eval()
    compiled = compiled_for(sample, model, 3)
    model.drop = nn.Dropout(0.0).train()
    assert_same(compiled(model, 3), sample(model, 3).detach())
    assert_sweeps(compiled, sample, model, 3)


def test_modules_that_come_and_go_are_not_taken_for_each_other() -> None:
    compiled = ffc.compile(sample, (Net(0).eval(), 3), max_signatures=2)
    for seed in range(1, 8):  # each may stand where the one before it stood
        model = Net(seed).eval()
        assert_same(compiled(model, 3), sample(model, 3).detach())
        del model
        gc.collect()


def test_on_request_another_module_runs_as_it_is() -> None:
    compiled = ffc.compile(sample, (Net(0).eval(), 3), max_signatures=1)
    other = Net(1).eval()
    result, record = compiled.run(other, 3)
    assert record.ending is Ending.UNPLANNED
    assert_same(result, sample(other, 3).detach())


def test_modules_in_lists_and_dicts_count_one_by_one() -> None:
    a, b, c = (Net(seed).eval() for seed in range(3))
    u = randn(3, 6)
    compiled = compiled_for(by_all, [a, b], u)
    for layers in ([a, b], [b, a], [a, c], [a], [a, b]):
        assert_sweeps(compiled, by_all, layers, u)
    assert len(compiled.variants) == 4

    def named(batch: dict[str, Any]) -> Tensor:
        return sampled(batch["u"], batch["net"])

    other = compiled_for(named, {"u": u, "net": a})
    for net in (b, a):
        assert_sweeps(other, named, {"u": u, "net": net})
    assert next(str(v.plan.program.weights[0].path) for v in other.variants if v.plan.program).startswith(
        "argument batch["
    )


def test_a_list_of_layers_that_grows_is_another_signature() -> None:
    layers, u = [Net(0).eval()], randn(3, 6)
    compiled = compiled_for(by_all, layers, u)
    layers.append(Net(1).eval())
    assert_sweeps(compiled, by_all, layers, u)


def test_a_module_by_name_or_as_a_default_is_the_functions_too() -> None:
    a, b = Net(0).eval(), Net(1).eval()

    def drawn(u: Tensor, *, by: nn.Module = a) -> Tensor:
        return sampled(u, by)

    u = randn(3, 6)
    compiled = compiled_for(drawn, u)
    for kwargs in ({}, {"by": b}, {"by": a}, {}):
        assert_sweeps(compiled, drawn, u, **kwargs)
    assert_sweeps(compiled_for(sample, a, 3), sample, n=3, model=a)


def test_a_weight_that_is_given_as_a_tensor_as_well_is_an_argument_of_its_own() -> None:
    def begun(model: Any, start: Tensor) -> Tensor:
        return sampled(start, lambda x: model(x) + model.start * 2)

    model = Net().eval()
    compiled = compiled_for(begun, model, model.start)
    for start in (model.start, randn(3, 6, seed=4)):
        assert_sweeps(compiled, begun, model, start)


def test_the_same_module_given_and_closed_over_is_one() -> None:
    model = Net().eval()

    def both(by: nn.Module, u: Tensor) -> Tensor:
        return sampled(u, lambda x: by(x) + model(x))

    compiled = compiled_for(both, model, randn(3, 6))
    model.weight = nn.Parameter(randn(6, 6, seed=5))
    assert_sweeps(compiled, both, model, randn(3, 6))
    assert_sweeps(compiled, both, Net(7).eval(), randn(3, 6))


def test_a_name_inside_the_function_does_not_hide_the_argument_of_that_name() -> None:
    def outer(model: Any, u: Tensor) -> Tensor:
        return sampled(u, model)

    outer.model = 1.0  # type: ignore[attr-defined]
    model = Net().eval()
    compiled = compiled_for(outer, model, randn(3, 6))
    model.gain = 3.0
    assert_stale(compiled, outer, "argument model.gain", model, randn(3, 6))


# ---------------------------------------------------------------------------------------------------- others


def test_a_bound_method_is_found_again_though_it_is_made_anew_for_each_call() -> None:
    model, other = Net(0).eval(), Net(1).eval()
    compiled = compiled_for(sample, model.half, 3)
    for method in (model.half, other.half, other.forward, model.half):
        assert_sweeps(compiled, sample, method, 3)
    assert len(compiled.variants) == 3


def test_functions_are_told_apart_and_what_they_close_over_is_watched() -> None:
    def scaled(by: float) -> Callable[[Tensor], Tensor]:
        def value(x: Tensor) -> Tensor:
            return torch.tanh(x @ LOWER) * settings.by * by

        return value

    settings = SimpleNamespace(by=1.0)
    one, two = scaled(1.0), scaled(0.5)
    compiled = compiled_for(sample, one, 3)
    for value in (two, one):
        assert_sweeps(compiled, sample, value, 3)
    settings.by = 0.25
    assert_stale(compiled, sample, "settings.by has changed", two, 3)


def test_library_functions_classes_and_partials_may_be_given() -> None:
    def with_activation(u: Tensor, act: Any, kind: type[nn.Module] = nn.Tanh) -> Tensor:
        module = kind()
        return sampled(u, lambda x: module(act(x @ LOWER)))

    u = randn(3, 6)
    compiled = compiled_for(with_activation, u, torch.sigmoid)
    for act in (torch.tanh, nn.functional.silu, partial(torch.clamp, min=0.1), torch.sigmoid, Tensor.neg):
        assert_sweeps(compiled, with_activation, u, act)
    assert_sweeps(compiled, with_activation, u, torch.tanh, nn.Sigmoid)


def test_an_object_of_the_users_holds_weights_and_settings() -> None:
    class Config:
        def __init__(self, scale: float) -> None:
            self.scale, self.by = scale, randn(6, 6, seed=8)

    def configured(config: Config, u: Tensor) -> Tensor:
        return sampled(u, lambda x: torch.tanh(x @ (LOWER * config.by)) * config.scale)

    config, u = Config(1.0), randn(3, 6)
    compiled = compiled_for(configured, config, u)
    config.by = randn(6, 6, seed=9)
    assert_sweeps(compiled, configured, config, u)
    config.scale = 0.5
    assert_stale(compiled, configured, "argument config.scale has changed", config, u)
    assert_sweeps(compiled, configured, Config(0.5), u)


def test_a_function_made_for_each_call_is_not_compiled_without_end() -> None:
    compiled = ffc.compile(sample, (torch.tanh, 3), max_signatures=2)
    made = counted(compiled)
    for k in range(7):
        result, record = compiled.run(lambda x, k=k: torch.tanh(x @ LOWER) * k, 3)
        assert_same(result, sample(lambda x, k=k: torch.tanh(x @ LOWER) * k, 3))
    assert len(made) == 4 and record.ending is Ending.UNPLANNED and "objects the same ones" in record.detail


def test_a_module_that_counts_its_calls_is_left_by_verify_as_one_call_leaves_it() -> None:
    class Counting(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    first, second = Net().eval(), Counting(1).eval()
    compiled = compiled_for(sample, first, 3, on_unsupported="sequential")
    assert compiled.verify(second, 3).equal and second.calls == 6


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "generator": (lambda: torch.Generator(), "generator of its own"),
    "array": (lambda: np.zeros(3), "torch.from_numpy"),
    "iterator": (lambda: iter([1]), "functools.partial"),
    "method of a random generator": (lambda: np.random.default_rng(0).random, "functools.partial"),
    "method of a tensor": (lambda: randn(3).add, "functools.partial"),
    "distribution": (lambda: torch.distributions.Normal(0.0, 1.0), "functools.partial"),
    "set": (lambda: {1, 2}, "functools.partial"),
    "dict with other keys": (lambda: {torch.float32: 1}, "such keys"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_change_unseen_is_refused_by_name_with_advice(name: str) -> None:
    make, advice = REFUSED[name]

    def of(u: Tensor, thing: Any = None) -> Tensor:
        return plain(u)

    with pytest.raises(ffc.CaptureError, match=f"argument thing is a {type(make()).__name__}") as caught:
        ffc.compile(of, (randn(3, 6), make()), on_unsupported="raise")
    assert advice in str(caught.value)
    compiled = ffc.compile(of, (randn(3, 6), make()))
    assert compiled.plan.refusal is not None and advice in compiled.plan.refusal
    result, record = compiled.run(randn(3, 6), make())
    assert record.ending in (Ending.UNPLANNED, Ending.SEQUENTIAL)
    assert_same(result, plain(randn(3, 6)))


# ---------------------------------------------------------------------------------------------------- calls, artifacts


def test_calibration_explain_and_warm_know_the_object() -> None:
    model, other = Net(0).eval(), Net(1).eval()

    def drawn(by: nn.Module, u: Tensor) -> Tensor:
        return sampled(u, by)

    u = randn(3, 6)
    with pytest.raises(ffc.UsageError, match=r"calibration\[0\].*\n.*by is another object than the Net"):
        ffc.compile(drawn, (model, u), calibration=[(other, u)])
    compiled = ffc.compile(drawn, (model, u), schedule="jacobi", calibration=[(model, randn(3, 6, seed=1))])
    assert "is called without" in str(compiled.explain())
    compiled.explain(processors=(1, 2), args=(model, u))
    with pytest.raises(ffc.SignatureError, match="by is another object than the Net"):
        compiled.explain(processors=(1, 2), args=(other, u))
    assert compiled.warm(other, u) is compiled.variants[1]


def test_a_function_without_tensors_computes_where_its_weights_are() -> None:
    there = torch.empty(2, device="meta")
    assert _device_of(((), {}), ({"a": torch.empty(2)}, {"b": there})) == "meta"
    assert _device_of(((torch.device("meta"), 3), {}), ({},)) == "meta"
    assert _device_of(((torch.empty(2), torch.device("meta")), {}), ({"b": there},)) == "cpu"


def test_an_artifact_holds_the_module_and_is_called_without_it(tmp_path: Path) -> None:
    first, second = Net(0).eval(), Net(1).eval()
    compiled = compiled_for(sample, first, 3)
    compiled.save(tmp_path / "first.ffc")
    compiled.warm(second, 3, CPU).save(tmp_path / "second.ffc")
    expected = sample(first, 3).detach(), sample(second, 3).detach()
    for model in (first, second):
        nn.init.zeros_(model.weight)
    loaded = ffc.load(tmp_path / "first.ffc")
    assert_same(loaded(3), expected[0])
    again = ffc.load(tmp_path / "second.ffc")
    assert_same(again(3, CPU), expected[1])
    assert_same(again(device=CPU, n=3), expected[1])
    assert f"it holds model <object {NET}>, and is called without" in str(again.explain())
    with pytest.raises(ffc.SignatureError, match=f"it holds model <object {re.escape(NET)}> and is called without"):
        again(second, 3, CPU)
    with pytest.raises(ffc.SignatureError, match="n is 4; the plan has 3"):
        again(4, CPU)


def test_in_a_dict_the_place_of_a_module_that_an_artifact_holds_is_none(tmp_path: Path) -> None:
    def named(batch: dict[str, Any], *, act: Any) -> Tensor:
        return sampled(batch["u"], lambda x: act(batch["net"](x)))

    net, u = Net().eval(), randn(3, 6)
    ffc.compile(named, ({"u": u, "net": net},), {"act": torch.sigmoid}).save(tmp_path / "n.ffc")
    loaded = ffc.load(tmp_path / "n.ffc")
    assert_same(loaded({"u": u, "net": None}), named({"u": u, "net": net}, act=torch.sigmoid).detach())
    for other in (Net(1).eval(), 3):
        with pytest.raises(ffc.SignatureError, match=r"batch\['net'\] is"):
            loaded({"u": u, "net": other})


def test_what_an_artifact_is_called_with_is_its_arguments_without_the_objects() -> None:
    signature = ffc.compile(by_all, ([Net().eval(), Net(1).eval()], randn(3, 6))).signature
    assert signature is not None
    stored = as_stored(signature)
    assert [leaf.path for leaf in stored.leaves] == ["u"] and stored.tree == '[[0],{"dict":[]}]'
    assert as_stored(stored) == stored


def test_the_text_of_a_string_is_not_that_of_an_object() -> None:
    def of(u: Tensor, word: str) -> Tensor:
        return plain(u, scale=float(len(word)))

    compiled = compiled_for(of, randn(3, 6), f"<object {NET}>")
    assert compiled.signature is not None and as_stored(compiled.signature) == compiled.signature


def test_a_copy_of_a_compiled_function_is_the_same_and_pickling_says_save() -> None:
    model = Net().eval()
    compiled = ffc.compile(sample, (model, 3))
    vars(model)["sampler"] = compiled
    assert copy.copy(compiled) is compiled
    other = copy.deepcopy(model)
    assert vars(other)["sampler"] is compiled and other is not model
    assert_same(compiled(model, 3), sample(model, 3).detach())
    with pytest.raises(ffc.UsageError, match=r"compiled\.save"):
        pickle.dumps(compiled)


class Sampler(Net):
    def sample(self, u: Tensor) -> Tensor:
        return sampled(u, self)

    def louder(self, u: Tensor) -> Tensor:
        return sampled(u, lambda x: self(x) * settings.gain)


class Looking(Sampler):
    def fastest(self, u: Tensor) -> Tensor:
        return self.fast(u) if hasattr(self, "fast") else self.sample(u)


settings = SimpleNamespace(gain=1.5)


@pytest.mark.parametrize("name", ["sample", "louder"])
def test_a_module_may_keep_its_compiled_sampler_in_an_attribute(name: str) -> None:
    model, u = Sampler().eval(), randn(3, 6)
    method = getattr(model, name)
    vars(model)["quick"] = compiled = compiled_for(method, u)
    vars(model)["other"] = compiled_for(model.louder, u)
    assert_sweeps(compiled, method, u)
    assert_sweeps(compiled, method, randn(2, 6))
    model.gain = 0.25
    assert_stale(compiled, method, "gain has changed", u)


def test_a_compiled_function_that_code_can_find_is_seen_when_it_is_new() -> None:
    model, u = Looking().eval(), randn(3, 6)
    compiled = compiled_for(model.fastest, u)
    assert_sweeps(compiled, model.fastest, u)
    vars(model)["fast"] = ffc.compile(model.louder, (u,))
    assert_stale(compiled, model.fastest, "self.fast() is new", u)


def repeated(by: int, u: Tensor) -> Tensor:
    return ffc.fori_loop(0, 4, lambda i, x: torch.tanh(x * by), u)


def test_what_a_compiled_function_reaches_is_in_the_reach_of_a_function_that_calls_it(tmp_path: Path) -> None:
    model, u = Sampler().eval(), randn(3, 6)
    inner = ffc.compile(model.louder, (u,))
    held = [inner]

    def outer(u: Tensor) -> Tensor:
        return sampled(held[0](u), model)

    compiled = compiled_for(outer, u)
    assert_sweeps(compiled, outer, u)
    try:
        settings.gain = 0.5
        assert_stale(compiled, outer, "settings.gain has changed", u)
    finally:
        settings.gain = 1.5
    for by in (2, 3):
        ffc.compile(partial(repeated, by), (u,)).save(tmp_path / f"{by}.ffc")
    held[0] = ffc.load(tmp_path / "2.ffc")
    compiled = compiled_for(outer, u)
    assert_sweeps(compiled, outer, u)
    held[0] = ffc.load(tmp_path / "3.ffc")
    assert_stale(compiled, outer, "held[0].function has changed", u)


def test_a_keyword_that_is_spelt_like_an_argument_by_position_is_watched_by_itself() -> None:
    def both(model: Any, u: Tensor, /, **others: Any) -> Tensor:
        return sampled(u, lambda x: model(x) + others["model"](x))

    one, two = Net(0).eval(), Net(1).eval()
    compiled = compiled_for(both, one, randn(3, 6), example_kwargs={"model": two})
    assert_sweeps(compiled, both, one, randn(3, 6), model=two)
    for model in (one, two):
        model.gain = 0.5
        assert_stale_by_name(compiled, both, one, randn(3, 6), model=two)
        model.gain = 1.0


def assert_stale_by_name(compiled: ffc.Compiled, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    result, record = compiled.run(*args, **kwargs)
    assert record.ending is Ending.STALE
    with torch.no_grad():
        assert_same(result, function(*args, **kwargs))


def test_an_object_is_its_own_key_and_a_number_like_it_another() -> None:
    model = Net()
    assert key_of((model,), {}).key == key_of((model,), {}).key
    assert key_of((model,), {}).key != key_of((copy.deepcopy(model),), {}).key
    assert key_of((Level.ONE,), {}).key != key_of((1,), {}).key


# ---------------------------------------------------------------------------------------------------- the command line

SOURCE = """
import torch
from ffcompiler import fori_loop
from ffcompiler.zoo.made import MADE, logistic_noise, sample

torch.manual_seed(0)

def draw(model, noise, dtype=torch.float32, device="cpu"):
    return sample(model, noise.to(dtype).to(device).float())

draw.example_inputs = lambda: (MADE(16, (24, 24)).eval(), logistic_noise(3, 0, 16), torch.float32, torch.device("cpu"))
"""


def test_the_command_line_takes_examples_with_modules_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "given_to_the_cli.py").write_text(SOURCE)
    try:
        assert main(["compile", "given_to_the_cli:draw", "-o", "d.ffc", "--device", "cpu"]) == 0
        assert main(["verify", "given_to_the_cli:draw"]) == 0
        assert main(["verify", "given_to_the_cli:draw", "--input", "dtype=torch.float64"]) == 0
    finally:
        sys.modules.pop("given_to_the_cli", None)
    np.save("noise.npy", randn(3, 16).numpy())
    capsys.readouterr()
    assert main(["run", "d.ffc", "--input", "noise=@noise.npy", "--output", "x.npy"]) == 0
    assert main(["run", "d.ffc", "--input", "noise=@noise.npy", "--input", "device=torch.device('cpu')"]) == 0
    capsys.readouterr()
    assert main(["run", "d.ffc", "--input", "noise=@noise.npy", "--input", "model=3"]) == 2
    assert "there is no input 'model'" in capsys.readouterr().err
    assert main(["run", "d.ffc", "--input", "noise=@noise.npy", "--input", "device=torch.device('meta')"]) == 1
    assert "device is torch.device('meta')" in capsys.readouterr().err
