"""``ffc cache ls|clear|path``: what the plan cache holds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..stored.cache import Entry, PlanCache, usual_folder
from ..written.layout import columns, printable
from .terminal import Terminal

KEY_WIDTH = 12  # of the 32 characters: enough to name one of many
UNITS = ("B", "KiB", "MiB")


def cache(options: Namespace, terminal: Terminal) -> int:
    found = PlanCache(_folder(options.folder))
    match options.action:
        case "ls":
            entries = found.entries()
            terminal.show(_listing(found.folder, entries), _data(found.folder, entries))
        case "clear":
            count = found.clear(options.keys)
            text = f"removed {_plans(count)} from {found.folder}"
            terminal.show(text, {"folder": str(found.folder), "removed": count})
        case "path":
            terminal.show(str(found.folder), {"folder": str(found.folder)})
    return 0


def _folder(given: str | None) -> Path:
    folder = usual_folder() if given is None else Path(given)
    if folder is None:
        raise UsageError("there is no home folder to keep plans in; set XDG_CACHE_HOME to a folder")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    return folder


def _listing(folder: Path, entries: Sequence[Entry]) -> str:
    total = f"{_plans(len(entries))}, {_size(sum(e.bytes for e in entries))}, in {folder}"
    if not entries:
        return total
    head = ("key", "measured", "size", "device", "speed", "schedule", "function")
    return "\n".join([*columns([head, *map(_cells, entries)]), total])


def _cells(entry: Entry) -> tuple[str, ...]:
    key, size, head = entry.key[:KEY_WIDTH], _size(entry.bytes), entry.head
    if head is None:
        return key, "-", size, "-", "-", "-", "cannot be read; it will be replaced"
    speed = "-" if head.speedup is None else f"{head.speedup:.1f}x"
    old = " (expired)" if head.expired else ""
    return key, head.day, size, head.device, speed, printable(head.schedule), printable(head.function) + old


def _data(folder: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    return {"folder": str(folder), "plans": [{"key": e.key, "bytes": e.bytes, **_facts(e)} for e in entries]}


def _facts(entry: Entry) -> dict[str, Any]:
    """What a file says of itself, if it can be read."""
    head = entry.head
    if head is None:
        return {"readable": False}
    facts = {name: getattr(head, name) for name in ("function", "measured", "load", "device", "schedule", "speedup")}
    known = head.circumstances
    facts |= {"options": dict(known.options), "weights": known.weights, "settings": dict(known.settings)}
    return {"readable": True, "expired": head.expired, **facts}


def _plans(count: int) -> str:
    return "1 plan" if count == 1 else f"{count} plans"


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {UNITS[unit]}"
