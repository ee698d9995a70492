"""All systems, one after the other; a file keeps what was measured, one line for each, and where to go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import torch

from ...doctor import machine
from ...errors import UsageError
from .decision import Decision
from .measured import decide
from .summary import Summary
from .system import System

Progress = Callable[[str, int, int], None]


def campaign(
    systems: Mapping[str, System], pairs: int, path: Path | None, progress: Progress, strict: bool = False
) -> Summary:
    """Measure those of ``systems`` that ``path`` does not hold yet, and sum up all of them.

    With ``strict``, what it holds from a machine that was busy is measured again.

    Raises: `UsageError` if the file is none of this benchmark, or was made with other settings.
    """
    setting = describe(pairs)
    known = {name: d for name, d in read(path, setting).items() if not (strict and d.faults)}
    for position, (name, system) in enumerate(systems.items()):
        progress("systems", position, len(systems))
        if name not in known:
            known[name] = decide(system, pairs, setting)
            if path is not None:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[name].to_json()) + "\n")
    progress("systems", len(systems), len(systems))
    return Summary(tuple(known[name] for name in systems))


def describe(pairs: int) -> str:
    """What figures must have in common to stand in one table."""
    processor = machine().get("machine", {}).get("processor", "unknown processor")
    versions = f"ffcompiler {version('ffcompiler')}, torch {torch.__version__}"
    return f"{versions}, {torch.get_num_threads()} threads, {pairs} pairs, {processor}"


def read(path: Path | None, setting: str) -> dict[str, Decision]:
    """The systems that the file holds; a line that was cut off at the end is dropped from it."""
    if path is None or not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    names = {f.name for f in fields(Decision)}
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        found = [Decision(**{key: value for key, value in line.items() if key in names}) for line in lines]
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"{str(path)!a} is not a file of ffc bench decide; name another one to begin anew") from None
    for decision in found:
        if decision.setting != setting:
            raise UsageError(
                f"{str(path)!a} was measured with {decision.setting}; this run has {setting}; name another file"
            )
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return {decision.system: decision for decision in found}
