"""Where output goes: one text or one JSON document on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is, and of how much."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """How this command talks to its user."""

    json: bool = False
    quiet: bool = False

    def show(self, text: str, data: Mapping[str, Any]) -> None:
        """The result of the command: ``text``, or ``data`` where JSON was asked for."""
        print(to_json(data) if self.json else text)

    def note(self, text: str) -> None:
        """A remark on the way, for people only."""
        if not self.json and not self.quiet:
            print(text, flush=True)

    def fail(self, kind: str, message: str, code: int) -> int:
        """Say what went wrong; returns ``code``."""
        if self.json:
            print(to_json({"error": {"kind": kind, "message": message}, "exit_code": code}))
        print(message if kind == "interrupted" else f"{kind}: {message}", file=sys.stderr)
        return code

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback that draws progress bars on stderr while it is a terminal, and is silent otherwise."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda what, done, of: None
            return
        with _bars() as say:
            yield say


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def say(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done, total=of)

        yield say


def to_json(data: Any) -> str:
    """Standard JSON: what is not finite becomes a string, because JSON has no number for it."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | None) else str(value)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Gives the seconds since it was entered."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started
