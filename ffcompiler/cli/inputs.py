"""Values from the command line: arrays from .npy files, plain values, and the arguments of an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import constant
from ..calls import as_stored
from ..constants import Written, constant_in, text_of_constant
from ..errors import UsageError
from ..plan import Plan
from ..program import Leaf, Signature
from ..trees import unflatten


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def parse_inputs(words: Sequence[str]) -> dict[str, Any]:
    """``name=@file.npy`` and ``name=2.0`` as values by name."""
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--input {word!r}: write NAME=@FILE.npy or NAME=VALUE")
        if name in given:
            raise UsageError(f"--input {name} is given twice")
        given[name] = _array(name, text[1:]) if text.startswith("@") else _plain_value(text)
    return given


def _array(name: str, path: str) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"--input {name}: there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"--input {name}: {path} cannot be read as .npy: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UsageError(f"--input {name}: {path} holds several arrays; save one as .npy")
    try:
        return torch.from_numpy(np.array(array))
    except TypeError:
        raise UsageError(f"--input {name}: {path} holds {array.dtype}, for which there is no tensor") from None


def _plain_value(text: str) -> Any:
    """A number, ``torch.float32``, ``torch.device('cpu')``; the text itself where it is no constant."""
    value = constant_in(text)
    return text if isinstance(value, Written) or text_of_constant(value) is None else value


def stored_call(plan: Plan, given: Mapping[str, Any], device: torch.device) -> Call:
    """The arguments for an artifact, each leaf of its signature by its path (``noise``, ``batch['mask']``)."""
    assert plan.program is not None
    signature = as_stored(plan.program.signature)
    paths = [leaf.path for leaf in signature.leaves]
    faults = [f"there is no input {name!r}" for name in given if name not in paths]
    faults += [f"{leaf.path} is missing" for leaf in signature.leaves if leaf.type and leaf.path not in given]
    if faults:
        raise UsageError("; ".join(faults) + f"\n{wanted_inputs(signature)}")
    leaves = [_leaf(leaf, given, device) for leaf in signature.leaves]
    args, kwargs = unflatten(signature.tree, leaves)
    return Call(tuple(args), kwargs)


def _leaf(leaf: Leaf, given: Mapping[str, Any], device: torch.device) -> Any:
    if leaf.path not in given:
        return constant(leaf)
    value = given[leaf.path]
    if leaf.type is not None and leaf.type.shape == () and isinstance(value, bool | int | float):
        return torch.tensor(value, dtype=getattr(torch, leaf.type.dtype), device=device)
    return value.to(device) if isinstance(value, Tensor) else value


def wanted_inputs(signature: Signature) -> str:
    """What an artifact has to be given, one line for each input."""
    signature = as_stored(signature)
    lines = [f"  --input {leaf.path}=@FILE.npy   {leaf.type}" for leaf in signature.leaves if leaf.type]
    lines += [f"  {leaf.path} is {leaf.constant}, part of the program" for leaf in signature.leaves if not leaf.type]
    return "\n".join(["the inputs are", *lines])
