"""Calls as keys: two calls with the same key are served by the same program."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from .constants import Same, key_of_constant
from .errors import ArtifactError
from .given import Bound, identity, is_object, is_object_text, is_users_enum, refusal, unbound
from .program import Leaf, Signature
from .trees import flatten, leaf_count, parts

Key: TypeAlias = tuple[Hashable, ...]
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Unkeyed(Exception):
    """An argument that has no key; the text says which type."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """The key of a call, and what is in its arguments."""

    key: Key
    tensors: list[Tensor]
    objects: tuple[Same, ...]


def key_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Keyed:
    """The key of a call, its tensors and objects in order: positional arguments, then keywords by name.

    A tensor counts by dtype, shape, strides and device; one that stands at several places, by that. A constant counts
    by type and value, an object by identity.

    Raises: `Unkeyed`.
    """
    key: list[Hashable] = []
    tensors: list[Tensor] = []
    objects: list[Same] = []
    for value in args:
        _walk(value, key, tensors, objects)
    for name in sorted(kwargs):
        key.append(name)
        _walk(kwargs[name], key, tensors, objects)
    if len({id(t) for t in tensors}) < len(tensors):
        first = {id(t): i for i, t in reversed(list(enumerate(tensors)))}
        key.append(tuple(first[id(t)] for t in tensors))
    return Keyed((len(args), *key), tensors, tuple(objects))


def _walk(value: Any, key: list[Hashable], tensors: list[Tensor], objects: list[Same]) -> None:
    if isinstance(value, Tensor):
        tensors.append(value)
        key.append((value.dtype, value.shape, value.stride(), value.device, value.requires_grad))
    elif (constant := key_of_constant(value)) is not None:
        key.append(constant)
    elif (node := parts(value)) is not None:
        key.append(node.head)
        for _, inner in node.children:
            _walk(inner, key, tensors, objects)
    elif is_object(value):
        key.append(identity(value))
        objects += identity(value)
    else:
        raise Unkeyed(f"an argument is {refusal(value)}")


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """``function`` with the objects that a call hands to it in its reach; as it is where there are none."""
    given = _held(function, args, kwargs)
    return Bound(unbound(function), given) if given else function


def _held(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    """The objects of a call, each with a path that no other has: a keyword may be spelt like a positional argument."""
    found: dict[str, Any] = {}
    for path, value in labelled(names_of(function), args, kwargs):
        if _is_held(value):
            found[path if path not in found else f"{path} ({len(found)})"] = value
    return tuple(found.items())


def others_given(
    function: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    """Every object of a call that is another than the one which ``function`` was compiled with in its place."""
    if isinstance(function, Bound):
        for (path, was), (_, now) in zip(function.given, _held(function, args, kwargs), strict=False):
            if identity(was) != identity(now):
                yield f"{path} is another object than the {type(was).__name__} of the plan"


def _is_held(value: Any) -> bool:
    """Whether there is something to be watched in a leaf: members of enums are constants, but have attributes."""
    constant = isinstance(value, Tensor) or key_of_constant(value) is not None
    return is_users_enum(value) if constant else is_object(value)


def labelled(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of a call: positional arguments, then keywords by name; each with its path (``batch['mask']``)."""
    for path, leaf in flatten(list(args))[0]:
        index, _, rest = path.removeprefix("[").partition("]")
        yield (names[int(index)] if int(index) < len(names) else f"argument {index}") + rest, leaf
    for path, leaf in flatten(dict(sorted(kwargs.items())))[0]:
        yield path[2:].replace("']", "", 1), leaf


def names_of(function: Callable[..., Any]) -> list[str]:
    """Of its parameters; none where it does not say."""
    function = unbound(function)
    try:
        return list(inspect.signature(getattr(function, "forward", function)).parameters)
    except (TypeError, ValueError):
        return []


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a function takes its arguments: names by position, and defaults that are constants."""

    names: tuple[str, ...] = ()
    only_by_position: int = 0
    defaults: Mapping[str, Hashable] = field(default_factory=dict)  # by name, as `key_of_constant` has them
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
        return known is not None and not isinstance(value, Tensor) and known == key_of_constant(value)


def parameters_of(function: Callable[..., Any]) -> Parameters:
    """The parameters of ``function``; none where it does not say, or where hooks see how it is called."""
    function = unbound(function)
    if isinstance(function, nn.Module):
        if function._forward_pre_hooks or function._forward_hooks:
            return Parameters()
        function = function.forward
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return Parameters()
    found = signature.parameters.values()
    defaults = {p.name: key_of_constant(p.default) for p in found if p.default is not inspect.Parameter.empty}
    return Parameters(
        tuple(p.name for p in found if p.kind in _NAMED),
        sum(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in found),
        {name: key for name, key in defaults.items() if key is not None},
        frozenset(signature.parameters) if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found) else None,
    )


# ---------------------------------------------------------------------------------------------------- artifacts


def as_stored(signature: Signature) -> Signature:
    """How a function is called that has the objects which it was given in its artifact: without them.

    An argument that is such an object, or holds only such, is left out; in another one None is in its place.
    """
    kept = [one for one in _given_in(signature) if not (one.leaves and all(map(_is_object, one.leaves)))]
    leaves = [replace(leaf, constant="None") if _is_object(leaf) else leaf for one in kept for leaf in one.leaves]
    positional = [one.tree for one in kept if one.name is None]
    named = {"dict": [[one.name, one.tree] for one in kept if one.name is not None]}
    return replace(signature, leaves=tuple(leaves), tree=json.dumps([positional, named], separators=(",", ":")))


def left_out(signature: Signature) -> list[str]:
    """The objects that an artifact holds, and is called without, by their paths."""
    return [f"{leaf.path} {leaf.constant}" for leaf in signature.leaves if _is_object(leaf)]


def _is_object(leaf: Leaf) -> bool:
    return is_object_text(leaf.constant)


def parameters_in(signature: Signature) -> Parameters:
    """The parameters of a loaded function, as far as its signature names them: so that keywords find their places."""
    paths = [one.leaves[0].path if one.leaves else "" for one in _given_in(signature) if one.name is None]
    return Parameters(tuple(re.split(r"[\[.]", path)[0] for path in paths))


@dataclass(frozen=True, slots=True)
class _Given:
    """One argument of a signature; without a name if it is given by position."""

    name: str | None
    tree: Any
    leaves: tuple[Leaf, ...]


def _given_in(signature: Signature) -> list[_Given]:
    """The arguments, in order. Raises: `ArtifactError` where the signature's tree does not fit its leaves."""
    leaves = iter(signature.leaves)
    try:
        positional, named = json.loads(signature.tree)
        found = [(None, tree) for tree in positional] + [(str(name), tree) for name, tree in named["dict"]]
        given = [_Given(name, tree, tuple([next(leaves) for _ in range(leaf_count(tree))])) for name, tree in found]
    except (ValueError, TypeError, KeyError, StopIteration):
        given = None
    if given is None or next(leaves, None) is not None:
        raise ArtifactError(f"its arguments do not fit their structure {signature.tree!a}; compile it again")
    return given


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
