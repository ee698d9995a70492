"""``torch._higher_order_ops.scan``, recorded as the loop over its steps that it is.

It compiles its function before a recorder could see what that does. While a function is recorded, `loops.scan` takes
the place of this one call, inside torch's own function: its checks, ``dim`` and ``reverse`` stay torch's code, however
the function was imported. The place is a global of torch's module. It is put back when the last recording ends, and
meanwhile does what it always did for all who record nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan as torch_scan
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ..loops import scan
from .facts import user_line

Seen = Callable[[str], None]
"""Is told of each scan: what it is, and where."""

_MODULE: dict[str, Any] = torch_scan.__globals__
_PLACE = "_maybe_compile_and_run_fn"
_seen: ContextVar[Seen | None] = ContextVar("ffcompiler_scans_seen", default=None)


@contextmanager
def scans_as_loops(seen: Seen = lambda what: None) -> Iterator[None]:
    """Let scans of torch run as loops in this context (this thread, or asyncio task)."""
    token = _seen.set(seen)
    _OTHER.take_over()
    try:
        yield
    finally:
        _OTHER.give_back()
        _seen.reset(token)


@dataclass(slots=True)
class _Other:
    """What stands at the place while nothing is recorded; captures may run in several threads."""

    lock: Lock = field(default_factory=Lock)
    captures: int = 0
    was: Callable[..., Any] | None = None

    def take_over(self) -> None:
        with self.lock:
            if self.captures == 0 and _PLACE in _MODULE:
                self.was, _MODULE[_PLACE] = _MODULE[_PLACE], _compile_or_loop
            self.captures += 1

    def give_back(self) -> None:
        with self.lock:
            self.captures -= 1
            if self.captures == 0 and self.was is not None:
                _MODULE[_PLACE] = self.was


_OTHER = _Other()


def _compile_or_loop(fn: Callable[..., Any], *args: Any) -> Any:
    """In place of torch's own function, which compiles ``fn`` unless that is already under way."""
    if torch.compiler.is_dynamo_compiling():
        return fn(*args)
    seen = _seen.get()
    if seen is None:
        assert _OTHER.was is not None
        return _OTHER.was(fn, *args)
    seen(f"the scan of torch at {user_line()}")
    return _as_loop(*args)


def _as_loop(*args: Any) -> tuple[Any, Any]:
    """The carry and what the steps left, both as pytrees, of ``combine(*carry, *x)`` over the first dimension."""
    if len(args) != 3 or not isinstance(args[0], functools.partial) or "spec_init" not in args[0].keywords:
        raise CaptureError(
            f"torch {torch.__version__} runs its scan, at {user_line()}, in another way than is known here\n"
            "  write ffc.scan in its place"
        )
    combine, init, xs = args
    _check_lengths(xs)

    def step(carry: tuple[Tensor, ...], x: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        carried, y = combine(*carry, *x)
        return tuple(pytree.tree_leaves(carried)), y

    carry, ys = scan(step, tuple(init), tuple(xs))
    return pytree.tree_unflatten(list(carry), combine.keywords["spec_init"]), ys


def _check_lengths(xs: list[Tensor]) -> None:
    """Torch goes through as many entries as the first tensor has."""
    lengths = [len(x) for x in xs]
    if len(set(lengths)) > 1:
        raise CaptureError(
            f"the scan of torch at {user_line()} goes through tensors of lengths {lengths}\n"
            "  give it tensors of one length"
        )
