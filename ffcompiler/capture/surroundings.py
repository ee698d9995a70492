"""What a function can reach without being given it: weights, and the numbers and settings that shape its calls.

It is looked at anew for every call. Weights are taken by their path, so a replaced parameter, module or list entry is
seen; if a number, a flag, a hook or a function has changed, or what was one thing under two names no longer is, the
plan is stale.
"""

from __future__ import annotations

import dis
import functools
import inspect
import os
import sys
import zlib
from argparse import Namespace
from collections import UserDict, UserList, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from types import CodeType, MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CaptureError

DEPTH = 60
"""How many objects deep is looked; a function with deeper ones in reach is not watched, and so not compiled."""
MAX_THINGS = 20_000
"""A function with more in reach is not watched, and so not compiled."""

_OWN = __name__.partition(".")[0]
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum, np.generic)
_PRINTED = (range, slice, bytearray, Fraction, Decimal)
"""Types whose instances are what ``repr`` says."""
_NAMESPACES = (SimpleNamespace, Namespace, UserDict, UserList)
"""Types of the standard library whose instances hold what the user puts there."""
_CONTAINERS = (list, tuple, set, frozenset, dict, deque)
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

    def things(self) -> list[Any]:
        """All that was looked into: what may hold other things."""
        return list(self._seen.values())

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
            if value.requires_grad:  # matmul chooses its kernels by that
                self.others[f"{path}.requires_grad"] = True
        elif isinstance(value, PLAIN):
            self.others[path] = _comparable(value)
        elif id(value) in self._seen:
            self.others[path] = ("as", self._first[id(value)])
        else:
            if depth >= DEPTH:
                raise CaptureError(
                    f"{path} is more than {DEPTH} objects away from the function, too deep to be watched; give it only "
                    "what it needs"
                )
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
        elif isinstance(value, (*_CONTAINERS, MappingProxyType)):
            yield from self._container(value, path)
            if type(value) not in _CONTAINERS and not is_library(type(value)):
                yield from _attributes(value)
        elif isinstance(value, _PRINTED):
            self.others[path] = (type(value).__name__, repr(value))
        elif isinstance(value, np.ndarray):
            self.others[path] = (value.shape, str(value.dtype), zlib.crc32(np.ascontiguousarray(value).tobytes()))
        else:
            yield from _parts(value)

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
        entries = list(value.items() if isinstance(value, dict | MappingProxyType) else enumerate(value))
        if all(isinstance(v, PLAIN) for _, v in entries):
            self.others[path] = tuple((str(k), _comparable(v)) for k, v in entries)
        else:
            self.others[path] = len(entries)
            yield from ((f"[{k!r}]", v) for k, v in entries)


_MODULE_PRIVATE = frozenset(vars(nn.Module())) - {"training"}


def look(function: Callable[..., Any]) -> View:
    """What ``function`` can reach through closures, globals, defaults, ``self`` and whatever those hold."""
    view = View()
    view.look_at(function, "")
    if inspect.isfunction(function) and is_library(function):  # the user's function is looked into wherever it is from
        for name, value in _in_function(function):
            view.look_at(value, name)
    of_all = nn.modules.module
    view.look_at([*of_all._global_forward_hooks.values()], "hooks of all modules")
    view.look_at([*of_all._global_forward_pre_hooks.values()], "pre-hooks of all modules")
    return view


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Of what is called, of classes, and of objects."""
    if isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif inspect.ismethod(value):
        yield from (("self", value.__self__), ("function", value.__func__))
    elif inspect.isfunction(value) or hasattr(type(value), "cache_info"):
        yield from _function(value)
    elif isinstance(value, type):
        yield from _class(value)
    elif isinstance(value, property):
        yield "get", value.fget
    elif isinstance(value, _NAMESPACES) or not is_library(type(value)):
        yield from _attributes(value)
        yield "class", type(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Those in its ``__dict__``, and those in its slots that are set."""
    yield from getattr(value, "__dict__", {}).items()
    for base in type(value).__mro__:
        for name, slot in vars(base).items():
            if inspect.ismemberdescriptor(slot) and hasattr(value, name):
                yield name, getattr(value, name)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, np.generic):
        return type(value).__name__, value.tobytes()
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
    if inspect.isfunction(value) and not is_library(value):
        yield from _in_function(value)


def _in_function(value: Any) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        yield name, _cell(cell)
    yield from _globals(value)
    yield "defaults", value.__defaults__
    yield "keyword defaults", value.__kwdefaults__
    yield from vars(value).items()


def _globals(function: Any) -> Iterator[tuple[str, Any]]:
    """The globals that the code looks up; of a module among them, or imported inside, the attributes that it names."""
    names = _names(function.__code__)
    known = function.__globals__
    for name in names.looked_up:
        if name in known and name.isidentifier():  # others are no user's, but a tool's that rewrites code
            yield from _named(name, known[name], names)
    if "globals" in names.looked_up:
        yield from ((name, value) for name, value in known.items() if isinstance(value, (*PLAIN, Tensor)))
    for name in names.imported:
        if name in sys.modules:
            yield from _named(name, sys.modules[name], names)
    if not {"environ", "getenv"}.isdisjoint(names.attributes):
        yield "os.environ", dict(os.environ)


def _named(name: str, value: Any, names: _Names, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, ModuleType):
        yield name, value
    elif not _is_library_name(value.__name__) and depth < DEPTH:
        for inner in names.attributes:
            if inner in vars(value):
                yield from _named(f"{name}.{inner}", vars(value)[inner], names, depth + 1)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the code of a function, and of functions defined inside it, looks up by name."""

    looked_up: tuple[str, ...]  # as globals
    attributes: tuple[str, ...]
    imported: tuple[str, ...]  # modules


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> _Names:
    looked_up, attributes, imported = dict[str, None](), dict[str, None](), dict[str, None]()
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            looked_up[name] = None
        elif instruction.opname == "IMPORT_NAME":
            imported[name] = None
        elif isinstance(name, str) and instruction.opname.startswith(("LOAD_", "IMPORT_FROM")):
            attributes[name] = None
    for constant in code.co_consts:
        if inspect.iscode(constant):
            inner = _names(constant)
            looked_up |= dict.fromkeys(inner.looked_up)
            attributes |= dict.fromkeys(inner.attributes)
            imported |= dict.fromkeys(inner.imported)
    return _Names(tuple(looked_up), tuple(attributes), tuple(imported))


def _class(kind: type) -> Iterator[tuple[str, Any]]:
    """What the methods of a class reach, and its own attributes; those that it overrides under their class's name."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if not is_library(base):
            for name, value in vars(base).items():
                if not name.startswith("__") or inspect.isfunction(value):
                    yield f"({base.__qualname__}){name}" if name in seen else name, getattr(value, "__func__", value)
            seen |= vars(base).keys()


def is_library(thing: Any) -> bool:
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
