"""placeholder"""
from __future__ import annotations
import os
from .plan import Plan
from .runtime.record import RunRecord


def write_page(plan: Plan, path: str | os.PathLike[str], record: RunRecord | None, force: bool) -> None:
    raise NotImplementedError
