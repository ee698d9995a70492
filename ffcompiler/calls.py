"""Calls as keys: two calls with the same key are served by the same program."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from .program import Signature
from .trees import leaf_count, parts

Key: TypeAlias = tuple[Hashable, ...]
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
PLAIN = frozenset({bool, int, float, str, type(None)})
"""Constants that arguments may hold; another value is another key."""
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Unkeyed(Exception):
    """An argument that has no key; the text says which type."""


def key_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Key, list[Tensor]]:
    """The key of a call, and its tensors in order: positional arguments, then keywords by name.

    A tensor counts by dtype, shape, strides and device; one that stands at several places, by that.

    Raises: `Unkeyed`.
    """
    key: list[Hashable] = []
    tensors: list[Tensor] = []
    for value in args:
        _walk(value, key, tensors)
    for name in sorted(kwargs):
        key.append(name)
        _walk(kwargs[name], key, tensors)
    if len({id(t) for t in tensors}) < len(tensors):
        first = {id(t): i for i, t in reversed(list(enumerate(tensors)))}
        key.append(tuple(first[id(t)] for t in tensors))
    return (len(args), *key), tensors


def _walk(value: Any, key: list[Hashable], tensors: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        tensors.append(value)
        key.append((value.dtype, value.shape, value.stride(), value.device, value.requires_grad))
    elif type(value) in PLAIN:
        key.append((type(value), value.hex() if type(value) is float else value))
    elif (node := parts(value)) is not None:
        key.append(node.head)
        for _, inner in node.children:
            _walk(inner, key, tensors)
    elif isinstance(value, int | float | str):  # an enum, a scalar of numpy
        key.append((type(value), repr(value)))
    else:
        raise Unkeyed(f"an argument is a {type(value).__name__}; tensors and plain constants are accepted")


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a function takes its arguments: names by position, and defaults that are plain constants."""

    names: tuple[str, ...] = ()
    only_by_position: int = 0
    defaults: Mapping[str, Hashable] = field(default_factory=dict)  # by name, as `_constant_key` has them
    keywords: frozenset[str] | None = None  # of a function with ``**kwargs``, all other names that it gives parameters

    def canonical(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        """The same call with arguments by position as far as they go, and without those that are their defaults."""
        names = self.names
        if not kwargs and (not self.defaults or not any(map(self._is_default, names, args))):
            return args, {}
        if len(args) > len(names):  # ``*args`` take the rest
            return args, dict(kwargs)
        by_name = {name: value for name, value in kwargs.items() if not self._is_default(name, value)}
        given = list(args)
        while len(given) < len(names) and names[len(given)] in by_name and len(given) >= self.only_by_position:
            given.append(by_name.pop(names[len(given)]))
        cut = next((i for i, value in enumerate(given) if self._is_default(names[i], value)), len(given))
        if cut < self.only_by_position or any(name in by_name for name in names[: len(given)]):
            return args, dict(kwargs)  # a call that the function itself will refuse, or one that says more by position
        rest = zip(names[cut:], given[cut:], strict=False)
        return tuple(given[:cut]), {**{n: v for n, v in rest if not self._is_default(n, v)}, **by_name}

    def order(self, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """The names that ``**kwargs`` take, which the function is given in the order of the call."""
        return () if self.keywords is None else tuple(name for name in kwargs if name not in self.keywords)

    def _is_default(self, name: str, value: Any) -> bool:
        known = self.defaults.get(name)
        return known is not None and type(value) in PLAIN and known == _constant_key(value)


def _constant_key(value: Any) -> Hashable:
    return (type(value), value.hex() if type(value) is float else value)


def parameters_of(function: Callable[..., Any]) -> Parameters:
    """The parameters of ``function``; none where it does not say, or where hooks see how it is called."""
    if isinstance(function, nn.Module):
        if function._forward_pre_hooks or function._forward_hooks:
            return Parameters()
        function = function.forward
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return Parameters()
    found = signature.parameters.values()
    return Parameters(
        tuple(p.name for p in found if p.kind in _NAMED),
        sum(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in found),
        {p.name: _constant_key(p.default) for p in found if type(p.default) in PLAIN},
        frozenset(signature.parameters) if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found) else None,
    )


# ---------------------------------------------------------------------------------------------------- artifacts


def parameters_in(signature: Signature) -> Parameters:
    """The parameters of a loaded function, as far as its signature names them: so that keywords find their places."""
    leaves = iter(signature.leaves)
    names = []
    for tree in json.loads(signature.tree)[0]:
        paths = [next(leaves).path for _ in range(leaf_count(tree))]
        names.append(re.split(r"[\[.]", paths[0])[0] if paths else "")
    return Parameters(tuple(names))


def mismatches(wanted: Signature, given: Signature) -> Iterator[str]:
    """Every way in which a call is not as the signature says."""
    if wanted.tree != given.tree:
        names = ", ".join(leaf.path for leaf in wanted.leaves)
        yield f"the call has {len(given.leaves)} arguments, in another structure than the plan: {names}"
        return
    for a, b in zip(wanted.leaves, given.leaves, strict=True):
        if a.type != b.type:
            yield f"{a.path} is {b.type or b.constant}; the plan has {a.type or a.constant}"
        elif a.constant != b.constant:
            yield f"{a.path} is {b.constant}; the plan has {a.constant}, which is part of the program"
