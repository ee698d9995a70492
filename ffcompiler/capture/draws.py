"""Draws inside the function, lifted: each becomes a draw of plain noise and ordinary calls that make something of it.

before:  x = bernoulli(p)
after:   u = Drawing(uniform_)        as many numbers for any data, so that all can be drawn before anything is computed
         x = u < p

Every rule below says in what way torch itself draws. It is not believed: the operator itself is run from the same
state of the generator, on the data and on other parameters, and must give the same bits and leave the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import Distribution

from ..errors import CaptureError
from ..randomness import PERMUTATION, States, fill, set_state, state_of, states
from ..runtime.equality import same_bits
from ..signatures import complete
from .facts import tensor_type, user_line

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Drawing:
    """In place of an operator in a `Call`: fresh numbers, by ``op`` of `DRAWS`; its arguments are numbers only."""

    op: str
    device: str

    def __str__(self) -> str:
        return self.op


class Scribe(Protocol):
    """Carries out what a rule says; the recorder's also writes it down."""

    def draw(self, op: str, out: Tensor, numbers: Sequence[int | float]) -> Tensor:
        """``out``, a tensor of nobody else's, filled with fresh numbers."""

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """What an ordinary operator gives."""


class Recording(Scribe, Protocol):
    """A scribe that lifts draws: it knows how far the generators are."""

    stream: Stream
    tried: set[Hashable]
    """Calls whose rules have been tried on other parameters."""


class Unrecorded:
    """A scribe that writes nothing down."""

    def draw(self, op: str, out: Tensor, numbers: Sequence[int | float]) -> Tensor:
        fill(op, out, numbers)
        return out

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        return op(*args, **kwargs)


PROBES = 2
"""On how many other parameters a rule is tried."""

Rule: TypeAlias = Callable[[Scribe, Mapping[str, Any], Tensor], Any]
"""``rule(scribe, given, like)``: the result, from the arguments by name; ``like`` has the layout of the real result."""


