"""``made``: the MADE sampler of 784 pixels, compiled, against its author's loop and the best plain rewrite of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..compiled import Compiled
from ..driver import compile as compile_function
from ..plan import Method, Schedule
from ..runtime.equality import same_bits
from ..runtime.record import RunRecord
from ..runtime.runner import Execution, Runner
from ..zoo.made import MADE, MaskedLinear, load, logistic_noise, sample
from .harness import Measurement, Moment, Progress, measure, moment, pinned_threads

LOOP, FOLDED = "author's loop", "masks folded"
JACOBI, AUTO, SWEEPS, ONCE = "jacobi", "auto", "sweeps of jacobi alone", "once-per-call work"


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, and what the variants gave."""

    measurement: Measurement
    batch: int
    equations: int
    device: str
    schedule: str  # what `auto` chose
    compile_seconds: float
    sweeps: Mapping[str, int]
    bits_equal: Mapping[str, bool]

    @property
    def overhead_share(self) -> float:
        """Share of the Jacobi run that is not the evaluation of its sweeps: guard, premises, fronts, first work."""
        return 1.0 - self.measurement.median(SWEEPS) / self.measurement.median(JACOBI)

    @property
    def once_share(self) -> float:
        """Share of the Jacobi run that is the function's own work before its loop, part of `overhead_share`."""
        return self.measurement.median(ONCE) / self.measurement.median(JACOBI)

    def to_json(self) -> dict[str, Any]:
        m = self.measurement
        return {
            "benchmark": "made",
            "batch": self.batch,
            "equations": self.equations,
            "device": self.device,
            "schedule": self.schedule,
            "compile_seconds": self.compile_seconds,
            "sweeps": dict(self.sweeps),
            "bits_equal": dict(self.bits_equal),
            "speedup": {v: {b: m.ratio(b, v) for b in (LOOP, FOLDED)} for v in (JACOBI, AUTO)},
            "overhead_share": self.overhead_share,
            "once_share": self.once_share,
            **m.to_json(),
        }

    def __str__(self) -> str:
        m = self.measurement
        lines = [f"MADE, {self.equations} pixels, batch {self.batch}, {self.device}, {m.threads} threads", ""]
        lines += [f"{'':<24}{'median s':>10}{'against the loop':>18}{'masks folded':>14}   sweeps  bits"]
        for name in (LOOP, FOLDED, JACOBI, AUTO):
            against = "".join(f"{m.ratio(b, name):>{w}.1f}x" for b, w in ((LOOP, 17), (FOLDED, 13)))
            label = f"auto: {self.schedule}" if name == AUTO else name
            bits = "equal" if self.bits_equal[name] else "DIFFERENT"
            lines.append(f"{label:<24}{m.median(name):>10.4g}{against}   {self.sweeps.get(name, ''):>6}  {bits}")
        lines += ["", f"compile     {self.compile_seconds:.1f} s"]
        lines += [f"overhead    {100 * self.overhead_share:.1f} % of the Jacobi run is not the evaluation of sweeps"]
        lines += [f"            {100 * self.once_share:.1f} % is the function's own work before its loop"]
        lines += [f"pairs       {len(m.seconds[LOOP])}, interleaved; speed-ups are medians over pairs"]
        return "\n".join([*lines, *(f"LOADED      {fault}" for fault in m.load.faults())])


def run(
    batch: int = 100,
    pairs: int = 9,
    threads: int | None = None,
    device: str = "cpu",
    model: MADE | None = None,
    before: Moment | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure with ``model`` (default: the shipped one)."""
    where = torch.device(device)
    with pinned_threads(threads), torch.no_grad():
        before = before or moment()
        subject = (model or load()).to(where)
        noise = logistic_noise(batch, 0, subject.layer1.in_features).to(where)
        return _run(subject, noise, pairs, before, progress)


def _run(model: MADE, noise: Tensor, pairs: int, before: Moment, progress: Progress | None) -> Report:
    author, folded = _sampler(model), _sampler(fold_masks(model))
    started = time.perf_counter()
    auto = compile_function(author, (noise,), progress=progress)
    compile_seconds = time.perf_counter() - started
    jacobi = with_schedule(auto, Schedule(Method.JACOBI))
    expected = author(noise)
    results = {FOLDED: folded(noise), JACOBI: jacobi(noise), AUTO: auto(noise)}
    records = {name: compiled.run(noise)[1] for name, compiled in ((JACOBI, jacobi), (AUTO, auto))}
    variants = {
        LOOP: lambda: author(noise),
        FOLDED: lambda: folded(noise),
        JACOBI: lambda: jacobi(noise),
        SWEEPS: sweeps_alone(jacobi, noise, records[JACOBI]),
        ONCE: once_per_call(jacobi, noise),
        AUTO: lambda: auto(noise),
    }
    return Report(
        measure(variants, pairs, noise.device, before, progress),
        noise.shape[0],
        noise.shape[1],
        str(noise.device),
        str(auto.plan.schedule),
        compile_seconds,
        {name: len(record.sweeps) for name, record in records.items()},
        {LOOP: same_bits(author(noise), expected), **{n: same_bits(r, expected) for n, r in results.items()}},
    )


def _sampler(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda noise: sample(model, noise)


def fold_masks(model: MADE) -> nn.Module:
    """The same network with each mask multiplied into its weight once: the best plain rewrite its user could make."""
    copied = copy.deepcopy(model)
    for name, layer in model.named_children():
        if isinstance(layer, MaskedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, device=layer.weight.device)
            plain.load_state_dict({"weight": layer.weight * layer.mask, "bias": layer.bias})
            setattr(copied, name, plain.requires_grad_(False))
    return copied


def with_schedule(compiled: Compiled, schedule: Schedule) -> Compiled:
    """The same plan with another schedule, without compiling again."""
    return Compiled(replace(compiled.plan, schedule=schedule), compiled.patterns, compiled.prove, compiled.live)


def sweeps_alone(compiled: Compiled, noise: Tensor, record: RunRecord) -> Callable[[], None]:
    """The evaluations that a run of ``record`` made, on the same states, and nothing else of the run.

    The certifying sweeps of the solve loop without guard, premises, comparison with the state before, and record.
    """
    runner, execution = _begun(compiled, noise)
    system = runner.system
    assert system is not None

    def evaluate() -> None:
        state = system.start_from(execution.init[0])
        for sweep in record.sweeps:
            values, _ = system.update(execution.env, state, sweep.lo, sweep.hi, sweep.certified)
            system.region.write(state, sweep.lo, sweep.hi, values)

    return evaluate


def once_per_call(compiled: Compiled, noise: Tensor) -> Callable[[], object]:
    """What a run does before its first sweep: prologue, and the work that no step changes."""
    live = compiled.live
    assert live is not None
    runner = Runner(compiled.plan, compiled.patterns, compiled.device)
    return lambda: runner.begin([noise], live.weights())


def _begun(compiled: Compiled, noise: Tensor) -> tuple[Runner, Execution]:
    assert compiled.live is not None
    runner = Runner(compiled.plan, compiled.patterns, compiled.device)
    return runner, runner.begin([noise], compiled.live.weights())
