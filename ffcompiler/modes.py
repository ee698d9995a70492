"""The modes a function is called in: besides the arguments, they decide which calls it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn

Ambient: TypeAlias = tuple[torch.dtype | None, torch.dtype | None, torch.dtype, torch.device, bool, str]
"""Autocast on the CPU and on CUDA (its dtype, or None), default dtype and device, kernels of attention in eval mode,
those that scaled dot products may take."""
_NAMES = (
    "autocast on cpu",
    "autocast on cuda",
    "default dtype",
    "default device",
    "the fast path of attention",
    "the kernels of scaled dot products",
)
_USUAL = ("None", "None", "torch.float32", "cpu", "True", "flash, memory-efficient, math, cudnn")
_CPU = torch.device("cpu")
NAMED = 4
"""Up to so many modules in training are named; more are counted."""


def ambient() -> Ambient:
    """The process-wide (or thread-wide) settings as they are now."""
    return (
        _autocast("cpu"),
        _autocast("cuda"),
        torch.get_default_dtype(),
        torch.get_default_device() if torch._C._len_torch_function_stack() else _CPU,  # its context would be there
        torch.backends.mha.get_fastpath_enabled(),
        _dot_products(),
    )


def _dot_products() -> str:
    of = torch.backends.cuda  # they choose on every device
    enabled = {
        "flash": of.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        "memory-efficient": of.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
        "math": of.math_sdp_enabled(),  # type: ignore[no-untyped-call]
        "cudnn": of.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
    }
    return ", ".join([name for name, on in enabled.items() if on])


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def ambient_change(was: Ambient, now: Ambient) -> str | None:
    """The first setting that is not as it was."""
    changed = next((i for i, (a, b) in enumerate(zip(was, now, strict=True)) if a != b), None)
    return None if changed is None else f"{_NAMES[changed]} was {was[changed]}, is {now[changed]}"


def other_modes(modes: Sequence[tuple[str, str]]) -> list[str]:
    """How the settings are otherwise now than `described`, where they decide what a function computes, and how."""
    was, now = dict(modes), dict(described(ambient(), {}))
    usual = dict(zip(_NAMES, _USUAL, strict=True))
    names = [name for name in _NAMES if name != "default device"]  # what a program makes says where
    both = ((name, was.get(name, usual[name]), now.get(name, usual[name])) for name in names)
    return [f"{name} was {then}, is {is_}" for name, then, is_ in both if then != is_]


def training_flags(modules: Sequence[nn.Module]) -> tuple[bool, ...]:
    return tuple([module.training for module in modules])


def described(modes: Ambient, training: Mapping[str, bool]) -> tuple[tuple[str, str], ...]:
    """Modes for people: settings that are not the usual ones, and which modules are in training."""
    unusual = [
        (name, str(value)) for name, value, usual in zip(_NAMES, modes, _USUAL, strict=True) if str(value) != usual
    ]
    return (*unusual, *([("training", _training(training))] if training else []))


def _training(flags: Mapping[str, bool]) -> str:
    """``no module``, ``every module``, or which ones."""
    on = [path for path, flag in flags.items() if flag]
    if len(on) in (0, len(flags)):
        return "every module" if on else "no module"
    return ", ".join(on) if len(on) <= NAMED else f"{len(on)} of {len(flags)} modules"


@contextmanager
def casts_repeated() -> Iterator[None]:
    """Autocast casts a weight each time that it is read, so that every step of a loop makes the calls of the first.

    With its cache the first step casts, and later ones read what it made. The bits are the same.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def as_recorded(device: torch.device) -> Iterator[None]:
    """For the evaluation of recorded graphs: without gradients, and without autocast, whose casts they hold already."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
