"""Objects among the arguments of a call: modules, functions, whatever holds tensors or settings of the user's.

before:  sample(model, n)       the call hands a module to the function
after:   Bound(sample, model)   a function in whose reach the module is, as it would be if the function closed over it;
                                it is called with the same arguments

A plan is made for one such object, by identity. What it holds is watched like everything in a function's reach.
"""

from __future__ import annotations

import functools
import inspect
import sys
from argparse import Namespace
from collections import UserDict, UserList
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket

from .constants import Same, key_of_constant, title

NAMESPACES = (SimpleNamespace, Namespace, UserDict, UserList)
"""Types of the standard library whose instances hold what the user puts there."""
_OWN = __name__.partition(".")[0]
_OBJECT = "<object "
_TAKEN = (nn.Module, type, functools.partial, OpOverload, OpOverloadPacket)


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """``function``, in whose reach the objects are that a call hands to it, by the path of the argument."""

    function: Callable[..., Any]
    given: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Wrapper:
    """Something of ours that gives what a function of the user's gives."""

    __slots__ = ()

    @property
    def wrapped(self) -> Callable[..., Any] | None:
        """That function; None where it is not in this process."""
        raise NotImplementedError


def unbound(function: Any) -> Any:
    """The function itself."""
    return function.function if isinstance(function, Bound) else function


def is_object(value: Any) -> bool:
    """Whether an argument is taken as a part of the function: a module, a function, an object of the user's.

    What torch, numpy and the standard library make is not, but for functions and namespaces: iterators, generators,
    arrays and the like are data, or change as they are used.
    """
    if isinstance(value, (*_TAKEN, *NAMESPACES)):
        return True
    if inspect.ismethod(value):
        return isinstance(value.__self__, type) or is_object(value.__self__)
    if inspect.isbuiltin(value):
        return value.__self__ is None or isinstance(value.__self__, ModuleType | type)
    if inspect.isfunction(value) or inspect.ismethoddescriptor(value) or hasattr(type(value), "cache_info"):
        return True
    return not is_library(type(value)) and not isinstance(value, Tensor) and key_of_constant(value) is None


def is_users_enum(value: Any) -> bool:
    """Whether a value is a member of an enum of the user's, which may have attributes and methods."""
    return isinstance(value, Enum) and not is_library(type(value))


def identity(value: Any) -> tuple[Same, ...]:
    """Of an object: methods are made anew each time that they are named."""
    return (Same(value.__self__), Same(value.__func__)) if inspect.ismethod(value) else (Same(value),)


def text_of_object(value: Any) -> str:
    """``<object sampler.Net>``: what no constant is written like."""
    return f"{_OBJECT}{title(value if hasattr(value, '__qualname__') else type(value))}>"


def is_object_text(text: str | None) -> bool:
    return text is not None and text.startswith(_OBJECT)


def refusal(value: Any) -> str:
    """Why something can be no argument, and what to do. It goes on after ``argument x is``."""
    what = f"a {type(value).__name__}"
    if isinstance(value, np.ndarray):
        return f"{what}; give the function a tensor (torch.from_numpy)"
    if isinstance(value, torch.Generator):
        return (
            f"{what}, and draws from a generator of its own are not captured\n"
            "  draw before the call and pass the noise, or let the function draw from the default generator "
            "(torch.manual_seed)"
        )
    if isinstance(value, Mapping):
        return f"{what} with other keys than strings and integers; give it such keys"
    return (
        f"{what}; tensors, constants, modules, functions and objects of your own classes are accepted\n"
        "  pass what is in it: tensors and numbers, in tuples and dicts; or bind it, if it never changes: "
        "ffc.compile(functools.partial(f, it), (x,))"
    )


# ---------------------------------------------------------------------------------------------------- whose it is


def is_library(thing: Any) -> bool:
    """Torch, numpy, the standard library and ourselves: code that holds no state of the user's."""
    return is_library_name(getattr(thing, "__module__", None) or "builtins")


def is_library_name(module: str) -> bool:
    root = module.partition(".")[0]
    if root == _OWN:
        return not module.startswith(f"{_OWN}.zoo")
    return root in ("torch", "numpy") or (root in sys.stdlib_module_names and root != "__main__")