def room(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor that the operators which draw treat as they treat ``like``.

    They go through memory in its order, some in another way where it has gaps; how wide the gaps are is all the same.
    """
    strides = like.stride()
    order = sorted(range(like.dim()), key=lambda d: (-strides[d], d))
    dense, size = [0] * like.dim(), 1
    for dim in reversed(order):
        dense[dim] = size
        size *= max(like.shape[dim], 1)
    fits = all(a == b for a, b, n in zip(dense, strides, like.shape, strict=True) if n > 1) or not like.numel()
    stride = strides if fits else [2 * s for s in dense]
    return torch.empty_strided(like.shape, stride, dtype=dtype or like.dtype, device=like.device)


# ---------------------------------------------------------------------------------------------------- rules


def _filled(op: str, *names: str, before: tuple[int | float, ...] = ()) -> Rule:
    """The operator fills its result by ``op`` with the arguments of these names, after those in ``before``."""

    def rule(scribe: Scribe, given: Mapping[str, Any], like: Tensor) -> Tensor:
        numbers = (*before, *(given[name] for name in names))
        return scribe.draw(f"aten.{op}", room(like), numbers)

    return rule


def _in_place(op: str, *names: str) -> tuple[Any, Rule]:
    """An operator that itself is one of `DRAWS`, with its rule."""
    packet, _, name = op.partition(".")
    return getattr(getattr(aten, packet), name), _filled(op, *names)


def _bernoulli(scribe: Scribe, given: Mapping[str, Any], like: Tensor) -> Tensor:
    """A uniform number below the probability, in double precision for probabilities in double precision."""
    p = given["p"] if isinstance(given.get("p"), Tensor) else given["self"]
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32
    below = scribe.call(aten.lt.Tensor, scribe.draw("aten.uniform_.default", room(like, wide), ()), p)
    return scribe.call(aten._to_copy.default, below, dtype=like.dtype)  # type: ignore[no-any-return]


def _normal(scribe: Scribe, given: Mapping[str, Any], like: Tensor) -> Tensor:
    """A plain number is the generator's business; a tensor scales or shifts what it gives."""
    mean, std = given["mean"], given["std"]
    scale = 1.0 if isinstance(std, Tensor) else std
    noise = scribe.draw("aten.normal_.default", room(like), (0.0, scale))
    if isinstance(std, Tensor):
        noise = scribe.call(aten.mul.Tensor, noise, std)
    return scribe.call(aten.add.Tensor, noise, mean)  # type: ignore[no-any-return]


def _multinomial(scribe: Scribe, given: Mapping[str, Any], like: Tensor) -> Tensor:
    """The largest of the probabilities over exponential noise (Gumbel's trick), or the ``n`` largest."""
    p, count = given["self"], given["num_samples"]
    if given["replacement"] and count > 1:
        raise _Unliftable(
            "with replacement it draws several samples by searching sums of probabilities, which no other operator "
            "rounds alike\n  draw them one by one, or torch.rand before and search the sums yourself"
        )
    noise = scribe.draw("aten.exponential_.default", room(torch.empty_like(p)), (1.0,))
    score = scribe.call(aten.div.Tensor, p, noise)
    if count == 1:
        return scribe.call(aten.argmax.default, score, -1, True)  # type: ignore[no-any-return]
    return scribe.call(aten.topk.default, score, count)[1]  # type: ignore[no-any-return]


def _dropout(scribe: Scribe, given: Mapping[str, Any], like: Tensor) -> tuple[Tensor, Tensor]:
    x, kept = given["input"], 1.0 - given["p"]
    if given["train"] is False:
        return scribe.call(aten.clone.default, x), scribe.call(aten.ones_like.default, x, dtype=torch.bool)
    mask = scribe.draw("aten.bernoulli_.float", room(torch.empty_like(x), torch.bool), (kept,))
    scaled = scribe.call(aten.mul.Tensor, scribe.call(aten.mul.Tensor, x, mask), 1.0 / kept if kept else 0.0)
    return scaled, mask


def _rrelu(scribe: Scribe, given: Mapping[str, Any], like: Tensor) -> Tensor:
    if given["training"]:
        raise _Unliftable(
            "it draws one for each negative element, so how many depends on the data\n"
            "  multiply by torch.rand_like(x) where x is negative, or call .eval()"
        )
    slope = (given["lower"] + given["upper"]) / 2
    return scribe.call(aten.leaky_relu.default, given["self"], slope)  # type: ignore[no-any-return]


RULES: dict[Any, Rule] = {
    aten.rand.default: _filled("uniform_.default"),
    aten.rand_like.default: _filled("uniform_.default"),
    aten.randn.default: _filled("normal_.default"),
    aten.randn_like.default: _filled("normal_.default"),
    aten.randint.default: _filled("random_.from", "high", before=(0,)),
    aten.randint.low: _filled("random_.from", "low", "high"),
    aten.randint_like.default: _filled("random_.from", "high", before=(0,)),
    aten.randint_like.low_dtype: _filled("random_.from", "low", "high"),
    aten.randperm.default: _filled(PERMUTATION.removeprefix("aten."), "n"),
    aten.bernoulli.p: _filled("bernoulli_.float", "p"),
    aten.normal.float_float: _filled("normal_.default", "mean", "std"),
    **dict(
        [
            _in_place("uniform_.default", "from", "to"),
            _in_place("normal_.default", "mean", "std"),
            _in_place("exponential_.default", "lambd"),
            _in_place("random_.default"),
            _in_place("random_.to", "to"),
            _in_place("random_.from", "from", "to"),
            _in_place("bernoulli_.float", "p"),
            _in_place("cauchy_.default", "median", "sigma"),
            _in_place("log_normal_.default", "mean", "std"),
            _in_place("geometric_.default", "p"),
        ]
    ),
    aten.bernoulli.default: _bernoulli,
    aten.bernoulli_.Tensor: _bernoulli,
    aten.normal.Tensor_Tensor: _normal,
    aten.normal.Tensor_float: _normal,
    aten.normal.float_Tensor: _normal,
    aten.multinomial.default: _multinomial,
    aten.native_dropout.default: _dropout,
    aten.rrelu_with_noise.default: _rrelu,
}
"""How torch's own operators draw."""

_BY_REJECTION = frozenset({aten._standard_gamma, aten._sample_dirichlet, aten.poisson, aten.binomial})


class _Unliftable(Exception):
    """Why a draw cannot be lifted, and what to do."""


# ---------------------------------------------------------------------------------------------------- lifting


def lift(scribe: Recording, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What ``func(*args, **kwargs)`` gives, drawn by ``scribe``.

    Raises: `CaptureError` where it draws from a generator of its own, takes as many numbers as its data ask for, or
    does not draw here in the way that its rule says.
    """
    rule, given = _rule(func, args, kwargs), _by_name(func, args, kwargs)
    try:
        found = _checked(scribe, rule, func, given)
    except _Unliftable as why:
        raise CaptureError(f"{func} draws random numbers at {user_line()}\n  {why}") from None
    if not _writes_self(func):
        return found
    scribe.call(aten.copy_.default, given["self"], found)
    return given["self"]


def _rule(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Rule:
    if any(isinstance(a, torch.Generator) for a in (*args, *kwargs.values())):
        raise CaptureError(
            f"{func} draws random numbers at {user_line()} from a generator of its own\n"
            "  draw from the default generator, or draw before and pass the noise as an argument"
        )
    if func in RULES:
        return RULES[func]
    why = "as many as its data ask for" if func.overloadpacket in _BY_REJECTION else "in a way that is not lifted"
    raise CaptureError(
        f"{func} draws random numbers at {user_line()}, {why}\n  draw before, and pass what was drawn as an argument"
    )


def _by_name(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    values = complete(str(func), tuple(args), kwargs)
    return dict(zip((a.name for a in func._schema.arguments), values, strict=True))


def _writes_self(func: Any) -> bool:
    first = func._schema.arguments[0]
    return first.alias_info is not None and bool(first.alias_info.is_write)


def _checked(scribe: Recording, rule: Rule, func: Any, given: Mapping[str, Any]) -> Any:
    """What the rule gives; before it is handed on, it must be what ``func`` itself gives."""
    if isinstance(torch.empty(0), FakeTensor):  # a run without values: nothing is drawn
        return rule(scribe, given, given["self"] if _writes_self(func) else _results(func(**given))[0])
    device = _device(given)
    scribe.stream.check(device)
    start = state_of(device)
    signature = (func, *(tensor_type(v) if isinstance(v, Tensor) else repr(v) for v in given.values()))
    if signature not in scribe.tried:
        for probe in _probes(given):
            _compared(func, probe, device, partial(rule, Unrecorded(), probe))
        scribe.tried.add(signature)
    set_state(device, start)
    found = _compared(func, given, device, partial(rule, scribe, given))
    scribe.stream.note(device)
    return found


def _device(given: Mapping[str, Any]) -> torch.device:
    """Where it draws: on the device that is asked for, else on that of its arguments."""
    device = torch.device(
        given.get("device") or next((v.device for v in given.values() if isinstance(v, Tensor)), "cpu")
    )
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def _compared(func: Any, given: Mapping[str, Any], device: torch.device, evaluate: Callable[[Tensor], Any]) -> Any:
    """What ``evaluate`` gives, if ``func`` gives the same bits from the same state and leaves the same state."""
    start = state_of(device)
    own = {"self": _copy(given["self"])} if _writes_self(func) else {}
    real = func(**{**given, **own})
    end = state_of(device)
    set_state(device, start)
    found = evaluate(_results(real)[0])
    pairs = list(zip(_results(found), _results(real), strict=True))
    same = all(same_bits(a, b) and (own or _steps(a) == _steps(b)) for a, b in pairs)
    if not same or not torch.equal(state_of(device), end):
        raise _Unliftable(
            f"torch {torch.__version__} draws them on {device.type} in another way than the rule for it says\n"
            "  draw before, and pass what was drawn as an argument"
        )
    return found


def _results(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _steps(t: Tensor) -> list[int]:
    """The strides that matter."""
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


def _copy(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t)


def _probes(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same call on parameters that show more than the data may: probabilities near 0 or 1 show nothing."""
    names = [name for name, v in given.items() if isinstance(v, Tensor) and v.dtype.is_floating_point]
    for _ in range(PROBES if names else 0):
        yield {**given, **{name: _random_like(given[name]) for name in names}}


def _random_like(t: Tensor) -> Tensor:
    """Numbers between 0 and 1 in the layout of ``t``."""
    span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
    return torch.rand(span, dtype=torch.float32, device=t.device).to(t.dtype).as_strided(t.shape, t.stride())


class Stream:
    """Notices when something that no recorded call did has drawn from a generator, or set it."""

    def __init__(self) -> None:
        self._states = states()

    @property
    def states(self) -> States:
        """The state of each generator after what is known to have been drawn."""
        return dict(self._states)

    def check(self, device: torch.device) -> None:
        known = self._states.get(device)
        if known is not None and not torch.equal(known, state_of(device)):
            raise CaptureError(
                f"the random generator was set, or drawn from by something that capture does not see, before "
                f"{user_line()}\n  call torch.manual_seed and the like before the function, not inside it"
            )

    def note(self, device: torch.device) -> None:
        """What was drawn until now is known."""
        self._states[device] = state_of(device)

    def check_all(self) -> None:
        for device in self._states:
            self.check(device)


@contextmanager
def unvalidated() -> Iterator[None]:
    """Let `torch.distributions` not look at values, as it does only to refuse bad ones; for as long, of all threads."""
    _VALIDATION.off()
    try:
        yield
    finally:
        _VALIDATION.back()


@dataclass(slots=True)
class _Validation:
    """The setting is the process's, and captures may run in several threads: the last to end puts it back."""

    lock: Lock = field(default_factory=Lock)
    captures: int = 0
    was: bool = True

    def off(self) -> None:
        with self.lock:
            if self.captures == 0:
                self.was = bool(Distribution._validate_args)
                Distribution.set_default_validate_args(False)
            self.captures += 1

    def back(self) -> None:
        with self.lock:
            self.captures -= 1
            if self.captures == 0:
                Distribution.set_default_validate_args(self.was)


_VALIDATION = _Validation()
