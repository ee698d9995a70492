"""What code can reach: of functions the variables, and of classes the methods and attributes."""

from __future__ import annotations

import dis
import functools
import inspect
import os
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..given import is_library, is_library_name, is_users_enum

DEPTH = 60
"""How many objects deep is looked; a function with deeper ones in reach is not watched, and so not compiled."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum, np.generic)


LOOKS_AROUND = frozenset({"__dict__", "vars", "dir", "getattr", "hasattr", "getmembers", "__getattribute__"})
"""Names of what finds attributes that the code does not name."""


def in_callable(value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(type(value), "cache_info"):  # functools.cache: it holds what a call gives, if it takes no arguments
        if value.cache_info().currsize == 1 and not inspect.signature(value).parameters:
            yield "()", value()
        value = inspect.unwrap(value)
    if inspect.isfunction(value) and not is_library(value):
        yield from in_function(value)


def in_function(value: Any) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        yield name, _cell(cell)
    yield from _globals(value)
    yield "defaults", value.__defaults__
    yield "keyword defaults", value.__kwdefaults__
    yield from vars(value).items()


def in_user_module(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Of a module that an object holds, so that no code says which of its names count: numbers, tensors, and code."""
    if not is_library_name(module.__name__):
        kinds = (*PLAIN, Tensor, type, FunctionType)
        yield from ((n, v) for n, v in vars(module).items() if not n.startswith("__") and isinstance(v, kinds))


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
    elif not is_library_name(value.__name__) and depth < DEPTH:
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


@functools.lru_cache(maxsize=4096)
def words(code: CodeType) -> frozenset[str]:
    """All names and texts in the code of a function, and of functions defined inside it."""
    inner = [words(constant) for constant in code.co_consts if inspect.iscode(constant)]
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    return frozenset(texts.union(code.co_names, code.co_freevars, code.co_varnames, *inner))


def in_class(kind: type) -> Iterator[tuple[str, Any]]:
    """What the methods of a class reach, and its own attributes; those that it overrides under their class's name."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if not is_library(base):
            for name, value in vars(base).items():
                if not name.startswith("__") or inspect.isfunction(value):
                    yield f"({base.__qualname__}){name}" if name in seen else name, getattr(value, "__func__", value)
            seen |= vars(base).keys()
    if not is_library(type(kind)):
        yield "metaclass", type(kind)


def is_plain(value: Any) -> bool:
    """Whether a value is all that there is to it; a member of the user's enum has methods, and may have attributes."""
    return isinstance(value, PLAIN) and not is_users_enum(value)


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def code_of(value: Any) -> Hashable:
    """What a call of a value runs: another function of the same name is another one."""
    if hasattr(type(value), "cache_info"):
        value = inspect.unwrap(value)
    if inspect.isfunction(value):
        return value.__code__
    return type(value).__qualname__, str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))
