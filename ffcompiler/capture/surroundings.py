"""What a function can reach without being given it: weights, and the numbers and settings that shape its calls.

It is looked at anew for every call. Weights are taken by their path, so a replaced parameter, module or list entry is
seen; if a number, a flag, a hook or a function has changed, or what was one thing under two names no longer is, the
plan is stale.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from ..constants import Same
from ..errors import CaptureError
from ..given import Bound, Wrapper, is_library
from .instances import CONTAINERS, in_container, in_instance, whole
from .reach import DEPTH, LOOKS_AROUND, PLAIN, code_of, in_callable, in_class, in_function, is_plain, words

MAX_THINGS = 20_000
"""A function with more in reach is not watched, and so not compiled."""
FLAG = ".requires_grad"
_MODULE_STATE = frozenset({"_parameters", "_buffers", "_modules"})


@dataclass(slots=True)
class View:
    """What is in reach now, by path (``model.fc1.weight``): tensors, and everything else as something comparable."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Hashable] = field(default_factory=dict)
    _seen: dict[int, Any] = field(default_factory=dict)
    _first: dict[int, str] = field(default_factory=dict)  # where each of them was seen
    _later: list[tuple[Any, str, int]] | None = field(default_factory=list)  # what names nothing that others may name

    def paths(self, tensor: Tensor) -> tuple[str, ...]:
        return tuple(path for path, t in self.tensors.items() if t is tensor)

    def modules(self) -> list[nn.Module]:
        return [thing for thing in self._seen.values() if isinstance(thing, nn.Module)]

    def things(self) -> list[tuple[str, Any]]:
        """All that was looked into, what may hold other things, each with its path."""
        return [(self._first[key], value) for key, value in self._seen.items()]

    def at(self, path: str) -> Any:
        """The thing at a path; None if there is none."""
        return next((value for where, value in self.things() if where == path), None)

    def changes(self, then: Mapping[str, Hashable]) -> str | None:
        """The first thing that is not as it was ``then``."""
        for path, was in then.items():
            if path not in self.others:
                return f"{path} is gone"
            if self.others[path] != was:
                return f"{path} has changed"
        unread = self._unread(then)
        found = (path for path in self.others if path not in then and not self._is_flag(path))
        new = next((path for path in found if not path.startswith(unread)), None)
        return None if new is None else f"{new} is new"

    def _unread(self, then: Mapping[str, Hashable]) -> tuple[str, ...]:
        """Where compiled functions stand that nothing stood for ``then``, and of which no code in reach can know.

        So a module may keep its sampler, compiled, in an attribute that its code does not name.
        """
        wrappers = [path for path, value in self.things() if isinstance(value, Wrapper) and f"{path}()" not in then]
        if not wrappers:
            return ()
        known = {name for _, value in self.things() if inspect.isfunction(value) for name in words(value.__code__)}
        if known & LOOKS_AROUND:
            return ()
        return tuple(f"{path}{end}" for path in wrappers if path.rpartition(".")[2] not in known for end in ("()", "."))

    def _is_flag(self, path: str) -> bool:
        """Of a tensor that is new, and that therefore nothing has been computed with."""
        return path.endswith(FLAG) and path.removesuffix(FLAG) in self.tensors

    # ------------------------------------------------------------------------------------------ the walk

    def look_at(self, value: Any, path: str, depth: int = 0) -> None:
        if isinstance(value, Tensor):
            self.tensors[path] = value
            self.others[f"{path}{FLAG}"] = value.requires_grad  # matmul chooses its kernels by that
        elif is_plain(value):
            self.others[path] = _comparable(value)
        elif isinstance(value, Same):
            self.others[path] = value
        elif isinstance(value, Wrapper) and self._later is not None:
            self._later.append((value, path, depth))
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

    def look_at_later(self) -> None:
        """At last at compiled functions, so that what they and others reach has the same name with and without them."""
        later, self._later = self._later, None
        for value, path, depth in later or ():
            self.look_at(value, path, depth)

    def _inside(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        """The named things in a value; notes what stands for the value itself."""
        if callable(value) and not isinstance(value, nn.Module):
            self.others[f"{path}()"] = code_of(value)
        if isinstance(value, nn.Module):
            yield from self._module(value, path)
        elif isinstance(value, (*CONTAINERS, MappingProxyType)):
            yield from self._container(value, path)
            yield from in_container(value)
        elif (found := whole(value)) is not None:
            self.others[path] = found
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
        if isinstance(module, fx.GraphModule):
            yield "code", module.code

    def _container(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, set | frozenset):
            value = sorted(value, key=repr)
        entries = list(value.items() if isinstance(value, dict | MappingProxyType) else enumerate(value))
        if all(is_plain(v) for _, v in entries):
            self.others[path] = tuple([(_key(k, i), _comparable(v)) for i, (k, v) in enumerate(entries)])
        else:
            self.others[path] = len(entries)
            yield from ((_key(k, i), v) for i, (k, v) in enumerate(entries))
        yield from ((f"key {_key(k, i)}", k) for i, (k, _) in enumerate(entries) if not _is_name(k))


_MODULE_PRIVATE = frozenset(vars(nn.Module())) - {"training"}


def look(function: Callable[..., Any]) -> View:
    """What ``function`` can reach through closures, globals, defaults, ``self`` and whatever those hold.

    Of a `Bound` one also what the objects hold that it is given: ``argument model.weight``, a name that no other has.
    """
    view = View()
    if isinstance(function, Bound):
        for path, value in function.given:
            view.look_at(value, f"argument {path}")
        function = function.function
    view.look_at(function, "")
    if inspect.isfunction(function) and is_library(function):  # the user's function is looked into wherever it is from
        for name, value in in_function(function):
            view.look_at(value, name)
    of_all = nn.modules.module
    view.look_at([*of_all._global_forward_hooks.values()], "hooks of all modules")
    view.look_at([*of_all._global_forward_pre_hooks.values()], "pre-hooks of all modules")
    view.look_at_later()
    return view


def unflagged(others: Mapping[str, Hashable], paths: Sequence[str]) -> dict[str, Hashable]:
    """``others`` without whether the tensors at, or in what is at, these paths require gradients."""

    def counts(path: str) -> bool:
        return not path.endswith(FLAG) or not any(path.startswith((f"{at}.", f"{at}[")) for at in paths)

    return {path: was for path, was in others.items() if counts(path)}


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Of what is called, of classes, and of objects."""
    if isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif inspect.ismethod(value):
        yield from (("self", value.__self__), ("function", value.__func__))
    elif inspect.isfunction(value) or hasattr(type(value), "cache_info"):
        yield from in_callable(value)
    elif isinstance(value, type):
        yield from in_class(value)
    elif isinstance(value, Wrapper):
        yield "function", Same(value) if value.wrapped is None else value.wrapped
    else:
        yield from in_instance(value)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, np.generic):
        return type(value).__name__, value.tobytes()
    return (type(value).__name__, value.hex() if isinstance(value, float) else value)


def _key(key: Any, number: int) -> str:
    """The name of an entry: its key, or its number where the key's text does not say which key it is."""
    return f"[{key!r}]" if _is_name(key) else f"[#{number}]"


def _is_name(key: Any) -> bool:
    return isinstance(key, PLAIN) or (type(key) is tuple and all(isinstance(part, PLAIN) for part in key))
