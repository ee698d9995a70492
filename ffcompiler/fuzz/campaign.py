"""Many random programs, one after the other; a file keeps what was found, and where to go on."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ..doctor import machine
from ..errors import UsageError
from .check import check
from .generate import generate
from .runs import Outcome

Progress = Callable[[str, int, int], None]
Line = dict[str, Any]

SAME = "same"


def campaign(programs: int, seed: int, path: Path | None, progress: Progress, every: int = 50) -> Summary:
    """Check the programs of seeds ``seed .. seed + programs - 1``; those that ``path`` holds already are taken from it.

    Each line of the file is one program. Raises: `UsageError` if the file is not one of a campaign.
    """
    summary = Summary(seed)
    for line in _read(path):
        if seed <= line["seed"] < seed + programs:
            summary.add(line)
    for number in range(seed + summary.programs, seed + programs):
        line = trial(number)
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        summary.add(line)
        if (number - seed) % every == 0:
            progress("programs", number - seed, programs)
    return summary


def trial(seed: int) -> Line:
    """The program of a seed, checked; with its source where something was found."""
    rng, began = Random(seed), time.process_time()
    program = generate(rng)
    outcome = check(program, rng)
    line: Line = {"seed": seed, "kind": program.kind, **_told(outcome), "cpu": round(time.process_time() - began, 3)}
    return line if outcome.verdict == SAME else {**line, "source": program.source}


def _told(outcome: Outcome) -> Line:
    return {**asdict(outcome), "system": category(outcome.system), "seconds": round(outcome.seconds, 3)}


def category(system: str) -> str:
    """The first line of a reason without names, numbers and places.

    >>> category("not parallel: step 3 writes [:, 3] and may read [:, 3]\\n  through aten.mm at a.py:7 in f")
    'not parallel: step # writes [#] and may read [#]'
    """
    text = system.partition("\n")[0]
    text = re.sub(r" (?:at|of the loop at) \S+\.py:\d+(?: in \w+)?", "", text)
    text = re.sub(r"\[[^]]*\d[^]]*\]|\([\d, ]+\)", lambda m: m[0][0] + "#" + m[0][-1], text)
    return re.sub(r"aten\.\w+(\.\w+)?", "aten.#", re.sub(r"\b\d+(\.\d+)?(e[-+]\d+)?\b", "#", text))[:160]


def _read(path: Path | None) -> Iterator[Line]:
    """The programs that the file holds; a line that was cut off at the end is dropped from it."""
    if path is None or not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        found = [line for line in lines if isinstance(line["seed"], int) and line["verdict"]]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{str(path)!a} is not the file of a campaign; name another one to begin anew") from None
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    yield from found


# ---------------------------------------------------------------------------------------------------- what was found


@dataclass(slots=True)
class Summary:
    """Counts over the programs of a campaign."""

    seed: int
    programs: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    systems: Counter[str] = field(default_factory=Counter)
    equalities: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    swept: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        self.programs += 1
        self.verdicts[line["verdict"]] += 1
        self.kinds[line["kind"]] += 1
        self.systems[line["system"]] += line["verdict"] == SAME
        self.equalities[line["equality"]] += 1
        self.endings.update(line["endings"])
        self.runs += line["runs"]
        self.swept += line["swept"]
        self.seconds += line["seconds"]
        self.slowest = max(self.slowest, line["seconds"])
        if line["verdict"] != SAME:
            self.failures.append(line)

    def to_json(self) -> Line:
        """Plain data, the failing programs with their source, and the machine."""
        counts = {name: dict(getattr(self, name).most_common()) for name in _COUNTED}
        return {
            "seeds": [self.seed, self.seed + self.programs - 1],
            "programs": self.programs,
            "mismatches": self.verdicts["mismatch"],
            "errors": self.verdicts["error"],
            "runs": self.runs,
            "runs_ended_by_sweeps": self.swept,
            "seconds": round(self.seconds, 1),
            "slowest_seconds": self.slowest,
            **counts,
            "failures": self.failures,
            "machine": machine(),
        }

    def __str__(self) -> str:
        found = f"{self.verdicts['mismatch']} mismatches, {self.verdicts['error']} errors"
        head = [
            f"{self.programs} programs (seeds {self.seed} to {self.seed + self.programs - 1}): {found}",
            f"{self.runs} runs compared, {self.swept} of them ended by sweeps",
            f"{self.seconds:.0f} s, the slowest program {self.slowest:.1f} s",
        ]
        tables = [f"\n{name}\n" + "\n".join(f"  {n:>6}  {what}" for what, n in getattr(self, name).most_common() if n)
                  for name in _COUNTED]  # fmt: skip
        return "\n".join([*map(_shown, self.failures), *head, *tables])


_COUNTED = ("kinds", "equalities", "systems", "endings")


def _shown(line: Line) -> str:
    title = f"seed {line['seed']}: {line['verdict']} ({line['kind']}, {line['equality']})"
    return f"{title}\n{line['detail']}\n\n{line['source']}\n"
