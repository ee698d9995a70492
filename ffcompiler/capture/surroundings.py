"""What a function can reach without being given it: weights, and the numbers and settings that shape its calls.

It is looked at anew for every call. Weights are taken by their path, so a replaced parameter, module or list entry is
seen; if a number, a flag, a hook or a function has changed, or what was one thing under two names no longer is, the
plan is stale.
"""

from __future__ import annotations

import functools
import inspect
import sys
import zlib
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CaptureError

DEPTH = 12
"""How many objects deep is looked."""
MAX_THINGS = 100_000
"""A function with more in reach is not watched, and so not compiled."""

_OWN = __name__.partition(".")[0]
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum)
_NAMESPACES = (SimpleNamespace, Namespace)
"""Types of the standard library whose instances hold what the user puts there."""
_MODULE_STATE = frozenset({"_parameters", "_buffers", "_modules"})


@dataclass(slots=True)
class View:
    """What is in reach now, by path (``model.fc1.weight``): tensors, and everything else as something comparable."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Hashable] = field(default_factory=dict)
    _seen: dict[int, Any] = field(default_factory=dict)
    _first: dict[int, str] = field(default_factory=dict)  # where each of them was seen

    def paths(self, tensor: Tensor) -> tuple[str, ...]:
        return tuple(path for path, t in self.tensors.items() if t is tensor)

    def modules(self) -> list[nn.Module]:
        return [thing for thing in self._seen.values() if isinstance(thing, nn.Module)]

    def changes(self, then: Mapping[str, Hashable]) -> str | None:
        """The first thing that is not as it was ``then``."""
        for path, was in then.items():
            if path not in self.others:
                return f"{path} is gone"
            if self.others[path] != was:
                return f"{path} has changed"
        new = next((path for path in self.others if path not in then), None)
        return None if new is None else f"{new} is new"

    # ------------------------------------------------------------------------------------------ the walk

    def look_at(self, value: Any, path: str, depth: int = 0) -> None:
        if isinstance(value, Tensor):
            self.tensors[path] = value
        elif isinstance(value, _PLAIN):
            self.others[path] = _comparable(value)
        elif id(value) in self._seen:
            self.others[path] = ("as", self._first[id(value)])
        elif depth < DEPTH:
            self._seen[id(value)] = value  # kept alive, so that its id stays its own
            self._first[id(value)] = path
            if len(self._seen) > MAX_THINGS:
                raise CaptureError(f"the function can reach more than {MAX_THINGS} objects; give it only what it needs")
            for name, inner in self._inside(value, path):
                self.look_at(inner, f"{path}{'.' if path and not name.startswith('[') else ''}{name}", depth + 1)

    def _inside(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        """The named things in a value; notes what stands for the value itself."""
        if callable(value) and not isinstance(value, nn.Module):
            self.others[f"{path}()"] = _code(value)
        if isinstance(value, nn.Module):
            yield from self._module(value, path)
        elif isinstance(value, list | tuple | set | frozenset | dict | deque):
            yield from self._container(value, path)
        elif isinstance(value, np.ndarray):
            self.others[path] = (value.shape, str(value.dtype), zlib.crc32(np.ascontiguousarray(value).tobytes()))
        elif isinstance(value, functools.partial):
            yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
        elif inspect.ismethod(value):
            yield from (("self", value.__self__), ("function", value.__func__))
        elif inspect.isfunction(value) or hasattr(type(value), "cache_info"):
            yield from _function(value)
        elif isinstance(value, type):
            yield from _class(value)
        elif isinstance(value, property):
            yield "get", value.fget
        elif isinstance(value, _NAMESPACES) or not _is_library(type(value)):
            yield from _attributes(value)
            yield "class", type(value)

    def _module(self, module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
        yield "hooks", [*module._forward_hooks.values()]
        yield "pre-hooks", [*module._forward_pre_hooks.values()]
        for name, value in vars(module).items():
            if name in _MODULE_STATE:
                yield from value.items()
            elif name not in _MODULE_PRIVATE:
                yield name, value
        yield "class", type(module)

    def _container(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, set | frozenset):
            value = sorted(value, key=repr)
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
        if all(isinstance(v, _PLAIN) for _, v in entries):
            self.others[path] = tuple((str(k), _comparable(v)) for k, v in entries)
        else:
            self.others[path] = len(entries)
            yield from ((f"[{k!r}]", v) for k, v in entries)


_MODULE_PRIVATE = frozenset(vars(nn.Module())) - {"training"}


def look(function: Callable[..., Any]) -> View:
    """What ``function`` can reach through closures, globals, defaults, ``self`` and whatever those hold."""
    view = View()
    view.look_at(function, "")
    if inspect.isfunction(function) and _is_library(function):  # the user's function is looked into wherever it is from
        for name, value in _in_function(function):
            view.look_at(value, name)
    of_all = nn.modules.module
    view.look_at([*of_all._global_forward_hooks.values()], "hooks of all modules")
    view.look_at([*of_all._global_forward_pre_hooks.values()], "pre-hooks of all modules")
    return view


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Those in its ``__dict__``, and those in its slots that are set."""
    yield from getattr(value, "__dict__", {}).items()
    for base in type(value).__mro__:
        for name, slot in vars(base).items():
            if inspect.ismemberdescriptor(slot) and hasattr(value, name):
                yield name, getattr(value, name)


def _comparable(value: Any) -> Hashable:
    return (type(value).__name__, value.hex() if isinstance(value, float) else value)


def _code(value: Any) -> Hashable:
    """What a call of a value runs: another function of the same name is another one."""
    if hasattr(type(value), "cache_info"):
        value = inspect.unwrap(value)
    if inspect.isfunction(value):
        return value.__code__
    return type(value).__qualname__, str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))


def _function(value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(type(value), "cache_info"):  # functools.cache: it holds what a call gives, if it takes no arguments
        if value.cache_info().currsize == 1 and not inspect.signature(value).parameters:
            yield "()", value()
        value = inspect.unwrap(value)
    if inspect.isfunction(value) and not _is_library(value):
        yield from _in_function(value)


def _in_function(value: Any) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        yield name, _cell(cell)
    yield from _globals(value)
    yield "defaults", value.__defaults__
    yield "keyword defaults", value.__kwdefaults__


def _globals(function: Any) -> Iterator[tuple[str, Any]]:
    """The globals that the code names; of a module among them, the attributes that the code names."""
    names = _names(function.__code__)
    for name in names:
        if name not in function.__globals__ or not name.isidentifier():  # no user's: a tool's that rewrites code
            continue
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield name, value
        elif not _is_library_name(value.__name__):
            yield from ((f"{name}.{n}", vars(value)[n]) for n in names if n in vars(value))


def _names(code: Any) -> list[str]:
    """Names that a function, or a function defined inside it, looks up."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= dict.fromkeys(_names(constant))
    return list(names)


def _class(kind: type) -> Iterator[tuple[str, Any]]:
    """What the methods of a class reach, and its own attributes."""
    for base in kind.__mro__:
        if not _is_library(base):
            for name, value in vars(base).items():
                if not name.startswith("__") or inspect.isfunction(value):
                    yield name, getattr(value, "__func__", value)


def _is_library(thing: Any) -> bool:
    return _is_library_name(getattr(thing, "__module__", None) or "builtins")


def _is_library_name(module: str) -> bool:
    """Torch, numpy, the standard library and ourselves: code that holds no state of the user's."""
    root = module.partition(".")[0]
    if root == _OWN:
        return not module.startswith(f"{_OWN}.zoo")
    return root in ("torch", "numpy") or (root in sys.stdlib_module_names and root != "__main__")


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
