"""Arguments and results as leaves and a tree (tuples, lists, dicts, nested); the tree is text that is safe to read.

A leaf is ``0``, a list a JSON array, a tuple ``{"tuple": [...]}`` and a dict ``{"dict": [[key, tree], ...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

LEAF = 0


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


def _flatten(value: Any, path: str, leaves: list[tuple[str, Any]]) -> Any:
    if type(value) is list:
        return [_flatten(v, f"{path}[{i}]", leaves) for i, v in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [_flatten(v, f"{path}[{i}]", leaves) for i, v in enumerate(value)]}
    if type(value) is dict and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, _flatten(v, f"{path}[{key!r}]", leaves)] for key, v in value.items()]}
    leaves.append((path, value))
    return LEAF


def _unflatten(tree: Any, leaves: Iterator[Any]) -> Any:
    match tree:
        case list():
            return [_unflatten(t, leaves) for t in tree]
        case {"tuple": list() as parts} if len(tree) == 1:
            return tuple(_unflatten(t, leaves) for t in parts)
        case {"dict": list() as items} if len(tree) == 1:
            return {key: _unflatten(t, leaves) for key, t in _pairs(items)}
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
