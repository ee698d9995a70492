"""Operators by name, and their arguments in the order of their schema, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch


@cache
def overload(name: str) -> Any:
    """The operator called ``name``, as in ``aten.addmm.default``. Names come from `ffcompiler.ops.OPS` only."""
    namespace, packet, which = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), which)


@cache
def parameters(name: str) -> tuple[tuple[str, Any], ...]:
    """Each parameter's name and default (None where it has none)."""
    arguments = overload(name)._schema.arguments
    return tuple((a.name, _plain(a.default_value) if a.has_default_value() else None) for a in arguments)


def complete(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """All arguments of a call in the order of the schema, those that are named or left out too.

    >>> complete("aten.slice.Tensor", ("x",), {"dim": 1})
    ('x', 1, None, None, 1)
    """
    return (*args, *(kwargs.get(key, default) for key, default in parameters(name)[len(args) :]))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
