"""Times of several variants of one computation: A B A B, medians, and whether the machine was busy with other work."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..doctor import machine, usable_cores

Variant = Callable[[], Any]
Progress = Callable[[str, int, int], None]

BUSY = 0.25
"""Share of one core that others may use, and by how much the spin may slow down, before a run is flagged."""
WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the machine was with other work: just before, meanwhile, and just after."""

    busy_cores: tuple[float | None, float | None]  # while this process slept; None where the system does not say
    others: float | None  # cores that other programs used from the one moment to the other
    spin_seconds: tuple[float, float]  # the same small work
    load_average: tuple[float, float]  # of the last minute; the one after contains this run

    def faults(self) -> list[str]:
        """Why the numbers should not be trusted; empty where they may."""
        found = []
        for when, busy in zip(("before", "after"), self.busy_cores, strict=True):
            if busy is not None and busy > BUSY:
                found.append(f"other programs used {busy:.2f} cores {when} the run")
        if self.others is not None and self.others > BUSY:
            found.append(f"other programs used {self.others:.2f} cores during the run")
        slower = max(self.spin_seconds) / min(self.spin_seconds) - 1
        if slower > BUSY:
            found.append(f"the same work took {100 * slower:.0f} % longer at one end of the run than at the other")
        if self.busy_cores[0] is None and self.load_average[0] > BUSY * usable_cores():
            found.append(f"the load average was {self.load_average[0]:.2f} before the run")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "busy_cores": self.busy_cores,
            "others_during": self.others,
            "spin_seconds": self.spin_seconds,
            "load_average": self.load_average,
            "loaded": bool(self.faults()),
            "faults": self.faults(),
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """The machine at one moment."""

    busy_cores: float | None
    spin_seconds: float
    load_average: float
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds so far: on the wall, of processor time of this process, and of all programs."""

    wall: float
    own: float
    all: float


@dataclass(slots=True)
class Measurement:
    """Seconds of each variant, in the order in which they were taken."""

    seconds: dict[str, list[float]]
    load: Load
    threads: int
    machine: Mapping[str, Any] = field(default_factory=machine)

    def median(self, variant: str) -> float:
        return statistics.median(self.seconds[variant])

    def ratio(self, baseline: str, variant: str) -> float:
        """How many times as fast as ``baseline``: the median over the pairs that were run one after the other."""
        pairs = zip(self.seconds[baseline], self.seconds[variant], strict=True)
        return statistics.median(b / v for b, v in pairs)

    def to_json(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "pairs": min(map(len, self.seconds.values())),
            "median_seconds": {name: self.median(name) for name in self.seconds},
            "raw_seconds": self.seconds,
            "load": self.load.to_json(),
            "machine": dict(self.machine),
        }


def measure(
    variants: Mapping[str, Variant],
    pairs: int,
    device: torch.device,
    before: Moment | None = None,
    progress: Progress | None = None,
    warm_up: Mapping[str, int] | None = None,
) -> Measurement:
    """Run the variants one after the other, ``pairs`` times over, each first run once, or as ``warm_up`` says.

    ``before``: the machine before any work of ours, where that lies further back (compiling, say).
    """
    before = before or moment()
    for name, call in variants.items():
        for _ in range((warm_up or {}).get(name, 1)):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for k in range(pairs):
        for name, call in variants.items():
            seconds[name].append(seconds_of(call, device))
        if progress is not None:
            progress("pairs", k + 1, pairs)
    return Measurement(seconds, load_between(before, moment()), torch.get_num_threads())


def load_between(before: Moment, after: Moment) -> Load:
    return Load(
        (before.busy_cores, after.busy_cores),
        _others(before.clock, after.clock),
        (before.spin_seconds, after.spin_seconds),
        (before.load_average, after.load_average),
    )


def seconds_of(call: Variant, device: torch.device) -> float:
    """Seconds of one call, with what it left to the device; the garbage collector waits, as it does in `timeit`."""
    _finish(device)
    collects = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        call()
        _finish(device)
        return time.perf_counter() - started
    finally:
        if collects:
            gc.enable()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def pinned_threads(count: int | None) -> Iterator[int]:
    """Let torch use ``count`` threads (default: one for each usable core), and as many as before afterwards."""
    old = torch.get_num_threads()
    torch.set_num_threads(count or usable_cores())
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(old)


# ---------------------------------------------------------------------------------------------------- the machine


def moment(watch_seconds: float = WATCH_SECONDS) -> Moment:
    """Watch the machine while this process sleeps, then time a small piece of work."""
    return Moment(busy_cores(watch_seconds), min(_spin() for _ in range(7)), _load_average(), _clock())


def _spin() -> float:
    """Seconds of a fixed piece of work that uses every thread."""
    a = torch.ones(384, 384)
    started = time.perf_counter()
    for _ in range(20):
        a = (a @ a).clamp_(0.0, 1.0)
    return time.perf_counter() - started


def busy_cores(seconds: float) -> float | None:
    """How many cores were at work while this process slept; None where the system does not say."""
    first = _cpu_times()
    time.sleep(seconds)
    second = _cpu_times()
    if first is None or second is None or second[1] <= first[1]:
        return None
    share = (second[0] - first[0]) / (second[1] - first[1])
    return share * (os.cpu_count() or 1)


def _cpu_times() -> tuple[int, int] | None:
    """Clock ticks at work and in all, over all cores, since the start (proc(5), /proc/stat)."""
    try:
        head = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        ticks = [int(word) for word in head[1:9]]  # user nice system idle iowait irq softirq steal
    except (OSError, ValueError):
        return None
    if head[0] != "cpu" or len(ticks) < 5:
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _clock() -> Clock | None:
    ticks = _cpu_times()
    if ticks is None:
        return None
    return Clock(time.perf_counter(), time.process_time(), ticks[0] / os.sysconf("SC_CLK_TCK"))


def _others(before: Clock | None, after: Clock | None) -> float | None:
    """How many cores other programs used in between; None where the system does not say."""
    if before is None or after is None or after.wall <= before.wall:
        return None
    return max(0.0, (after.all - before.all) - (after.own - before.own)) / (after.wall - before.wall)


def _load_average() -> float:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0
