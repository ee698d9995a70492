"""Another signature compiles on first use and is kept; whatever happens, the answer is the function's own."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from systems import bold, randn
from test_catalogue import assert_same
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import ffcompiler as ffc
from ffcompiler import trees
from ffcompiler.calls import key_of, parameters_of
from ffcompiler.runtime.record import Ending
from ffcompiler.trees import flatten, unflatten

LOWER = torch.ones(6, 6).triu(1)

pytestmark = pytest.mark.usefixtures("one_thread")


def sampled(u: Tensor, value: Callable[[Tensor], Tensor], n: int = 6) -> Tensor:
    def step(i: int, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, i] = (value(x) + u)[:, i]
        return x

    return ffc.fori_loop(0, n, step, torch.zeros_like(u))


def plain(u: Tensor, n: int = 6, *, scale: float = 1.0) -> Tensor:
    return sampled(u, lambda x: torch.tanh(x @ LOWER.to(x.dtype)) * scale, n)


def compiled_for(function: Callable[..., Any], *args: Any, **options: Any) -> ffc.Compiled:
    """With its guard off, for the variants that come too, so that sweeps run on arrays this small."""
    options = {"schedule": "jacobi", **options}
    compiled = bold(ffc.compile(function, args, **options))
    variants = compiled._variants
    assert variants is not None
    make = variants.make
    variants.make = lambda a, k: bold(make(a, k))
    return compiled


def assert_sweeps(compiled: ffc.Compiled, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    result, record = compiled.run(*args, **kwargs)
    assert record.ending is Ending.SWEEPS, (record.ending, record.detail)
    with torch.no_grad():
        assert_same(result, function(*args, **kwargs))


# ---------------------------------------------------------------------------------------------------- first use


OTHERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "batch": ((randn(5, 6),), {}),
    "dtype": ((randn(3, 6).double(),), {}),
    "strides": ((randn(6, 3).t(),), {}),
    "length": ((randn(3, 6), 4), {}),
    "keyword": ((randn(3, 6),), {"scale": 0.5}),
    "integer in place of a float": ((randn(3, 6),), {"scale": 2}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_signature_is_compiled_on_first_use_and_found_again(name: str) -> None:
    args, kwargs = OTHERS[name]
    compiled = compiled_for(plain, randn(3, 6))
    for _ in range(2):
        assert_sweeps(compiled, plain, *args, **kwargs)
        assert_sweeps(compiled, plain, randn(3, 6, seed=1))
    assert len(compiled.variants) == 2
    assert compiled.variants[0] is compiled
    assert str(compiled.variants[1].signature) != str(compiled.signature)


def test_a_longer_sequence_is_a_signature_of_its_own() -> None:
    def sample(u: Tensor) -> Tensor:
        n = u.shape[1]
        return sampled(u, lambda x: torch.tanh(x @ torch.ones(n, n).triu(1)), n)

    compiled = compiled_for(sample, randn(3, 6))
    for n in (9, 4, 6, 9):
        assert_sweeps(compiled, sample, randn(3, n, seed=n))
    assert [v.plan.array.blocks for v in compiled.variants if v.plan.array] == [6, 4, 9]


def test_a_float_is_told_from_its_negative_zero_and_a_bool_from_its_integer() -> None:
    keys = [key_of((value,), {}).key for value in (0.0, -0.0, 0, False, "0", None, float("nan"))]
    assert len(set(keys)) == len(keys)
    assert key_of((float("nan"),), {}).key == key_of((float("nan"),), {}).key


def test_verify_and_reference_take_every_signature() -> None:
    compiled = compiled_for(plain, randn(3, 6))
    verification = compiled.verify(randn(5, 6), scale=0.25)
    assert verification.equal and verification.record.ending is Ending.SWEEPS
    assert_same(compiled.reference(randn(2, 6)), plain(randn(2, 6)))


def test_warm_compiles_without_a_call_and_the_call_then_finds_it() -> None:
    compiled = compiled_for(plain, randn(3, 6))
    variant = compiled.warm(randn(5, 6))
    assert compiled.variants == (compiled, variant) and variant.plan.system is not None
    assert_sweeps(compiled, plain, randn(5, 6, seed=2))
    assert len(compiled.variants) == 2 and compiled.warm(randn(3, 6)) is compiled


def test_a_variant_is_explained_and_saved_by_itself(tmp_path: Path) -> None:
    compiled = compiled_for(plain, randn(3, 6))
    compiled.warm(randn(5, 6)).save(tmp_path / "five.ffc")
    compiled.save(tmp_path / "three.ffc")
    for name, batch in (("five", 5), ("three", 3)):
        assert_same(ffc.load(tmp_path / f"{name}.ffc")(randn(batch, 6)), plain(randn(batch, 6)))
    assert "jacobi" in str(compiled.variants[1].explain())


def test_an_artifact_has_one_signature_and_lists_every_mismatch(tmp_path: Path) -> None:
    compiled = ffc.compile(lambda a, b, k: plain(a + b * k), (randn(3, 6), randn(3, 6), 2))
    compiled.save(tmp_path / "p.ffc")
    loaded = ffc.load(tmp_path / "p.ffc")
    with pytest.raises(ffc.SignatureError) as caught:
        loaded(randn(4, 6), randn(3, 6).double(), 3)
    for words in ("a is float32[4, 6]", "b is float64[3, 6]", "k is 3"):
        assert words in str(caught.value)
    assert loaded.variants == (loaded,) and loaded.warm(randn(3, 6), randn(3, 6), 2) is loaded
    assert_same(loaded(randn(3, 6), k=2, b=randn(3, 6)), compiled(randn(3, 6), randn(3, 6), 2))


# ---------------------------------------------------------------------------------------------------- spelling


SPELLINGS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((6,), {}),
    ((), {"n": 6}),
    ((), {"scale": 1.0}),
    ((6,), {"scale": 1.0}),
    ((), {"n": 6, "scale": 1.0}),
]


def test_a_default_that_is_given_and_one_that_is_left_out_are_the_same_signature() -> None:
    u = randn(3, 6)
    compiled = compiled_for(plain, u)
    for args, kwargs in SPELLINGS:
        assert_sweeps(compiled, plain, u, *args, **kwargs)
    assert_sweeps(compiled, plain, n=6, u=u)
    assert len(compiled.variants) == 1


def test_a_default_of_another_type_is_another_signature() -> None:
    compiled = compiled_for(plain, randn(3, 6))
    assert_sweeps(compiled, plain, randn(3, 6), scale=1)
    assert len(compiled.variants) == 2


def test_an_argument_after_a_default_may_come_by_position_or_by_name() -> None:
    def f(x: Any, n: int = 3, m: int = 4, *, k: str = "a") -> None: ...

    canonical = parameters_of(f).canonical
    assert canonical((1, 3, 5), {}) == canonical((1,), {"m": 5}) == ((1,), {"m": 5})
    assert canonical((1, 5, 4), {"k": "a"}) == canonical((), {"n": 5, "x": 1}) == ((1, 5), {})
    assert canonical((1, 2, 3, 4), {}) == ((1, 2, 3, 4), {}), "too many: for the function to refuse"
    assert canonical((1,), {"x": 2}) == ((1,), {"x": 2}), "twice: for the function to refuse"
    assert canonical((1,), {"z": 2}) == ((1,), {"z": 2}), "unknown: for the function to refuse"


def test_a_default_that_was_replaced_after_compilation_is_not_taken_for_the_old_one() -> None:
    def sample(u: Tensor, scale: float = 1.0) -> Tensor:
        return plain(u, scale=scale)

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    sample.__defaults__ = (0.5,)
    for args in ((u,), (u, 1.0), (u, 0.5)):
        assert_same(compiled(*args), sample(*args))


def test_a_tensor_as_a_default_may_be_given_or_left_out() -> None:
    def sample(u: Tensor, by: Tensor = LOWER) -> Tensor:
        return sampled(u, lambda x: torch.tanh(x @ by))

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    assert_sweeps(compiled, sample, u)
    assert_sweeps(compiled, sample, u, LOWER * 0.5)
    assert len(compiled.variants) == 2


def test_the_same_tensor_given_twice_is_captured_and_told_from_two_tensors() -> None:
    def sample(a: Tensor, b: Tensor) -> Tensor:
        return sampled(a, lambda x: torch.tanh(x @ LOWER) * b)

    a, b = randn(3, 6), randn(3, 6, seed=1)
    compiled = compiled_for(sample, a, a)
    assert_sweeps(compiled, sample, b, b)
    assert_sweeps(compiled, sample, a, b)
    assert_sweeps(compiled, sample, b, b)


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def test_a_call_that_the_function_refuses_raises_what_the_function_raises() -> None:
    compiled = compiled_for(plain, randn(3, 6), on_unsupported="sequential")
    for args, kwargs in (((), {}), ((randn(3, 6),), {"scal": 2.0}), ((randn(3, 5),), {})):
        with pytest.raises((TypeError, RuntimeError)) as expected:
            call(plain, args, kwargs)
        with pytest.raises(type(expected.value)):
            call(compiled, args, kwargs)
    assert_sweeps(compiled, plain, randn(3, 6))


# ---------------------------------------------------------------------------------------------------- modes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(6, 6, seed=3))
        self.norm = nn.BatchNorm1d(6)
        self.gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = x @ (self.weight * LOWER)
        return (h * 0.5 if self.training else torch.tanh(h)) * self.gain


def net_sampler() -> tuple[Net, Callable[[Tensor], Tensor]]:
    model = Net().eval()
    return model, lambda u: sampled(u, model)


def test_train_compiles_a_second_variant_and_eval_finds_the_first_again() -> None:
    model, sample = net_sampler()
    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    for training in (False, True, False, True):
        model.train(training)
        assert_sweeps(compiled, sample, u)
    first, second = compiled.variants
    assert first.signature is not None and ("training", "no module") in first.signature.modes
    assert second.signature is not None and ("training", "every module") in second.signature.modes


def test_what_is_refused_in_training_is_parallel_in_eval() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6, affine=False)).train()

    def sample(u: Tensor) -> Tensor:
        return sampled(u, lambda x: model(x @ LOWER))

    u = randn(3, 6)
    compiled = compiled_for(sample, u, schedule="auto")
    assert "model.eval()" in str(compiled.explain())
    model.eval()
    assert compiled.warm(u).plan.system is not None
    assert_same(compiled(u), sample(u))


def test_a_replaced_module_in_another_mode_runs_as_it_is_once_and_is_compiled_then() -> None:
    holder = [net_sampler()[0]]

    def sample(u: Tensor) -> Tensor:
        return sampled(u, holder[0])

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    holder[0] = Net().train()
    result, record = compiled.run(u)
    assert record.ending is Ending.STALE
    assert_same(result, sample(u).detach())
    assert_sweeps(compiled, sample, u)


def test_another_attribute_that_is_baked_in_runs_as_it_is() -> None:
    model, sample = net_sampler()
    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    model.gain = 2.0
    result, record = compiled.run(u)
    assert record.ending is Ending.STALE and "gain has changed" in record.detail
    assert_same(result, sample(u).detach())
    assert len(compiled.variants) == 1


def test_autocast_is_part_of_the_signature_and_its_dtype_too() -> None:
    _, sample = net_sampler()
    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            assert_sweeps(compiled, sample, u)
        assert_sweeps(compiled, sample, u)
    assert len(compiled.variants) == 3


def test_autocast_around_the_loop_inside_the_function_is_captured() -> None:
    model = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        model.weight.mul_(LOWER.t())

    def sample(u: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sampled(u, lambda x: torch.tanh(model(x)).float())

    u = randn(3, 6)
    assert_sweeps(compiled_for(sample, u), sample, u)


def test_the_default_dtype_is_part_of_the_signature() -> None:
    def sample(u: Tensor) -> Tensor:
        return sampled(u, lambda x: torch.tanh(x @ torch.ones(6, 6).triu(1).float()) + torch.zeros(6).sum().to(x))

    u = randn(3, 6)
    compiled = compiled_for(sample, u)
    torch.set_default_dtype(torch.float64)
    try:
        assert_sweeps(compiled, sample, u)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_sweeps(compiled, sample, u)
    assert len(compiled.variants) == 2


def test_a_new_signature_in_inference_mode_is_compiled_too() -> None:
    compiled = compiled_for(plain, randn(3, 6))
    with torch.inference_mode():
        u = randn(5, 6)
        assert_sweeps(compiled, plain, u)
    assert_sweeps(compiled, plain, randn(5, 6, seed=1))
    assert len(compiled.variants) == 2


def test_arguments_that_require_gradients_are_refused_before_anything_is_compiled() -> None:
    compiled = compiled_for(plain, randn(3, 6))
    with pytest.raises(ffc.SignatureError, match="u requires gradients"):
        compiled(randn(5, 6).requires_grad_())
    assert len(compiled.variants) == 1
    with torch.no_grad():
        assert_same(compiled(randn(5, 6).requires_grad_()), plain(randn(5, 6)))


# ---------------------------------------------------------------------------------------------------- limits, failures


def counted(compiled: ffc.Compiled) -> list[Any]:
    """The signatures that are compiled from now on."""
    assert compiled._variants is not None
    make, made = compiled._variants.make, list[Any]()

    def counting(args: Any, kwargs: Any) -> ffc.Compiled:
        made.append((args, kwargs))
        return make(args, kwargs)

    compiled._variants.make = counting
    return made


def batch_of(variant: ffc.Compiled) -> int:
    assert variant.signature is not None and variant.signature.leaves[0].type is not None
    return variant.signature.leaves[0].type.shape[0]


def test_the_least_recently_used_is_dropped_and_the_example_never() -> None:
    compiled = ffc.compile(plain, (randn(3, 6),), max_signatures=3)
    made = counted(compiled)
    for batch in (4, 5, 4, 6):  # 5 is dropped
        compiled(randn(batch, 6))
    shapes = [
        v.signature.leaves[0].type.shape[0] for v in compiled.variants if v.signature and v.signature.leaves[0].type
    ]
    assert shapes == [3, 4, 6] and len(made) == 3
    compiled(randn(4, 6))
    assert len(made) == 3
    compiled(randn(5, 6))
    assert len(made) == 4


def test_a_scalar_that_changes_in_every_call_is_not_compiled_without_end() -> None:
    compiled = ffc.compile(plain, (randn(3, 6),), max_signatures=2)
    made = counted(compiled)
    for k in range(10):
        result, record = compiled.run(randn(3, 6), scale=k / 16)
        assert_same(result, plain(randn(3, 6), scale=k / 16))
    assert len(made) == 4 and record.ending is Ending.UNPLANNED
    assert "should be a tensor" in record.detail and "max_signatures" in record.detail
    assert compiled.run(randn(3, 6), scale=3 / 16)[1].ending is not Ending.UNPLANNED  # the last one compiled is kept
    compiled.warm(randn(3, 6), scale=0.99)
    assert len(made) == 5


def test_with_one_signature_others_run_as_they_are() -> None:
    compiled = ffc.compile(plain, (randn(3, 6),), max_signatures=1)
    result, record = compiled.run(randn(4, 6))
    assert record.ending is Ending.UNPLANNED and "max_signatures=1" in record.detail
    assert_same(result, plain(randn(4, 6)))
    with pytest.raises(ffc.UsageError, match="max_signatures is 0"):
        ffc.compile(plain, (randn(3, 6),), max_signatures=0)


def branching(u: Tensor, safe: bool = True) -> Tensor:
    return plain(u) if safe or u.sum().item() > 0 else plain(-u)


def test_a_later_signature_that_cannot_be_captured_runs_as_it_is_and_says_why() -> None:
    compiled = compiled_for(branching, randn(3, 6), on_unsupported="sequential")
    made = counted(compiled)
    for seed in (0, 1):
        result, record = compiled.run(randn(3, 6, seed=seed), safe=False)
        assert record.ending is Ending.SEQUENTIAL and "Python number" in record.detail
        assert_same(result, branching(randn(3, 6, seed=seed), safe=False))
    assert len(made) == 1 and "Python number" in str(compiled.variants[1].explain())
    assert_sweeps(compiled, branching, randn(3, 6))


def test_a_later_signature_that_cannot_be_captured_raises_where_a_schedule_was_asked_for() -> None:
    compiled = compiled_for(branching, randn(3, 6))
    with pytest.raises(ffc.CaptureError, match="Python number"):
        compiled(randn(3, 6), safe=False)
    assert_sweeps(compiled, branching, randn(3, 6))


def test_a_fault_while_compiling_a_later_signature_loses_nothing() -> None:
    compiled = compiled_for(plain, randn(3, 6), schedule="auto")
    assert compiled._variants is not None

    def broken(args: Any, kwargs: Any) -> ffc.Compiled:
        raise AssertionError("a fault")

    compiled._variants.make = broken
    result, record = compiled.run(randn(4, 6))
    assert record.ending is Ending.UNPLANNED and "a fault" in record.detail
    assert_same(result, plain(randn(4, 6)))


def test_compiling_on_first_use_leaves_random_generators_to_the_call() -> None:
    def drawing(u: Tensor) -> Tensor:
        return plain(u + torch.rand(u.shape) + random.random() + float(np.random.rand()))

    compiled = ffc.compile(drawing, (randn(3, 6),))
    results = []
    for function in (compiled, drawing):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        results.append((function(randn(4, 6)), torch.get_rng_state(), random.random(), np.random.rand()))
    assert_same(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])
    assert results[0][2:] == results[1][2:] and len(compiled.variants) == 2


def test_an_argument_that_cannot_be_looked_into_runs_as_it_is() -> None:
    def sample(u: Tensor, by: Any = (1.0,)) -> Tensor:
        return plain(u * sum(by))

    compiled = ffc.compile(sample, (randn(3, 6),))
    result, record = compiled.run(randn(3, 6), iter([1.0, 2.0]))
    assert record.ending is Ending.UNPLANNED and "tensors, constants, modules" in record.detail
    assert_same(result, plain(randn(3, 6) * 3.0))
    with pytest.raises(ffc.SignatureError, match=r"a list_iterator.*\n.*functools\.partial"):
        compiled.warm(randn(3, 6), iter([1.0, 2.0]))


def test_two_threads_with_a_new_signature_compile_once_and_both_get_the_answer() -> None:
    compiled = ffc.compile(plain, (randn(3, 6),))
    assert compiled._variants is not None
    make, entered, go, made = compiled._variants.make, threading.Event(), threading.Event(), list[int]()

    def slow(args: Any, kwargs: Any) -> ffc.Compiled:
        made.append(1)
        entered.set()
        assert go.wait(30)
        return make(args, kwargs)

    compiled._variants.make = slow
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(compiled.run(randn(5, 6))))
    first.start()
    assert entered.wait(30)
    result, record = compiled.run(randn(5, 6))  # while the other thread compiles
    assert record.ending is Ending.UNPLANNED and "just now" in record.detail
    go.set()
    first.join(60)
    assert not first.is_alive() and made == [1]
    assert_same(result, results[0][0])
    assert len(compiled.variants) == 2


def test_a_function_that_calls_its_own_compiled_form_does_not_lock_up() -> None:
    box: list[ffc.Compiled] = []

    def sample(u: Tensor) -> Tensor:
        return plain(u if not box or u.shape[0] == 1 else u + box[0](u[:1]))

    box.append(ffc.compile(sample, (randn(3, 6),)))
    assert_same(box[0](randn(4, 6)), sample(randn(4, 6)))


# ---------------------------------------------------------------------------------------------------- pytrees

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Batch:
    noise: Any
    extra: Any = None


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    if Batch not in pytree.SUPPORTED_NODES:
        pytree.register_dataclass(Batch)


TREES: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda t: {"u": t, "more": {"k": 2}},
    "list": lambda t: [t, None],
    "tuple": lambda t: (t, (t * 2, 3.5)),
    "namedtuple": lambda t: Pair(t, "right"),
    "dataclass": lambda t: Batch(t, [t, None]),
    "dataclass without its second field": lambda t: Batch(t),
    "ordered dict": lambda t: OrderedDict(u=t, v=True),
    "return type": lambda t: t.max(0),
    "nested": lambda t: {"a": [Pair(t, {"b": (None, Batch(t))}), ()]},
}


def first_tensor(tree: Any) -> Tensor:
    return next(leaf for _, leaf in flatten(tree)[0] if isinstance(leaf, Tensor))


@pytest.mark.parametrize("name", TREES)
def test_arguments_and_results_may_be_trees(name: str) -> None:
    make = TREES[name]

    def sample(u: Tensor, tree: Any) -> Any:
        return make(plain(u) + first_tensor(tree).sum())

    compiled = compiled_for(sample, randn(3, 6), make(randn(3, 6)))
    u, tree = randn(3, 6, seed=1), make(randn(3, 6, seed=2))
    got, expected = compiled(u, tree), sample(u, tree)
    assert type(got) is type(expected) and flatten(got)[1] == flatten(expected)[1]
    for (_, a), (_, b) in zip(flatten(got)[0], flatten(expected)[0], strict=True):
        assert_same(a, b) if isinstance(a, Tensor) else _same_constant(a, b)
    assert len(compiled.variants) == 1


def _same_constant(a: Any, b: Any) -> None:
    assert (type(a), a) == (type(b), b)


def test_another_structure_is_another_signature() -> None:
    def sample(tree: Any) -> Tensor:
        return plain(first_tensor(tree))

    compiled = compiled_for(sample, (randn(3, 6), None))
    for tree in ([randn(3, 6), None], Pair(randn(3, 6), None), {"a": randn(3, 6), "b": None}):
        assert_sweeps(compiled, sample, tree)
    assert len(compiled.variants) == 4


def test_a_loaded_function_gives_a_tuple_with_the_names_of_a_type_it_does_not_know(tmp_path: Path) -> None:
    def sample(u: Tensor) -> Any:
        return Pair(plain(u), Batch(u * 2))

    ffc.compile(sample, (randn(3, 6),)).save(tmp_path / "p.ffc")
    known, trees._BUILD = trees._BUILD, {}
    try:
        got = ffc.load(tmp_path / "p.ffc")(randn(3, 6))
    finally:
        trees._BUILD = known
    assert isinstance(got, tuple) and not isinstance(got, Pair) and len(got) == 2
    assert_same(got.left, plain(randn(3, 6)))  # type: ignore[attr-defined]
    assert_same(got.right.noise, randn(3, 6) * 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        '{"node":["a.B","",["x"],[0,0]]}',
        '{"node":["a.B","",["__class__"],[0]]}',
        '{"node":["a.B","",["x","x"],[0,0]]}',
        '{"node":["a.B","",[1],[0]]}',
        '{"node":["a.B","",[0]]}',
        '{"node":[1,"",[],[0]]}',
    ],
)
def test_text_that_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        unflatten(text, [1, 2][: text.count("0")])
