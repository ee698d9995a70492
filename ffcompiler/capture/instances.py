"""What the objects of libraries hold that a function may compute with: an optimizer's rate, a prior's location.

Those made in Python are looked into like a user's own. Of those made in C the contents are asked for where their type
is known; which one it is counts of all others, so that at least another in its place is seen.
"""

from __future__ import annotations

import functools
import operator
import threading
import weakref
import zlib
from array import array
from collections import ChainMap, defaultdict, deque
from collections.abc import Callable, Hashable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from inspect import ismemberdescriptor
from io import BytesIO, StringIO
from logging import Filterer, Logger
from pathlib import PurePath
from types import BuiltinMethodType, MethodWrapperType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..constants import Same
from ..given import NAMESPACES, is_library
from .reach import in_user_module

Named: TypeAlias = Iterable[tuple[str, Any]]

CONTAINERS = (list, tuple, set, frozenset, dict, deque)
_PRINTED = (
    *(range, slice, bytearray, Fraction, Decimal, timedelta, date, time, PurePath),
    *(np.dtype, torch.finfo, torch.iinfo),
)
"""Types whose instances are what ``repr`` says."""
_VIEWS = (KeysView, ValuesView, ItemsView)
_CHANGING = (
    *("_io", "asyncio", "concurrent", "io", "logging", "multiprocessing", "queue", "socket", "subprocess", "tempfile"),
    *(
        "threading",
        "unittest",
        "torch._",
        "torch.autograd",
        "torch.distributed",
        "torch.fx",
        "torch.jit",
        "torch.profiler",
    ),
    *("torch.utils.data.dataloader", "torch.utils.tensorboard"),
)
"""Where libraries keep what changes by itself, and is no setting: which one it is counts, and not what is in it."""
_OF_AN_OPTIMIZER = frozenset({"state", "param_groups"})
_MADE_IN_C = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


def whole(value: Any) -> Hashable | None:
    """What stands for all of a value; None where it is to be looked into."""
    if isinstance(value, _PRINTED):
        return type(value).__name__, repr(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.shape, str(value.dtype), zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, array):
        return value.typecode, len(value), zlib.crc32(value.tobytes())
    if isinstance(value, memoryview):
        return value.format, value.shape, zlib.crc32(value.tobytes())
    if isinstance(value, BytesIO | StringIO) and not value.closed:
        return type(value).__name__, value.tell(), value.getvalue()
    if isinstance(value, Filterer):  # a logger, or a handler: the rest of it changes with what is logged
        level = value.getEffectiveLevel() if isinstance(value, Logger) else getattr(value, "level", 0)
        return type(value).__name__, str(getattr(value, "name", "")), level, getattr(value, "disabled", False)
    return None


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Those in its ``__dict__``, and those in its slots that are set."""
    yield from getattr(value, "__dict__", {}).items()
    yield from ((name, getattr(value, name)) for name in slots_of(value) if hasattr(value, name))


def slots_of(value: Any) -> tuple[str, ...]:
    """The names of an object's slots, set or not."""
    kind: Any = type(value)
    return _slots(kind)


@functools.lru_cache(maxsize=1024)
def _slots(kind: Any) -> tuple[str, ...]:
    return tuple(name for base in kind.__mro__ for name, slot in vars(base).items() if ismemberdescriptor(slot))


def in_container(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds besides its entries."""
    if isinstance(value, deque):
        yield "maxlen", value.maxlen
    elif isinstance(value, defaultdict):
        yield "default_factory", value.default_factory
    if type(value) not in CONTAINERS and not is_library(type(value)):
        yield from attributes(value)


def in_instance(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds that is neither a container nor called, by name."""
    kind = type(value)
    found = next((of for known, of in _KNOWN if isinstance(value, known)), None)
    if found is not None:
        yield from found(value)
    if not is_library(kind) or isinstance(value, NAMESPACES):
        held = attributes(value)
        yield from ((n, v) for n, v in held if found is not _optimizer or n not in _OF_AN_OPTIMIZER)
        yield "class", kind
    elif found is None and kind.__module__.startswith(_CHANGING):
        yield "itself", Same(value)
    elif found is None:
        yield "type", Same(kind)
        yield from attributes(value)
        if any(base.__flags__ & _MADE_IN_C for base in kind.__mro__ if base is not object) or not _held(value):
            yield "itself", Same(value)


def _held(value: Any) -> bool:
    return next(attributes(value), None) is not None


def _reduced(value: Any) -> Named:
    return [("made of", value.__reduce__())]


def _variable(value: ContextVar[Any]) -> Named:
    try:
        return [("get()", value.get())]
    except LookupError:  # not set
        return []


def _optimizer(value: torch.optim.Optimizer) -> Named:
    """Its settings; of the rest it is the parameters that count, which are found where they are used."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in value.param_groups]
    return [("param_groups", groups), ("defaults", value.defaults), ("type", Same(type(value)))]


def _reference(value: weakref.ref[Any]) -> Named:
    to = value()
    return [("itself", Same(value)), *([] if isinstance(to, Tensor) else [("()", to)])]


def _bound(value: Any) -> Named:
    of = value.__self__
    return [] if isinstance(of, ModuleType | type) else [("self", of)]


_KNOWN: tuple[tuple[Any, Callable[[Any], Named]], ...] = (
    (functools.partialmethod, lambda v: [("func", v.func), ("args", v.args), ("keywords", v.keywords)]),
    ((operator.itemgetter, operator.attrgetter, operator.methodcaller), _reduced),
    (property, lambda v: [("get", v.fget)]),
    ((staticmethod, classmethod), lambda v: [("function", v.__func__)]),
    ((BuiltinMethodType, MethodWrapperType), _bound),
    (ModuleType, in_user_module),
    (ChainMap, lambda v: [("maps", v.maps)]),
    (_VIEWS, lambda v: [("entries", list(v))]),
    (np.ndarray, lambda v: [("entries", v.tolist())]),
    (threading.local, lambda v: [] if not is_library(type(v)) else attributes(v)),
    (threading.Event, lambda v: [("is_set()", v.is_set())]),
    (ContextVar, _variable),
    (weakref.ref, _reference),
    (torch.optim.Optimizer, _optimizer),
    (torch.autocast, lambda v: [(name, getattr(v, name)) for name in ("device", "fast_dtype", "_enabled")]),
)
"""Types, and what is to be known of their instances: all of it."""
