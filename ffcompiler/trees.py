"""Arguments and results as leaves and a tree; the tree is text that is safe to read.

A leaf is ``0``, a list a JSON array, a tuple ``{"tuple": [...]}``, a dict ``{"dict": [[key, tree], ...]}``; a named
tuple and any type that torch knows as a pytree (registered dataclasses, ordered dicts, ``torch.return_types``) is
``{"node": [type, context, fields, [...]]}``. Reading imports nothing: a type that this process has not met reads as a
tuple whose entries have the names of its fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

import torch
from torch.utils import _pytree as pytree

LEAF = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """A container taken apart by one level. ``head`` is equal for containers that differ in their leaves only."""

    head: Hashable
    children: Sequence[tuple[str, Any]]  # by path
    tree: Callable[[list[Any]], Any]  # from the trees of the children


def flatten(value: Any) -> tuple[list[tuple[str, Any]], str]:
    """The leaves with their paths (``[0]['mask']``), in order, and the tree."""
    leaves: list[tuple[str, Any]] = []
    tree = _flatten(value, "", leaves)
    return leaves, json.dumps(tree, separators=(",", ":"))


def unflatten(tree: str, leaves: Sequence[Any]) -> Any:
    """The value with this tree and these leaves. Raises `ValueError` if they do not fit, or the text is not a tree."""
    remaining = iter(leaves)
    value = _unflatten(json.loads(tree), remaining)
    if any(True for _ in remaining):
        raise ValueError("more leaves than the tree has places")
    return value


def leaf_count(tree: Any) -> int:
    """How many leaves a tree, read from its text, has."""
    match tree:
        case list():
            return sum(map(leaf_count, tree))
        case {"tuple": list() as inner} | {"node": [_, _, _, list() as inner]}:
            return sum(map(leaf_count, inner))
        case {"dict": list() as items}:
            return sum(leaf_count(t) for _, t in _pairs(items))
    return 1


def _flatten(value: Any, path: str, leaves: list[tuple[str, Any]]) -> Any:
    found = parts(value)
    if found is not None:
        return found.tree([_flatten(v, path + inner, leaves) for inner, v in found.children])
    leaves.append((path, value))
    return LEAF


def parts(value: Any) -> Parts | None:
    """A container taken apart; None for a leaf."""
    kind = type(value)
    if kind is list:
        return Parts((list, len(value)), [(f"[{i}]", v) for i, v in enumerate(value)], lambda trees: trees)
    if kind is tuple:
        return Parts((tuple, len(value)), [(f"[{i}]", v) for i, v in enumerate(value)], lambda trees: {"tuple": trees})
    if kind is dict:
        keys = tuple(value)
        if not all(isinstance(key, str | int) for key in keys):
            return None
        children = [(f"[{key!r}]", v) for key, v in value.items()]
        return Parts((dict, keys), children, lambda trees: {"dict": [[k, t] for k, t in zip(keys, trees, strict=True)]})
    return _node(value)


def _unflatten(tree: Any, leaves: Iterator[Any]) -> Any:
    match tree:
        case list():
            return [_unflatten(t, leaves) for t in tree]
        case {"tuple": list() as inner} if len(tree) == 1:
            return tuple(_unflatten(t, leaves) for t in inner)
        case {"dict": list() as items} if len(tree) == 1:
            return {key: _unflatten(t, leaves) for key, t in _pairs(items)}
        case {"node": [str() as title, str() as context, list() as fields, list() as inner]} if len(tree) == 1:
            children = [_unflatten(t, leaves) for t in inner]
            build = _BUILD.get((title, context)) or _stand_in(title, _names(fields, len(inner)))
            return build(children)
        case int() if tree == LEAF and not isinstance(tree, bool):
            try:
                return next(leaves)
            except StopIteration:
                raise ValueError("fewer leaves than the tree has places") from None
    raise ValueError(f"not a tree: {tree!r}"[:200])


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    for item in items:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str | int)):
            raise ValueError(f"not an entry of a dict: {item!r}"[:200])
        yield item[0], item[1]


# ---------------------------------------------------------------------------------------------------- other types

_BUILD: dict[tuple[str, str], Callable[[list[Any]], Any]] = {}
"""How values of the types that this process has flattened are put together, by the type's name and its context."""


def _node(value: Any) -> Parts | None:
    """A named tuple, or a value of a type that is registered with ``torch.utils._pytree``."""
    kind = type(value)
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return _parts_of(kind, "", [(f".{name}", name) for name in kind._fields], list(value), kind._make)
    handler = pytree.SUPPORTED_NODES.get(kind)
    if handler is None:
        return None
    children, context = handler.flatten_fn(value)
    build = kind if kind is torch.Size else lambda inner: handler.unflatten_fn(inner, context)
    return _parts_of(kind, repr(context), _fields(handler, value), children, build)


def _parts_of(
    kind: type, context: str, fields: list[tuple[str, str]], children: list[Any], build: Callable[[list[Any]], Any]
) -> Parts:
    """``fields``: path and name of each part, or nothing where they have none."""
    title = f"{kind.__module__}.{kind.__qualname__}"

    def tree(trees: list[Any]) -> Any:
        _BUILD.setdefault((title, context), build)
        names = [name for _, name in fields] if all(_is_name(name) for _, name in fields) else []
        return {"node": [title, context, names, trees]}

    paths = [path for path, _ in fields] or [f"[{i}]" for i in range(len(children))]
    return Parts((kind, context, len(children)), list(zip(paths, children, strict=True)), tree)


def _fields(handler: Any, value: Any) -> list[tuple[str, str]]:
    """Path and name of each part, where all have names that Python can write; else none."""
    if handler.flatten_with_keys_fn is None:
        return []
    keys = [key for key, _ in handler.flatten_with_keys_fn(value)[0]]
    names: list[Any] = [getattr(key, "name", getattr(key, "key", None)) for key in keys]
    return [(str(key), name) for key, name in zip(keys, names, strict=True)] if all(map(_is_name, names)) else []


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def _names(fields: list[Any], count: int) -> tuple[str, ...]:
    if fields and not (len(fields) == count == len(set(fields)) and all(map(_is_name, fields))):
        raise ValueError(f"not the names of {count} fields: {fields!r}"[:200])
    return tuple(fields)


@lru_cache(maxsize=256)
def _stand_in(title: str, fields: tuple[str, ...]) -> Callable[[list[Any]], Any]:
    """In place of a type that this process does not know: a tuple, its entries named like the fields."""
    named: dict[str, Any] = {name: property(itemgetter(i)) for i, name in enumerate(fields)}
    return type(title.rpartition(".")[2], (tuple,), {"__slots__": (), "_fields": fields, **named})
