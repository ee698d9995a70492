"""Samplers of the zoo: every schedule against the author's loop, its best plain rewrite and the derived cached sampler.

The cached sampler is the one that others write by hand: one position after another, of each tensor only what the last
one changed. Here it is a schedule, `gauss-seidel+windows`, run without a guard.
"""

from __future__ import annotations

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
from ..schedules import CACHED as CACHED_SCHEDULE
from ..zoo import made, pixelcnn
from .harness import Measurement, Moment, Progress, measure, moment, pinned_threads
from .rewrites import fold_masks

LOOP, FOLDED, CACHED = "author's loop", "masks folded", "cached loop"
JACOBI, AUTO, SWEEPS, ONCE = "jacobi", "auto", "sweeps of jacobi alone", "once-per-call work"
BASELINES = (LOOP, FOLDED, CACHED)

Sample = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a model, its author's sampler, and the noise for a batch."""

    name: str
    title: str
    load: Callable[[], nn.Module]
    sample: Sample
    noise: Callable[[int], Tensor]


def _random_3072() -> nn.Module:
    return made.random_made(3072, seed=0)


SUBJECTS = {
    "made": Subject(
        "made",
        "MADE, trained, 784 pixels",
        made.load,
        made.sample,
        lambda batch: made.logistic_noise(batch, 0),
    ),
    "made-3072": Subject(
        "made-3072",
        "MADE, random weights, 3072 dimensions (the shape of CIFAR-10)",
        _random_3072,
        made.sample,
        lambda batch: made.logistic_noise(batch, 0, 3072),
    ),
    "pixelcnn": Subject(
        "pixelcnn",
        "gated PixelCNN, trained, 28 x 28 pixels of 16 levels",
        pixelcnn.load,
        pixelcnn.sample,
        lambda batch: pixelcnn.gumbel_noise(batch, 0),
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, and what the variants gave."""

    subject: Subject
    measurement: Measurement
    batch: int
    equations: int
    device: str
    schedule: str  # what `auto` chose
    compile_seconds: float
    proof_seconds: float
    forward_seconds: float
    sweeps: Mapping[str, int]
    certifying: Mapping[str, int]
    bits_equal: Mapping[str, bool]

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name in (*BASELINES, JACOBI, AUTO) if name in self.measurement.seconds)

    @property
    def right(self) -> bool:
        """Whether every variant gave the same bits."""
        return all(self.bits_equal.values())

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
        against = [name for name in BASELINES if name in m.seconds]
        return {
            "benchmark": self.subject.name,
            "title": self.subject.title,
            "batch": self.batch,
            "equations": self.equations,
            "device": self.device,
            "schedule": self.schedule,
            "compile_seconds": self.compile_seconds,
            "proof_seconds": self.proof_seconds,
            "forward_seconds": self.forward_seconds,
            "sweeps": dict(self.sweeps),
            "certifying_sweeps": dict(self.certifying),
            "bits_equal": dict(self.bits_equal),
            "speedup": {v: {b: m.ratio(b, v) for b in against} for v in (JACOBI, AUTO)},
            "overhead_share": self.overhead_share,
            "once_share": self.once_share,
            **m.to_json(),
        }

    def __str__(self) -> str:
        m = self.measurement
        against = [name for name in BASELINES if name in m.seconds]
        lines = [f"{self.subject.title}; batch {self.batch}, {self.device}, {m.threads} threads", ""]
        lines += [f"{'':<32}{'median s':>10}" + "".join(f"{name:>15}" for name in against) + "  sweeps  bits"]
        for name in self.variants:
            ratios = "".join(f"{m.ratio(b, name):>14.1f}x" for b in against)
            label = f"auto: {self.schedule}" if name == AUTO else name
            bits = "equal" if self.bits_equal[name] else "DIFFERENT"
            lines.append(f"{label:<32}{m.median(name):>10.4g}{ratios}  {self.sweeps.get(name, ''):>6}  {bits}")
        lines += ["", f"compile     {self.compile_seconds:.1f} s, of which {self.proof_seconds:.2g} s are the proof "]
        lines[-1] += f"(one evaluation of the model: {self.forward_seconds:.2g} s)"
        lines += [f"overhead    {100 * self.overhead_share:.1f} % of the Jacobi run is not the evaluation of sweeps"]
        lines += [f"            {100 * self.once_share:.1f} % is the function's own work before its loop"]
        lines += [f"pairs       {len(m.seconds[JACOBI])}, interleaved; speed-ups are medians over pairs"]
        return "\n".join([*lines, *(f"LOADED      {fault}" for fault in m.load.faults())])


def run(
    subject: Subject,
    batch: int = 100,
    pairs: int = 9,
    threads: int | None = None,
    device: str = "cpu",
    before: Moment | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a subject."""
    where = torch.device(device)
    with pinned_threads(threads), torch.no_grad():
        before = before or moment()
        model = subject.load().to(where)
        return _run(subject, model, subject.noise(batch).to(where), pairs, before, progress)


def _run(
    subject: Subject, model: nn.Module, noise: Tensor, pairs: int, before: Moment, progress: Progress | None
) -> Report:
    author, folded = _sampler(subject, model), _sampler(subject, fold_masks(model))
    started = time.perf_counter()
    auto = compile_function(author, (noise,), cache=False, progress=progress)
    compile_seconds = time.perf_counter() - started
    solved = {
        JACOBI: with_schedule(auto, Schedule(Method.JACOBI)),
        AUTO: auto,
        CACHED: with_schedule(auto, CACHED_SCHEDULE, guarded=False),
    }
    expected = author(noise)
    results = {FOLDED: folded(noise)}
    records = {}
    for name, compiled in solved.items():
        results[name], records[name] = compiled.run(noise)
    variants: dict[str, Callable[[], object]] = {
        LOOP: lambda: author(noise),
        FOLDED: lambda: folded(noise),
        CACHED: lambda: solved[CACHED](noise),
        JACOBI: lambda: solved[JACOBI](noise),
        SWEEPS: sweeps_alone(solved[JACOBI], noise, records[JACOBI]),
        ONCE: once_per_call(solved[JACOBI], noise),
        AUTO: lambda: auto(noise),
    }
    system = auto.plan.array
    return Report(
        subject,
        measure(variants, pairs, noise.device, before, progress, warm_up={LOOP: 0, FOLDED: 0}),
        noise.shape[0],
        system.blocks if system is not None else 0,
        str(noise.device),
        str(auto.plan.schedule),
        compile_seconds,
        proof_seconds(auto, noise),
        evaluation_seconds(auto, noise),
        {name: len(record.sweeps) for name, record in records.items()},
        {name: sum(1 for s in record.sweeps if s.certified) for name, record in records.items()},
        {LOOP: same_bits(author(noise), expected), **{n: same_bits(r, expected) for n, r in results.items()}},
    )


def _sampler(subject: Subject, model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda noise: subject.sample(model, noise)


def with_schedule(compiled: Compiled, schedule: Schedule, guarded: bool = True) -> Compiled:
    """The same plan with another schedule, without compiling again; without costs there is no guard."""
    plan = replace(compiled.plan, schedule=schedule, costs=compiled.plan.costs if guarded else None)
    return Compiled(plan, compiled.proofs, compiled.prove, compiled.live)


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
            system.write(state, sweep.lo, sweep.hi, values)

    return evaluate


def once_per_call(compiled: Compiled, noise: Tensor) -> Callable[[], object]:
    """What a run does before its first sweep: prologue, and the work that no step changes."""
    live = compiled.live
    assert live is not None
    runner = Runner(compiled.plan, compiled.proof, compiled.device)
    return lambda: runner.begin([noise], live.weights())


def proof_seconds(compiled: Compiled, noise: Tensor) -> float:
    """How long the dependence proof takes, on values that are there already: the better of two."""
    _, execution = _begun(compiled, noise)
    program = compiled.plan.program
    assert program is not None
    return _best_of_two(lambda: compiled.prove(program, execution.env))


def evaluation_seconds(compiled: Compiled, noise: Tensor) -> float:
    """One evaluation of the shared part, the forward pass of the model: the better of two."""
    runner, execution = _begun(compiled, noise)
    system = runner.system
    assert system is not None
    return _best_of_two(lambda: system.evaluate(execution.env, execution.init[0]))


def _best_of_two(call: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _begun(compiled: Compiled, noise: Tensor) -> tuple[Runner, Execution]:
    assert compiled.live is not None
    runner = Runner(compiled.plan, compiled.proof, compiled.device)
    return runner, runner.begin([noise], compiled.live.weights())
