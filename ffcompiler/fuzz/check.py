"""One random program, compiled and compared with itself: several schedules, inputs, seeds, weights, and from a file."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..compiled import Compiled
from ..driver import compile as compile_
from ..driver import load
from ..errors import ScheduleError
from ..plan import Bits, Tolerance
from ..program import ArrayLoop, Chain, Recurrence
from ..schedules import parse_schedule
from .runs import TOLERANCE, Mismatch, Outcome, Trial
from .script import Program

SCHEDULES = ["jacobi", "sliding(3)", "gs-jacobi(4)", "gauss-seidel", "sliding(1)"]
ARRAY_SCHEDULES = [*SCHEDULES, "wavefront", "jacobi+windows", "sliding(3)+windows", "wavefront+windows",
                   "gauss-seidel+windows"]  # fmt: skip
SCHEDULES_OF = {ArrayLoop: ARRAY_SCHEDULES, Recurrence: SCHEDULES, Chain: [*SCHEDULES, "wavefront"]}
"""By kind of system; of others there is ``jacobi`` only."""


def check(program: Program, rng: Random) -> Outcome:
    """Compile and compare; never raises for a fault of the compiler, which is the outcome."""
    started, outcome = time.perf_counter(), Outcome()
    with TemporaryDirectory(prefix="ffc-fuzz-") as folder:
        try:
            _check(program, rng, Path(folder), outcome)
        except Mismatch as found:
            outcome.verdict, outcome.detail = "mismatch", str(found)
        except Exception as error:  # anything else that a user would see is a fault too
            outcome.verdict, outcome.detail = "error", f"{type(error).__name__}: {error}"
            outcome.detail += "\n" + _where(error)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _where(error: BaseException) -> str:
    trace, lines = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(lines[-6:]))


def _check(program: Program, rng: Random, folder: Path, outcome: Outcome) -> None:
    module = imported(program.source, folder)
    tolerant = rng.random() < 0.5
    equality = TOLERANCE if tolerant else Bits()
    outcome.equality = "tolerance" if tolerant else "bits"
    trial = Trial(program, module, outcome, tolerant)
    expected = trial.run(module.function, 0)
    try:
        compiled = _compiled(module, equality, rng)
    except Exception as error:
        if expected.raised is not None and type(error) is type(expected.raised):
            outcome.system, outcome.detail = f"the function raises {type(error).__name__}", str(error)
            return
        raise
    outcome.system = _system(compiled)
    str(compiled.explain()), str(compiled.plan)
    variants = dict(_variants(compiled, rng))
    for name, variant in variants.items():
        trial.compare(name, variant, seeds=(0, 1, 3))
    loaded = _loaded(variants, folder)
    for name, variant in loaded.items():
        trial.compare(f"{name}, saved and loaded", variant, (0, 2), from_file=True)
    for change in _changes(module, rng):
        for name, variant in variants.items():
            trial.compare(f"{name}, after {change}", variant, seeds=(0, 4))


def imported(source: str, folder: Path) -> Any:
    """The program as a module."""
    path = folder / f"program_{abs(hash(source)):x}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compiled(module: Any, equality: Bits | Tolerance, rng: Random) -> Compiled:
    """With a schedule by name, or seldom ``auto``, which takes longer."""
    wanted = rng.choice([*ARRAY_SCHEDULES, "jacobi", "jacobi", "sequential"])
    schedule = "auto" if rng.random() < 0.03 else wanted
    make = partial(compile_, module.function, module.arguments(0), equality=equality, on_unsupported="sequential")
    torch.manual_seed(0)
    try:
        return make(schedule=schedule)
    except ScheduleError:  # there is none such for this kind of system
        return make(schedule="jacobi")


def _variants(compiled: Compiled, rng: Random) -> Iterator[tuple[str, Compiled]]:
    """As compiled, and with other schedules and no guard: with it, small systems are never swept."""
    yield f"{compiled.plan.schedule}", compiled
    system, refusal = compiled.plan.system, compiled.plan.refusal
    if system is None or refusal is not None:
        return
    names = SCHEDULES_OF.get(type(system), ["jacobi"])
    if isinstance(system, Chain) and isinstance(compiled.plan.equality, Bits):
        names = [*names, "jacobi-gs(2)", "jacobi-gs(3)"]
    for name in rng.sample(names, min(3, len(names))):
        schedule = parse_schedule(name)
        assert schedule is not None
        bold = replace(compiled.plan, schedule=schedule, costs=None)
        yield f"{name} without a guard", Compiled(bold, compiled.proof, compiled.prove, compiled.live)


def _loaded(variants: dict[str, Compiled], folder: Path) -> dict[str, Compiled]:
    """Two of them through files."""
    found = {}
    for k, (name, variant) in enumerate(list(variants.items())[:2]):
        if variant.plan.program is not None:
            variant.save(folder / f"{k}.ffc")
            found[name] = load(folder / f"{k}.ffc")
    return found


def _changes(module: Any, rng: Random) -> Iterator[str]:
    """Weights changed, in one of the ways that people do."""
    weights = [w for w in module.weights() if w.is_floating_point()]
    if not weights:
        return
    weight = rng.choice(weights)
    with torch.no_grad():
        how = rng.choice(["scaling", ".data", "dense", "zeros"])
        if how == "scaling":
            weight.mul_(0.5)
        elif how == ".data":
            weight.data -= 0.125
        elif how == "dense":
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
        else:
            weight.zero_()
    yield f"a change of a weight ({how})"


def _system(compiled: Compiled) -> str:
    """What kind of system, or the reason why there is none, without names and numbers."""
    plan = compiled.plan
    if plan.refusal is None:
        return type(plan.system).__name__ if plan.system is not None else "sequential"
    what = "not captured" if plan.program is None else "not parallel"
    return f"{what}: {plan.refusal}"
