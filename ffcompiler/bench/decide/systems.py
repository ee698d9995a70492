"""All systems of `ffc bench decide`, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import UsageError
from . import layers, maps, recurrent, rows, samplers
from .system import System

SYSTEMS: dict[str, System] = {
    system.name: system for module in (samplers, recurrent, maps, layers, rows) for system in module.SYSTEMS
}


def select(names: Sequence[str]) -> dict[str, System]:
    """Those of these names, in the order of the list; all for none. Raises: `UsageError` for one that is not there."""
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise UsageError(f"there is no system {unknown[0]!r} to decide; --list shows those that there are")
    return {name: system for name, system in SYSTEMS.items() if not names or name in names}


def listed(systems: Mapping[str, System]) -> str:
    """A line for each: its name, kind and equality, and the hard inputs it is run on."""
    rows = [(s.name, s.kind, str(s.equality), ", ".join(s.hard)) for s in systems.values()]
    return "\n".join("{:<28}{:<24}{:<36}{}".format(*row).rstrip() for row in rows)
