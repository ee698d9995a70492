"""``ffc demo``: the shipped sampler by its author's loop and compiled, side by side, and what it leaves in a folder."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..bench.harness import BUSY, WATCH_SECONDS, busy_cores, pinned_threads
from ..compiled import Compiled
from ..doctor import machine, usable_cores
from ..driver import compile as compile_function
from ..driver import load
from ..errors import UsageError
from ..runtime.equality import same_bits
from ..runtime.record import RunRecord
from ..stored.files import replace_file
from ..tell.pictures import Fronts, front_svg, grid, png
from ..zoo.made import load as load_model
from ..zoo.made import logistic_noise, sample, to_pixels
from ..zoo.mnist import SIDE
from .targets import to_device
from .terminal import Terminal, to_json

T = TypeVar("T")
FILES = ("made.ffc", "plan.txt", "samples.png", "front.svg", "run.json")
RUNS = 5  # of the compiled sampler; they are short
PATIENCE = 10.0  # seconds: a slower reference is run only once
WARM_UP = 30  # evaluations of the model before anything is timed: the first ones allocate and start threads


def demo(options: Namespace, terminal: Terminal) -> int:
    folder = prepare_folder(Path(options.output), options.force)
    device = to_device(_device(options.device))
    model = load_model().to(device)
    noise = logistic_noise(options.batch, options.seed).to(device)
    terminal.note(f"MADE: {noise.shape[1]} pixels, one after another; {options.batch} digits on {device}")
    with pinned_threads(_free_cores(terminal)):
        outcome = _compare(model, noise, terminal)
    terminal.note(outcome.text)
    outcome.loaded_equal = _write(folder, outcome, options.seed)
    lines = [f"made.ffc       loaded back: {'the same bits' if outcome.loaded_equal else 'OTHER BITS'}"]
    lines += ["", f"left in {folder}/: {', '.join(FILES)}"]
    terminal.show("\n".join(lines if not terminal.quiet else [outcome.text, *lines]), outcome.data(options.seed))
    return 0 if outcome.bits_equal and outcome.loaded_equal else 1


@dataclass(slots=True)
class Outcome:
    """Both runs on the same noise."""

    compiled: Compiled
    samples: Tensor
    noise: Tensor
    record: RunRecord
    reference_times: tuple[float, ...]
    compile_seconds: float
    bits_equal: bool
    loaded_equal: bool = False

    @property
    def reference_seconds(self) -> float:
        return min(self.reference_times)

    @property
    def text(self) -> str:
        r = self.record
        ratio = self.reference_seconds / r.seconds
        rows = (
            ("schedule", r.schedule),
            ("why", self.compiled.plan.why),
            ("sweeps", f"{len(r.sweeps)} in place of {r.blocks} sequential steps"),
            (
                "seconds",
                f"{r.seconds:.4g}; the author's own loop {self.reference_seconds:.4g}: {ratio:.1f} times faster",
            ),
            ("bits", "equal: every bit of every sample" if self.bits_equal else "DIFFERENT from the author's loop"),
            ("certificate", r.claim),
        )
        return "\n".join(f"{name:<14} {text}" for name, text in rows)

    def data(self, seed: int) -> dict[str, Any]:
        return {
            "schedule": self.record.schedule,
            "why": self.compiled.plan.why,
            "sweeps": len(self.record.sweeps),
            "equations": self.record.blocks,
            "seconds": self.record.seconds,
            "reference_seconds": self.reference_seconds,
            "reference_times": self.reference_times,
            "compile_seconds": self.compile_seconds,
            "bits_equal": self.bits_equal,
            "loaded_bits_equal": self.loaded_equal,
            "certificate": self.record.claim,
            "batch": self.noise.shape[0],
            "seed": seed,
            "device": str(self.noise.device),
            "fronts": self.record.fronts,
            "record": self.record.to_json(),
            "machine": machine(),
        }


def _compare(model: nn.Module, noise: Tensor, terminal: Terminal) -> Outcome:
    """Each of the two is timed more than once, and its best time counts: another program may have been running."""

    def sampler(noise: Tensor) -> Tensor:
        return sample(model, noise)

    terminal.note("1/3 the author's own loop ...")
    expected, reference_seconds = _author(model, sampler, noise)
    terminal.note(f"    {reference_seconds:.2f} s\n2/3 compiling: capture, proof, trial of each schedule ...")
    with terminal.progress() as say:
        compile_now = partial(compile_function, sampler, (noise,), cache=False, progress=say)  # all of it is shown
        compiled, compile_seconds = _timed(compile_now, noise.device)
    terminal.note(f"    {compile_seconds:.2f} s\n3/3 the compiled sampler, and the author's loop once more ...\n")
    runs = [compiled.run(noise) for _ in range(RUNS)]
    times = [reference_seconds]
    if reference_seconds < PATIENCE:
        times.append(_author(model, sampler, noise)[1])
    samples, record = min(runs, key=lambda run: run[1].seconds)
    equal = all(same_bits(samples, expected) for samples, _ in runs)
    return Outcome(compiled, samples, noise, record, tuple(times), compile_seconds, equal)


def _author(model: nn.Module, sampler: Callable[[Tensor], Tensor], noise: Tensor) -> tuple[Tensor, float]:
    with torch.no_grad():
        for _ in range(WARM_UP):
            model(noise)
        return _timed(lambda: sampler(noise), noise.device)


def _timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def _free_cores(terminal: Terminal) -> int:
    """As many threads as there are cores to run them: threads that wait for a core make all others wait."""
    cores = usable_cores()
    busy = busy_cores(WATCH_SECONDS) or 0.0
    free = max(1, cores - math.ceil(busy - BUSY)) if busy > BUSY else cores
    if free < cores:
        terminal.note(f"other programs use {busy:.1f} of {cores} cores: using {free}; the times are worth little")
    return free


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


# ---------------------------------------------------------------------------------------------------- files


def prepare_folder(folder: Path, force: bool) -> Path:
    """``folder``, made if need be. One that an earlier demo left is used again; one with other content is not.

    Raises: `UsageError`
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"cannot use {folder} as a folder: {error.strerror}; choose another with --output") from None
    others = sorted(names - set(FILES)) or (sorted(names) if names and "run.json" not in names else [])
    if others and not force:
        raise UsageError(
            f"{folder} holds {others[0]!r}, which no demo left there; choose another with --output, or use --force"
        )
    return folder


def _write(folder: Path, outcome: Outcome, seed: int) -> bool:
    """Every file of the demo; whether the artifact, loaded back, gives the same bits."""
    pixels = to_pixels(outcome.samples.cpu()).numpy()
    fronts = Fronts(tuple(outcome.record.fronts), outcome.record.blocks)
    # run.json is written first: whatever happens, the folder is then known as a demo's
    _put(folder, "run.json", to_json(outcome.data(seed)) + "\n")
    outcome.compiled.save(folder / "made.ffc", force=True)
    _put(folder, "plan.txt", f"{outcome.compiled.plan}\n")
    replace_file(folder / "samples.png", png(grid(pixels)), force=True)
    _put(folder, "front.svg", front_svg(fronts, SIDE, "pixel"))
    outcome.loaded_equal = same_bits(load(folder / "made.ffc")(outcome.noise), outcome.samples)
    _put(folder, "run.json", to_json(outcome.data(seed)) + "\n")
    return outcome.loaded_equal


def _put(folder: Path, name: str, text: str) -> None:
    replace_file(folder / name, text.encode(), force=True)
