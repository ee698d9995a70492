"""The process's random generators: their states, and the operators that fill a tensor from them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from .ops import DRAWS
from .signatures import overload

PERMUTATION = "aten.randperm.default"
"""The only one of `DRAWS` that makes its tensor itself."""


def state_of(device: torch.device | str) -> Tensor:
    """The state of the default generator of a device, as a tensor of its own."""
    return torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else torch.get_rng_state()


def set_state(device: torch.device | str, state: Tensor) -> None:
    """Let the default generator of a device go on from ``state``."""
    if torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def known_devices() -> list[torch.device]:
    """The devices whose generators something may have drawn from."""
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(count))]


States: TypeAlias = Mapping[torch.device, Tensor]


def states() -> dict[torch.device, Tensor]:
    """The states of all generators."""
    return {device: state_of(device) for device in known_devices()}


def set_states(known: States) -> None:
    """Let generators go on from these states."""
    for device, state in known.items():
        set_state(device, state)


def same_states(a: States, b: States) -> bool:
    """Whether no generator that is in both is in different states."""
    return all(torch.equal(a[device], b[device]) for device in a.keys() & b.keys())


@contextmanager
def kept() -> Iterator[None]:
    """Leave every generator as it was before, those of Python and numpy too."""
    before, python, numpy = states(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        set_states(before)
        random.setstate(python)
        np.random.set_state(numpy)


def fill(op: str, out: Tensor, numbers: Sequence[int | float]) -> None:
    """Let ``op``, one of `DRAWS`, draw into ``out``: as many numbers, in the order that the layout of ``out`` gives."""
    assert op in DRAWS
    if op == PERMUTATION:
        out.copy_(overload(op)(*numbers, dtype=out.dtype, device=out.device))
    else:
        overload(op)(out, *numbers)
