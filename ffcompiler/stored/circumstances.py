"""Under which circumstances a choice holds that was measured: this build, the weights, the machine, and its settings.

The settings are those that `ffc doctor` shows, all but the load: one that is added there counts here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..doctor import load, surroundings
from ..plan import Plan
from .cache import Asked, Circumstances, PlanCache


def remembered(
    cache: PlanCache | None, ask: Callable[[], Asked], choose: Callable[[], Plan], name: str
) -> tuple[Plan, str | None]:
    """The choice of an earlier compilation in the same circumstances, and when it was measured; else one made now."""
    if cache is None:
        return choose(), None
    asked = ask()
    found = cache.look_up(asked)
    if found is not None:
        return found.plan, found.head.day
    plan = choose()
    cache.keep(asked, plan, name, load())
    return plan, None


def circumstances(
    options: Mapping[str, object], weights: Mapping[str, Tensor], inputs: Iterable[Tensor]
) -> Circumstances:
    """Those of now. Of ``inputs`` the devices count; their shapes stand in the plan, and their values are left out.

    Inputs of another value converge after another number of sweeps, but which differ enough to change the choice nobody
    can tell; and an example is often drawn at random, so that with its values no choice would ever be found again.
    """
    devices = sorted({str(t.device) for t in (*inputs, *weights.values())})
    settings = [(f"{f.group}: {f.name}", f.value) for kind in _kinds(devices) for f in surroundings(kind)]
    asked = [*((name, repr(value)) for name, value in options.items()), ("devices", ", ".join(devices))]
    return Circumstances(tuple(asked), fingerprint(weights), (("ffcompiler's source", _own_source()), *settings))


def _kinds(devices: Iterable[str]) -> list[str]:
    return sorted({torch.device(name).type for name in devices} or {"cpu"})


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the bytes of all weights, about a second for a gigabyte; their types stand in the plan."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(name.encode() + b"\0")
        digest.update(_bytes(weight))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The elements in the order of their places, whatever the strides."""
    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous().reshape(-1)
    return memoryview(cast(Any, plain.view(torch.uint8).numpy()))


@lru_cache(1)
def _own_source() -> str:
    """SHA-256 over this package's code: while it is being changed its version stays, and its costs do not."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
