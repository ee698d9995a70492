"""The artifact on disk: a canonical zip of manifest, plan and weights. Loading executes nothing from the file.

``manifest.json`` says what wrote the file and carries the SHA-256 of the other members, against damage (an attacker
can recompute them: `load(path, sha256=...)` is against that); ``plan.json`` is the `Plan`; ``weights.safetensors``
holds the weights of all its parts by name (`weights.py`).
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from .errors import ArtifactError, InvalidPlanError, UsageError
from .plan import Plan
from .rules.verify import verify
from .stored.container import read, write
from .stored.files import replace_file
from .stored.weights import WEIGHTS, weights_from_bytes, weights_to_bytes
from .written.codec import decode, encode

FORMAT = (3, 1)
"""Major and minor version; a newer minor is read, a newer major is not."""

MANIFEST, PLAN = "manifest.json", "plan.json"
MAX_FILE_BYTES = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file is, before anything else of it is read."""

    format: tuple[int, int]
    ffcompiler: str
    torch: str
    machine: str
    device: str
    plan_sha256: str
    weights_sha256: str


Weights = Sequence[Mapping[str, Tensor]]
"""For each part of a plan, the tensors that it names."""


def save_artifact(plan: Plan, weights: Weights, path: str | os.PathLike[str], force: bool) -> None:
    """Write ``path`` whole or not at all. Raises: `UsageError` if it exists (unless ``force``) or cannot be written."""
    if plan.program is None:
        raise UsageError(
            "this function was not captured, so there is no program to save; it runs only in its own process\n"
            f"  {plan.refusal}"
        )
    replace_file(path, to_bytes(plan, weights), force)


def to_bytes(plan: Plan, weights: Weights) -> bytes:
    """The artifact's bytes: the same for the same plan and weights."""
    plan_bytes, weight_bytes = encode(plan), weights_to_bytes(plan, weights)
    manifest = Manifest(
        FORMAT,
        version("ffcompiler"),
        str(torch.__version__),  # a subclass of str
        platform.machine(),
        plan.device,
        hashlib.sha256(plan_bytes).hexdigest(),
        hashlib.sha256(weight_bytes).hexdigest(),
    )
    return write([(MANIFEST, encode(manifest)), (PLAN, plan_bytes), (WEIGHTS, weight_bytes)])


def read_artifact(
    path: str | os.PathLike[str], sha256: str | None = None
) -> tuple[Plan, tuple[dict[str, Tensor], ...]]:
    """Plan and weights (of each part, on the CPU) of an artifact.

    Raises: `ArtifactError`, one line on what is wrong with the file, and what to do; `UsageError` if it is not there.
    """
    name = os.fspath(path)
    try:
        data = _bytes(Path(path))
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
            raise ArtifactError(f"its SHA-256 is {hashlib.sha256(data).hexdigest()}, not the one that was asked for")
        return from_bytes(data)
    except (ArtifactError, InvalidPlanError) as error:
        raise ArtifactError(f"{ascii(name)[1:-1]}: {error}") from None


def from_bytes(data: bytes) -> tuple[Plan, tuple[dict[str, Tensor], ...]]:
    """Plan and weights from an artifact's bytes; the plan is verified, the weights are those it names."""
    members = read(data, (MANIFEST, PLAN, WEIGHTS))
    manifest = decode(members[MANIFEST], Manifest)
    if manifest.format[0] != FORMAT[0]:
        raise ArtifactError(
            f"the file has format {manifest.format[0]}.{manifest.format[1]}; this ffcompiler {version('ffcompiler')} "
            f"reads {FORMAT[0]}.x; {'upgrade, or ' if manifest.format[0] > FORMAT[0] else ''}compile it again"
        )
    for member, digest in ((PLAN, manifest.plan_sha256), (WEIGHTS, manifest.weights_sha256)):
        if hashlib.sha256(members[member]).hexdigest() != digest:
            raise ArtifactError(f"{member} is damaged (its SHA-256 is not the manifest's); copy or compile it again")
    plan = verify(decode(members[PLAN], Plan))
    if plan.program is None:
        raise ArtifactError("the plan holds no program; compile the function again")
    return plan, weights_from_bytes(members[WEIGHTS], plan)


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError(f"{ascii(str(path))[1:-1]} is not a file" if path.exists() else f"there is no file {path}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ArtifactError(f"the file has {path.stat().st_size} bytes; an artifact has {MAX_FILE_BYTES} at most")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
