"""The signature of a call: its leaves in order, and the modes in which it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..errors import CaptureError
from ..modes import ambient, described
from ..program import Leaf, Signature
from ..trees import flatten
from .facts import tensor_type
from .surroundings import View, look


def describe_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """The signature of a call, its modes too. Raises: `CaptureError` as `describe_arguments`."""
    return replace(describe_arguments(function, args, kwargs)[0], modes=modes_in(look(function)))


def modes_in(view: View) -> tuple[tuple[str, str], ...]:
    """The modes as they are now, for a function that reaches what is in ``view``."""
    ending = "training"
    flags = {path: value for path, value in view.others.items() if path == ending or path.endswith(f".{ending}")}
    training = {
        path.removesuffix(ending).removesuffix(".") or "the module": value[1]
        for path, value in flags.items()
        if isinstance(value, tuple) and value[0] == "bool"
    }
    return described(ambient(), training)


def describe_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Signature, list[Tensor]]:
    """The signature of a call, and its tensors in order.

    Raises `CaptureError` for a leaf that is neither a tensor nor a plain constant.
    """
    positional, positional_tree = flatten(list(args))
    by_name, keyword_tree = flatten(dict(sorted(kwargs.items())))
    names = _parameter_names(function)
    described: list[Leaf] = []
    tensors: list[Tensor] = []
    for label, leaf in [(_label(p, names), v) for p, v in positional] + [
        (p[2:].replace("']", "", 1), v) for p, v in by_name
    ]:
        if isinstance(leaf, Tensor):
            described.append(Leaf(label, f"a{len(tensors)}", tensor_type(leaf)))
            tensors.append(leaf)
        elif isinstance(leaf, bool | int | float | str) or leaf is None:
            described.append(Leaf(label, None, None, repr(leaf)))
        else:
            raise CaptureError(
                f"argument {label} is a {type(leaf).__name__}; tensors and plain constants are accepted\n"
                "  let the function close over it, or pass what is in it: tensors and numbers, in tuples and dicts"
            )
    return Signature(tuple(described), f"[{positional_tree},{keyword_tree}]"), tensors


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(getattr(function, "forward", function)).parameters)
    except (TypeError, ValueError):
        return []


def _label(path: str, names: list[str]) -> str:
    """``noise`` or ``batch['mask']`` for the path of a positional argument."""
    index, _, rest = path.removeprefix("[").partition("]")
    return (names[int(index)] if int(index) < len(names) else f"argument {index}") + rest
