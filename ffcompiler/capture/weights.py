"""Where a function's weights live, so that each call can fetch them again: a replaced parameter is seen."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import WeightKind

DEPTH = 4
"""How far functions reached from the user's function are searched for modules and tensors."""


@dataclass(frozen=True, slots=True)
class Place:
    """A way to fetch a tensor, and what to call it in messages."""

    path: str
    kind: WeightKind
    fetch: Callable[[], Tensor]


@dataclass(slots=True)
class Surroundings:
    """The modules and tensors that a function can reach through closures, globals, defaults and ``self``."""

    modules: list[tuple[str, Callable[[], Any]]] = field(default_factory=list)
    tensors: list[tuple[str, Callable[[], Any]]] = field(default_factory=list)
    called: list[nn.Module] = field(default_factory=list)  # seen in a forward call, however they were reached
    _seen: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Surroundings:
        found = cls()
        found._search("", lambda: function, DEPTH)
        return found

    @contextmanager
    def watch_calls(self) -> Iterator[None]:
        """Note every module whose forward runs: a module behind a cache or a registry has no path from the function."""

        def note(module: nn.Module, inputs: Any) -> None:
            if all(module is not m for m in self.called):
                self.called.append(module)

        handle = nn.modules.module.register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def place(self, tensor: Tensor) -> Place:
        """How to fetch ``tensor`` again; the tensor itself where no path leads to it."""
        for label, get in self.modules:
            for name, t in _named_tensors(get()):
                if t is tensor:
                    return Place(f"{label}.{name}", WeightKind.PARAMETER, functools.partial(_fetch, get, name))
        for label, get in self.tensors:
            if get() is tensor:
                return Place(label, WeightKind.CLOSURE, get)
        for module in self.called:
            for name, t in _named_tensors(module):
                if t is tensor:
                    label = type(module).__name__
                    return Place(f"{label}.{name}", WeightKind.PARAMETER, functools.partial(_attribute, module, name))
        return Place("a tensor without a name", WeightKind.CLOSURE, lambda: tensor)

    def training_flags(self) -> dict[str, bool]:
        """``training`` of every module in reach, by path: what ``train()`` and ``eval()`` change."""
        roots = [(label, get()) for label, get in self.modules]
        roots += [(type(m).__name__, m) for m in self.called]
        flags: dict[str, bool] = {}
        seen: set[int] = set()
        for label, root in roots:
            for name, module in root.named_modules():
                if id(module) not in seen:
                    seen.add(id(module))
                    flags[f"{label}.{name}".rstrip(".")] = module.training
        return flags

    def _search(self, label: str, get: Callable[[], Any], depth: int) -> None:
        value = get()
        if depth < 0 or value is None or id(value) in self._seen:
            return
        if isinstance(value, nn.Module):
            self._seen.add(id(value))
            self.modules.append((label or type(value).__name__, get))
        elif isinstance(value, Tensor):
            self._seen.add(id(value))
            self.tensors.append((label, get))
        elif isinstance(value, functools.partial | list | tuple | dict) or inspect.isroutine(value):
            self._seen.add(id(value))
            for name, inner in _reachable(value):
                self._search(f"{label}.{name}" if label else name, inner, depth - 1)


def _reachable(value: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The named things inside a function, a partial or a container."""
    if isinstance(value, functools.partial):
        yield "func", lambda: value.func
        yield "args", lambda: value.args
        yield "keywords", lambda: value.keywords
    elif isinstance(value, list | tuple):
        yield from ((str(i), functools.partial(lambda i: value[i], i)) for i in range(len(value)))
    elif isinstance(value, dict):
        yield from ((str(k), functools.partial(lambda k: value[k], k)) for k in list(value))
    elif inspect.ismethod(value):
        yield "self", lambda: value.__self__
        yield "function", lambda: value.__func__
    elif inspect.isfunction(value):
        yield from _in_function(value)


def _in_function(function: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, functools.partial(_cell, cell)
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, functools.partial(function.__globals__.get, name)
    defaults = function.__kwdefaults__ or {}
    for name in defaults:
        yield name, functools.partial(defaults.get, name)
    yield "defaults", lambda: function.__defaults__


def _names(code: Any) -> list[str]:
    """Global names that a function or the functions defined inside it may use."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names += _names(constant)
    return names


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and plain tensor attributes of a module and its children, by dotted name."""
    for prefix, child in module.named_modules():
        for name, value in (*child._parameters.items(), *child._buffers.items(), *vars(child).items()):
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}".lstrip("."), value


def _attribute(module: Any, dotted: str) -> Tensor:
    for name in dotted.split("."):
        module = getattr(module, name)
    assert isinstance(module, torch.Tensor)
    return module


def _fetch(get: Callable[[], Any], dotted: str) -> Tensor:
    return _attribute(get(), dotted)
